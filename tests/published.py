"""The small checkpoint of the golden figures, in the published layout, and the inputs the figures were made with.

Names come from the published 8B checkpoint's list and not from the package, so that a wrong key table shows.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from llada_v.anyres import Layout, num_features
from llada_v.images import anyres_tiles, normalised, padded_tile, square_tile

GOLDEN = Path(__file__).parent / "golden"
PLACEHOLDER = -200  # a whole picture or video in the figures' ids


def golden(name: str):
    """A file of figures."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


SIZES = golden("config")
# Sizes of the 8B checkpoint -> sizes of the small one.
SHRUNK = {
    4096: SIZES["llm"]["hidden_size"],
    12288: SIZES["llm"]["intermediate_size"],
    1152: SIZES["vision"]["hidden_size"],
    4304: SIZES["vision"]["intermediate_size"],
}
PUBLISHED_CONFIG = SIZES["llm"] | {
    "model_type": "llava_llada",
    "architectures": ["LlavaLLaDAModelLM"],
    "auto_map": {"AutoConfig": "modeling.Config", "AutoModelForImageTextToText": "modeling.Model"},
    "vocab_size": 126464,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "max_position_embeddings": 16384,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": 126081,
    "torch_dtype": "float32",
    "use_cache": True,
    "vision_config": SIZES["vision"] | {"image_size": 384, "patch_size": 14},
    "mm_vision_tower": "google/siglip2-so400m-patch14-384",
    "mm_hidden_size": SIZES["vision"]["hidden_size"],
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_vision_select_layer": -2,
    "mm_spatial_pool_mode": "bilinear",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "anyres_max_4",
    "image_grid_pinpoints": [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)],
    "mm_newline_position": "grid",
}


def layout_8b() -> dict[str, tuple[int, ...]]:
    """Every name of the published 8B checkpoint with its shape."""
    return {
        name.replace("{i}", str(i)): tuple(entry["shape"])
        for name, entry in golden("checkpoint_layout_8b").items()
        for i in range(entry["count"])
    }


def small_layout(shrunk: dict[int, int] = SHRUNK) -> dict[str, tuple[int, ...]]:
    """The same for a small model, which runs one tower layer fewer than its config counts."""
    counts = {32: SIZES["llm"]["num_hidden_layers"], 26: SIZES["vision"]["num_hidden_layers"] - 1, 1: 1}
    return {
        name.replace("{i}", str(i)): tuple(shrunk.get(size, size) for size in entry["shape"])
        for name, entry in golden("checkpoint_layout_8b").items()
        for i in range(counts[entry["count"]])
    }


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The figures' weight of that published name, float32."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    w = random.standard_normal(size=shape).astype(np.float32)
    fan_in = math.prod(shape[1:])
    is_tower = "vision_tower" in name
    if name.endswith(("layernorm.weight", "norm.weight", "layer_norm1.weight", "layer_norm2.weight")):
        w = 1 + 0.1 * w
    elif name.endswith(".bias") or "position_embedding" in name:
        w = 0.1 * w
    elif "embed_tokens" in name or name == "model.image_newline":
        pass
    elif name == "lm_head.weight" or (not is_tower and name.endswith(("q_proj.weight", "k_proj.weight"))):
        w = 3 * w / math.sqrt(fan_in)
    elif not is_tower and name.endswith(("o_proj.weight", "down_proj.weight")):
        w = 4 * w / math.sqrt(fan_in)
    else:
        w = w / math.sqrt(fan_in)
    return torch.from_numpy(w.astype(np.float32))


def small_weights() -> dict[str, torch.Tensor]:
    """All weights of the small model under their published names."""
    return {name: weight(name, shape) for name, shape in small_layout().items()}


def write_folder(folder: Path, config: dict, weights: dict[str, torch.Tensor], num_shards: int = 1) -> Path:
    """A model folder: config.json and safetensors, with an index where there are several files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if num_shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names, weight_map = sorted(weights), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        save_file({name: weights[name] for name in names[shard::num_shards]}, folder / file)
        weight_map |= dict.fromkeys(names[shard::num_shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def pattern(width: int, height: int, k: int) -> Image.Image:
    """The figures' test picture."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    red, green = x * 255 // (width - 1) + 0 * y, y * 255 // (height - 1) + 0 * x
    blue = ((x * (k + 3)) ^ (y * (2 * k + 5))) & 255
    return Image.fromarray(np.stack((red, green, blue), axis=-1).astype(np.uint8))


def pictures_of(record: dict, config) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The model's picture arguments for a record of the figures, and how many features each visual makes."""
    images = [pattern(*image) for image in record["images"]]
    if not images:
        return {}, []
    mode = record.get("mode", "anyres")
    if mode == "video":
        tiles, visuals = [torch.cat([square_tile(image, config) for image in images])], images[:1]
    else:
        tiles_of = anyres_tiles if mode == "anyres" else padded_tile
        tiles, visuals = [tiles_of(image, config) for image in images], images
    layout = {"anyres": Layout.ANYRES, "pad": Layout.SQUARE, "video": Layout.VIDEO}[mode]
    sizes = [(image.height, image.width) for image in visuals]
    arguments = {
        "pixel_values": normalised(torch.cat(tiles)),
        "image_sizes": torch.tensor(sizes),
        "image_layouts": torch.tensor([(layout, len(part)) for part in tiles]),
    }
    counts = [num_features(layout, *size, config, frames=len(part)) for size, part in zip(sizes, tiles, strict=True)]
    return arguments, counts


def fill_in(rows: list[list[int]], counts: list[int], value: int) -> torch.Tensor:
    """Rows of ids (B, L) with `counts` values, in order, where a picture stands in `rows`."""
    counts = iter(counts)
    filled = [[[value] * next(counts) if token == PLACEHOLDER else [token] for token in row] for row in rows]
    return torch.tensor([sum(parts, []) for parts in filled])
