"""Frames of a video: from a file (decord, or PyAV), a folder of pictures, or frames already in memory.

Two rules choose frames: `frames_at_fps` is what training does, `frames_evenly` what the original's evaluation does.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from . import images
from .decoding import DECODER, BadClip, Clip, installed
from .errors import MissingFile, WrongType, WrongValue
from .images import is_left_behind, load_image

FrameRule = Callable[[int, float], list[int]]
Result = TypeVar("Result")
VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .f4v .flv .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogv .rm .rmvb .ts "
    ".vob .webm .wmv".split()
)
FOLDER_FPS = 2.0  # frame folders are stored at two frames a second


def frames_evenly(total: int, count: int = 32) -> list[int]:
    """`count` frame numbers spread evenly over the whole video, truncated to integers; a short video repeats some."""
    return [int(index) for index in np.linspace(0, total - 1, count)]


def frames_at_fps(total: int, fps: float, video_fps: float = 1.0, max_frames: int = 0) -> list[int]:
    """Every round(fps / video_fps)-th frame; if that is more than `max_frames` (0: no limit), spread evenly instead.

    Raises ValueError where the video has fewer frames a second than half of what is asked.
    """
    stride = round(fps / video_fps)
    if stride == 0:
        raise WrongValue(f"the video has {fps:g} frames a second, too few to take {video_fps:g}; lower video_fps")
    frames = list(range(0, total, stride))
    if max_frames and len(frames) > max_frames:
        return frames_evenly(total, max_frames)
    return frames


def load_frames(source, rule: FrameRule) -> list[Image.Image]:
    """RGB frames of a video file, its bytes, a folder of pictures (in order of the numbers in their names), or a list
    of pictures or arrays.

    rule: (number of frames, frames a second) -> frame numbers. Frames that are already in memory are all taken.
    Raises FileNotFoundError for a missing path, ValueError for a video without frames or one that cannot be decoded,
    TypeError for anything else, ImportError where a file needs decord or PyAV and neither is installed.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        files = files_of(Path(source))
        return [load_image(files[index]) for index in rule(len(files), FOLDER_FPS)]
    if isinstance(source, (str, Path, bytes)):
        return of_clip(source, lambda clip: frames_of(clip, rule(clip.total, clip.fps)))
    if not isinstance(source, (list, tuple, np.ndarray)):
        raise WrongType(f"a video is a path or a list of frames, not {type(source).__name__}")
    frames = [Image.fromarray(frame) if isinstance(frame, np.ndarray) else frame for frame in source]
    if not frames:
        raise WrongValue("the video has no frames; give at least one")
    return [load_image(frame) for frame in frames]


def count_frames(source, rule: FrameRule) -> int:
    """How many frames `load_frames` returns, found without decoding one. Raises as it does, but for damaged frames."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        return len(rule(len(files_of(Path(source))), FOLDER_FPS))
    if isinstance(source, (str, Path, bytes)):
        return of_clip(source, lambda clip: len(rule(clip.total, clip.fps)))
    return len(load_frames(source, rule))


def files_of(folder: Path) -> list[Path]:
    """The frames of a folder, in order of the numbers in their names."""
    found = (file for file in folder.iterdir() if file.is_file() and not is_left_behind(file.name))
    files = sorted(found, key=by_number)
    if not files:
        raise WrongValue(f"the folder {folder} holds no frame")
    return files


def by_number(file: Path) -> tuple[list, str]:
    """What sorts a name by its words and numbers: frame_2 before frame_10."""
    words = re.split(r"([0-9]+)", file.name)
    return [int(word) if index % 2 else word for index, word in enumerate(words)], file.name


def of_clip(source: str | Path | bytes, read: Callable[[Clip], Result]) -> Result:
    """What `read` makes of a video file, or of its bytes, with the first decoder that can read it."""
    name = f"{len(source)} bytes of video" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes):
        if not Path(source).is_file():
            raise MissingFile(f"no video at {name}; give a video file or a folder of frames")
        source = str(Path(source).absolute())
    reasons = []
    for decoder in installed():
        try:
            with DECODER.opened(decoder, source) as clip:
                if clip.total:
                    return read(clip)
                reasons.append("has no frames")
        except BadClip as error:
            reasons.append(str(error))
    raise WrongValue(f"the video {name} {reasons[0]}")


def frames_of(clip: Clip, indices: list[int]) -> list[Image.Image]:
    """The frames at these numbers of a clip that is open."""
    wanted = sorted(set(indices))
    pictures = [
        Image.frombuffer("RGB", (width, height), pixels)
        for (height, width, _), pixels in clip.frames(wanted, images.MAX_PIXELS)
    ]
    by_index = dict(zip(wanted, pictures, strict=True))
    return [by_index[index] for index in indices]
