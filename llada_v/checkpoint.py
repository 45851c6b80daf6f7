"""Names of weights: the layouts LLaDA-V comes in, how each is renamed to ours, and a conversion that streams.

It knows names, shapes and config fields and computes nothing. Only safetensors and JSON are read: no pickle is opened
and no code named in a config (`auto_map`) is run.

    published LLaDA-V folder  ------------------------------------>  ours     (`from_pretrained` reads it directly, too)
    LLaDA-8B folder, either layout  +  SigLIP2 folder  + fresh projector and newline  ------>  ours
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, SiglipVisionConfig

from .configuration_llada_v import LladaVConfig

# Tables: (their prefix, our prefix). "{i}" is a layer number.
LLADA_HF = (
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
)
PUBLISHED = LLADA_HF + (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.image_newline", "model.image_newline"),
)
THEIR_BLOCK, OUR_BLOCK = "model.transformer.blocks.{i}.", "model.language_model.layers.{i}."
LLADA_ORIGINAL = (
    ("model.transformer.wte.", "model.language_model.embed_tokens."),
    ("model.transformer.ln_f.", "model.language_model.norm."),
    ("model.transformer.ff_out.", "lm_head."),
    (THEIR_BLOCK + "q_proj.", OUR_BLOCK + "self_attn.q_proj."),
    (THEIR_BLOCK + "k_proj.", OUR_BLOCK + "self_attn.k_proj."),
    (THEIR_BLOCK + "v_proj.", OUR_BLOCK + "self_attn.v_proj."),
    (THEIR_BLOCK + "attn_out.", OUR_BLOCK + "self_attn.o_proj."),
    (THEIR_BLOCK + "ff_proj.", OUR_BLOCK + "mlp.gate_proj."),
    (THEIR_BLOCK + "up_proj.", OUR_BLOCK + "mlp.up_proj."),
    (THEIR_BLOCK + "ff_out.", OUR_BLOCK + "mlp.down_proj."),
    (THEIR_BLOCK + "attn_norm.", OUR_BLOCK + "input_layernorm."),
    (THEIR_BLOCK + "ff_norm.", OUR_BLOCK + "post_attention_layernorm."),
)
SIGLIP = (
    ("vision_model.", "model.vision_tower."),
    # A SiglipVisionModel saved by transformers 5 has no prefix.
    ("embeddings.", "model.vision_tower.embeddings."),
    ("encoder.", "model.vision_tower.encoder."),
    ("post_layernorm.", "model.vision_tower.post_layernorm."),
)
# What a SigLIP2 checkpoint holds and LLaDA-V has no use for; its last encoder layer "{i}" among it.
SIGLIP_DROPPED = (
    "text_model.",
    "logit_scale",
    "logit_bias",
    "vision_model.head.",
    "head.",
    "vision_model.encoder.layers.{i}.",
    "encoder.layers.{i}.",
)
OURS = (("", ""),)
FRESH = ("model.multi_modal_projector.", "model.image_newline")  # what a conversion from LLaDA-8B makes new

PUBLISHED_MODEL_TYPE = "llava_llada"
# The published renames as `key_mapping` of transformers' from_pretrained; our own names match none of them.
KEY_MAPPING = {"^" + re.escape(theirs): ours for theirs, ours in PUBLISHED if theirs != ours}

TEXT_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_base",
    "max_position_embeddings": "max_position_embeddings",
    "initializer_range": "initializer_range",
}
# `max_sequence_length` (4,096) is left out: the multimodal training goes on to 16,384 positions.
ORIGINAL_TEXT_FIELDS = {
    "embedding_size": "vocab_size",
    "d_model": "hidden_size",
    "mlp_hidden_size": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_base",
    "init_std": "initializer_range",
}
REQUIRED_TEXT_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
VISION_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
# Values the model is built for. A missing or null field stands for the same value.
FIXED_TEXT = {
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
FIXED_ORIGINAL_TEXT = {
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "weight_tying": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
}
FIXED_MULTIMODAL = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_use_im_start_end": False,
    "add_faster_video": False,
}

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_TOKENIZER_FILES = ("special_tokens_map.json", "chat_template*")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INDEX_FILE, WEIGHTS_FILE = "model.safetensors.index.json", "model.safetensors"


class Stored(NamedTuple):
    """A tensor on disk: its file, its name there, its shape and its dtype in safetensors' words ("BF16")."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


class Conversion(NamedTuple):
    """What `convert` did: tensors written, names of the source left out on purpose, our names made fresh."""

    num_tensors: int
    dropped: list[str]
    fresh: list[str]


# Names


def rename(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    """The name under the table's right-hand side; None where no row fits."""
    for theirs, ours in table:
        found = re.match(re.escape(theirs).replace(r"\{i\}", r"(\d+)"), name)
        if found:
            return (ours.format(i=found[1]) if found.groups() else ours) + name[found.end() :]
    return None


def inverse(table: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The table read from right to left."""
    return tuple((ours, theirs) for theirs, ours in table)


def published_name(name: str) -> str | None:
    """The published checkpoint's name of one of our weights."""
    return rename(name, inverse(PUBLISHED))


def table_for(names) -> tuple[tuple[str, str], ...] | None:
    """The table of a folder with these names; None where it is none we know."""
    marks = {
        "model.language_model.": OURS,
        "model.transformer.": LLADA_ORIGINAL,
        "model.vision_tower.": PUBLISHED,
        "model.mm_projector.": PUBLISHED,
        "model.layers.": LLADA_HF,
    }
    for mark, table in marks.items():
        if any(name.startswith(mark) for name in names):
            return table
    return None


# Files


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
    from .modeling_llada_v import LladaVForConditionalGeneration

    with torch.device("meta"):
        return LladaVForConditionalGeneration(config)


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights by name."""
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


# Configs


def translate_config(published: dict, folder: str | None = None) -> dict:
    """Fields of a `LladaVConfig` from the published `config.json`.

    folder: where the weights lie, to count the tower's layers; without it SigLIP2's own count is assumed.
    Special ids are LLaDA's own: the file's `bos_token_id` is a leftover of another model. Missing mm_* fields take
    the published values. Raises ValueError naming fields this model is not built for.
    """
    check_fixed(published, FIXED_MULTIMODAL)
    fields: dict = {"text_config": text_fields(published), "vision_config": vision_fields(published, folder)}
    aspect = value_or(published, "image_aspect_ratio", "anyres_max_4")
    anyres = re.fullmatch(r"anyres_max_(\d+)", aspect)
    if not anyres:
        raise ValueError(f"config.json has image_aspect_ratio {aspect!r}; only anyres_max_N is built")
    fields["max_tile_features"] = int(anyres[1])
    # The original's inference falls back to "one_token" here, but all its training used "grid".
    fields["video_newline"] = value_or(published, "mm_newline_position", "grid")
    pinpoints = published.get("image_grid_pinpoints")
    if isinstance(pinpoints, str):
        raise ValueError(f"config.json has image_grid_pinpoints {pinpoints!r}; a list of [width, height] is expected")
    if pinpoints is not None:
        fields["image_grid_pinpoints"] = [[height, width] for width, height in pinpoints]
    dtype = published.get("dtype") or published.get("torch_dtype")
    return fields if dtype is None else fields | {"dtype": dtype}


def text_fields(config: dict) -> dict:
    """Fields of a `LladaConfig` from a config in the Hugging Face layout or in LLaDA's own (`d_model`, ...)."""
    is_original = "d_model" in config
    check_fixed(config, FIXED_ORIGINAL_TEXT if is_original else FIXED_TEXT)
    names = ORIGINAL_TEXT_FIELDS if is_original else TEXT_FIELDS
    missing = [theirs for theirs, ours in names.items() if ours in REQUIRED_TEXT_FIELDS and config.get(theirs) is None]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}; it is not the config of a LLaDA model")
    return {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs) is not None}


def vision_fields(published: dict, folder: str | None) -> dict:
    """Sizes of the tower that differ from SigLIP2-so400m's: those of the config's own `vision_config`, if any.

    SigLIP2 counts a last layer that LLaDA-V does not run and the published weights do not hold, so the count may be
    that of the layers held or one more.
    """
    if published.get("vision_config") is None:
        return {}
    sizes = {name: published["vision_config"][name] for name in VISION_FIELDS if name in published["vision_config"]}
    counted = sizes.get("num_hidden_layers", 27)
    held = counted - 1 if folder is None else layers_held(Path(folder), counted - 1)
    if counted - held not in (0, 1):
        raise ValueError(
            f"config.json counts {counted} vision layers, but {folder} holds {held}; expected {held}, or {held + 1} "
            "where the layer that is not run counts too"
        )
    return sizes | {"num_hidden_layers": held}


def layers_held(folder: Path, otherwise: int) -> int:
    """Encoder layers of the tower in a published folder, by index or headers; `otherwise` if it holds none."""
    if (folder / INDEX_FILE).is_file():
        names = list(read_json(folder / INDEX_FILE)["weight_map"])
    elif any(folder.glob("*.safetensors")):
        names = list(read_headers(folder))
    else:
        return otherwise
    ours = [rename(name, PUBLISHED) or "" for name in names]
    layers = [re.match(r"model\.vision_tower\.encoder\.layers\.(\d+)\.", name) for name in ours]
    return max((int(layer[1]) + 1 for layer in layers if layer), default=otherwise)


def check_fixed(config: dict, fixed: dict) -> None:
    """Raise ValueError naming the fields whose value is not the one the model is built for."""
    wrong = [
        f"{name} {config[name]!r} (only {wanted!r} is built)"
        for name, wanted in fixed.items()
        if config.get(name) is not None and config[name] != wanted
    ]
    if wrong:
        raise ValueError(f"config.json has {', '.join(wrong)}")


def value_or(config: dict, name: str, default):
    """The field's value; `default` where it is missing or null."""
    return default if config.get(name) is None else config[name]


# Conversion


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
        raise FileExistsError(f"{dst} exists and is not empty; choose another destination or remove it")
    check_tokenizer_files(src)
    found = read_headers(src)
    source_config = read_json(src / "config.json")
    table = PUBLISHED if source_config.get("model_type") == PUBLISHED_MODEL_TYPE else table_for(found)
    if table == PUBLISHED:
        if vision_tower is not None:
            raise ValueError(f"{src} has its own vision tower; leave out --vision-tower {vision_tower}")
        fields, dropped = translate_config(source_config, str(src)), []
        model = empty_model(LladaVConfig(**fields))
        stored = match(found, table, shapes_of(model), src)
        fresh = {}
    elif table in (LLADA_ORIGINAL, LLADA_HF):
        if vision_tower is None:
            raise ValueError(
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
        raise ValueError(
            f"{src} (model_type {source_config.get('model_type')!r}) is neither a published LLaDA-V folder nor "
            f"LLaDA-8B in either layout; its weights are named {some(list(found), 2)}"
        )
    dtype = dtype_of(dtype, stored)

    incomplete = dst.with_name(dst.name + ".incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    try:
        config = write_tokenizer(src, incomplete, fields | {"dtype": dtype})
        config.architectures = [type(model).__name__]
        config.save_pretrained(incomplete)
        write_shards(incomplete, shapes_of(model), stored, fresh, dtype, shard_bytes, progress)
        os.rename(incomplete, dst)
    finally:
        if incomplete.exists():
            shutil.rmtree(incomplete)
    return Conversion(len(stored) + len(fresh), dropped, list(fresh))


def check_tokenizer_files(src: Path) -> None:
    """Raise ValueError naming the tokenizer file that a source lacks."""
    if not src.is_dir():
        raise ValueError(f"there is no folder {src}")
    missing = [name for name in TOKENIZER_FILES if not (src / name).is_file()]
    if missing:
        raise ValueError(
            f"{src} lacks {' and '.join(missing)}; copy it there from the original LLaDA-8B-Instruct download, which "
            "has the tokenizer of LLaDA-V"
        )


def siglip_fields(config: dict) -> dict:
    """Sizes of the tower from a SigLIP2 folder's config (the whole model's or the tower's), less the last layer."""
    tower = SiglipVisionConfig(**config.get("vision_config", config))
    if tower.model_type != "siglip_vision_model" or config.get("model_type") not in ("siglip", "siglip_vision_model"):
        raise ValueError(f"the vision tower has model_type {config.get('model_type')!r}; a SigLIP2 folder is expected")
    sizes = {name: getattr(tower, name) for name in VISION_FIELDS}
    return sizes | {"num_hidden_layers": tower.num_hidden_layers - 1}


def without_dropped(found: dict[str, Stored], last_layer: int) -> tuple[dict[str, Stored], list[str]]:
    """A SigLIP2 folder's tensors that LLaDA-V has, and the names of those it leaves out on purpose."""
    prefixes = tuple(prefix.format(i=last_layer) for prefix in SIGLIP_DROPPED)
    dropped = [name for name in found if name.startswith(prefixes)]
    return {name: stored for name, stored in found.items() if name not in dropped}, dropped


def dtype_of(dtype: torch.dtype | str | None, stored: dict[str, Stored]) -> torch.dtype:
    """The dtype to write: as asked for, else that of the language model's head."""
    odd = [f"{name} is {tensor.dtype}" for name, tensor in stored.items() if tensor.dtype not in DTYPES]
    if odd:
        raise ValueError(f"only {', '.join(DTYPES)} weights can be converted; {some(odd)}")
    if dtype is None:
        return DTYPES[stored["lm_head.weight"].dtype]
    known = {str(choice).removeprefix("torch."): choice for choice in DTYPES.values()}
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise ValueError(f"dtype is {name!r}; choose one of {', '.join(known)}")
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
    from .processing_llada_v import TOKENS, LladaVProcessor

    for pattern in TOKENIZER_FILES + OPTIONAL_TOKENIZER_FILES:
        for file in src.glob(pattern):
            shutil.copy(file, folder)
    # Loaded from the new folder, where no config.json can name another class.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in TOKENS.values() if token not in vocabulary]
    if missing:
        raise ValueError(
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
