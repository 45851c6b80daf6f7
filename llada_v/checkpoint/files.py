"""Folders of weights: where they are, what their headers say, and whether they fit a config. No weight is read."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from ..configuration_llada_v import LladaVConfig
from .names import OURS, PUBLISHED, inverse, rename, table_for

INDEX_FILE, WEIGHTS_FILE = "model.safetensors.index.json", "model.safetensors"


class Stored(NamedTuple):
    """A tensor on disk: its file, its name there, its shape and its dtype in safetensors' words ("BF16")."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def local_folder(name: str, options: dict) -> str:
    """The folder itself, or the local copy of a hub repository.

    options: of transformers' from_pretrained; its cache_dir, force_download, local_files_only, revision, subfolder
        and token are heeded; subfolder is taken out, since the folder returned is the one it names.
    Raises ValueError where `name` looks like a path and nothing is there, OSError where the hub does not give it.
    """
    subfolder = options.pop("subfolder", None)
    if not os.path.isdir(name):
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ValueError(f"there is no folder {name}")
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        hub_options = {key: options[key] for key in hub if options.get(key) is not None}
        try:
            name = snapshot_download(name, allow_patterns=["*.json", "*.safetensors"], **hub_options)
        except OSError as error:
            raise OSError(f"{name} is no folder here, and the hub did not give it: {error}") from error
    return os.path.join(name, subfolder) if subfolder else name


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: those of its index, else all. Raises ValueError where there are none."""
    index = folder / INDEX_FILE
    if index.is_file():
        files = sorted({folder / name for name in read_json(index)["weight_map"].values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    lost = [file.name for file in files if not file.is_file()]
    if lost:
        raise ValueError(f"{index} lists {', '.join(lost)}, which {folder} does not hold; download the folder again")
    if not files:
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{folder} holds its weights as pickles ({some(pickles)}), and pickles are not read because they can "
                "run code; get the safetensors files of the model, or save it again with safetensors"
            )
        raise ValueError(f"{folder} holds no weights: no *.safetensors file found")
    return files


def read_headers(folder: str | Path) -> dict[str, Stored]:
    """Every tensor of a folder by name, from the files' headers: no weight is read.

    Raises ValueError for missing, truncated or damaged files and for a name that two files hold.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(Path(folder)):
        try:
            handle = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{file} is truncated or damaged ({error}); download or copy it again") from error
        with handle:
            for name in handle.keys():
                if name in found:
                    raise ValueError(f"{name} is in both {found[name].file} and {file}; remove the file that is stale")
                part = handle.get_slice(name)
                found[name] = Stored(file, name, tuple(part.get_shape()), part.get_dtype())
    return found


def match(found: dict[str, Stored], table, expected: dict[str, tuple], where) -> dict[str, Stored]:
    """The stored tensors under our names, every one accounted for.

    expected: shapes by our name. Raises ValueError that names what is unknown, missing or of another shape.
    """
    renamed = {name: rename(name, table) for name in found}
    ours = {renamed[name]: stored for name, stored in found.items() if renamed[name] in expected}
    unknown = [name for name in found if renamed[name] not in expected]
    missing = [rename(name, inverse(table)) for name in expected if name not in ours]
    misshapen = [
        f"{stored.name} is {stored.shape} and not {expected[name]}"
        for name, stored in ours.items()
        if stored.shape != expected[name]
    ]
    problems = {"unknown": unknown, "missing": missing, "of another shape": misshapen}
    told = [f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names]
    if told:
        raise ValueError(f"the weights in {where} do not fit its config.json; {'; '.join(told)}")
    return ours


def check_folder(folder: str | Path, config: LladaVConfig) -> None:
    """Raise ValueError unless a folder, ours or published, holds exactly the weights of `config`."""
    found = read_headers(folder)
    match(found, OURS if table_for(found) == OURS else PUBLISHED, shapes_of(empty_model(config)), folder)


@contextmanager
def growing(folder: Path) -> Iterator[Path]:
    """An empty folder `<folder>.incomplete` to write into: it becomes `folder` at the end, is removed on any failure.

    A leftover of a run that was killed is replaced.
    """
    draft = folder.with_name(folder.name + ".incomplete")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        os.rename(draft, folder)
    finally:
        if draft.exists():
            shutil.rmtree(draft)


def read_json(file: Path) -> dict:
    """A JSON file. Raises ValueError naming it where it is missing or damaged."""
    if not file.is_file():
        raise ValueError(f"{file.parent} has no {file.name}; pass a model's whole folder")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); download or copy it again") from error


def some(names: list[str], at_most: int = 5) -> str:
    """The first few names, for a message."""
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def empty_model(config: LladaVConfig):
    """The model without storage (meta device): names and shapes."""
    from ..modeling_llada_v import LladaVForConditionalGeneration

    with torch.device("meta"):
        return LladaVForConditionalGeneration(config)


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights by name."""
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
