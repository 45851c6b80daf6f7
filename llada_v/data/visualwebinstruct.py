"""VisualWebInstruct as it is published, one JSON object a line, to the JSON array that the stages read.

Checked against the description of its rows alone: "conversations", and "image" as a path, a list of paths, or absent.
"""

from collections.abc import Iterator
from pathlib import Path

from ..conversation import list_of, turns_of
from ..errors import MissingFile, WrongValue
from .sources import line_entries, name_of, parsed
from .writing import write_array

IMAGES = "images/"


def convert(source: str | Path, target: str | Path) -> int:
    """Write the rows of a JSON Lines file as one JSON array of records; returns how many.

    A row keeps its fields. Its id is `vw-<line>` unless it has one; `"image": null` and an empty list are left out;
    paths lose a leading `images/`, for they start from the folder of that name. The output appears only when it is
    complete. Raises FileNotFoundError for a missing file, ValueError with its id or line for a row that cannot be used.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise MissingFile(f"no file at {source}; give the JSON Lines file of VisualWebInstruct")
    if source.resolve() == target.resolve():
        raise WrongValue(f"{target} is the file to read; write to another")
    return write_array(target, rows_of(source))


def rows_of(source: Path) -> Iterator[dict]:
    """The records of the file."""
    is_empty = True
    for entry in line_entries(source):
        is_empty = False
        try:
            yield record_of(parsed(entry), entry.number)
        except WrongValue as error:
            raise WrongValue(f"record {name_of(entry)} of {source}: {error}") from error
    if is_empty:
        raise WrongValue(f"{source} holds no row; expected at least one")


def record_of(row: dict, line: int) -> dict:
    """One row as a record."""
    turns_of(row)
    record = {"id": f"vw-{line}"} | {key: value for key, value in row.items() if key != "image"}
    image = row.get("image")
    paths = list_of(image)
    if not all(isinstance(path, str) for path in paths):
        raise WrongValue(f"'image' is {image!r}; expected a path, a list of paths, or nothing")
    paths = [path.removeprefix("./").removeprefix(IMAGES) for path in paths]
    if paths:
        record["image"] = paths[0] if isinstance(image, str) else paths
    return record
