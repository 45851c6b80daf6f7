"""What a recipe's `data` names: files, several at once, mixtures with a share of each; and which records are taken.

A mixture is YAML:

    datasets:
      - json_path: data/a.json
      - json_path: data/b_{0..3}.jsonl
        sampling_strategy: random:20%     # or all, first:N, end:N, random:N; N records or P%
        image_root: data/b/images         # optional; otherwise the recipe's
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import MissingFile, WrongValue
from .remote import RemoteFile, place_of
from .sources import SUFFIXES
from .yaml_text import read_yaml

MAX_FILES = 100_000
MAX_DIGITS = 18
KEYS = ("json_path", "sampling_strategy", "image_root")
STRATEGIES = "all, first:N, end:N or random:N, with N a number of records or P%"


@dataclass(frozen=True)
class Source:
    """One data file, which of its records are taken, and the folders its pictures are looked for in."""

    file: Path | RemoteFile
    strategy: str
    image_roots: tuple[str, ...]


def list_sources(data: str | list[str], image_root: str | list[str]) -> list[Source]:
    """The files that a recipe names, in order.

    Raises FileNotFoundError for a missing file or image root, ValueError for a name or mixture that cannot be read.
    """
    sources: list[Source] = []
    for pattern in [data] if isinstance(data, str) else data:
        for name in expand_braces(pattern):
            if name.endswith((".yaml", ".yml")):
                if isinstance(place := place_of(name), RemoteFile):
                    raise WrongValue(f"{place} is a mixture elsewhere; copy it here, its data files may stay there")
                sources += read_mixture(place, image_root)
            else:
                sources.append(Source(place_of(name), "all", roots_of(image_root)))
            check_number(len(sources), "data")
    if not sources:
        raise WrongValue("data names no file; give at least one")
    for source in sources:
        check_source(source)
    return sources


def roots_of(image_root: str | list[str]) -> tuple[str, ...]:
    """One folder or several, as a tuple."""
    return (image_root,) if isinstance(image_root, str) else tuple(image_root)


def check_source(source: Source) -> None:
    """Raise unless the file is there and of a known kind, its strategy is understood and its image roots exist."""
    if source.file.suffix not in SUFFIXES:
        raise WrongValue(f"{source.file}: a data file ends in {', '.join(SUFFIXES)}, a mixture of them in .yaml")
    if not source.file.is_file():
        raise MissingFile(f"no data file at {source.file}; see data/README.md for where each data set goes")
    parse_strategy(source.strategy)
    for root in source.image_roots:
        place = place_of(root)
        if isinstance(place, Path) and not place.is_dir():  # a store has no folders, only names that begin so
            raise MissingFile(
                f"no image root at {root}; image_root names the folders that relative picture paths start from"
            )


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for: `{a,b}` one of the words, `{08..11}` one of the numbers, as in a shell.

    Raises ValueError for braces that stand for nothing, or for more than MAX_FILES names.
    """
    choices: list[Sequence[str]] = []
    for part in re.split(r"(\{[^{}]*\})", pattern):
        numbers = re.fullmatch(r"\{([0-9]+)\.\.([0-9]+)\}", part)
        if numbers:
            first, last = numbers.groups()
            if max(len(first), len(last)) > MAX_DIGITS:
                raise WrongValue(f"{pattern:.200} has a number of more than {MAX_DIGITS} digits")
            check_number(int(last) - int(first) + 1, pattern)
            choices.append([f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)])
        elif part.startswith("{") and part.endswith("}"):
            choices.append([word.strip() for word in part[1:-1].split(",")])
        else:
            choices.append([part])
        check_number(math.prod(len(words) for words in choices), pattern)
    names = ["".join(words) for words in itertools.product(*choices)]
    if not names or any("{" in name or "}" in name for name in names):
        raise WrongValue(f"{pattern:.200} has braces that stand for nothing; write {{a,b}} or {{000..012}}")
    return names


def check_number(count: int, what: str | Path) -> None:
    """Raise ValueError for more files than are read as one data set."""
    if count > MAX_FILES:
        raise WrongValue(f"{what!s:.200} stands for {count:,} files, more than the {MAX_FILES:,} of one data set")


def read_mixture(file: Path, image_root: str | list[str]) -> list[Source]:
    """The sources of a YAML mixture, `image_root` where an entry has none of its own."""
    mixture = read_yaml(file, "see data/README.md for what a mixture looks like")
    entries = mixture.get("datasets") if isinstance(mixture, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise WrongValue(f"{file} is not a mixture: expected 'datasets', a list of entries with 'json_path'")
    sources: list[Source] = []
    for entry in entries:
        strategy, root = entry.get("sampling_strategy", "all"), entry.get("image_root", image_root)
        texts = [entry.get("json_path"), strategy, *(root if isinstance(root, list) else [root])]
        if set(entry) - set(KEYS) or not all(isinstance(text, str) for text in texts):
            raise WrongValue(
                f"{file}: an entry has the keys {', '.join(KEYS)}, the last two optional; found {entry!r:.300}"
            )
        names = expand_braces(entry["json_path"])
        if any(name.endswith((".yaml", ".yml")) for name in names):
            raise WrongValue(f"{file} names the mixture {entry['json_path']}; a mixture names data files alone")
        sources += [Source(place_of(name), strategy, roots_of(root)) for name in names]
        check_number(len(sources), file)
    return sources


def parse_strategy(strategy: str) -> tuple[str, int, bool]:
    """(which end, how many, whether that is a percentage) of a sampling strategy; ("all", 0, False) for all."""
    if strategy == "all":
        return "all", 0, False
    match = re.fullmatch(r"(first|end|random):(\d+)(%?)", strategy)
    if not match:
        raise WrongValue(f"sampling_strategy is {strategy!r}; write {STRATEGIES}")
    where, count, is_share = match[1], int(match[2]), bool(match[3])
    if count < 1 or is_share and count > 100:
        raise WrongValue(f"sampling_strategy {strategy!r} takes {count}{match[3]}; it must be at least 1, at most 100%")
    return where, count, is_share


def select(strategy: str, total: int, seed: list[int]) -> range | np.ndarray:
    """Which of `total` records a strategy takes, ascending. A percentage is rounded up.

    seed: decides a random choice alone, so every process makes the same one.
    Raises ValueError where there are fewer records than asked for.
    """
    where, count, is_share = parse_strategy(strategy)
    if where == "all":
        return range(total)
    count = math.ceil(count * total / 100) if is_share else count
    if count > total:
        raise WrongValue(f"sampling_strategy {strategy!r} asks for {count} of {total} records; lower it, or say all")
    if where == "first":
        return range(count)
    if where == "end":
        return range(total - count, total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
