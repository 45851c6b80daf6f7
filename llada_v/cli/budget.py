"""How much memory a device needs for a recipe. Nothing is loaded, no weight is made."""

import argparse

from .options import add_recipe, recipe_of

GPUS = (1, 2, 4, 8, 16, 32, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe, its keys, and what is printed."""
    parser.add_argument("--length", type=int, help="tokens of a row; default: the longest that the recipe allows")
    parser.add_argument("--gpus", type=int, nargs="+", default=list(GPUS), help=f"default: {' '.join(map(str, GPUS))}")
    add_recipe(parser)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from ..training.budget import print_budget

    print_budget(recipe_of(args), args.length, args.gpus)
