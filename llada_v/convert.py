"""`llada-v convert`: a folder in our layout from a published one, tensor by tensor."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from .checkpoint.configs import siglip_fields, text_fields, translate_config
from .checkpoint.files import INDEX_FILE, WEIGHTS_FILE, Stored, growing, match, read_headers, shapes_of, some
from .checkpoint.names import (
    FRESH,
    LLADA_HF,
    LLADA_ORIGINAL,
    PUBLISHED,
    PUBLISHED_MODEL_TYPE,
    SIGLIP,
    SIGLIP_DROPPED,
    table_for,
)
from .configuration_llada_v import LladaVConfig
from .errors import ExistingFile, WrongValue
from .json_text import read_json
from .modeling_llada_v import empty_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_TOKENIZER_FILES = ("special_tokens_map.json", "chat_template*")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Conversion(NamedTuple):
    """What `convert` did: tensors written, names of the source left out on purpose, our names made fresh."""

    num_tensors: int
    dropped: list[str]
    fresh: list[str]


def convert(
    src: str | Path,
    dst: str | Path,
    vision_tower: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    shard_bytes: int = 5 * 10**9,
    seed: int = 0,
) -> Conversion:
    """Write a folder in our layout (weights, config, tokenizer, processor) from a published one.

    src: a LLaDA-V folder in the published layout, or LLaDA-8B in its original or its Hugging Face layout.
    dst: the folder to make; it may exist if it is empty.
    vision_tower: with LLaDA-8B, a folder of SigLIP2; projector and newline are then made fresh from `seed`.
    dtype: of all weights written; None keeps that of the language model.
    progress: called with (tensors written, tensors in all).
    shard_bytes: the largest weight file, in bytes, unless a single weight is larger. One shard is in memory at a time.
    Everything is checked before anything is written; files grow in `<dst>.incomplete` (a leftover of a run that was
    killed is replaced), which becomes `dst` at the end and is removed on any failure.
    Raises ValueError for weights, configs or tokenizers that do not fit, FileExistsError for a non-empty `dst`.
    """
    src, dst = Path(src), Path(dst)
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise ExistingFile(f"{dst} exists and is not empty; choose another destination or remove it")
    check_tokenizer_files(src)
    found = read_headers(src)
    source_config = read_json(src / "config.json")
    table = PUBLISHED if source_config.get("model_type") == PUBLISHED_MODEL_TYPE else table_for(found)
    dropped: list[str] = []
    if table == PUBLISHED:
        if vision_tower is not None:
            raise WrongValue(f"{src} has its own vision tower; leave out --vision-tower {vision_tower}")
        fields = translate_config(source_config, str(src))
        model = empty_model(LladaVConfig(**fields))
        stored = match(found, table, shapes_of(model), src)
        fresh = {}
    elif table in (LLADA_ORIGINAL, LLADA_HF):
        if vision_tower is None:
            raise WrongValue(
                f"{src} is a language model without a vision tower; pass --vision-tower with a folder of "
                "siglip2-so400m-patch14-384"
            )
        vision_tower = Path(vision_tower)
        tower_found = read_headers(vision_tower)
        tower = siglip_fields(read_json(vision_tower / "config.json"))
        tower_found, dropped = without_dropped(tower_found, tower["num_hidden_layers"])
        fields = {"text_config": text_fields(source_config), "vision_config": tower}
        model = empty_model(LladaVConfig(**fields))
        shapes = shapes_of(model)
        is_tower = {name: name.startswith("model.vision_tower.") for name in shapes}
        trunk_shapes = {n: s for n, s in shapes.items() if not is_tower[n] and not n.startswith(FRESH)}
        stored = match(found, table, trunk_shapes, src)
        stored |= match(tower_found, SIGLIP, {n: s for n, s in shapes.items() if is_tower[n]}, vision_tower)
        fresh = fresh_weights(model, seed)
    else:
        raise WrongValue(
            f"{src} (model_type {source_config.get('model_type')!r}) is neither a published LLaDA-V folder nor "
            f"LLaDA-8B in either layout; its weights are named {some(list(found), 2)}"
        )
    dtype = dtype_of(dtype, stored)

    with growing(dst) as draft:
        config = write_tokenizer(src, draft, fields | {"dtype": dtype})
        config.architectures = [type(model).__name__]
        config.save_pretrained(draft)
        write_shards(draft, shapes_of(model), stored, fresh, dtype, shard_bytes, progress)
    return Conversion(len(stored) + len(fresh), dropped, list(fresh))


def check_tokenizer_files(src: Path) -> None:
    """Raise ValueError naming the tokenizer file that a source lacks."""
    if not src.is_dir():
        raise WrongValue(f"there is no folder {src}")
    missing = [name for name in TOKENIZER_FILES if not (src / name).is_file()]
    if missing:
        raise WrongValue(
            f"{src} lacks {' and '.join(missing)}; copy it there from the original LLaDA-8B-Instruct download, which "
            "has the tokenizer of LLaDA-V"
        )


def without_dropped(found: dict[str, Stored], last_layer: int) -> tuple[dict[str, Stored], list[str]]:
    """A SigLIP2 folder's tensors that LLaDA-V has, and the names of those it leaves out on purpose."""
    prefixes = tuple(prefix.format(i=last_layer) for prefix in SIGLIP_DROPPED)
    dropped = [name for name in found if name.startswith(prefixes)]
    return {name: stored for name, stored in found.items() if name not in dropped}, dropped


def dtype_of(dtype: torch.dtype | str | None, stored: dict[str, Stored]) -> torch.dtype:
    """The dtype to write: as asked for, else that of the language model's head."""
    odd = [f"{name} is {tensor.dtype}" for name, tensor in stored.items() if tensor.dtype not in DTYPES]
    if odd:
        raise WrongValue(f"only {', '.join(DTYPES)} weights can be converted; {some(odd)}")
    if dtype is None:
        return DTYPES[stored["lm_head.weight"].dtype]
    known = {str(choice).removeprefix("torch."): choice for choice in DTYPES.values()}
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise WrongValue(f"dtype is {name!r}; choose one of {', '.join(known)}")
    return known[name]


def fresh_weights(model, seed: int) -> dict[str, torch.Tensor]:
    """Projector and newline as the model's own initialisation makes them, float32; `model` is on the meta device."""
    base = model.model
    base.multi_modal_projector.to_empty(device="cpu")
    base.image_newline = torch.nn.Parameter(torch.empty_like(base.image_newline, device="cpu"))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model._init_weights(base.multi_modal_projector)
        model._init_weights(base)
    return {name: weight for name, weight in model.state_dict().items() if name.startswith(FRESH)}


def write_tokenizer(src: Path, folder: Path, fields: dict) -> LladaVConfig:
    """Copy the tokenizer, write the processor's files, and return the config with the tokenizer's ids in it."""
    from .conversation import TOKENS
    from .processing_llada_v import LladaVProcessor

    for pattern in TOKENIZER_FILES + OPTIONAL_TOKENIZER_FILES:
        for file in src.glob(pattern):
            shutil.copy(file, folder)
    # Loaded from the new folder, where no config.json can name another class.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in TOKENS.values() if token not in vocabulary]
    if missing:
        raise WrongValue(
            f"the tokenizer in {src} lacks {', '.join(missing)}; copy tokenizer.json and tokenizer_config.json there "
            "from the original LLaDA-8B-Instruct download"
        )
    ids = {name: vocabulary[token] for name, token in TOKENS.items()}
    config = LladaVConfig(**fields, **ids, pad_token_id=ids["eos_token_id"])
    LladaVProcessor(tokenizer=tokenizer, config=config).save_pretrained(folder)
    return config


def write_shards(folder: Path, shapes, stored, fresh, dtype, shard_bytes: int, progress) -> None:
    """Write all weights in the model's order, as one file or as shards with an index; one shard in memory at a time."""
    shards: list[list[str]] = [[]]
    size = total_size = 0
    for name, shape in shapes.items():
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        if shards[-1] and size + num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size, total_size = size + num_bytes, total_size + num_bytes
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards, start=1):
        file = WEIGHTS_FILE if len(shards) == 1 else f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        weights = {}
        for name in names:
            weights[name] = (fresh[name] if name in fresh else read_tensor(stored[name])).to(dtype).contiguous()
            weight_map[name] = file
            if progress is not None:
                progress(len(weight_map), len(shapes))
        save_file(weights, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index_text = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index_text, indent=2) + "\n")


def read_tensor(stored: Stored) -> torch.Tensor:
    """One tensor from its file."""
    with safe_open(stored.file, framework="pt") as file:
        return file.get_tensor(stored.name)
