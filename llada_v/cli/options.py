"""Options that several verbs share, and checks of what was given."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..errors import NoPackage, WrongValue
from ..fields import kinds_of, rules_of, text_of
from ..quantization import BITS
from ..training.recipe import Recipe, load_recipe

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


def add_settings(parser: argparse._ActionsContainer, cls, leave_out: tuple[str, ...] = ()) -> None:
    """An option for each setting of a dataclass (see `fields`), with its meaning, range and default as help.

    What is not given stays away from the parsed arguments, so that the dataclass's own default holds.
    """
    for name, (field, rule) in rules_of(cls).items():
        if name in leave_out:
            continue
        kinds = kinds_of(field)
        settings: dict = {"default": argparse.SUPPRESS, "help": text_of(field, rule).replace("%", "%%")}
        if bool in kinds:
            settings["action"] = "store_true"
        else:
            settings["type"] = reader(kinds)
            settings["metavar"] = "N" if int in kinds else "X" if float in kinds else "TEXT"
        parser.add_argument("--" + name.replace("_", "-"), **settings)


def given(args: argparse.Namespace, cls) -> dict:
    """The settings of the dataclass that the command line names, by name."""
    return {name: getattr(args, name) for name in rules_of(cls) if hasattr(args, name)}


def reader(kinds: tuple):
    """What turns an option's text into a number where the setting is one; else `check` judges the text."""

    def read(text: str):
        for kind in (int, float):
            if kind in kinds:
                try:
                    return kind(text)
                except ValueError:
                    pass
        return text

    return read


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A recipe, and an option for each of its keys."""
    parser.usage = f"{parser.prog} RECIPE [--key VALUE ...] [options]"
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of one in scripts/recipes: pretrain")
    keys = parser.add_argument_group("keys of the recipe", "each overrides a line of it; the value is YAML")
    for name, (field, rule) in rules_of(Recipe).items():
        told = text_of(field, rule).replace("%", "%%")
        keys.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="VALUE", help=told)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe with its overrides."""
    return load_recipe(args.recipe, given(args, Recipe))


def need(extra: str, *packages: str) -> None:
    """Raise ImportError for packages that are not there, before anything is loaded. extra: what brings them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        names = ", ".join(missing)
        raise NoPackage(f"this needs {names}: bash init_env.sh {extra}, or pip install 'llada-v[{extra}]'")


def need_to_quantize(args: argparse.Namespace) -> None:
    """Raise ImportError where --quantize has nothing to work with."""
    if args.quantize:
        need("quantize", "torchao")


def check_numbers(args: argparse.Namespace, *names: str) -> None:
    """Raise ValueError for an option that is a number below 1; options left out pass."""
    for name in names:
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise WrongValue(f"--{name.replace('_', '-')} is {value}; it must be at least 1")


def check_file(option: str, file: Path | None, ending: str) -> None:
    """Raise ValueError where a result could not be written, before there is one."""
    if file and (file.suffix.lower() != ending or not file.absolute().parent.is_dir()):
        raise WrongValue(f"{option} is {file}; name a file that ends in {ending}, in a folder that exists")
