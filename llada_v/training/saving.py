"""Checkpoints and finished models on disk: whole or not there."""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from ..errors import BadFile

log = logging.getLogger(__name__)

WRITING = ".writing"  # what is not whole yet
BEST = "best"  # the model with the lowest held-out loss
SEAL = "files.json"  # sizes and checksums of a checkpoint's other files
LAST = (SEAL, "trainer_state.json")  # the files of a checkpoint that are written last, now and before there were seals
READERS = 8  # threads that read files for their checksums
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "projector.safetensors", "adapter_model.safetensors")


def newest_checkpoint(output: str | Path) -> str | None:
    """The checkpoint with the highest step that was written to its end; see `whole_checkpoint`."""
    found = checkpoints(output)
    return str(found[-1]) if found else None


def checkpoints(output: str | Path) -> list[Path]:
    """The checkpoints of a folder that were written to their ends, oldest first; what comes last there is in them."""
    found = [
        folder
        for folder in Path(output).glob("checkpoint-*")
        if folder.name.rpartition("-")[2].isdigit() and any((folder / name).is_file() for name in LAST)
    ]
    return sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))


def whole_checkpoint(output: str | Path) -> str | None:
    """The newest checkpoint whose files are what was written. Damaged ones that are newer are set aside, and named."""
    for folder in reversed(checkpoints(output)):
        wrong = damage(folder)
        if not wrong:
            return str(folder)
        aside = folder.with_name(f"damaged-{folder.name}")
        for number in count(2):
            if not aside.exists():
                break
            aside = folder.with_name(f"damaged-{folder.name}-{number}")
        folder.rename(aside)
        log.warning("%s is damaged (%s): it is now %s, and the one before it is taken", folder, "; ".join(wrong), aside)
    return None


def seal(folder: Path) -> None:
    """List the files of a checkpoint in one more, with their sizes and checksums."""
    found = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    with ThreadPoolExecutor(READERS) as pool:
        sums = pool.map(checksum, found.values())
    listed = {name: [file.stat().st_size, total] for (name, file), total in zip(found.items(), sums, strict=True)}
    (folder / SEAL).write_text(json.dumps(listed, indent=1) + "\n")


def damage(folder: Path) -> list[str]:
    """What differs from the list in a checkpoint, one entry a file; without a list, files that are empty."""
    if not (folder / SEAL).is_file():  # made before checkpoints had one
        return [
            f"{file.name} is empty" for file in sorted(folder.rglob("*")) if file.is_file() and not file.stat().st_size
        ]
    try:
        listed = json.loads((folder / SEAL).read_text())
    except ValueError:
        return [f"{SEAL} cannot be read"]
    wrong = {}
    for name, (size, _) in listed.items():
        if not (folder / name).is_file():
            wrong[name] = f"{name} is missing"
        elif (found := (folder / name).stat().st_size) != size:
            wrong[name] = f"{name} has {found:,} bytes of {size:,}"
    rest = [name for name in listed if name not in wrong]
    with ThreadPoolExecutor(READERS) as pool:
        for name, total in zip(rest, pool.map(checksum, [folder / name for name in rest]), strict=True):
            if total != listed[name][1]:
                wrong[name] = f"{name} is not what was written"
    return list(wrong.values())


def checksum(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_finished(output: str | Path) -> bool:
    """Whether the folder holds finished weights."""
    return any((Path(output) / name).is_file() for name in WEIGHTS)


@contextmanager
def disk_errors(output: str | Path) -> Iterator[None]:
    """Say of a full disk what it means for the run; what was being written is removed, what was whole stays."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        shutil.rmtree(Path(output) / WRITING, ignore_errors=True)
        kept = newest_checkpoint(output)
        raise BadFile(
            errno.ENOSPC,
            f"the disk of {output} is full; free space or lower save_total, then run the same command: it goes on "
            + (f"from {kept}" if kept else "from the beginning"),
        ) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is "no space left"; safetensors and torch say so in words only."""
    while error is not None:
        text = str(error)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            return True
        if "os error 28" in text or "PytorchStreamWriter failed writing file" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def check_space(output: str | Path, num_bytes: int) -> None:
    """Raise OSError if fewer than `num_bytes` are free on the disk of the folder."""
    free = shutil.disk_usage(output).free
    if free < num_bytes:
        raise BadFile(
            f"the disk of {output} has {free / 1e9:.1f} GB free, one checkpoint takes about {num_bytes / 1e9:.1f} GB; "
            "free space or choose another output"
        )


def bytes_of(folder: Path) -> int:
    """What the files of a folder take."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def clear_writing(output: str | Path) -> Path:
    """The empty folder for what is not whole yet; what an interrupted run left there is removed."""
    folder = Path(output) / WRITING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish_checkpoint(written: Path, output: str | Path, keep: int, spare: Path | None = None) -> None:
    """Give a whole checkpoint its name, and remove the oldest ones beyond `keep`, but for `spare`, which is in use."""
    output = Path(output)
    seal(written)
    to_disk(written)
    target = output / written.name
    if target.exists():  # a run that was asked to stop saves the step that it has just saved
        target.rename(output / WRITING / "replaced")
    written.rename(target)
    for folder in checkpoints(output)[:-keep]:
        if folder != spare:
            folder.rename(output / WRITING / folder.name)
    to_disk(output, deep=False)
    shutil.rmtree(output / WRITING)


def publish_model(written: Path, output: str | Path) -> None:
    """Move the files of a finished model to their place, the weights last: where they are, everything is."""
    to_disk(written)
    for file in sorted(written.iterdir(), key=lambda file: (file.name in WEIGHTS, file.name)):
        os.replace(file, Path(output) / file.name)
    to_disk(Path(output), deep=False)
    shutil.rmtree(Path(output) / WRITING)


def publish_beside(written: Path, output: str | Path) -> None:
    """Put a model beside the checkpoints, under its name, in the place of the one before."""
    to_disk(written)
    target = Path(output) / written.name
    if target.exists():
        target.rename(Path(output) / WRITING / "replaced")
    written.rename(target)
    to_disk(Path(output), deep=False)
    shutil.rmtree(Path(output) / WRITING)


def to_disk(folder: Path, deep: bool = True) -> None:
    """Wait until a folder's names, and with `deep` all files and folders in it, are on the disk."""
    for path in (*folder.rglob("*"), folder) if deep else (folder,):
        if path.is_file() or path.is_dir():
            number = os.open(path, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
