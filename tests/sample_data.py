"""Records of every kind for the tests of the data path, and the pictures and videos they show."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def turns(human="Hi", gpt="Yes.") -> list[dict]:
    """A question and its answer."""
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


MIXED = [
    {"conversations": turns("What is a word?")},
    {"conversations": turns("<image>\nWhat?"), "image": "wide.png"},
    {"conversations": turns("What? <image>"), "image": ["tall.png"]},
    {"conversations": turns("<image> <image> differ?") + turns("Sure?", "No"), "image": ["wide.png", "small.png"]},
    {"conversations": turns("<image>\nWhich way?"), "video": "film.mp4"},
    {"conversations": turns("<image>\nWhich way?"), "video": "frames"},
    {"conversations": turns("No <image> here")},
    {"conversations": turns("Nor here"), "image": [], "video": None},
    {"conversations": [{"from": "gpt", "value": "Hello."}, *turns("é 漢字 12", "ok ok")]},
]
KINDS = ["text", "image", "image", "images", "video", "video", "text", "text", "text"]
"""What `measures` calls each of them."""


def write_files(folder: Path) -> Path:
    """Pictures of several sizes, a film, and a folder of frames."""
    for name, size in (("wide", (150, 60)), ("tall", (70, 200)), ("small", (20, 20))):
        Image.new("RGB", size, "red").save(folder / f"{name}.png")
    (folder / "frames").mkdir()
    for number in range(6):
        Image.new("RGB", (30, 20)).save(folder / "frames" / f"{number}.png")
    write_film(folder / "film.mp4")
    return folder


def write_film(file: Path, frames: int = 12, fps: int = 4) -> None:
    """A small film."""
    write_clip(file, [np.full((64, 64, 3), level * 9, np.uint8) for level in range(frames)], rate=fps)


def write_clip(file: Path, pictures, codec: str = "mpeg4", rate: int = 10, times=None, **options) -> Path:
    """A video of pictures (H, W, 3), each shown at its time in milliseconds, or else `rate` of them a second."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", options
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def turn_film(source: Path, target: Path, degrees: int) -> Path:
    """A copy of an mp4 whose header says that it is to be turned clockwise when shown."""
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # behind the fields of version 0
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    values = (cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *values)
    target.write_bytes(data)
    return target
