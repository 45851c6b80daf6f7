"""Folders of weights: where they are, what their headers say, and whether they fit a model. No weight is read.

Which files hold a folder's weights follows transformers' rule, so what is looked at here is what is loaded later:
`model.safetensors` if it is there, else the files of the index; both with the variant in their names where one is asked
for. Other files beside them (adapters, other variants, helper files of desktops) are none of the model's.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from ..errors import BadFile, WrongValue
from ..json_text import quoted, read_json, shown
from .names import BASE, OURS, PUBLISHED, QUANTIZED, inverse, rename, table_for

INDEX_FILE, WEIGHTS_FILE = "model.safetensors.index.json", "model.safetensors"
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
LONGEST_NAME = 1000  # of a folder or on the hub
NONE: Mapping[str, str] = {}
NOT_WEIGHTS = (".", "adapter_")  # how names of safetensors files begin that hold no whole model


class Stored(NamedTuple):
    """A tensor on disk: its file, its name there, its shape and its dtype in safetensors' words ("BF16")."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def check_name(name: str | Path) -> None:
    """Raise ValueError for what can be no folder and no hub name, such as a picture written in letters."""
    if str(name).startswith("data:") or len(str(name)) > LONGEST_NAME:
        raise WrongValue(f"{shown(str(name))} is no folder and no hub name")


def local_folder(name: str, options: dict) -> str:
    """The folder itself, or the local copy of a hub repository.

    options: of transformers' from_pretrained; its cache_dir, force_download, local_files_only, revision, subfolder
        and token are heeded; subfolder is taken out, since the folder returned is the one it names.
    Raises ValueError where `name` looks like a path and nothing is there, OSError where the hub does not give it.
    """
    check_name(name)
    subfolder = options.pop("subfolder", None)
    if not os.path.isdir(name):
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise WrongValue(f"there is no folder {name}")
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        hub_options = {key: options[key] for key in hub if options.get(key) is not None}
        try:
            name = snapshot_download(name, allow_patterns=["*.json", "*.safetensors"], **hub_options)
        except OSError as error:
            told = str(error).replace(str(name), shown(name))
            raise BadFile(f"{shown(name)} is no folder here, and the hub did not give it: {told}") from error
    return os.path.join(name, subfolder) if subfolder else name


def check_json(folder: str | Path) -> None:
    """Raise ValueError, naming the file, unless every JSON file that a model or processor is made of is a sound object.

    transformers reads them after this, and trusts them.
    """
    check_name(folder)
    for name in JSON_FILES:
        if (Path(folder) / name).is_file():
            read_json(Path(folder) / name)


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files that hold the folder's weights, by transformers' rule; where there is neither the one file
    nor an index, all that may.

    Raises ValueError where there are none, and for an index that is damaged or lists files outside the folder.
    """
    whole, index = folder / with_variant(WEIGHTS_FILE, variant), folder / with_variant(INDEX_FILE, variant)
    if whole.is_file():
        return [whole]
    if index.is_file():
        files = sorted({folder / name for name in weight_map(index).values()})
        lost = [file.name for file in files if not file.is_file()]
        if lost:
            raise WrongValue(f"{index} lists {some(lost)}, which {folder} does not hold; download the folder again")
        return files
    files = [file for file in sorted(folder.glob("*.safetensors")) if not file.name.startswith(NOT_WEIGHTS)]
    variants = sorted({name for file in files if (name := variant_of(file.name)) is not None})
    if variant is not None or variants:
        have = f"it has the variants {', '.join(variants)}" if variants else "it has no variants"
        raise WrongValue(f"{folder} holds no {whole.name}; {have}: choose one with variant=..., or None for no variant")
    if not files:
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        if pickles:
            raise WrongValue(
                f"{folder} holds its weights as pickles ({some(pickles)}), and pickles are not read because they can "
                "run code; get the safetensors files of the model, or save it again with safetensors"
            )
        raise WrongValue(f"{folder} holds no weights: no *.safetensors file found")
    return files


def with_variant(name: str, variant: str | None) -> str:
    """A file name with the variant where transformers puts it: in front of the last suffix."""
    if variant is None:
        return name
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


def variant_of(name: str) -> str | None:
    """The variant that the name of a file with whole weights names, "fp16" in model.fp16.safetensors."""
    found = re.fullmatch(r"model\.([\w-]+)\.safetensors", name)
    return found[1] if found else None


def weight_map(index: Path) -> dict[str, str]:
    """File by weight, from an index. Raises ValueError for a damaged one, or one that leaves its folder."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise WrongValue(f"{index} has no weight_map from names to files; download or copy it again")
    for name in found.values():
        if os.path.isabs(name) or "\\" in name or ".." in Path(name).parts or not name.endswith(".safetensors"):
            raise WrongValue(f"{index} names the file {name!r}; only safetensors files of its own folder are read")
    return found


def read_headers(folder: str | Path, variant: str | None = None) -> dict[str, Stored]:
    """Every tensor of a folder by name, from the files' headers: no weight is read.

    Raises ValueError for missing, truncated or damaged files and for a name that two files hold.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(Path(folder), variant):
        for stored in read_header(file):
            if stored.name in found:
                told = f"{stored.name} is in both {found[stored.name].file} and {file}"
                raise WrongValue(f"{told}; remove the file that is stale")
            found[stored.name] = stored
    return found


def read_header(file: Path) -> list[Stored]:
    """The tensors of one file. Raises ValueError for a truncated or damaged one."""
    try:
        with safe_open(file, framework="pt") as handle:
            parts = [(name, handle.get_slice(name)) for name in handle.keys()]
            return [Stored(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in parts]
    except SafetensorError as error:
        raise WrongValue(f"{file} is truncated or damaged ({quoted(error)}); download or copy it again") from error


def match(
    found: dict[str, Stored], table, expected: dict[str, tuple], where, tied: Mapping[str, str] = NONE
) -> dict[str, Stored]:
    """The stored tensors under our names, every one accounted for.

    expected: shapes by our name. tied: weights that are others' (our names of both) and may be stored all the same.
    Raises ValueError that names what is unknown, missing or of another shape.
    """
    renamed = {name: rename(name, table) for name in found}
    expected = expected | {name: expected[source] for name, source in tied.items() if name in renamed.values()}
    ours = {renamed[name]: stored for name, stored in found.items() if renamed[name] in expected}
    unknown = [name for name in found if renamed[name] not in expected]
    missing = [rename(name, inverse(table)) or name for name in expected if name not in ours]
    misshapen = [
        f"{stored.name} is {stored.shape} and not {expected[name]}"
        for name, stored in ours.items()
        if stored.shape != expected[name]
    ]
    problems = {"unknown": unknown, "missing": missing, "of another shape": misshapen}
    told = [f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names]
    if told:
        raise WrongValue(f"the weights in {where} do not fit its config.json; {'; '.join(told)}")
    return ours


def check_folder(
    folder: str | Path,
    shapes: dict[str, tuple],
    variant: str | None = None,
    quantized_by: str | None = None,
    needs_head: bool = True,
    any_shape: bool = False,
    tied: Mapping[str, str] = NONE,
) -> None:
    """Raise ValueError unless a folder, ours or published, holds exactly the weights of these shapes, by our names.

    quantized_by: the method of the quantized weights that it may hold; None: all are whole.
    needs_head: False lets a folder pass that was saved without the head.
    any_shape: weights of other shapes pass; transformers makes them fresh where it is told to ignore them.
    tied: see `match`.
    """
    found = read_headers(folder, variant)
    packed: dict[str, Stored] = {}
    if quantized_by is not None:
        found, packed = unpacked(found, quantized_by, folder)
    table = table_for(found)
    if table == BASE and not needs_head:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("lm_head.")}
    table = table if table in (OURS, BASE) else PUBLISHED
    as_stored = found if any_shape else packed
    shapes |= {name: as_stored[n].shape for n in as_stored if (name := rename(n, table)) in shapes}
    match(found, table, shapes, folder, tied)


def unpacked(found: dict[str, Stored], method: str, where) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """The stored tensors with the parts of each quantized weight as one under its name, and those weights alone.

    Their shape is that of what is packed, whatever it is: the method's own code knows it.
    Raises ValueError for a method that is not known.
    """
    if method not in QUANTIZED:
        raise WrongValue(f"the weights in {where} are quantized by {method!r}; {', '.join(QUANTIZED)} are read")
    owners = {name: re.sub(QUANTIZED[method], ".weight", name) for name in found}
    packed = {owner: found.get(owner, found[name]) for name, owner in owners.items() if owner != name}
    return {owner: packed.get(owner, found[name]) for name, owner in owners.items()}, packed


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


def some(names: list[str], at_most: int = 5) -> str:
    """The first few names, for a message."""
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights by name, without those that are others'."""
    tied = model.all_tied_weights_keys
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name not in tied}
