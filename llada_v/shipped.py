"""Files that come with the code and are not code: settings, recipes, task files, the picture and model of the demo.

They are named as in the repository. An installed wheel has them in `llada_v/shipped`, a clone at its root.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IN_WHEEL = PACKAGE / "shipped"
ROOT = IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent


def shipped(name: str | Path) -> Path:
    """Where a file or folder of the project is on this machine, from its name there: shipped("data/demo.png")."""
    return ROOT / name


def located(path: str | Path) -> Path:
    """The path itself where something is there, seen from the current folder; else the shipped file of that name.

    So `scripts/deepspeed/zero3.json` in a recipe means a file of the project from every folder, unless there is one of
    that name at hand. Where neither exists it is the path itself, for an error that names what was asked for.
    """
    path = Path(path)
    own = shipped(path)
    return own if own.exists() and not path.exists() else path


def recipe_file(name: str | Path) -> Path:
    """The file of a recipe: a path with a suffix, or the name of a shipped one, "pretrain" or "tiny/instruct"."""
    return located(name if Path(name).suffix else f"scripts/recipes/{name}.yaml")
