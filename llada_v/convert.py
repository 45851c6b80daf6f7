"""`llada-v convert`: a folder in our layout from a published one, tensor by tensor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .checkpoint.configs import siglip_fields, text_fields, translate_config
from .checkpoint.files import INDEX_FILE, WEIGHTS_FILE, Stored, growing, match, read_headers, shapes_of, some
from .checkpoint.names import (
    EMBEDDING,
    FRESH,
    HEAD,
    LLADA_HF,
    LLADA_ORIGINAL,
    PUBLISHED,
    PUBLISHED_MODEL_TYPE,
    SIGLIP,
    SIGLIP_DROPPED,
    table_for,
)
from .checkpoint.tokens import check_tokenizer_files, copy_tokenizer, rows_for
from .configuration_llada_v import LladaVConfig
from .conversation import TOKENS
from .errors import ExistingFile, WrongValue
from .json_text import read_json
from .modeling_llada_v import empty_model
from .processing_llada_v import LladaVProcessor

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Conversion(NamedTuple):
    """What `convert` did: tensors written, names of the source left out on purpose, our names made fresh, and the
    tokens that the tokenizer did not have."""

    num_tensors: int
    dropped: list[str]
    fresh: list[str]
    tokens: list[str]


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

    src: a LLaDA-V folder in the published layout, or a language model: LLaDA-8B or LLaDA-1.5 in the original or the
        Hugging Face layout, or iLLaDA.
    dst: the folder to make; it may exist if it is empty.
    vision_tower: with a language model, a folder of SigLIP2; projector and newline are then made fresh from `seed`,
        and so are rows of the embedding for tokens of the format that the model's vocabulary has no room for.
    dtype: of all weights written; None keeps that of the language model.
    progress: called with (tensors written, tensors in all).
    shard_bytes: the largest weight file, in bytes, unless a single weight is larger. One shard is in memory at a time.
    Every weight is checked before one is written; files grow in `<dst>.incomplete` (a leftover of a run that was
    killed is replaced), which becomes `dst` at the end and is removed on any failure.
    Raises ValueError for weights, configs or tokenizers that do not fit, FileExistsError for a non-empty `dst`.
    """
    src, dst = Path(src), Path(dst)
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise ExistingFile(f"{dst} exists and is not empty; choose another destination or remove it")
    check_tokenizer_files(src)
    found = read_headers(src)
    source_config = read_json(src / "config.json")
    model_type = source_config.get("model_type")
    table = PUBLISHED if model_type == PUBLISHED_MODEL_TYPE else table_for(found)
    if table not in (PUBLISHED, LLADA_ORIGINAL, LLADA_HF):
        raise WrongValue(
            f"{src} (model_type {model_type!r}) is neither a published LLaDA-V folder nor a language model of "
            f"LLaDA's family; its weights are named {some(list(found), 2)}"
        )
    if table == PUBLISHED and vision_tower is not None:
        raise WrongValue(f"{src} has its own vision tower; leave out --vision-tower {vision_tower}")
    if table != PUBLISHED and vision_tower is None:
        raise WrongValue(
            f"{src} is a language model without a vision tower; pass --vision-tower with a folder of "
            "siglip2-so400m-patch14-384"
        )
    with growing(dst) as draft:
        tokenizer, tokens = copy_tokenizer(src, draft, model_type, TOKENS)
        tower_found: dict[str, Stored] = {}
        dropped: list[str] = []
        if vision_tower is None:
            fields = translate_config(source_config, str(src))
        else:
            tower = siglip_fields(read_json(Path(vision_tower) / "config.json"))
            fields = {"text_config": text_fields(source_config), "vision_config": tower}
            tower_found, dropped = without_dropped(read_headers(vision_tower), tower["num_hidden_layers"])
        ids = {name: tokenizer.get_vocab()[token] for name, token in TOKENS.items()}
        rows = fields["text_config"]["vocab_size"]
        if tokens:
            fields["text_config"]["vocab_size"] = rows_for(ids, rows)
        config = LladaVConfig(**fields, **ids, pad_token_id=ids["eos_token_id"])
        model = empty_model(config)
        shapes = shapes_of(model)
        expected = {name: (rows, *shape[1:]) if name in (EMBEDDING, HEAD) else shape for name, shape in shapes.items()}
        stored = {}
        if vision_tower is not None:
            of_tower = {name: expected.pop(name) for name in shapes if name.startswith("model.vision_tower.")}
            expected = {name: shape for name, shape in expected.items() if not name.startswith(FRESH)}
            stored = match(tower_found, SIGLIP, of_tower, vision_tower)
        stored |= match(found, table, expected, src, model.all_tied_weights_keys)
        dtype = dtype_of(dtype, stored)
        if HEAD in stored and HEAD not in shapes:
            dropped.append(same_as(stored.pop(HEAD), stored[EMBEDDING]).name)
        fresh = {} if vision_tower is None else fresh_weights(model, seed)
        more = fresh_rows(config, shapes, rows, seed)

        config.architectures, config.dtype = [type(model).__name__], dtype
        LladaVProcessor(tokenizer=tokenizer, config=config).save_pretrained(draft)
        config.save_pretrained(draft)
        write_shards(draft, shapes, stored, fresh, more, dtype, shard_bytes, progress)
    made = [*fresh, *(f"{name}[{rows}:{rows + len(part)}]" for name, part in more.items())]
    return Conversion(len(stored) + len(fresh), dropped, made, tokens)


def without_dropped(found: dict[str, Stored], last_layer: int) -> tuple[dict[str, Stored], list[str]]:
    """A SigLIP2 folder's tensors that LLaDA-V has, and the names of those it leaves out on purpose."""
    prefixes = tuple(prefix.format(i=last_layer) for prefix in SIGLIP_DROPPED)
    dropped = [name for name in found if name.startswith(prefixes)]
    return {name: stored for name, stored in found.items() if name not in dropped}, dropped


def dtype_of(dtype: torch.dtype | str | None, stored: dict[str, Stored]) -> torch.dtype:
    """The dtype to write: as asked for, else that of the language model's embedding."""
    odd = [f"{name} is {tensor.dtype}" for name, tensor in stored.items() if tensor.dtype not in DTYPES]
    if odd:
        raise WrongValue(f"only {', '.join(DTYPES)} weights can be converted; {some(odd)}")
    if dtype is None:
        return DTYPES[stored[EMBEDDING].dtype]
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


def fresh_rows(config: LladaVConfig, shapes: dict[str, tuple], rows: int, seed: int) -> dict[str, torch.Tensor]:
    """What embedding and head have behind the `rows` of the source, by name: normal, of the trunk's own scale."""
    generator, std = torch.Generator().manual_seed(seed), config.text_config.initializer_range
    grown = {name: shape for name, shape in shapes.items() if name in (EMBEDDING, HEAD) and shape[0] > rows}
    return {
        name: torch.randn(height - rows, width, generator=generator) * std for name, (height, width) in grown.items()
    }


def same_as(head: Stored, embedding: Stored) -> Stored:
    """The head, which is left out since it is the embedding. Raises ValueError where it is not."""
    if not torch.equal(read_tensor(head), read_tensor(embedding)):
        raise WrongValue(
            f"config.json ties {head.name} to {embedding.name}, but {head.file} holds two weights that differ; set "
            "tie_word_embeddings to false there to keep both"
        )
    return head


def write_shards(folder: Path, shapes, stored, fresh, more, dtype, shard_bytes: int, progress) -> None:
    """Write all weights in the model's order, as one file or as shards with an index; one shard in memory at a time.

    more: rows that stand behind those of a stored weight.
    """
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
            weight = (fresh[name] if name in fresh else read_tensor(stored[name])).to(dtype)
            weights[name] = torch.cat((weight, more[name].to(dtype))) if name in more else weight.contiguous()
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
