"""Score a model on held-out questions of the small world and print the table as Markdown, or everything as JSON."""

import argparse
import json

from ..generation.presets import EXACT, PRESETS, preset_of
from ..toyworld.questions import FAMILIES
from ..toyworld.stories import ALL_FAMILIES
from .options import add_quantize, check_numbers, need_to_quantize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, of which model, and how it answers."""
    add = parser.add_argument
    add("--model", help="folder of the model (default: the tiny one that ships)")
    add("--count", type=int, default=1000, help="questions (%(default)s)")
    add("--families", nargs="+", choices=ALL_FAMILIES, default=FAMILIES, help="what is asked about")
    add("--seed", type=int, default=0, help="which held-out questions (%(default)s)")
    add("--batch-size", type=int, default=25, help="questions answered at once (%(default)s)")
    add("--gen-length", type=int, help="answer canvas in tokens (default: the tiny model's)")
    add(
        "--preset", choices=PRESETS, help="the sampler's settings by name (default: the model's own, as users get them)"
    )
    add("--steps", type=int, help="forward passes for a whole canvas, in place of the preset's rule")
    add("--device", help="default: cuda where there is one, else cpu")
    add_quantize(parser)
    add("--json", action="store_true", help="every question, its answer and the table as JSON")


def run(args: argparse.Namespace) -> None:
    """Judge and print."""
    from tqdm import tqdm

    from ..answering import DEMO_MODEL, load
    from ..generation.config import SamplerConfig
    from ..quantization import quantize
    from ..toyworld.judge import judge, refused, table
    from ..toyworld.records import heldout_questions
    from ..toyworld.tiny import CANVAS

    need_to_quantize(args)
    check_numbers(args, "count", "batch_size", "gen_length", "steps")
    heldout_questions(len(args.families), args.seed, args.families)  # a package that lacks is said before a model loads
    settings = {"gen_length": args.gen_length or CANVAS} | ({"steps": args.steps} if args.steps else {})
    SamplerConfig.preset(args.preset or EXACT, **settings)  # what can be wrong is said before a model loads
    model, processor = load(args.model or DEMO_MODEL, args.device, "float32")
    sampler = SamplerConfig.preset(
        args.preset or preset_of(model.generation_config, processor.reproduce_original), **settings
    )
    if args.quantize:
        quantize(model, args.quantize)
    with tqdm(total=args.count, desc="judging", unit="question", disable=None) as bar:
        verdicts = judge(model, processor, args.count, args.seed, sampler, args.batch_size, bar.update, args.families)
    rows = table(verdicts)
    if args.json:
        judged = [vars(verdict) | {"is_right": verdict.is_right} for verdict in verdicts]
        print(json.dumps({"table": rows, "verdicts": judged}))
        return
    print("| family | right | asked | exact match |\n|---|---|---|---|")
    for family, right, asked, share in rows:
        print(f"| {family} | {right} | {asked} | {share:.1f} % |")
    print("\n{} of {} questions that can be answered were refused".format(*refused(verdicts)))
