"""Options that several verbs share, and checks of what was given."""

import argparse
from dataclasses import fields
from pathlib import Path

from ..quantization import BITS

DTYPES = ("float32", "bfloat16", "float16")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Where a model runs and in which dtype."""
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    add_dtype(parser)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The dtype of the weights."""
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """The trunk in fewer bits."""
    parser.add_argument("--quantize", choices=BITS, help="keep the trunk's weights in 8 or 4 bits; needs torchao")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A recipe, and an option for each of its keys."""
    from ..training.recipe import Recipe

    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, as in scripts/recipes")
    keys = parser.add_argument_group("keys of the recipe", "each overrides a line of it; the value is YAML")
    for field in fields(Recipe):
        keys.add_argument(f"--{field.name}", default=argparse.SUPPRESS, metavar="VALUE")


def recipe_of(args: argparse.Namespace):
    """The recipe with its overrides."""
    from ..training.recipe import Recipe, load_recipe

    overrides = {field.name: getattr(args, field.name) for field in fields(Recipe) if hasattr(args, field.name)}
    return load_recipe(args.recipe, overrides)


def check_numbers(args: argparse.Namespace, *names: str) -> None:
    """Raise ValueError for an option that is a number below 1; options left out pass."""
    for name in names:
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")


def check_file(option: str, file: Path | None, ending: str) -> None:
    """Raise ValueError where a result could not be written, before there is one."""
    if file and (file.suffix.lower() != ending or not file.absolute().parent.is_dir()):
        raise ValueError(f"{option} is {file}; name a file that ends in {ending}, in a folder that exists")
