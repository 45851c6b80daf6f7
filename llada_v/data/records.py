"""Records by number, ready to be encoded: parsed, with their pictures found. What is wrong with one has its id in it.

A picture is found under the first image root that holds it, or inside the tar that its record comes from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..conversation import list_of
from .index import RecordIndex, open_index
from .mixture import Source, list_sources
from .sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Blob, parsed


class BadRecord(ValueError):
    """What is wrong with one record, with its id.

    Out of a loader's worker process comes the same message, without the trace that torch puts before it.
    """

    def __init__(self, message: str):
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class Records:
    """The records that a recipe's `data` names.

    Raises as `list_sources` and `open_index` do.
    """

    def __init__(self, data: str | list[str], image_root: str | list[str], index_folder: str | None, seed: int):
        self.sources: list[Source] = list_sources(data, image_root)
        self.index: RecordIndex = open_index(self.sources, index_folder, seed)

    def __len__(self) -> int:
        return len(self.index)

    @contextmanager
    def reading(self, number: int) -> Iterator[dict]:
        """A record to work on; what goes wrong with it becomes one BadRecord that starts with its id.

        Pictures and videos are full paths, or bytes out of a tar; a `null` counts as none.
        """
        entry, source = self.index[number]
        try:
            yield with_files(parsed(entry), entry.blobs, self.sources[source])
        except (ValueError, TypeError, OSError) as error:
            raise self.bad(number, error) from error

    def bad(self, number: int, reason: object) -> BadRecord:
        """The error that says what is wrong with a record: by its id, or else by its number in its file."""
        entry, source = self.index[number]
        try:
            name = parsed(entry).get("id", entry.number)
        except ValueError:
            name = entry.number
        return BadRecord(f"record {name!r} of {self.sources[source].file}: {reason}")


def with_files(record: dict, blobs: tuple[Blob, ...], source: Source) -> dict:
    """The record with its pictures and videos where they can be read."""
    record = dict(record)
    if len(list_of(record.get("video"))) > 1:
        raise ValueError(f"a record has one video; this one names {len(record['video'])}")
    for key, suffixes in (("image", IMAGE_SUFFIXES), ("video", VIDEO_SUFFIXES)):
        names = list_of(record.get(key))
        inside = [blob for blob in blobs if blob.name.rpartition(".")[2].lower() in suffixes]
        if source.file.suffix == ".tar":
            files = [read_blob(source.file, blob) for blob in chosen_blobs(names, inside, key)]
        else:
            files = [find(name, source.image_roots) for name in names]
        record[key] = files if key == "image" else files[0] if files else None
    return record


def chosen_blobs(names: list, blobs: list[Blob], kind: str) -> list[Blob]:
    """The files of a tar's sample that its record names, by name or else in order; all where it names none."""
    by_name = {blob.name: blob for blob in blobs}
    if names and all(isinstance(name, str) and Path(name).name in by_name for name in names):
        return [by_name[Path(name).name] for name in names]
    if names and len(names) != len(blobs):
        raise ValueError(f"it names {len(names)} files as {kind}, but the tar holds {len(blobs)} beside it")
    return blobs


def read_blob(file: Path, blob: Blob) -> bytes:
    """The bytes of a file inside a tar."""
    with file.open("rb") as stream:
        stream.seek(blob.offset)
        return stream.read(blob.size)


def find(name, roots: tuple[str, ...]):
    """The path of a picture or video; what is not a path stays as it is, for the processor to refuse."""
    if not isinstance(name, str):
        return name
    if len(roots) == 1:
        return Path(roots[0]) / name
    for root in roots:
        if (path := Path(root) / name).exists():
            return path
    raise FileNotFoundError(f"no picture or video at {name} under any of {', '.join(roots)}")
