"""What runs of training did, from their output folders: status, losses, speed, and their curves as a picture."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folders, and where the picture goes."""
    parser.add_argument("folder", type=Path, nargs="+", metavar="FOLDER", help="output of a run")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the picture; default: curves.png in the folder")


def run(args: argparse.Namespace) -> None:
    """Print a table a folder, and draw."""
    from ..errors import WrongValue
    from ..training.page import print_run

    if args.plot is not None and len(args.folder) > 1:
        raise WrongValue(f"--plot names one picture, but there are {len(args.folder)} folders; leave it out")
    for folder in args.folder:
        print_run(folder, args.plot or folder / "curves.png")
