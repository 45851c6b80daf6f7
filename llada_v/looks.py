"""Where a token looks: one row of attention, told as a map over each picture.

    row = attention_row(trunk, embeds, position)                # (L,), sums to 1
    for look in looks_of(row[is_image], visuals, config): ...   # look.weights (rows, columns), over the whole picture

One forward pass on the side, of which only that row of each layer's attention is made: never L x L. Means over layers
and heads. Attention shows where a token's mixture came from, which is not yet why it became that token.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from .anyres import Layout, grid_map, num_features, pooled_side, unpadded
from .modeling_llada import LladaModel, at_positions, rotate, turned_at


@dataclass(frozen=True)
class Look:
    """What a token looks at in one picture, or in one frame of a video.

    picture: its number among the pictures (or videos). frame: None for a picture. weights: (rows, columns) cells over
    the picture as it is, each its share of all the token's attention.
    """

    picture: int
    frame: int | None
    weights: torch.Tensor


@torch.no_grad()
def attention_row(trunk: LladaModel, embeds: torch.Tensor, position: int) -> torch.Tensor:
    """How much a position attends to each, (L,) float32, the mean of all layers and heads.

    embeds: (1, L, D), all of which may be seen.
    """
    length = embeds.shape[1]
    positions = torch.arange(length, device=embeds.device)[None]
    rotary = trunk.rotary(positions, embeds.dtype)
    at = positions[:, position : position + 1]
    total, hidden = torch.zeros(length, device=embeds.device), embeds
    for number, layer in enumerate(trunk.layers):
        total += row_of(layer, hidden, rotary, at).mean(0)
        if number < len(trunk.layers) - 1:  # nobody asks for what the last one makes
            hidden = layer(hidden, rotary, None)
    return total / len(trunk.layers)


def row_of(layer, hidden: torch.Tensor, rotary, at: torch.Tensor) -> torch.Tensor:
    """The row (H, L) of a `LladaBlock`'s attention at the position `at` (1, 1), float32."""
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    key = rotate(attention.split_heads(attention.k_proj(normed)), *rotary)
    query = rotate(attention.split_heads(attention.q_proj(at_positions(normed, at))), *turned_at(rotary, at))
    return attention.weights_of(query, key)[0, :, 0]


def looks_of(weights: torch.Tensor, visuals: list, config) -> list[Look]:
    """A row's weights (F,) on the features of all pictures, as maps.

    visuals: (layout, (height, width), tiles) of each; see `LladaVModel.list_visuals`.
    """
    counts = [num_features(layout, height, width, config, tiles) for layout, (height, width), tiles in visuals]
    found = []
    for number, (part, (layout, (height, width), tiles)) in enumerate(zip(weights.split(counts), visuals, strict=True)):
        if layout == Layout.VIDEO:
            found += [Look(number, frame, weights) for frame, weights in enumerate(frame_maps(part, tiles, config))]
        else:
            found.append(Look(number, None, picture_map(part, layout, height, width, config)))
    return found


def picture_map(part: torch.Tensor, layout: Layout, height: int, width: int, config) -> torch.Tensor:
    """Weights (n,) of one picture's features as cells over the picture; newlines and borders are left out.

    A picture in tiles is seen twice: as a whole and in its grid. The whole is laid over the grid, its sum kept.
    """
    side = config.tile_side
    base = part[: side**2].view(side, side)
    if layout != Layout.ANYRES:  # a tile, padded to a square
        return base[unpadded(height, width, side, side)]
    _, _, (rows, columns) = grid_map(height, width, config)
    grid = part[side**2 :].view(rows, columns + 1)[:, :columns]
    whole = interpolate(base[None, None], size=(rows, columns), mode="bilinear")[0, 0]
    return grid + whole * (base.sum() / whole.sum().clamp_min(torch.finfo(whole.dtype).tiny))


def frame_maps(part: torch.Tensor, frames: int, config) -> torch.Tensor:
    """Weights (n,) of one video's features as (frames, side, side); newlines are left out."""
    side = pooled_side(config)
    if config.video_newline == "grid":
        return part.view(frames, side, side + 1)[..., :side]
    if config.video_newline == "frame":
        return part.view(frames, side * side + 1)[:, :-1].unflatten(1, (side, side))
    return part[: frames * side * side].view(frames, side, side)
