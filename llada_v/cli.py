"""`llada-v VERB ...` (or `python -m llada_v`): one thin function a verb, each importing what it runs."""

import argparse
import os
import sys

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

    from .checkpoint import convert as convert_checkpoint

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


def judge(argv: list[str]) -> None:
    """score a model on held-out questions of the small world"""
    from .toyworld.judge import main

    main(argv)


VERBS = {verb.__name__: verb for verb in (generate, convert, train, judge)}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit status is 0, or 2 after one line on stderr that says what is wrong with the request."""
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
    try:
        VERBS[args.verb](args.arguments)
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK):
            raise
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0
