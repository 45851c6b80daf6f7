"""YAML, read from files and from words of the command line; a mistake is one error that says where it stands."""

from pathlib import Path

import yaml

from ..shipped import located


def read_yaml(file: str | Path, missing: str):
    """The value of a YAML file, of the project's own (`located`) where there is none of that name.

    missing: what to say of a file that is not there, behind its name.
    Raises FileNotFoundError for a missing file, ValueError for what is not YAML.
    """
    found = located(file)
    if not found.is_file():
        raise FileNotFoundError(f"there is no file {file}; {missing}")
    return parse_yaml(found.read_text(encoding="utf-8"), file)


def parse_yaml(text: str, where: str | Path):
    """The value that a YAML text stands for. Raises ValueError, with `where`, for what is not YAML."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise ValueError(f"{where} is not valid YAML: {error}") from error
