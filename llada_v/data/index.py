"""One memory-mapped Arrow table over the records of all sources: written once, opened in an instant by every process.

    <folder>/<fingerprint>/records.arrow     columns as in SCHEMA, in the order of the sources
    <folder>/<fingerprint>/index.json        what it was made from

The fingerprint covers path, size, time of change (or a store's mark of the version) and sampling of every source: a
changed file gets a new index. What is
in memory is what is being looked at; a process holds nothing that grows with the number of records.
"""

import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from datasets import Dataset
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..errors import BadFile, WrongValue
from .mixture import Source, parse_strategy, select
from .remote import RemoteFile
from .sources import Blob, Entry, read_entries
from .writing import NOT_WRITABLE

log = logging.getLogger(__name__)

FORMAT = 2  # of the files below; a change makes older indexes unknown
BATCH_BYTES = 4 << 20
BLOB = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
SCHEMA = pa.schema([("text", pa.binary()), ("source", pa.int32()), ("number", pa.int64()), ("blobs", pa.list_(BLOB))])


class Row(NamedTuple):
    """One record of the index: its entry, and the number of its source."""

    entry: Entry
    source: int


class RecordIndex:
    """Rows by number, from a finished index folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.table = Dataset.from_file(str(folder / "records.arrow"))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Row:
        row = self.table[index]
        blobs = tuple(Blob(**blob) for blob in row["blobs"])
        return Row(Entry(row["text"], row["number"], blobs), row["source"])

    def digest(self) -> str:
        """The SHA-256 of the records in their order, wherever their files lie; kept beside the table once known."""
        file = self.folder / "records.sha256"
        if file.is_file():
            return file.read_text()
        total = hashlib.sha256()
        for batch in self.table.data.to_batches(10_000):
            for text, blobs in zip(batch.column("text"), batch.column("blobs").to_pylist(), strict=True):
                total.update(hashlib.sha256(text.as_buffer()).digest())
                for blob in blobs:
                    total.update(f"{blob['name']} {blob['size']} ".encode(errors="surrogatepass"))
        try:
            draft = file.with_name(f"{file.name}.{os.getpid()}")
            draft.write_text(total.hexdigest())
            draft.rename(file)
        except OSError as error:
            log.info("%s cannot be kept (%s)", file, error)
        return total.hexdigest()


def open_index(sources: list[Source], folder: str | Path | None, seed: int) -> RecordIndex:
    """The index over the sources, made first unless it is there.

    folder: where indexes are kept; None: `.index` beside the first source.
    seed: decides which records "random" sampling takes.
    Raises what reading the sources raises, and OSError with a remedy where the folder cannot be written.
    """
    folder = index_folder(sources[0].file) if folder is None else Path(folder)
    description = describe(sources, seed)
    target = folder / fingerprint(description)

    def build(draft: Path) -> None:
        draft.mkdir()
        write_table(draft / "records.arrow", sources, seed)
        (draft / "index.json").write_text(json.dumps(description, indent=2) + "\n")

    make_once(target, build)
    return RecordIndex(target)


def index_folder(first: Path | RemoteFile) -> Path:
    """Where an index is kept unless the user says something else. Raises ValueError for sources elsewhere."""
    if isinstance(first, RemoteFile):
        raise WrongValue(f"{first} is not on this machine; name a folder for the index of its records as index_folder")
    return first.parent / ".index"


def describe(sources: list[Source], seed: int) -> dict:
    """What an index is made from."""
    described = []
    for source in sources:
        file = source.file
        described.append(
            {
                "file": str(file),
                **(file.state() if isinstance(file, RemoteFile) else state_of(file)),
                "sampling_strategy": source.strategy,
            }
        )
    is_random = any(parse_strategy(source.strategy)[0] == "random" for source in sources)
    return {"format": FORMAT, "seed": seed if is_random else None, "sources": described}


def state_of(file: Path) -> dict:
    """Size and time of change."""
    state = file.stat()
    return {"bytes": state.st_size, "changed": state.st_mtime_ns}


def fingerprint(description) -> str:
    """A name for anything that JSON can hold."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def make_once(target: Path, build: Callable[[Path], None]) -> None:
    """Have `build` make a draft of the folder `target` and give it its name, unless it is there.

    Of several processes one builds and the others wait, by a lock (flock) that is gone with its process. On a network
    file system without locks two may build at once: each has a draft of its own, and the first one's counts. What is
    there under its name is always whole. Raises OSError with a remedy where the folder cannot be written.
    """
    if target.is_dir():
        return
    draft = target.with_name(f"{target.name}.draft-{socket.gethostname()}-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(FileLock(f"{target}.lock"))
    except OSError as error:
        raise not_written(target.parent, error) from error
    try:
        if not target.is_dir():
            for old in target.parent.glob(f"{target.name}.draft-*"):  # of a process that was killed
                shutil.rmtree(old)
            build(draft)
            draft.rename(target)
    except OSError as error:
        if error.errno in NOT_WRITABLE and str(error.filename or draft).startswith(str(draft)):
            raise not_written(target.parent, error) from error
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        lock.release()


def not_written(folder: Path, error: OSError) -> BadFile:
    """The error that says what to do where an index cannot be written: no right to, a read-only disk, a full one."""
    return BadFile(
        f"cannot write to {folder}, where the index of the records is kept: {error.strerror or error}; "
        "name another folder as index_folder"
    )


def locked(lock: FileLock) -> FileLock:
    """The lock once this process holds it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process that prepares %s", lock.lock_file.removesuffix(".lock"))
        lock.acquire()
    return lock


def write_table(file: Path, sources: list[Source], seed: int) -> None:
    """Write the chosen entries of all sources as one Arrow stream."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        bar = tqdm(desc="index", unit=" records", mininterval=1, leave=False, disable=None)
        rows, size = [], 0
        for source, entry in chosen_entries(sources, seed):
            blobs = [blob._asdict() for blob in entry.blobs]
            rows.append({"text": entry.text, "source": source, "number": entry.number, "blobs": blobs})
            size += len(entry.text)
            if size >= BATCH_BYTES or len(rows) >= 10_000:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
                bar.update(len(rows))
                rows, size = [], 0
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
        bar.close()


def chosen_entries(sources: list[Source], seed: int) -> Iterator[tuple[int, Entry]]:
    """(number of the source, entry) of the entries that the sampling strategies take, in order."""
    for number, source in enumerate(sources):
        where, count, is_share = parse_strategy(source.strategy)
        entries = read_entries(source.file)
        if where == "all":
            yield from ((number, entry) for entry in entries)
        elif where == "first" and not is_share:
            taken = 0
            for entry in islice(entries, count):
                taken += 1
                yield number, entry
            select(source.strategy, taken, [seed, number])  # raises where there were fewer
        else:
            total = sum(1 for _ in read_entries(source.file))
            wanted = iter(select(source.strategy, total, [seed, number]))
            next_wanted = next(wanted, None)
            for position, entry in enumerate(entries):
                if position == next_wanted:
                    yield number, entry
                    next_wanted = next(wanted, None)
                    if next_wanted is None:
                        break
