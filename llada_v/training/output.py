"""The output folder of a run: held by one run at a time, seen by all its nodes, with what made it and how it stands.

recipe.yaml        every setting that was used
environment.json   revision, packages, devices, command
run.json           how the run stands: see `note_run`
train.log          what it said, with the traceback of what ended it
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..data.index import RecordIndex
from ..data.yaml_text import parse_yaml
from ..errors import BadFile, WrongValue
from ..fields import rules_of
from ..shipped import ROOT
from .recipe import Recipe
from .saving import checkpoints, is_finished

log = logging.getLogger(__name__)

RECIPE, ENVIRONMENT, DATA, RUN = "recipe.yaml", "environment.json", "data.json", "run.json"
LOG, LOCK = "train.log", ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# Settings that move weights by rounding alone, and so may change, unless filler is trained; those of the data may if
# the records themselves are the same.
FILLER_KEYS = {"micro_batch_size", "pad_to_multiple_of"}
DATA_KEYS = {"data", "image_root"}
PACKAGES: tuple[str, ...] = ("torch", "transformers", "accelerate", "deepspeed", "peft", "bitsandbytes", "datasets")
PACKAGES += ("safetensors", "tokenizers", "numpy", "pillow", "flash-attn", "llada-v")


def check_output(recipe: Recipe) -> None:
    """Refuse an output folder that another recipe has filled, or that no recipe has; say what else has changed.

    Raises ValueError with the keys that differ and change what is learned. Keys that did not exist when the folder was
    made do not count.
    """
    output = Path(recipe.output)
    if not checkpoints(output) and not is_finished(output):
        return
    file = output / RECIPE
    if not file.is_file():
        if not checkpoints(output):
            raise WrongValue(f"{output} holds a model that no recipe has made; choose another output")
        return  # its owner removed the recipe to go on with another one
    theirs, ours = parse_yaml(file.read_text(), file), recipe.as_dict()
    told = {
        key: f"{key} {theirs[key]} there, {ours[key]} here"
        for key in theirs
        if key in ours and key != "output" and theirs[key] != ours[key]
    }
    free = {name for name, (_, rule) in rules_of(Recipe).items() if rule.may_change}
    free |= set() if recipe.train_eos_padding else FILLER_KEYS
    free |= DATA_KEYS if (output / DATA).is_file() else set()
    if not told.keys() <= free:
        listed = ", ".join(text for key, text in told.items() if key not in free)
        raise WrongValue(
            f"{output} was made by another recipe ({listed}); choose another output, remove the folder to start again, "
            f"or remove {file} to go on from its newest checkpoint with the new values"
        )
    if told:
        log.info("changed since %s was made: %s", output, ", ".join(told.values()))


def check_data(recipe: Recipe, index: RecordIndex) -> None:
    """Note the records that a run learns from.

    Raises ValueError where they are not those that it began with, unless the recipe says to go on.
    """
    output = Path(recipe.output)
    found, file = {"records": len(index), "sha256": index.digest()}, output / DATA
    if file.is_file() and (checkpoints(output) or is_finished(output)):
        before = json.loads(file.read_text())
        if before != found:
            told = f"{before['records']:,} there, {found['records']:,} here"
            told = told if before["records"] != found["records"] else f"{found['records']:,}, but other ones"
            told = f"the records of {recipe.data} are not those that {output} was trained on ({told})"
            if recipe.on_changed_data == "stop":
                raise WrongValue(
                    f"{told}: the run would go on in another order; bring them back, choose another output, or go on "
                    "with --on_changed_data go_on"
                )
            log.warning("%s: going on with the new ones", told)
    write_whole(file, json.dumps(found) + "\n")


@contextmanager
def held(output: str | Path) -> Iterator[None]:
    """Keep other runs away from a folder; the lock belongs to this process and is gone when it is, however it ends.

    Raises ValueError, naming the process that has it, where another run is at work.
    """
    file = Path(output) / LOCK
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+")
    except OSError as error:
        raise BadFile(error.errno, f"cannot write into {output}: {error.strerror}; choose another output") from error
    with stream:  # not `flock`: a killed run's loader workers would hold that on
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                log.warning("%s cannot be locked (%s): start no second run on it", output, error)
            elif error.errno in (errno.EACCES, errno.EAGAIN):
                stream.seek(0)
                raise WrongValue(
                    f"another run is at work in {output} ({stream.read() or 'just started'}); "
                    "wait for its end, stop it, or choose another output"
                ) from error
            else:
                raise
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        stream.flush()
        yield


def check_shared(output: str | Path, seconds: float = 30) -> None:
    """Raise ValueError on all processes of a run unless each one sees what the first one writes into the folder.

    seconds: how long a file may take to be seen; network file systems remember for a while what was there.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    marks = [secrets.token_hex(8)]
    torch.distributed.broadcast_object_list(marks)
    file = Path(output) / f".seen-{marks[0]}"
    if torch.distributed.get_rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    torch.distributed.barrier()
    end = time.monotonic() + seconds
    while not (is_seen := file.exists()) and time.monotonic() < end:
        time.sleep(0.1)
    seen: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(seen, (is_seen, socket.gethostname()))
    if torch.distributed.get_rank() == 0:
        file.unlink()
    blind = [f"{number} on {host}" for number, (is_seen, host) in enumerate(seen) if not is_seen]
    if blind:
        raise WrongValue(
            f"process {', '.join(blind)} cannot see what the first one, on {seen[0][1]}, writes into {output}; "
            "choose an output on storage that all nodes share"
        )


def write_origin(recipe: Recipe, num_devices: int) -> None:
    """Write the resolved recipe, and the revision and packages that train it, into the output folder."""
    environment = {
        "revision": revision(),
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "devices": num_devices,
        "command": sys.argv,
    }
    write_whole(Path(recipe.output) / RECIPE, recipe.as_yaml())
    write_whole(Path(recipe.output) / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")


def note_run(output: str | Path, status: str, step: int, steps: int, why: str | None = None) -> None:
    """Write how the run stands, for whoever starts it again.

    status: "running", "stopped" (on request, saved: the same command goes on), "finished", or "failed"; a killed run
        leaves "running". step, steps: optimizer steps taken, and all. why: what asked for the stop, or the error.
    """
    write_whole(
        Path(output) / RUN, json.dumps({"status": status, "step": step, "steps": steps, "why": why}, indent=1) + "\n"
    )


def write_whole(file: Path, text: str) -> None:
    """Write a small file; whoever reads it meanwhile finds the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name.removeprefix('.')}")
    draft.write_text(text)
    os.replace(draft, file)


class LogFile(logging.FileHandler):
    """A log that tells once that it cannot be written, as on a full disk, and leaves the run alone."""

    def handleError(self, record):
        logging.getLogger().removeHandler(self)
        log.warning("%s cannot be written: %s", self.baseFilename, sys.exc_info()[1])


@contextmanager
def log_file(output: str | Path, rank: int) -> Iterator[None]:
    """Write what is logged into the output folder too, and the traceback of an error that ends the run.

    All processes write into one file, lines of other processes than the first with their numbers.
    """
    handler = LogFile(Path(output) / LOG, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {f'[{rank}] ' if rank else ''}%(message)s"))
    root, package = logging.getLogger(), logging.getLogger(__name__.partition(".")[0])
    root.addHandler(handler)
    level = package.level
    package.setLevel(logging.WARNING if rank else logging.INFO)
    try:
        yield
    except Exception as error:
        told = (type(error), error, error.__traceback__)
        Path(output).mkdir(parents=True, exist_ok=True)
        handler.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "ended by an error", (), told))
        raise
    finally:
        package.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def revision() -> str | None:
    """The commit of the source, with "+" behind it where files differ from it; None outside a git clone."""
    if not (ROOT / ".git").exists():  # a wheel in a folder of some other project
        return None
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
