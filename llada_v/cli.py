"""`llada-v VERB ...` (or `python -m llada_v`): one thin function a verb, each importing what it runs."""

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module

TRACEBACK = "LLADA_V_TRACEBACK"
USER_ERRORS = (ValueError, OSError, ImportError)


def generate(argv: list[str]) -> None:
    """answer questions about pictures or a video"""
    from .answer import add_arguments, run

    parser = argparse.ArgumentParser(prog="llada-v generate", description=generate.__doc__, allow_abbrev=False)
    add_arguments(parser)
    run(parser.parse_args(argv))


def convert(argv: list[str]) -> None:
    """rewrite published weights as a folder that loads like any other"""
    parser = argparse.ArgumentParser(prog="llada-v convert", description=convert.__doc__, allow_abbrev=False)
    parser.add_argument("source", metavar="SRC", help="folder of LLaDA-8B or of the published LLaDA-V")
    parser.add_argument("target", metavar="DST", help="folder to make")
    parser.add_argument("--vision-tower", metavar="DIR", help="SigLIP2 folder, where SRC has no vision tower")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as in SRC")
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from .checkpoint.convert import convert as convert_checkpoint

    with tqdm(desc="tensors", leave=False, disable=None) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        written = convert_checkpoint(args.source, args.target, args.vision_tower, args.dtype, show)
    print(f"{args.target}: {written.num_tensors} tensors")
    for what, names in (("left out", written.dropped), ("made fresh", written.fresh)):
        for name in names:
            print(f"{what}: {name}")


def train(argv: list[str]) -> None:
    """train a stage: RECIPE [--key value ...]"""
    from .training.train import main

    main(argv)


def budget(argv: list[str]) -> None:
    """memory that a recipe needs on each device: RECIPE [--key value ...]"""
    from .training.budget import main

    main(argv)


def merge_lora(argv: list[str]) -> None:
    """write base model and adapter as one model: ADAPTER DST"""
    from .training.adapters import main

    main(argv)


def average(argv: list[str]) -> None:
    """write the mean of several models' weights: DST SRC SRC ..."""
    from .training.averaging import main

    main(argv)


def data(argv: list[str]) -> int | None:
    """training data: check RECIPE, mix, convert-visualwebinstruct"""
    modules = {"check": "check", "mix": "mix", "convert-visualwebinstruct": "visualwebinstruct"}
    parser = argparse.ArgumentParser(prog="llada-v data", description=data.__doc__, allow_abbrev=False)
    parser.add_argument("task", choices=modules, metavar="TASK", help=", ".join(modules))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the task")
    args = parser.parse_args(argv)
    return import_module(f".data.{modules[args.task]}", __package__).main(args.arguments)


def judge(argv: list[str]) -> None:
    """score a model on held-out questions of the small world"""
    from .toyworld.judge import main

    main(argv)


def evaluate(argv: list[str]) -> int:
    """benchmarks through lmms-eval, and their table"""
    from .evaluation.run import main

    return main(argv)


def bench(argv: list[str]) -> None:
    """measure sampler settings side by side: speed, floor, memory, accuracy"""
    from .benchmark.bench import main

    main(argv)


def tune(argv: list[str]) -> None:
    """find the fastest settings for your own questions: FILE"""
    from .benchmark.tune import main

    main(argv)


ALL = (generate, convert, train, budget, merge_lora, average, data, judge, evaluate, bench, tune)
VERBS = {verb.__name__.replace("_", "-"): verb for verb in ALL}


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status, see `status_of`."""
    parser = argparse.ArgumentParser(
        prog="llada-v",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="LLaDA-V: a masked-diffusion model that answers questions about pictures.\n\n"
        + "\n".join(f"  {name:10}{verb.__doc__}" for name, verb in VERBS.items()),
        epilog=f"`llada-v VERB --help` lists a verb's options. {TRACEBACK}=1 shows where an error comes from.",
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the verb")
    args = parser.parse_args(argv)
    return status_of(VERBS[args.verb], args.arguments)


def status_of(run: Callable, *arguments) -> int:
    """The exit status that `run` returns (0 for nothing), or 2 after one line on stderr that says what is wrong."""
    try:
        return run(*arguments) or 0
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK):
            raise
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
