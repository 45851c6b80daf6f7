"""`llada-v bench`: settings side by side on one model, and a table of what each takes and what it costs.

llada-v bench                                       # the tiny model on a few questions of its world
llada-v bench --accuracy --json bench.json          # 1,000 of them, judged
llada-v bench --shape mid --batch 1,4,16            # random weights, a prompt of 3,687 tokens
llada-v bench --setting "fast: rule=threshold threshold=0.9" --setting "kept: cache=prompt"
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers.utils import logging

from ..answer import DEMO_MODEL, DTYPES, check_numbers, default_dtype, device_of, load
from ..generation.config import SamplerConfig
from ..quantization import BITS, quantize
from ..toyworld.tiny import CANVAS
from .floor import Machine, bytes_of, measure_machine
from .prompts import Batch, heldout_items, question_batches, random_batches, read_items
from .report import Row, describe, row_of, save_json, save_png, table, verdict_on
from .rounds import Rounds, language_layers
from .settings import (
    Setting,
    compared,
    compared_without_confidence,
    parse_setting,
    read_settings,
    with_plain,
)
from .shapes import SHAPES, build

FEW, MANY = 16, 1000  # questions that are timed; questions that are judged


@dataclass(frozen=True)
class Task:
    """A model and what it is asked.

    count: prompts. batches: a batch size -> all prompts in batches of it.
    common: fields all settings share. decode: ids to text where answers are judged, else None.
    """

    model: torch.nn.Module
    count: int
    batches: Callable[[int], Iterator[Batch]]
    common: dict
    decode: Callable | None = None


def bench(
    task: Task,
    settings: Sequence[Setting],
    batch_sizes: Sequence[int] = (1,),
    rounds: int = 3,
    warmup: int = 1,
    seed: int = 0,
    machine: Machine | None = None,
) -> list[Row]:
    """The rows of the settings, the plain sampler first among them, by batch size.

    rounds: how often all of it is answered; times are the median round of each batch.
    machine: see `measure_machine`. Raises ValueError for settings that do not fit together.
    """
    settings = [setting.over(**task.common) for setting in with_plain(settings)]
    machine = machine or machine_of(task.model)
    rows, reference = [], None
    total = len(batch_sizes) * rounds * len(settings) * task.count
    with tqdm(total=total, desc="answering", unit="answer", disable=None, leave=False) as bar:
        for batch_size in batch_sizes:
            measured = Rounds(task.model, settings, warmup, seed, task.decode)
            for _ in range(rounds):
                measured.answer(task.batches(batch_size), progress=bar.update)
            plain = measured.runs[0]
            reference = reference or plain.answers
            rows += [row_of(run, plain, reference, batch_size, machine) for run in measured.runs]
    return rows


def machine_of(model) -> Machine:
    """What the model's device reaches in the model's dtype, reading as much as its weights are."""
    num_bytes = sum(bytes_of(layer.weight) for layer in language_layers(model))
    return measure_machine(model.device, model.dtype, num_bytes)


# The command line


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that `bench` and `tune` share."""
    add = parser.add_argument
    add("--model", metavar="DIR", help="folder or hub name (default: the tiny model that ships)")
    add(
        "--setting",
        action="append",
        default=[],
        metavar="'NAME: FIELD=VALUE ...'",
        help="fields of SamplerConfig; [a,b] is one setting a value; repeatable",
    )
    add("--settings", metavar="FILE", help="a YAML file of such settings: 'name: {field: value}'")
    add("--gen-length", type=int, help="answer canvas in tokens (default: the model's own)")
    add("--seed", type=int, default=0, help="of questions, random weights and random settings (%(default)s)")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--quantize", choices=BITS, help="keep the trunk's weights in 8 or 4 bits; needs torchao")
    add("--json", type=Path, metavar="FILE", help="everything, as JSON")
    add("--png", type=Path, metavar="FILE", help="accuracy against speed, as a picture")


def load_model(args: argparse.Namespace):
    """(model, processor) that the options name."""
    model, processor = load(args.model or DEMO_MODEL, args.device, DTYPES.get(args.dtype))
    if args.quantize:
        quantize(model, args.quantize)
    return model, processor


def named_settings(args: argparse.Namespace) -> list[Setting]:
    """The settings of --settings and --setting."""
    settings = read_settings(args.settings) if args.settings else []
    return settings + [setting for text in args.setting for setting in parse_setting(text)]


def check_files(args: argparse.Namespace) -> None:
    """Raise ValueError where a result could not be written, before anything is measured."""
    for file, ending in ((args.json, ".json"), (args.png, ".png")):
        if file and (file.suffix.lower() != ending or not file.absolute().parent.is_dir()):
            raise ValueError(f"{file} cannot be written; name a file that ends in {ending}, in a folder that exists")


def check_settings(settings: Sequence[Setting], gen_length: int | None, steps: int | None = None) -> None:
    """Raise ValueError for settings that do not fit together, before a model is loaded.

    gen_length: None where the model says it; then the sampler's default stands for it.
    """
    for setting in with_plain(settings):
        setting.over(gen_length=gen_length or SamplerConfig.gen_length, steps=steps).sampler()


def batch_sizes(text: str) -> list[int]:
    """The numbers of "1,4,16"."""
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ValueError(f"--batch is {text!r}; write different whole numbers from 1 up, as in 1,4,16")
    return sizes


def main(argv: list[str]) -> None:
    """Measure and print. Raises ValueError or OSError for a request that cannot be met."""
    parser = argparse.ArgumentParser(
        prog="llada-v bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--shape", default="tiny", metavar="|".join(SHAPES), help="tiny: the model that ships; else random weights")
    add("--steps", type=int, help="forward passes of scheduled rules (default: of the shape, else one token a step)")
    add("--batch", default="1", metavar="N,N,...", help="prompts answered together (%(default)s)")
    add("--rounds", type=int, help="how often each prompt is answered (default: 3, or 1 with --accuracy)")
    add("--warmup", type=int, default=1, help="untimed answers of each setting (%(default)s)")
    add("--accuracy", action="store_true", help=f"judge {MANY} questions about held-out pictures of the small world")
    add("--questions", metavar="FILE", help="judge these instead: JSON or JSONL of {image, question, answer}")
    add("--count", type=int, help=f"how many prompts (default: {FEW}, {MANY} judged, one batch of random ones)")
    add_model_options(parser)
    args = parser.parse_args(argv)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    check_files(args)
    check_numbers(args, "rounds", "warmup", "count", "gen_length", "steps")
    if args.shape not in SHAPES:
        raise ValueError(f"--shape is {args.shape!r}; choose one of {', '.join(SHAPES)}")
    sizes = batch_sizes(args.batch)
    is_judged = bool(args.accuracy or args.questions)
    settings = named_settings(args)
    check_settings(settings, args.gen_length or SHAPES[args.shape].gen_length, args.steps)
    task = question_task(args, is_judged) if args.shape == "tiny" else random_task(args, is_judged, max(sizes))
    if not settings:
        is_random = args.shape != "tiny"
        settings = compared_without_confidence() if is_random else compared(task.common["gen_length"])
    machine = machine_of(task.model)
    about = describe(task.model.device, task.model.dtype, machine)
    print(about, file=sys.stderr)
    rows = bench(task, settings, sizes, args.rounds or (1 if is_judged else 3), args.warmup, args.seed, machine)
    print(table(rows))
    if is_judged:
        print(verdict_on(rows))
    if args.json:
        save_json(args.json, rows, about, machine, shape=args.shape, model=args.model)
    if args.png:
        save_png(args.png, rows, about)


def question_task(args: argparse.Namespace, is_judged: bool) -> Task:
    """Questions to a model with a processor: those of a file, or of the small world."""
    gen_length = args.gen_length
    if args.questions:
        items = read_items(args.questions)[: args.count]
    else:
        items = heldout_items(args.count or (MANY if args.accuracy else FEW), args.seed)
        gen_length = gen_length or CANVAS
    model, processor = load_model(args)
    return Task(
        model,
        len(items),
        lambda size: question_batches(processor, items, size, model.device),
        dict(gen_length=gen_length or model.generation_config.max_new_tokens, steps=args.steps),
        processor.decode if is_judged else None,
    )


def random_task(args: argparse.Namespace, is_judged: bool, largest_batch: int) -> Task:
    """Random prompts to a shape with random weights, or with those of --model.

    Raises ValueError where there is nothing to judge.
    """
    if is_judged:
        raise ValueError(
            f"--shape {args.shape} asks random prompts, which have no right answer; leave out --accuracy "
            "and --questions, or name a trained model with --model and no --shape"
        )
    shape = SHAPES[args.shape]
    if args.model:
        model, _ = load_model(args)
    else:
        device = device_of(args.device)
        model = build(args.shape, device, DTYPES.get(args.dtype) or default_dtype(device), args.seed)
        if args.quantize:
            quantize(model, args.quantize)
    count = args.count or largest_batch
    gen_length = args.gen_length or shape.gen_length
    # The shape's steps belong to the shape's canvas.
    steps = args.steps or (shape.steps if gen_length == shape.gen_length else None)

    def batches(size: int) -> Iterator[Batch]:
        return random_batches(model.config, shape.prompt_length, shape.picture, count, size, args.seed, model.device)

    return Task(model, count, batches, dict(gen_length=gen_length, steps=steps, stop_token_ids=[]))
