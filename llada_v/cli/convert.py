"""Rewrite published weights as a folder that loads like any other."""

import argparse

from .options import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders and dtype."""
    parser.add_argument("source", metavar="SRC", help="folder of LLaDA-V as published, LLaDA-8B, LLaDA-1.5 or iLLaDA")
    parser.add_argument("target", metavar="DST", help="folder to make")
    parser.add_argument("--vision-tower", metavar="DIR", help="SigLIP2 folder, where SRC has no vision tower")
    parser.add_argument("--dtype", choices=DTYPES, help="default: as in SRC")


def run(args: argparse.Namespace) -> None:
    """Convert, and say what was left out and what was made fresh."""
    from tqdm import tqdm

    from ..convert import convert

    with tqdm(desc="tensors", leave=False, disable=None) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        written = convert(args.source, args.target, args.vision_tower, args.dtype, show)
    print(f"{args.target}: {written.num_tensors} tensors")
    lists = (("left out", written.dropped), ("made fresh", written.fresh), ("token added", written.tokens))
    for what, names in lists:
        for name in names:
            print(f"{what}: {name}")
