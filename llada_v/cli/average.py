"""Write the mean of several models' weights."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders."""
    parser.add_argument("target", metavar="DST", help="folder to make")
    parser.add_argument("sources", metavar="SRC", nargs="+", help="models, the last of which gives the processor")


def run(args: argparse.Namespace) -> None:
    """Average."""
    from ..training.merging import average

    average(args.sources, args.target)
    print(f"{args.target}: the mean of {len(args.sources)} models")
