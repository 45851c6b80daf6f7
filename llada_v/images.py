"""From a picture in whatever form to tiles. Pillow in, one tensor out; no tokens, no features.

Tiles are (T, 3, S, S) uint8, the bicubic picture. The tower wants them as SigLIP was trained, `normalised`:
(tiles / 255 - 0.5) / 0.5. The model does that on its device; an image processor that is asked for it does, too.
Pillow has switches for the whole process, and other packages turn them (importing lmms-eval sets
LOAD_TRUNCATED_IMAGES). Nothing here follows or turns one, so threads may read at once, in any order of imports.
"""

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, JpegImagePlugin

from .anyres import resized_on_canvas, select_canvas
from .errors import MissingFile, WrongType, WrongValue

MAX_PIXELS = 89_478_485  # what is safe to decode: a quarter of a gigabyte as RGB (Pillow's own default)
# EPS starts an outside program; icons hold several pictures, read as Pillow's switches say; of the others Pillow tells
# the name and cannot read the pixels.
NOT_READ = frozenset(("EPS", "ICO", "ICNS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"))
# What Pillow's readers raise for damaged data.
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, LookupError)
# The last two in a process that makes errors of warnings, or has a lower limit.
DAMAGE += (struct.error, Warning, Image.DecompressionBombError)
LEFT_BEHIND = frozenset("__MACOSX Thumbs.db ehthumbs.db desktop.ini @eaDir #recycle $RECYCLE.BIN Icon\r".split(" "))
PADDING_GREY = 127  # int(0.5 * 255): what pads a picture among several to a square
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FLOAT_WHITES = (1, 255, 65535)  # what white may be in greys with a fraction
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # the tag and the value of a TIFF that is stored as its negative


@cache
def picture_suffixes() -> frozenset[str]:
    """Endings of the files that `load_image` reads, in small letters, with the dot."""
    Image.init()
    readable = Image.OPEN.keys() - NOT_READ
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in readable)


def is_left_behind(name: str) -> bool:
    """Whether a path names what desktops and file servers leave among the files of their users.

    Hidden files and folders (.DS_Store, ._1.png), __MACOSX, Thumbs.db, desktop.ini, @eaDir and the like.
    """
    return any(part in LEFT_BEHIND or part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def load_image(source) -> Image.Image:
    """An RGB picture from a PIL image, a path or encoded bytes.

    Alpha is dropped, palettes and CMYK are converted, 16-bit greys keep their upper eight bits, greys with a fraction
    are scaled (see `to_rgb`), an animation gives its first frame. EXIF rotation is not applied: neither did the
    training data.
    Raises what `open_picture` raises, and ValueError for damaged pixels.
    """
    image, name = open_picture(source, is_decoded=True)
    try:
        demand_all(image)
        return to_rgb(image)
    except DAMAGE as error:
        raise WrongValue(f"{name} is damaged and cannot be decoded: {error}") from error


def open_picture(source, is_decoded: bool = False) -> tuple[Image.Image, str]:
    """A picture whose header is read and whose pixels are not, and its name for messages.

    is_decoded: its pixels will be asked for; otherwise no more than the header is read from a file.
    Raises FileNotFoundError for a missing file, ValueError for an empty or over-large picture or none at all,
    TypeError for anything but a PIL image, a path or bytes.
    """
    name = "the picture"
    if isinstance(source, (str, Path)):
        name = str(source)
        if not Path(source).is_file():
            raise MissingFile(f"no picture at {name}; give the path of an image file")
        stream = io.BytesIO(Path(source).read_bytes()) if is_decoded else Path(source).open("rb")
        image = read_header(stream, is_decoded, name)
    elif isinstance(source, (bytes, bytearray)):
        name = f"{len(source)} bytes of picture"
        image = read_header(io.BytesIO(source), is_decoded, name)
    elif isinstance(source, Image.Image):
        image = source
    else:
        raise WrongType(f"a picture is a PIL image, a path or bytes, not {type(source).__name__}")
    if not image.width or not image.height:
        raise WrongValue(f"{name} is empty: {image.height} x {image.width} pixels (height x width)")
    if image.width * image.height > MAX_PIXELS:
        raise WrongValue(
            f"{name} has {image.width * image.height:,} pixels, more than the {MAX_PIXELS:,} that are safe to decode; "
            "downscale it, or raise llada_v.images.MAX_PIXELS if you trust it"
        )
    return image, name


def read_header(stream: BinaryIO, is_decoded: bool, name: str) -> Image.Image:
    """The picture's header; pixels are decoded later. Raises ValueError for what is not a picture."""
    start = stream.read(len(PNG_SIGNATURE))
    stream.seek(0)
    try:
        image = recognised(pixels_of_png(stream, is_decoded) if start == PNG_SIGNATURE else stream)
    except DAMAGE as error:
        raise WrongValue(f"{name} cannot be read as a picture: {error}") from error
    if image is None:
        raise WrongValue(f"{name} is not a picture that can be read (damaged, or not an image file)")
    return image


def recognised(stream: BinaryIO) -> Image.Image | None:
    """The picture as the first of Pillow's readers takes it that can: `Image.open` without its limit of pixels."""
    start, tried = stream.read(16), set(NOT_READ)
    for import_readers in (Image.preinit, Image.init):  # the common formats first: all of them take a while
        import_readers()
        for kind in [kind for kind in Image.ID if kind not in tried]:
            tried.add(kind)
            reader, accepts = Image.OPEN[kind]
            try:
                if accepts is None or accepts(start) is True:
                    stream.seek(0)
                    return reader(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # what a reader says to what is not its own
                continue
    return None


def pixels_of_png(stream: BinaryIO, is_decoded: bool) -> io.BytesIO:
    """A PNG file without its texts, profiles and times, which may be long or damaged and show nothing.

    Where it is not decoded, its pixels are left out too. Raises ValueError for a header or palette that is damaged.
    """
    kept, data = [stream.read(len(PNG_SIGNATURE))], []
    while len(start := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IDAT" and is_decoded:
            data.append(stream.read(length))
            stream.seek(4, io.SEEK_CUR)
        elif kind in (b"IHDR", b"PLTE"):
            body = stream.read(length)
            if kind == b"IHDR" and length != 13 or stream.read(4) != checksum(kind + body):
                raise WrongValue(f"its part {kind.decode()} is damaged")
            kept.append(chunk(kind, body))
        elif data or kind in (b"IDAT", b"IEND") or not kind.isalpha():
            break
        else:
            stream.seek(length + 4, io.SEEK_CUR)
    return io.BytesIO(b"".join([*kept, chunk(b"IDAT", b"".join(data)), chunk(b"IEND", b"")]))


def chunk(kind: bytes, body: bytes) -> bytes:
    """One part of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + checksum(kind + body)


def checksum(data: bytes) -> bytes:
    """What stands behind a part of a PNG file."""
    return struct.pack(">I", zlib.crc32(data))


# Whole or refused


class Whole:
    """Pillow's decoder of one tile, and an error where the data end or break before its pixels are all there."""

    def __init__(self, mode: str, name: str, arguments, *options):
        self.decoder = Image._getdecoder(mode, name, arguments, options)
        self.is_finished = False
        self.pulls_fd = self.decoder.pulls_fd

    def setimage(self, *given) -> None:
        self.decoder.setimage(*given)

    def setfd(self, stream) -> None:
        self.decoder.setfd(stream)

    def decode(self, data: bytes) -> tuple[int, int]:
        count, status = self.decoder.decode(data)
        if status < 0:
            self.is_finished = True
            raise OSError(f"its data are broken (status {status} of Pillow's decoder)")
        self.is_finished = count < 0 or self.pulls_fd
        return count, status

    def cleanup(self) -> None:
        self.decoder.cleanup()
        if not self.is_finished:
            raise OSError("its data end before its pixels do")


class Ending:
    """A stream that says that it has ended, before Pillow can write an end of its own for it."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        if not data and size:
            raise OSError("its data end before its pixels do")
        return data


Image.register_decoder("llada_v_whole", Whole)  # type: ignore[arg-type]  # these methods are all Pillow asks


def demand_all(image: Image.Image) -> None:
    """Have a picture that is not decoded yet raise OSError, when it is, for pixels that are missing."""
    if not isinstance(image, ImageFile.ImageFile):
        return
    tile_of = getattr(ImageFile, "_Tile", lambda *parts: parts)
    image.tile = [
        tile
        if tile[0] in ("libtiff", "llada_v_whole")  # the first is strict of itself
        else tile_of("llada_v_whole", tile[1], tile[2], (tile[0], tile[3]))
        for tile in image.tile
    ]
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.tile:
        image.fp = Ending(image.fp)  # type: ignore[assignment]  # a stream in all but its class


# Colours


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode; greys beyond 8 bits are scaled and not clipped to white.

    Mode I holds 32-bit integers, but says not how many of the bits are used: 8, 16 or 31, the fewest that suffice.
    Mode F holds fractions: 0 .. 1, 0 .. 255 or 0 .. 65535, the narrowest that suffices. Raises ValueError for others.
    """
    if image.mode == "F":
        values = np.asarray(image)
        white = next((white for white in FLOAT_WHITES if values.max() <= white), None)
        if white is None or not values.min() >= 0:  # also where one is not a number
            raise WrongValue(
                f"its greys run from {values.min():g} to {values.max():g}; expected 0 .. 1, 0 .. 255 or 0 .. 65535"
            )
        return Image.fromarray((values * (255 / white)).round().astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        is_16_bit = image.mode.startswith("I;16")
        if is_16_bit and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
            values = 0xFFFF - values
        largest = 0xFFFF if is_16_bit else values.max()
        values >>= 0 if largest <= 0xFF else 8 if largest <= 0xFFFF else 23
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


# Tiles


def normalised(tiles: torch.Tensor) -> torch.Tensor:
    """uint8 tiles as the tower wants them: float32 in [-1, 1], the same bits on every device."""
    return tiles.float().mul_(1 / 255).sub_(0.5).div_(0.5)


def stacked(tiles: list[Image.Image]) -> torch.Tensor:
    """(T, 3, S, S) uint8 of equally large RGB pictures."""
    found = np.empty((len(tiles), 3, tiles[0].height, tiles[0].width), np.uint8)
    for number, tile in enumerate(tiles):
        put_planes(found[number], tile)
    return torch.from_numpy(found)


def put_planes(canvas: np.ndarray, image: Image.Image, top: int = 0, left: int = 0) -> None:
    """Write an RGB picture into a canvas (3, H, W) of bytes, colour by colour: Pillow takes them apart in one pass."""
    height, width = image.height, image.width
    for plane, colour in zip(canvas, image.mode, strict=True):
        values = np.frombuffer(image.tobytes("raw", colour), np.uint8)
        plane[top : top + height, left : left + width] = values.reshape(height, width)


def squash(image: Image.Image, side: int) -> Image.Image:
    """The picture at side x side pixels, its shape not kept."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def square_tile(image: Image.Image, config) -> torch.Tensor:
    """(1, 3, S, S): the whole picture squashed (projector stage, video frames)."""
    return stacked([squash(image, config.tile_size)])


def padded_tile(image: Image.Image, config) -> torch.Tensor:
    """(1, 3, S, S): the picture centred on a grey square (a picture among several)."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (PADDING_GREY,) * 3)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return stacked([squash(square, config.tile_size)])


def anyres_tiles(image: Image.Image, config) -> torch.Tensor:
    """(1 + rows * columns, 3, S, S): the squashed picture, then the tiles of its canvas, row by row."""
    tile = config.tile_size
    canvas_height, canvas_width = select_canvas(image.height, image.width, config.image_grid_pinpoints)
    height, width = resized_on_canvas(image.height, image.width, (canvas_height, canvas_width))
    canvas = np.zeros((3, canvas_height, canvas_width), np.uint8)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    put_planes(canvas, resized, (canvas_height - height) // 2, (canvas_width - width) // 2)
    rows, columns = canvas_height // tile, canvas_width // tile
    grid = canvas.reshape(3, rows, tile, columns, tile).transpose(1, 3, 0, 2, 4)  # (rows, columns, 3, S, S)
    tiles = np.empty((1 + rows * columns, 3, tile, tile), np.uint8)
    put_planes(tiles[0], squash(image, tile))
    tiles[1:].reshape(grid.shape)[:] = grid
    return torch.from_numpy(tiles)
