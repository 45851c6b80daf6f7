"""Settings of the sampler side by side on one model, and a table of what each takes and what it costs.

llada-v bench                                       # the tiny model on a few questions of its world
llada-v bench --accuracy --json bench.json          # 1,000 of them, judged
llada-v bench --shape mid --batch 1,4,16            # random weights, a prompt of 3,687 tokens
llada-v bench --setting "fast: rule=threshold threshold=0.9" --setting "kept: cache=prompt"
"""

import argparse
import sys
import time
from pathlib import Path

from ..errors import WrongValue
from ..toyworld.questions import FAMILIES
from .options import add_device_options, add_quantize, check_file, check_numbers, need_to_quantize

ONE_PICTURE = (*FAMILIES, "reasoning")  # families of questions about one picture
FEW, MANY = 16, 1000  # questions that are timed; questions that are judged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured on what."""
    add = parser.add_argument
    add("--shape", default="tiny", help="tiny: the model that ships (default); small, mid, 8b: random weights")
    add("--steps", type=int, help="forward passes of scheduled rules (default: of the shape, else one token a step)")
    add("--batch", default="1", metavar="N,N,...", help="prompts answered together (%(default)s)")
    add("--rounds", type=int, help="how often each prompt is answered (default: 3, or 1 with --accuracy)")
    add("--warmup", type=int, default=1, help="untimed answers of each setting (%(default)s)")
    add("--accuracy", action="store_true", help=f"judge {MANY} questions about held-out pictures of the small world")
    add(
        "--families",
        nargs="+",
        choices=ONE_PICTURE,
        default=FAMILIES,
        help="what the small world is asked about, in turn; a name that is there twice is asked twice as often",
    )
    add("--questions", metavar="FILE", help="judge these instead: JSON or JSONL of {image, question, answer}")
    add("--count", type=int, help=f"how many prompts (default: {FEW}, {MANY} judged, one batch of random ones)")
    add(
        "--cpu-time",
        action="store_true",
        help="count the CPU time of one thread in place of the clock's: for a machine that is shared; on a CPU",
    )
    add_model_options(parser)


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
    add_device_options(parser)
    add_quantize(parser)
    add("--json", type=Path, metavar="FILE", help="everything, as JSON")
    add("--png", type=Path, metavar="FILE", help="accuracy against speed, as a picture")


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ValueError or OSError for a request that cannot be met."""
    from ..benchmark.bench import bench, check_settings, machine_of
    from ..benchmark.candidates import compared, compared_without_confidence
    from ..benchmark.report import describe, save_json, save_png, table, verdict_on
    from ..benchmark.shapes import SHAPES

    prepare(args)
    check_numbers(args, "rounds", "warmup", "count", "gen_length", "steps")
    if args.shape not in SHAPES:
        raise WrongValue(f"--shape is {args.shape!r}; choose one of {', '.join(SHAPES)}")
    sizes = batch_sizes(args.batch)
    is_judged = bool(args.accuracy or args.questions)
    settings = named_settings(args)
    check_settings(settings, args.gen_length or SHAPES[args.shape].gen_length, args.steps)
    if args.cpu_time:
        count_cpu_time(args)
    task = questions_of(args, is_judged) if args.shape == "tiny" else random_prompts_of(args, is_judged, max(sizes))
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


def count_cpu_time(args: argparse.Namespace) -> None:
    """From here on seconds are those of this process on one thread. Raises ValueError for another device than a CPU."""
    import torch

    from .. import machine
    from ..answering import device_of

    if (device := device_of(args.device)).type != "cpu":
        raise WrongValue(f"--cpu-time counts the CPU's time, but the device is {device}; leave it out, or --device cpu")
    torch.set_num_threads(1)
    machine.clock = time.process_time


def prepare(args: argparse.Namespace) -> None:
    """Look at packages, and files to write, before anything is measured; no bars where nobody watches."""
    need_to_quantize(args)
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    check_file("--json", args.json, ".json")
    check_file("--png", args.png, ".png")


def load_model(args: argparse.Namespace):
    """(model, processor) that the options name."""
    from ..answering import DEMO_MODEL, load
    from ..quantization import quantize

    model, processor = load(args.model or DEMO_MODEL, args.device, args.dtype)
    if args.quantize:
        quantize(model, args.quantize)
    return model, processor


def named_settings(args: argparse.Namespace) -> list:
    """The settings of --settings and --setting."""
    from ..benchmark.candidates import parse_setting, read_settings

    settings = read_settings(args.settings) if args.settings else []
    return settings + [setting for text in args.setting for setting in parse_setting(text)]


def batch_sizes(text: str) -> list[int]:
    """The numbers of "1,4,16"."""
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise WrongValue(f"--batch is {text!r}; write different whole numbers from 1 up, as in 1,4,16")
    return sizes


def questions_of(args: argparse.Namespace, is_judged: bool):
    """The task of questions: those of a file, or of the small world."""
    from ..benchmark.batches import read_items
    from ..benchmark.bench import question_task
    from ..toyworld.tiny import CANVAS

    gen_length = args.gen_length
    if args.questions:
        items = read_items(args.questions)[: args.count]
    else:
        items = heldout_items(args.count or (MANY if args.accuracy else FEW), args.seed, args.families)
        gen_length = gen_length or CANVAS
    model, processor = load_model(args)
    gen_length = gen_length or model.generation_config.max_new_tokens
    return question_task(model, processor, items, gen_length, args.steps, is_judged)


def random_prompts_of(args: argparse.Namespace, is_judged: bool, largest_batch: int):
    """The task of random prompts to a shape with random weights, or with those of --model.

    Raises ValueError where there is nothing to judge.
    """
    from ..answering import device_of, dtype_of
    from ..benchmark.bench import random_task
    from ..benchmark.shapes import SHAPES, build
    from ..quantization import quantize

    if is_judged:
        raise WrongValue(
            f"--shape {args.shape} asks random prompts, which have no right answer; leave out --accuracy "
            "and --questions, or name a trained model with --model and no --shape"
        )
    if args.model:
        model, _ = load_model(args)
    else:
        device = device_of(args.device)
        model = build(args.shape, device, dtype_of(args.dtype, device), args.seed)
        if args.quantize:
            quantize(model, args.quantize)
    shape = SHAPES[args.shape]
    return random_task(model, shape, args.count or largest_batch, args.gen_length, args.steps, args.seed)


def heldout_items(count: int, seed: int, families=FAMILIES) -> list:
    """Questions about held-out pictures of the small world, of the families (see `--families`) in turn."""
    from ..benchmark.batches import Item
    from ..toyworld import heldout_questions

    return [
        Item(id, question.text, question.answer, (image,), question.family)
        for image, question, id in heldout_questions(count, seed, families)
    ]
