"""What a run leaves on disk: checkpoints that are whole or not there, and where the weights come from."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..checkpoint.files import growing
from ..configuration_llada_v import LladaVConfig
from ..data.yaml_text import parse_yaml
from ..processing_llada_v import LladaVProcessor
from ..shipped import ROOT
from .recipe import Recipe

log = logging.getLogger(__name__)

RECIPE, ENVIRONMENT = "recipe.yaml", "environment.json"
WRITING = ".writing"  # what is not whole yet
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "projector.safetensors", "adapter_model.safetensors")
# Keys that may change between the parts of one run: they move no weight.
FREE_KEYS = ("output", "index_folder", "save_steps", "save_total", "log_steps", "report_to", "peak_tflops", "workers")
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "bitsandbytes", "datasets", "safetensors")
PACKAGES += ("tokenizers", "numpy", "pillow", "flash-attn", "llada-v")


def newest_checkpoint(output: str | Path) -> str | None:
    """The checkpoint with the highest step that was written to its end."""
    found = checkpoints(output)
    return str(found[-1]) if found else None


def checkpoints(output: str | Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first. The trainer's state is the last file of each to be written."""
    found = [folder for folder in Path(output).glob("checkpoint-*") if (folder / "trainer_state.json").is_file()]
    return sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))


def is_finished(output: str | Path) -> bool:
    """Whether the folder holds finished weights."""
    return any((Path(output) / name).is_file() for name in WEIGHTS)


def check_output(recipe: Recipe) -> None:
    """Refuse an output folder that another recipe has filled, or that no recipe has.

    Raises ValueError with the keys that differ. Keys that did not exist when the folder was made do not count.
    """
    output = Path(recipe.output)
    if not checkpoints(output) and not is_finished(output):
        return
    file = output / RECIPE
    if not file.is_file():
        if not checkpoints(output):
            raise ValueError(f"{output} holds a model that no recipe has made; choose another output")
        return  # its owner removed the recipe to go on with another one
    theirs, ours = parse_yaml(file.read_text(), file), recipe.as_dict()
    differing = [key for key in theirs if key in ours and key not in FREE_KEYS and theirs[key] != ours[key]]
    if differing:
        listed = ", ".join(f"{key} {theirs[key]} there, {ours[key]} here" for key in differing)
        raise ValueError(
            f"{output} was made by another recipe ({listed}); choose another output, remove the folder to start again, "
            f"or remove {file} to go on from its newest checkpoint with the new values"
        )


def write_origin(recipe: Recipe, num_devices: int) -> None:
    """Write the resolved recipe, and the revision and packages that train it, into the output folder."""
    output = Path(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    environment = {
        "revision": revision(),
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "devices": num_devices,
        "command": sys.argv,
    }
    for name, text in ((RECIPE, recipe.as_yaml()), (ENVIRONMENT, json.dumps(environment, indent=1) + "\n")):
        (output / f".{name}").write_text(text)
        os.replace(output / f".{name}", output / name)


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
        raise OSError(
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
        raise OSError(
            errno.ENOSPC,
            f"the disk of {output} has {free / 1e9:.1f} GB free, one checkpoint takes about {num_bytes / 1e9:.1f} GB; "
            "free space or choose another output",
        )


def clear_writing(output: str | Path) -> Path:
    """The empty folder for what is not whole yet; what an interrupted run left there is removed."""
    folder = Path(output) / WRITING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish_checkpoint(written: Path, output: str | Path, keep: int) -> None:
    """Give a whole checkpoint its name, and remove the oldest ones beyond `keep`."""
    output = Path(output)
    to_disk(written)
    target = output / written.name
    if target.exists():  # a run that was asked to stop saves the step that it has just saved
        target.rename(output / WRITING / "replaced")
    written.rename(target)
    for folder in checkpoints(output)[:-keep]:
        folder.rename(output / WRITING / folder.name)
    shutil.rmtree(output / WRITING)


def publish_model(written: Path, output: str | Path) -> None:
    """Move the files of a finished model to their place, the weights last: where they are, everything is."""
    to_disk(written)
    for file in sorted(written.iterdir(), key=lambda file: (file.name in WEIGHTS, file.name)):
        os.replace(file, Path(output) / file.name)
    shutil.rmtree(Path(output) / WRITING)


def write_like(model, source: str | Path, folder: str | Path) -> None:
    """Write a model as one that `from_pretrained` takes, in the dtype and with the processor of the one at `source`.

    The folder is there when it is whole.
    """
    dtype = LladaVConfig.from_pretrained(source).dtype
    if dtype is not None:
        model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    with growing(Path(folder)) as draft:
        LladaVProcessor.from_pretrained(source).save_pretrained(draft)
        model.save_pretrained(draft)


def to_disk(folder: Path) -> None:
    """Wait until the files of a folder are on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
