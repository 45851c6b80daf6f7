"""Configs of other layouts, translated to the fields of ours."""

import re
from pathlib import Path

from transformers import SiglipVisionConfig

from ..errors import WrongValue
from ..json_text import shown
from .files import INDEX_FILE, WEIGHTS_FILE, read_header, weight_map
from .names import ILLADA_MODEL_TYPE, PUBLISHED, rename

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
    "tie_word_embeddings": "tie_word_embeddings",
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
    "weight_tying": "tie_word_embeddings",
}
REQUIRED_TEXT_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Of a trunk that is not LLaDA-8B: its values may be others than the defaults, which are LLaDA-8B's.
REQUIRED_ELSEWHERE: tuple[str, ...] = ("num_key_value_heads", "rms_norm_eps", "rope_base", "max_position_embeddings")
REQUIRED_ELSEWHERE += ("tie_word_embeddings",)
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
    "mlp_bias": False,
    "layer_norm_eps": None,
}
FIXED_ORIGINAL_TEXT = {
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
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


def translate_config(published: dict, folder: str | None = None) -> dict:
    """Fields of a `LladaVConfig` from the published `config.json`.

    folder: where the weights lie, to count the tower's layers; without it SigLIP2's own count is assumed.
    Special ids are LLaDA's own: the file's `bos_token_id` is a leftover of another model. Missing mm_* fields take
    the published values. Raises ValueError naming fields this model is not built for.
    """
    check_fixed(published, FIXED_MULTIMODAL)
    fields: dict = {"text_config": text_fields(published), "vision_config": vision_fields(published, folder)}
    aspect = value_or(published, "image_aspect_ratio", "anyres_max_4")
    anyres = re.fullmatch(r"anyres_max_(\d{1,9})", str(aspect))
    if not anyres:
        raise WrongValue(f"config.json has image_aspect_ratio {shown(aspect)}; only anyres_max_N is built")
    fields["max_tile_features"] = int(anyres[1])
    # The original's inference falls back to "one_token" here, but all its training used "grid".
    fields["video_newline"] = value_or(published, "mm_newline_position", "grid")
    pinpoints = published.get("image_grid_pinpoints")
    pairs = pinpoints if isinstance(pinpoints, list) else [pinpoints]
    if pinpoints is not None and not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise WrongValue(
            f"config.json has image_grid_pinpoints {shown(pinpoints)}; a list of [width, height] is expected"
        )
    if pinpoints is not None:
        fields["image_grid_pinpoints"] = [[height, width] for width, height in pinpoints]
    dtype = published.get("dtype") or published.get("torch_dtype")
    return fields if dtype is None else fields | {"dtype": dtype}


def text_fields(config: dict) -> dict:
    """Fields of a `LladaConfig` from a config in the Hugging Face layout or in LLaDA's own (`d_model`, ...)."""
    is_original = "d_model" in config
    check_fixed(config, FIXED_ORIGINAL_TEXT if is_original else FIXED_TEXT)
    names = ORIGINAL_TEXT_FIELDS if is_original else TEXT_FIELDS
    config = with_plain_rope(config)
    is_other = config.get("model_type") == ILLADA_MODEL_TYPE
    required = REQUIRED_TEXT_FIELDS + (REQUIRED_ELSEWHERE if is_other else ())
    missing = [theirs for theirs, ours in names.items() if ours in required and config.get(theirs) is None]
    if missing:
        raise WrongValue(f"config.json lacks {', '.join(missing)}; it is not the config of a LLaDA model")
    return {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs) is not None}


def with_plain_rope(config: dict) -> dict:
    """The config with `rope_theta` where transformers 4 has it; transformers 5 has it in `rope_parameters`.

    Raises ValueError where rotary positions are scaled, in either's words.
    """
    for name in ("rope_scaling", "rope_parameters"):
        given = value_or(config, name, {})
        fields = given if isinstance(given, dict) else {"type": given}
        kind = value_or(fields, "rope_type", value_or(fields, "type", "default"))
        if kind != "default" or value_or(fields, "factor", 1) != 1:
            raise WrongValue(f"config.json has {name} {shown(given)} (only plain rotary positions are built)")
        config = config | {"rope_theta": value_or(fields, "rope_theta", config.get("rope_theta"))}
    return config


def vision_fields(published: dict, folder: str | None) -> dict:
    """Sizes of the tower that differ from SigLIP2-so400m's: those of the config's own `vision_config`, if any.

    SigLIP2 counts a last layer that LLaDA-V does not run and the published weights do not hold, so the count may be
    that of the layers held or one more.
    """
    given = published.get("vision_config")
    if given is None:
        return {}
    counted = value_or(given, "num_hidden_layers", 27) if isinstance(given, dict) else None
    if not isinstance(counted, int):
        raise WrongValue(f"config.json has vision_config {shown(given)}; an object with the tower's sizes is expected")
    sizes = {name: given[name] for name in VISION_FIELDS if name in given}
    held = counted - 1 if folder is None else layers_held(Path(folder), counted - 1)
    if counted - held not in (0, 1):
        raise WrongValue(
            f"config.json counts {counted} vision layers, but {folder} holds {held}; expected {held}, or {held + 1} "
            "where the layer that is not run counts too"
        )
    return sizes | {"num_hidden_layers": held}


def siglip_fields(config: dict) -> dict:
    """Sizes of the tower from a SigLIP2 folder's config (the whole model's or the tower's), less the last layer."""
    tower = SiglipVisionConfig(**config.get("vision_config", config))
    if tower.model_type != "siglip_vision_model" or config.get("model_type") not in ("siglip", "siglip_vision_model"):
        raise WrongValue(
            f"the vision tower has model_type {shown(config.get('model_type'))}; a SigLIP2 folder is expected"
        )
    sizes = {name: getattr(tower, name) for name in VISION_FIELDS}
    return sizes | {"num_hidden_layers": tower.num_hidden_layers - 1}


def layers_held(folder: Path, otherwise: int) -> int:
    """Encoder layers of the tower in a published folder, by index or headers; `otherwise` if it holds no weights."""
    if (folder / WEIGHTS_FILE).is_file():
        names = [stored.name for stored in read_header(folder / WEIGHTS_FILE)]
    elif (folder / INDEX_FILE).is_file():
        names = list(weight_map(folder / INDEX_FILE))
    else:
        names = [stored.name for file in sorted(folder.glob("*.safetensors")) for stored in read_header(file)]
    ours = [rename(name, PUBLISHED) or "" for name in names]
    layers = [re.match(r"model\.vision_tower\.encoder\.layers\.(\d+)\.", name) for name in ours]
    return max((int(layer[1]) + 1 for layer in layers if layer), default=otherwise)


def check_fixed(config: dict, fixed: dict) -> None:
    """Raise ValueError naming the fields whose value is not the one the model is built for."""
    wrong = [
        f"{name} {shown(config[name])} (only {wanted!r} is built)"
        for name, wanted in fixed.items()
        if config.get(name) is not None and config[name] != wanted
    ]
    if wrong:
        raise WrongValue(f"config.json has {', '.join(wrong)}")


def value_or(config: dict, name: str, default):
    """The field's value; `default` where it is missing or null."""
    return default if config.get(name) is None else config[name]
