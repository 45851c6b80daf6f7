"""From a picture in whatever form to normalised tiles. Pillow in, one float tensor out; no tokens, no features.

Tiles are (T, 3, S, S) float32 in [-1, 1]: (bicubic(picture) / 255 - 0.5) / 0.5, as SigLIP was trained.
"""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .anyres import resized_on_canvas, select_canvas

PADDING_GREY = 127  # int(0.5 * 255): what pads a picture among several to a square
# What Pillow's readers raise for damaged data.
DAMAGE = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, IndexError, KeyError, struct.error)


def load_image(source) -> Image.Image:
    """An RGB picture from a PIL image, a path or encoded bytes.

    Alpha is dropped, palettes and CMYK are converted, 16-bit greys keep their upper eight bits, an animation gives
    its first frame. EXIF rotation is not applied: neither did the training data.
    Raises what `open_picture` raises, and ValueError for damaged pixels.
    """
    image, name = open_picture(source)
    try:
        return to_rgb(image)
    except DAMAGE as error:
        raise ValueError(f"{name} is damaged and cannot be decoded: {error}") from error


def open_picture(source) -> tuple[Image.Image, str]:
    """A picture whose header is read and whose pixels are not, and its name for messages.

    Raises FileNotFoundError for a missing file, ValueError for an empty or over-large picture or none at all,
    TypeError for anything but a PIL image, a path or bytes.
    """
    name = "the picture"
    if isinstance(source, (str, Path)):
        name = str(source)
        if not Path(source).is_file():
            raise FileNotFoundError(f"no picture at {name}; give the path of an image file")
        image = read_header(source, name)
    elif isinstance(source, (bytes, bytearray)):
        name = f"{len(source)} bytes of picture"
        image = read_header(io.BytesIO(source), name)
    elif isinstance(source, Image.Image):
        image = source
    else:
        raise TypeError(f"a picture is a PIL image, a path or bytes, not {type(source).__name__}")
    if not image.width or not image.height:
        raise ValueError(f"{name} is empty: {image.height} x {image.width} pixels (height x width)")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{name} has {image.width * image.height:,} pixels, more than the {limit:,} that are safe to decode; "
            "downscale it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )
    return image, name


def read_header(file, name: str) -> Image.Image:
    """The picture's header; pixels are decoded later. Raises ValueError for what is not a picture."""
    try:
        return Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large to decode safely: {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that can be read (damaged, or not an image file)") from error
    except DAMAGE as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode; integers beyond 8 bits are scaled and not clipped to white.

    Mode I holds 32-bit integers, but says not how many of the bits are used: 8, 16 or 31, the fewest that suffice.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        largest = 0xFFFF if image.mode.startswith("I;16") else values.max()
        values >>= 0 if largest <= 0xFF else 8 if largest <= 0xFFFF else 23
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def normalised(tiles: list[Image.Image]) -> torch.Tensor:
    """(T, 3, S, S) float32 in [-1, 1] of equally large RGB pictures."""
    pixels = torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles]))
    return pixels.permute(0, 3, 1, 2).float().mul_(1 / 255).sub_(0.5).div_(0.5).contiguous()


def squash(image: Image.Image, side: int) -> Image.Image:
    """The picture at side x side pixels, its shape not kept."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def square_tile(image: Image.Image, config) -> torch.Tensor:
    """(1, 3, S, S): the whole picture squashed (projector stage, video frames)."""
    return normalised([squash(image, config.tile_size)])


def padded_tile(image: Image.Image, config) -> torch.Tensor:
    """(1, 3, S, S): the picture centred on a grey square (a picture among several)."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (PADDING_GREY,) * 3)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return normalised([squash(square, config.tile_size)])


def anyres_tiles(image: Image.Image, config) -> torch.Tensor:
    """(1 + rows * columns, 3, S, S): the squashed picture, then the tiles of its canvas, row by row."""
    tile = config.tile_size
    canvas_height, canvas_width = select_canvas(image.height, image.width, config.image_grid_pinpoints)
    height, width = resized_on_canvas(image.height, image.width, (canvas_height, canvas_width))
    canvas = Image.new("RGB", (canvas_width, canvas_height))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(resized, ((canvas_width - width) // 2, (canvas_height - height) // 2))
    tiles = [
        canvas.crop((left, top, left + tile, top + tile))
        for top in range(0, canvas_height, tile)
        for left in range(0, canvas_width, tile)
    ]
    return normalised([squash(image, tile), *tiles])
