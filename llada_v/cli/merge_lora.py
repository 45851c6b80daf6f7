"""Write base model and adapter as one model folder."""

import argparse

from .options import need


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders."""
    parser.add_argument("adapter", metavar="ADAPTER", help="output of a LoRA stage, or one of its checkpoints")
    parser.add_argument("output", metavar="DST", help="folder to make")
    parser.add_argument("--model", help="base model; default: the one that the adapter was trained on")


def run(args: argparse.Namespace) -> None:
    """Merge."""
    need("train", "peft")

    from ..training.merging import merge

    merge(args.adapter, args.output, args.model)
    print(f"{args.output}: a whole model")
