"""Records of every kind for the tests of the data path, and the pictures and videos they show."""

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
    {"conversations": turns("No <image> here"), "image": None, "video": None},
    {"conversations": turns("Nor here"), "image": []},
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
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = 64
        for level in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level * 9, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
