"""What others wrote: JSON from files, bounded in size and depth, and values shown in messages, bounded in length."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError, WrongValue

MOST_BYTES = 2**27  # the largest tokenizers take some 30 MB
MOST_SHOWN = 100
MOST_QUOTED = 300
MOST_DEPTH = 60  # objects and lists inside each other; configs have about 6, chat messages as many


def read_json(file: str | Path) -> dict:
    """The object in a JSON file.

    Raises ValueError where the file is missing, larger or deeper than any real one, damaged, or holds no object.
    """
    file = Path(file)
    if not file.is_file():
        raise WrongValue(f"{file.parent} has no {file.name}; pass a model's whole folder")
    if file.stat().st_size > MOST_BYTES:
        raise WrongValue(f"{file} has {file.stat().st_size} bytes; JSON beside weights has at most {MOST_BYTES}")
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise WrongValue(f"{file} is not UTF-8 text ({error}); download or copy it again") from error
    return parse_json(text, file)


def parse_json(text: str, where: str | Path) -> dict:
    """The object that a JSON text stands for. Raises ValueError, with `where`, for anything else."""
    try:
        value = json.loads(text, parse_constant=refuse_constant)
    except RecursionError as error:
        raise WrongValue(f"{where} is nested deeper than {MOST_DEPTH} levels; download or copy it again") from error
    except ValueError as error:
        raise WrongValue(f"{where} is not valid JSON ({error}); download or copy it again") from error
    if not isinstance(value, dict):
        noun = "null" if value is None else f"a {type(value).__name__}"
        raise WrongValue(f"{where} holds {noun}, where an object with fields is expected; download or copy it again")
    level: list[dict | list] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise WrongValue(f"{where} is nested deeper than {MOST_DEPTH} levels; download or copy it again")
        inside = [part.values() if isinstance(part, dict) else part for part in level]
        level = [item for part in inside for item in part if isinstance(item, (dict, list))]
    return value


def refuse_constant(name: str):
    """NaN and Infinity are no JSON, though Python reads them."""
    raise WrongValue(f"{name} is no number")


def shown(value) -> str:
    """A value for a message, cut where it is long: a picture written in letters has a million of them."""
    if isinstance(value, int) and value.bit_length() > 400:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a huge number inside a list, a list inside itself
        return f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}... ({len(text)} letters)"


def quoted(error: Exception) -> str:
    """What a library says, on one line, cut where it is long: it may repeat a whole file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}... ({len(text)} letters)"


@contextmanager
def usable(what: str) -> Iterator[None]:
    """What transformers and tokenizers raise for an odd value, of any kind and in any depth, as one ValueError.

    For one call of theirs that is given what others wrote; our own checks inside it pass, and so do missing files.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # tokenizers raises Exception itself
        told = f"{what} has a value that cannot be used: {quoted(error)}"
        raise WrongValue(f"{told}; compare it with a sound one") from error
