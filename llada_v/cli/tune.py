"""The fastest settings for your own questions, found by successive halving.

    llada-v tune my_questions.jsonl --model path/to/model

Every setting answers some of the questions; the better half goes on and answers as many again, until the last few have
answered all. The best of many looks a little better than it is: questions that were not searched on tell how much.
"""

import argparse
import sys

from .bench import add_model_options, load_model, named_settings, prepare
from .options import check_numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The questions, and what is searched."""
    parser.add_argument(
        "questions", metavar="FILE", help="JSON or JSONL of {image, question, answer}, beside its images"
    )
    parser.add_argument("--batch", type=int, default=1, help="questions answered together (%(default)s)")
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    """Search and print. Raises ValueError or OSError for a request that cannot be met."""
    from ..benchmark.accuracy import front
    from ..benchmark.batches import read_items
    from ..benchmark.bench import check_settings, machine_of
    from ..benchmark.candidates import searched
    from ..benchmark.report import describe, save_json, save_png, table, verdict_on
    from ..benchmark.tune import tune

    prepare(args)
    check_numbers(args, "batch", "gen_length")
    items = read_items(args.questions)
    settings = named_settings(args)
    check_settings(settings, args.gen_length)
    model, processor = load_model(args)
    common = dict(gen_length=args.gen_length or model.generation_config.max_new_tokens)
    settings = settings or searched(common["gen_length"])
    machine = machine_of(model)
    about = describe(model.device, model.dtype, machine)
    print(about, file=sys.stderr)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    rows, left_out = tune(model, processor, items, settings, common, args.batch, args.seed, machine, say)
    best = front([(1 / row.seconds, row.right.value) for row in rows])
    print(f"The front of accuracy and speed, slowest first, of {len(rows) + len(left_out)} settings:\n")
    print(table([rows[index] for index in best]))
    print(verdict_on(rows))
    if args.json:
        save_json(args.json, rows, about, machine, left_out=left_out, model=args.model)
    if args.png:
        save_png(args.png, rows, about)
