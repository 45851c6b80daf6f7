"""The geometry of pictures: which canvas, how many tiles, how many features. Integers and floats only, no tensors.

Processor and model both call these functions, so a picture has exactly as many placeholders in `input_ids`
as the model makes features. Height comes before width everywhere.

The float arithmetic follows the original operation by operation: 2544 x 2120 pixels on a 1920 x 1920 canvas gives
1601 rows and not 1600, and the published weights were trained with it.
"""

import enum
import math

from .errors import WrongValue


class Layout(enum.IntEnum):
    """How the features of one visual input are laid out in the sequence."""

    FLAT = 0  # one tile, its features and nothing else (projector stage; the original's multi-image evaluation)
    SQUARE = 1  # one tile and one newline (a picture among several)
    ANYRES = 2  # the whole picture squashed into one tile, then a grid of tiles with a newline after every row
    VIDEO = 3  # one tile a frame, pooled


def select_canvas(height: int, width: int, pinpoints: list) -> tuple[int, int]:
    """The canvas (height, width) that keeps most of the picture's pixels, then wastes the fewest of its own."""
    best, best_effective, best_wasted = None, 0, math.inf
    for canvas_height, canvas_width in pinpoints:
        scale = min(canvas_width / width, canvas_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = canvas_width * canvas_height - effective
        if effective > best_effective or (effective == best_effective and wasted < best_wasted):
            best, best_effective, best_wasted = (canvas_height, canvas_width), effective, wasted
    return best


def resized_on_canvas(height: int, width: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """Size (height, width) of the picture once it fills the canvas in one direction, its shape kept."""
    canvas_height, canvas_width = canvas
    scale_width, scale_height = canvas_width / width, canvas_height / height
    if scale_width < scale_height:
        return min(math.ceil(height * scale_width), canvas_height), canvas_width
    return canvas_height, min(math.ceil(width * scale_height), canvas_width)


def canvases_within(pinpoints: list, tile_size: int, max_tiles: int | None) -> list:
    """The canvases of at most `max_tiles` tiles, the squashed base tile counted; None: all of them."""
    if max_tiles is None:
        return pinpoints
    return [(height, width) for height, width in pinpoints if count_of(height, width, tile_size) <= max_tiles]


def count_of(canvas_height: int, canvas_width: int, tile_size: int) -> int:
    """Tiles of a canvas, the squashed base tile counted."""
    return 1 + (canvas_height // tile_size) * (canvas_width // tile_size)


def grid_of(height: int, width: int, config, tiles: int | None = None) -> tuple[int, int]:
    """Tiles (rows, columns) a picture is cut into, the squashed base tile not counted.

    tiles: how many it was cut into, that one counted, where a limit had a say: the best of all canvases within a limit
        is also the best of those with its number of tiles. None: no limit. Raises ValueError where no canvas has them.
    """
    pinpoints, size = config.image_grid_pinpoints, config.tile_size
    if tiles is not None:
        pinpoints = [(rows, columns) for rows, columns in pinpoints if count_of(rows, columns, size) == tiles]
        if not pinpoints:
            raise WrongValue(f"a picture has {tiles} tiles, but no canvas of image_grid_pinpoints makes so many")
    canvas_height, canvas_width = select_canvas(height, width, pinpoints)
    return canvas_height // size, canvas_width // size


def unpadded(height: int, width: int, map_height: int, map_width: int) -> tuple[slice, slice]:
    """Rows and columns of the feature map that hold the picture and not the black border around it."""
    if width / height > map_width / map_height:
        kept = int(height * (map_width / width))
        border = (map_height - kept) // 2
        rows, columns = slice(border, map_height - border), slice(0, map_width)
    else:
        kept = int(width * (map_height / height))
        border = (map_width - kept) // 2
        rows, columns = slice(0, map_height), slice(border, map_width - border)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise WrongValue(
            f"a picture of {height} x {width} pixels (height x width) leaves no feature on its canvas; "
            "crop it or pad it to a less extreme shape"
        )
    return rows, columns


def downscaled(height: int, width: int, config) -> tuple[int, int]:
    """Size of the unpadded feature map after it is shrunk to about `max_tile_features` tiles' worth."""
    scale = math.sqrt(height * width / (config.max_tile_features * config.tile_side**2))
    if scale > 1.1:
        return int(height // scale), int(width // scale)
    return height, width


def grid_map(height: int, width: int, config, tiles: int | None = None) -> tuple[slice, slice, tuple[int, int]]:
    """Rows and columns to keep of a picture's grid features, and the (height, width) they are scaled to.

    tiles: see `grid_of`.
    """
    grid_rows, grid_columns = grid_of(height, width, config, tiles)
    side = config.tile_side
    rows, columns = unpadded(height, width, grid_rows * side, grid_columns * side)
    return rows, columns, downscaled(rows.stop - rows.start, columns.stop - columns.start, config)


def pooled_side(config) -> int:
    """Features per side of a pooled video frame (14 of 27 in the published model)."""
    return math.ceil(config.tile_side / config.video_pool_stride)


def num_tiles(layout: Layout, height: int, width: int, config, frames: int = 1) -> int:
    """Tiles the tower sees for one visual input; `frames` counts for a video alone."""
    if layout == Layout.ANYRES:
        grid_rows, grid_columns = grid_of(height, width, config)
        return 1 + grid_rows * grid_columns
    return frames if layout == Layout.VIDEO else 1


def num_features(layout: Layout, height: int, width: int, config, frames: int = 1, tiles: int | None = None) -> int:
    """Features, and so placeholders, of one visual input; `frames` of a video, `tiles` of a picture: see `grid_of`."""
    tile = config.tile_side**2
    if layout == Layout.FLAT:
        return tile
    if layout == Layout.SQUARE:
        return tile + 1
    if layout == Layout.ANYRES:
        map_height, map_width = grid_map(height, width, config, tiles)[2]
        return tile + map_height * (map_width + 1)
    side = pooled_side(config)
    newlines = {"grid": frames * side, "frame": frames, "one_token": 1, "no_token": 0}[config.video_newline]
    return frames * side * side + newlines
