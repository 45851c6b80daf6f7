"""YAML, read from files and from words of the command line; a mistake is one error that says where it stands."""

from pathlib import Path

import yaml

from ..errors import MissingFile, WrongValue
from ..shipped import located


def read_yaml(file: str | Path, missing: str):
    """The value of a YAML file, of the project's own (`located`) where there is none of that name.

    missing: what to say of a file that is not there, behind its name.
    Raises FileNotFoundError for a missing file, ValueError for what is not YAML or not UTF-8.
    """
    found = located(file)
    if not found.is_file():
        raise MissingFile(f"there is no file {file}; {missing}")
    try:
        text = found.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongValue(f"{file} is not UTF-8 text: {error}") from error
    return parse_yaml(text, file)


def parse_yaml(text: str, where: str | Path):
    """The value that a YAML text stands for.

    Raises ValueError, with `where`, for what is not YAML, for a key that is there twice, and for an alias of a list or
    mapping, with which a few lines may stand for more than fits into memory.
    """
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except RecursionError:
        raise WrongValue(f"{where} is not valid YAML: it is nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:
        raise WrongValue(f"{where} is not valid YAML: {error}") from error


class Loader(yaml.SafeLoader):
    """Plain values, each written where it stands."""

    def compose_node(self, parent, index):
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and isinstance(node, yaml.CollectionNode):
            raise yaml.YAMLError(f"an alias stands for a list or mapping; write it out{node.start_mark}")
        return node

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is there twice{node.start_mark}")
        return super().construct_mapping(node, deep)
