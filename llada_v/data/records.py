"""Records by number, ready to be encoded: parsed, with their pictures found. What is wrong with one has its id in it.

A picture is found under the first image root that holds it, or inside the tar that its record comes from.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..conversation import IMAGE, list_of
from ..errors import MissingFile, UserError, WrongValue
from ..images import picture_suffixes
from ..json_text import shown
from ..video import VIDEO_SUFFIXES
from .index import RecordIndex, open_index
from .mixture import Source, list_sources
from .remote import RemoteFile, place_of
from .sources import NO_FILE, Blob, name_of, parsed

# Keys under which other projects keep the files of a record; metadata such as "image_id" is not among them.
OTHER_NAMES = re.compile(
    r"(images?|imgs?|pics?|pictures?|photos?|videos?|clips?|frames?|visuals?|media)"
    r"([_-]?(paths?|files?|file_?names?|names?|urls?|uris?|list|bytes|data|base64))?",
    re.IGNORECASE,
)


class BadRecord(WrongValue):
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
        except (UserError, OSError) as error:
            raise self.bad(number, error) from error

    def bad(self, number: int, reason: object) -> BadRecord:
        """The error that says what is wrong with a record: by its id, or else by its number in its file."""
        entry, source = self.index[number]
        return BadRecord(f"record {name_of(entry)} of {self.sources[source].file}: {reason}")


def with_files(record: dict, blobs: tuple[Blob, ...], source: Source) -> dict:
    """The record with its pictures and videos where they can be read.

    Raises ValueError for names that are none, for keys that name pictures where nothing looks for them, and for what
    lies beside the record in a tar and is neither picture nor video.
    """
    names = {key: names_of(record, key) for key in ("image", "video")}
    if len(names["video"]) > 1:
        raise WrongValue(f"a record has one video; this one names {len(names['video'])}")
    if source.file.suffix == ".tar":
        found = files_beside(names, blobs)
        files = {key: [read_blob(source.file, blob) for blob in found[key]] for key in found}
    else:
        files = {key: [find(name, source.image_roots) for name in names[key]] for key in names}
    if not files["image"] and not files["video"]:
        check_text_record(record)
    return record | {"image": files["image"], "video": files["video"][0] if files["video"] else None}


def names_of(record: dict, key: str) -> list:
    """The files that a record names under a key; none where that is absent, null, "" or []."""
    names = [] if record.get(key) == "" else list_of(record.get(key))
    for name in names:
        if isinstance(name, str) and (not name.strip() or os.path.normpath(name) in (".", "..")):
            raise WrongValue(f'{key!r} names {name!r}, which is no file; null, "" or [] stand for none')
    return names


def check_text_record(record: dict) -> None:
    """Raise ValueError for a record without files that seems to be meant to have some."""
    for key, value in record.items():
        if OTHER_NAMES.fullmatch(key) and value not in (None, "", []):
            raise WrongValue(f"nothing reads its key {key!r}; a record names files under 'image' or 'video'")
    for key in {"image", "video"} & record.keys():
        if IMAGE in json.dumps(record.get("conversations"), ensure_ascii=False):
            raise WrongValue(
                f"{key!r} is {shown(record[key])}, but its text has {IMAGE}; name the file, or leave the key out "
                f"to have {IMAGE} read as text"
            )


def files_beside(names: dict[str, list], blobs: tuple[Blob, ...]) -> dict[str, list[Blob]]:
    """The files of a tar's sample that its record names, by name or else in order; all where it names none."""
    kinds: dict[str, list[Blob]] = {"image": [], "video": []}
    for blob in blobs:
        suffix = Path(blob.name).suffix.lower()
        kind = "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in picture_suffixes() else None
        if kind is None or blob.size == NO_FILE:
            told = "a link, not a file" if blob.size == NO_FILE else "neither a picture nor a video that can be read"
            raise WrongValue(f"{blob.name} beside it in the tar is {told}; mend it, or leave it out of the tar")
        kinds[kind].append(blob)
    if not any(names.values()):
        if all(kinds.values()):
            raise WrongValue("a picture and a video lie beside it in the tar; name the one that is meant")
        return kinds
    by_name = {blob.name: blob for blob in blobs}
    return {kind: chosen_blobs(names[kind], by_name, kinds[kind], kind) if names[kind] else [] for kind in names}


def chosen_blobs(names: list, by_name: dict[str, Blob], blobs: list[Blob], kind: str) -> list[Blob]:
    """The files that a record names as one kind, by name or else in order."""
    if all(isinstance(name, str) and Path(name).name in by_name for name in names):
        return [by_name[Path(name).name] for name in names]
    if len(names) != len(blobs):
        raise WrongValue(f"it names {len(names)} files as {kind}, but the tar holds {len(blobs)} beside it")
    return blobs


def read_blob(file: Path | RemoteFile, blob: Blob) -> bytes:
    """The bytes of a file inside a tar."""
    if isinstance(file, RemoteFile):
        return file.read(blob.offset, blob.size)
    with file.open("rb") as stream:
        stream.seek(blob.offset)
        return stream.read(blob.size)


def find(name, roots: tuple[str, ...]):
    """The path of a picture or video, or the bytes of one elsewhere.

    What is not a path stays as it is, for the processor to refuse.
    """
    if not isinstance(name, str):
        return name
    for root in roots:
        place = Path(name) if Path(name).is_absolute() else place_of(root) / name
        if isinstance(place, RemoteFile):
            with suppress(MissingFile):
                return place.whole()
        elif len(roots) == 1 or place.exists():
            return place
    raise MissingFile(f"no picture or video at {name} under any of {', '.join(map(str, map(place_of, roots)))}")
