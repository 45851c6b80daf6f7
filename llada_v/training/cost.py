"""What training costs in floating-point operations, from the sizes in the config.

A multiply-add counts as two. Norms, activations and the embedding are left out; recomputed activations are not counted,
so what is divided by the time is the model's use of the device, not the device's work.
"""

from ..configuration_llada_v import LladaVConfig
from .recipe import Recipe


def forward_flops(config: LladaVConfig, rows: int, length: int, tiles: int, positions: int) -> dict[str, float]:
    """Operations of one forward pass by part, with the head apart.

    rows, length: of the batch, filler included. tiles: of all its pictures. positions: those that get logits.
    """
    text, vision = config.text_config, config.vision_config
    tokens, width = rows * length, text.hidden_size
    keys = 2 * width * text.num_key_value_heads * text.head_dim
    rest = 2 * width**2 + 3 * width * text.intermediate_size
    # The last block needs only keys and values of what has no logits.
    at_all = 2 * tokens * (text.num_hidden_layers * keys + (text.num_hidden_layers - 1) * rest)
    at_all += 4 * tokens * length * width * (text.num_hidden_layers - 1)
    at_positions = positions * (2 * rest + 4 * length * width)
    patches, tower = config.tile_side**2, vision.hidden_size
    layer = 2 * (4 * tower**2 + 2 * tower * vision.intermediate_size) + 4 * patches * tower
    embedding = 2 * vision.num_channels * vision.patch_size**2 * tower
    return {
        "vision_tower": float(tiles * patches * (vision.num_hidden_layers * layer + embedding)),
        "projector": float(2 * tiles * patches * (tower * width + width**2)),
        "language_model": float(at_all + at_positions),
        "head": float(2 * positions * width * text.vocab_size),
    }


def training_flops(config: LladaVConfig, recipe: Recipe, rows: int, length: int, tiles: int, positions: int) -> float:
    """Operations of one forward and backward pass of what the recipe trains.

    A part costs its forward pass once more for the gradient of its weights, and once more for the gradient of its
    inputs where something before it learns. Adapters count as nothing themselves.
    """
    forward = forward_flops(config, rows, length, tiles, positions)
    learns = {part: part in recipe.train for part in ("vision_tower", "projector", "language_model")}
    whole = {part: learns[part] and (recipe.lora_rank == 0 or part == "projector") for part in learns}
    passes = {
        "vision_tower": 1 + learns["vision_tower"] + whole["vision_tower"],
        "projector": 1 + learns["vision_tower"] + whole["projector"],
        "language_model": 2 + whole["language_model"],
        "head": 2 + whole["language_model"],
    }
    return sum(passes[part] * forward[part] for part in forward)
