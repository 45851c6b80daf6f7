"""Data files to entries, streamed: JSON arrays, JSON Lines, WebDataset tars. No file is ever held whole.

An entry is the text of one record as it stands in the file. A line that is not JSON is an entry too: what is wrong with
it is said when it is read, so that a check can list all of them. A JSON array cannot be read past its first mistake.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".json", ".jsonl", ".tar")
IMAGE_SUFFIXES = frozenset("jpg jpeg png webp gif bmp tif tiff ppm".split())
VIDEO_SUFFIXES = frozenset("mp4 webm mkv avi mov m4v".split())
CHUNK = 1 << 20  # characters read at a time
UNFINISHED = 16  # a mistake this close to the end of what was read may be half a word: "tru", "\u12"
BOM = b"\xef\xbb\xbf"


class Blob(NamedTuple):
    """A picture or video inside a tar: its file name, and where its bytes lie."""

    name: str
    offset: int
    size: int


class Entry(NamedTuple):
    """One record's text, its number in its file (from 0 in arrays and tars, the line from 1 in JSON Lines), blobs."""

    text: bytes
    number: int
    blobs: tuple[Blob, ...] = ()


def read_entries(file: str | Path, may_be_empty: bool = False) -> Iterator[Entry]:
    """The entries of a data file, by its suffix.

    Raises FileNotFoundError for a missing file, ValueError for an unknown kind, for what is not JSON or not an array
    of objects, for a broken tar, and for a file without a record unless it may be empty.
    """
    file = Path(file)
    readers = {".json": array_entries, ".jsonl": line_entries, ".tar": tar_entries}
    if file.suffix not in readers:
        raise ValueError(f"{file} is not a kind of data file that can be read; expected one of {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"no data file at {file}; see data/README.md for where each data set goes")
    is_empty = True
    for entry in readers[file.suffix](file):
        is_empty = False
        yield entry
    if is_empty and not may_be_empty:
        raise ValueError(f"{file} holds no record; expected at least one")


def parsed(entry: Entry) -> dict:
    """The record that an entry's text stands for."""
    try:
        record = json.loads(entry.text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a record is a JSON object; this one is {record!r:.60}")
    return record


def array_entries(file: Path) -> Iterator[Entry]:
    """The objects of a JSON array."""
    buffer = ArrayBuffer(file)
    with buffer:
        first = buffer.next_letter()
        if first != "[":
            hint = "; JSON Lines end in .jsonl" if first == "{" else ""
            found = f"it starts with {first!r}" if first else "it is empty"
            raise ValueError(f"{file} must hold an array of records, but {found}{hint}")
        number = 0
        if buffer.next_letter(advance=False) == "]":
            buffer.at += 1
        else:
            separator = ","
            while separator == ",":
                yield Entry(buffer.next_object(number), number)
                number += 1
                separator = buffer.next_letter()
            if separator != "]":
                buffer.fail(f"expected ',' or ']', found {separator!r}" if separator else "the array is not closed")
        if letter := buffer.next_letter():
            buffer.fail(f"the array is closed, but {letter!r} follows")


class ArrayBuffer:
    """The part of a JSON file that is being read."""

    def __init__(self, file: Path):
        self.file = file
        self.stream = file.open(encoding="utf-8-sig")
        self.decoder = json.JSONDecoder()
        self.text, self.at = "", 0  # what is read, and where in it we are
        self.passed = 0  # characters of the file before `text`

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stream.close()

    def fail(self, reason: str, at: int | None = None):
        """Raise the error of a broken file, with the place."""
        place = self.passed + (self.at if at is None else at)
        raise ValueError(f"{self.file} is not valid JSON: {reason} (character {place:,})")

    def read_more(self) -> bool:
        """Forget what was passed and read on, at least as much again as is left; False at the end of the file."""
        left = self.text[self.at :]
        try:
            more = self.stream.read(max(CHUNK, len(left)))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.file} is not UTF-8 text: {error}") from error
        self.passed += self.at
        self.text, self.at = left + more, 0
        return bool(more)

    def next_letter(self, advance: bool = True) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            while self.at < len(self.text):
                letter = self.text[self.at]
                if letter not in " \t\r\n":
                    self.at += advance
                    return letter
                self.at += 1
            if not self.read_more():
                return ""

    def next_object(self, number: int) -> bytes:
        """The text of the object that comes next."""
        if not self.next_letter(advance=False):
            self.fail("the array is not closed")
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                break
            except json.JSONDecodeError as error:
                is_unfinished = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - UNFINISHED
                place = self.passed + error.pos
                if not is_unfinished or not self.read_more():
                    self.fail(f"record {number}: {error.msg}", place - self.passed)
        if not isinstance(value, dict):
            raise ValueError(
                f"{self.file} must hold an array of records (JSON objects); number {number} is {value!r:.60}"
            )
        text = self.text[self.at : end].encode()
        self.at = end
        return text


def line_entries(file: Path) -> Iterator[Entry]:
    """The lines of a JSON Lines file that are not blank."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            text = (line.removeprefix(BOM) if number == 1 else line).strip()
            if text:
                yield Entry(text, number)


def tar_entries(file: Path) -> Iterator[Entry]:
    """The samples of a WebDataset tar: files side by side whose names agree up to the first dot, one of them .json."""
    try:
        with tarfile.open(file, "r:") as tar:
            key, text, blobs, number = None, None, [], 0
            while (member := tar.next()) is not None:
                tar.members.clear()  # tarfile keeps every member it has seen
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (folder, stem) != key:
                    if key is not None:
                        yield finished(file, key, text, number, blobs)
                        number += 1
                    key, text, blobs = (folder, stem), None, []
                kind = suffix.rpartition(".")[2].lower()
                if suffix == "json":
                    text = tar.extractfile(member).read().strip()
                elif kind in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                    blobs.append(Blob(name, member.offset_data, member.size))
            if key is not None:
                yield finished(file, key, text, number, blobs)
    except tarfile.TarError as error:
        raise ValueError(f"{file} cannot be read as an uncompressed tar: {error}") from error


def finished(file: Path, key: tuple[str, str], text: bytes | None, number: int, blobs: list[Blob]) -> Entry:
    """The entry of a tar's sample."""
    if text is None:
        raise ValueError(f"{file} has no {'/'.join(filter(None, key))}.json beside the other files of that sample")
    return Entry(text, number, tuple(blobs))
