"""Data files to entries, streamed: JSON arrays, JSON Lines, WebDataset tars, here or far away. None is ever held whole.

An entry is the text of one record as it stands in the file. A line that is not JSON is an entry too: what is wrong with
it is said when it is read, so that a check can list all of them. A JSON array cannot be read past its first mistake.
(`ijson` reads arrays 1.5 times as fast, 29 MiB in 0.14 against 0.21 s of CPU, but gives values instead of the text.)
"""

import json
import math
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import MissingFile, WrongValue
from ..images import is_left_behind
from .remote import RemoteFile, place_of

SUFFIXES = (".json", ".jsonl", ".tar")
CHUNK = 1 << 20  # characters read at a time
UNFINISHED = 16  # a mistake this close to the end of what was read may be half a word: "tru", "\u12"
BOM = b"\xef\xbb\xbf"
MAX_DEPTH = 64  # lists and objects inside each other; a record of conversations needs three
NO_FILE = -1  # size of a member of a tar that is no file but a link or the like


class Blob(NamedTuple):
    """What lies beside a record inside a tar: its file name, and where its bytes are."""

    name: str
    offset: int
    size: int


class Entry(NamedTuple):
    """One record's text, its number in its file (from 0 in arrays and tars, the line from 1 in JSON Lines), blobs."""

    text: bytes
    number: int
    blobs: tuple[Blob, ...] = ()


def read_entries(file: str | Path | RemoteFile, may_be_empty: bool = False) -> Iterator[Entry]:
    """The entries of a data file, by its suffix; a file elsewhere by its address.

    Raises FileNotFoundError for a missing file, ValueError for an unknown kind, for what is not JSON or not an array
    of objects, for a broken tar, and for a file without a record unless it may be empty.
    """
    file = place_of(file)
    readers = {".json": array_entries, ".jsonl": line_entries, ".tar": tar_entries}
    if file.suffix not in readers:
        raise WrongValue(f"{file} is not a kind of data file that can be read; expected one of {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise MissingFile(f"no data file at {file}; see data/README.md for where each data set goes")
    is_empty = True
    for entry in readers[file.suffix](file):
        is_empty = False
        yield entry
    if is_empty and not may_be_empty:
        raise WrongValue(f"{file} holds no record; expected at least one")


def parsed(entry: Entry) -> dict:
    """The record that an entry's text stands for.

    Raises ValueError for what is not JSON by its standard, and for what would lose or break something later on: a key
    given twice, half a character (a lone surrogate), lists and objects more than MAX_DEPTH inside each other.
    """
    try:
        text = entry.text.decode()
    except UnicodeDecodeError as error:
        raise WrongValue(
            f"it is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}); "
            "convert its file, from Latin-1 with: iconv -f LATIN1 -t UTF-8 FILE > NEW"
        ) from error
    try:
        record = STRICT.decode(text)
        if text.count("{") + text.count("[") > MAX_DEPTH:
            check_depth(record, MAX_DEPTH)
    except RecursionError:
        raise WrongValue(f"it is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise WrongValue(f"it is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise WrongValue(f"a record is a JSON object; this one is {record!r:.60}")
    if (half := lone_surrogate(record, text)) is not None:
        raise WrongValue(f"it holds half a character, {half!r} (a lone surrogate), which is no text; mend or remove it")
    return record


def name_of(entry: Entry) -> str:
    """What errors call a record: its id, or else its number in its file."""
    try:
        record = json.loads(entry.text)
    except (ValueError, RecursionError):
        record = None
    name = record.get("id") if isinstance(record, dict) else None
    return f"{entry.number if name is None else name!r:.80}"


def unique(pairs: list[tuple[str, object]]) -> dict:
    """The object of these pairs. Raises ValueError for a key that is there twice: one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise WrongValue(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} is there twice")
    return found


def finite(digits: str) -> float:
    """The number of these digits. Raises ValueError for one that is too large, or none: JSON has no NaN."""
    number = float(digits)
    if not math.isfinite(number):
        raise WrongValue(f"{digits:.20} is no number of JSON; write null where there is none")
    return number


STRICT = json.JSONDecoder(object_pairs_hook=unique, parse_float=finite, parse_constant=finite)


def check_depth(value, left: int) -> None:
    """Raise ValueError where lists and objects are more than `left` deep inside each other."""
    if left < 0:
        raise WrongValue(f"it is nested more than {MAX_DEPTH} deep")
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, (dict, list)):
            check_depth(part, left - 1)


def lone_surrogate(record: dict, text: str) -> str | None:
    """The first half of a character anywhere in a record, which is written as one of its text's escapes."""
    if not re.search(r"\\u[dD][89a-fA-F]", text):
        return None
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return error.object[error.start]
    return None


def check_encoding(file: Path | RemoteFile) -> None:
    """Raise ValueError for a file of UTF-16 or UTF-32, with or without a mark at its start."""
    with file.open("rb") as stream:
        start = stream.read(4)
    is_marked = start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))
    if is_marked or b"\0" in start:
        bits = 32 if start.count(b"\0") >= (2 if is_marked else 3) else 16
        order = "" if is_marked else "LE" if start[:1] != b"\0" else "BE"
        raise WrongValue(
            f"{file} is UTF-{bits} text, not UTF-8; convert it: iconv -f UTF-{bits}{order} -t UTF-8 {file} > NEW"
        )


def array_entries(file: Path | RemoteFile) -> Iterator[Entry]:
    """The objects of a JSON array."""
    check_encoding(file)
    buffer = ArrayBuffer(file)
    with buffer:
        first = buffer.next_letter()
        if first != "[":
            hint = "; JSON Lines end in .jsonl" if first == "{" else ""
            found = f"it starts with {first!r}" if first else "it is empty"
            raise WrongValue(f"{file} must hold an array of records, but {found}{hint}")
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

    def __init__(self, file: Path | RemoteFile):
        self.file = file
        self.stream = file.open(encoding="utf-8-sig")
        self.decoder = json.JSONDecoder(parse_int=str)  # of any length: what is wrong with a record is its own error
        self.text, self.at = "", 0  # what is read, and where in it we are
        self.passed = 0  # characters of the file before `text`

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stream.close()

    def fail(self, reason: str, at: int | None = None):
        """Raise the error of a broken file, with the place."""
        place = self.passed + (self.at if at is None else at)
        raise WrongValue(f"{self.file} is not valid JSON: {reason} (character {place:,})")

    def read_more(self) -> bool:
        """Forget what was passed and read on, at least as much again as is left; False at the end of the file."""
        left = self.text[self.at :]
        try:
            more = self.stream.read(max(CHUNK, len(left)))
        except UnicodeDecodeError as error:
            raise WrongValue(f"{self.file} is not UTF-8 text: {error}") from error
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
            except RecursionError:
                self.fail(f"record {number}: it is nested more than {MAX_DEPTH} deep")
            except json.JSONDecodeError as error:
                is_unfinished = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - UNFINISHED
                place = self.passed + error.pos
                if not is_unfinished or not self.read_more():
                    self.fail(f"record {number}: {error.msg}", place - self.passed)
        if not isinstance(value, dict):
            raise WrongValue(
                f"{self.file} must hold an array of records (JSON objects); number {number} is "
                f"{self.text[self.at : end]:.60}"
            )
        text = self.text[self.at : end].encode()
        self.at = end
        return text


def line_entries(file: Path | RemoteFile) -> Iterator[Entry]:
    """The lines of a JSON Lines file that are not blank."""
    check_encoding(file)
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            text = (line.removeprefix(BOM) if number == 1 else line).strip()
            if text:
                yield Entry(text, number)


def tar_entries(file: Path | RemoteFile) -> Iterator[Entry]:
    """The samples of a WebDataset tar: files side by side whose names agree up to the first dot, one of them .json.

    What desktops leave among the files of their users is passed over.
    """
    try:
        with file.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            key, text, number = None, None, 0
            blobs: list[Blob] = []
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all it has seen; typeshed leaves that out
                if member.isdir() or is_left_behind(member.name):
                    continue
                folder, _, name = member.name.encode(errors="backslashreplace").decode().rpartition("/")
                stem, _, suffix = name.partition(".")
                if (folder, stem) != key:
                    if key is not None:
                        yield finished(file, key, text, number, blobs)
                        number += 1
                    key, text, blobs = (folder, stem), None, []
                is_file = member.isfile() and not member.issparse()
                if suffix.lower() == "json" and is_file:
                    if text is not None:
                        raise WrongValue(f"{file} has {member.name} twice")
                    text = tar.extractfile(member).read().strip()
                else:
                    blobs.append(Blob(name, member.offset_data, member.size if is_file else NO_FILE))
            if key is not None:
                yield finished(file, key, text, number, blobs)
    except tarfile.TarError as error:
        raise WrongValue(f"{file} cannot be read as an uncompressed tar: {error}") from error


def finished(
    file: Path | RemoteFile, key: tuple[str, str], text: bytes | None, number: int, blobs: list[Blob]
) -> Entry:
    """The entry of a tar's sample."""
    if text is None:
        raise WrongValue(f"{file} has no {'/'.join(filter(None, key))}.json beside the other files of that sample")
    return Entry(text, number, tuple(blobs))
