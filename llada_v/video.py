"""Frames of a video: from a file (decord), a folder of pictures, or frames already in memory.

Two rules choose frames: `frames_at_fps` is what training does, `frames_evenly` what the original's evaluation does.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .images import load_image

FrameRule = Callable[[int, float], list[int]]
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
        raise ValueError(f"the video has {fps:g} frames a second, too few to take {video_fps:g}; lower video_fps")
    frames = list(range(0, total, stride))
    if max_frames and len(frames) > max_frames:
        return frames_evenly(total, max_frames)
    return frames


def load_frames(source, rule: FrameRule) -> list[Image.Image]:
    """RGB frames of a video file, its bytes, a folder of pictures (sorted by name), or a list of pictures or arrays.

    rule: (number of frames, frames a second) -> frame numbers. Frames that are already in memory are all taken.
    Raises FileNotFoundError for a missing path, ValueError for a video without frames or one that cannot be decoded,
    TypeError for anything else, ImportError where a file needs decord and it is not installed.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        files = files_of(Path(source))
        return [load_image(files[index]) for index in rule(len(files), FOLDER_FPS)]
    if isinstance(source, (str, Path, bytes)):
        return decode(source, rule)
    if not isinstance(source, (list, tuple, np.ndarray)):
        raise TypeError(f"a video is a path or a list of frames, not {type(source).__name__}")
    frames = [Image.fromarray(frame) if isinstance(frame, np.ndarray) else frame for frame in source]
    if not frames:
        raise ValueError("the video has no frames; give at least one")
    return [load_image(frame) for frame in frames]


def count_frames(source, rule: FrameRule) -> int:
    """How many frames `load_frames` returns, found without decoding one. Raises as it does, but for damaged frames."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        return len(rule(len(files_of(Path(source))), FOLDER_FPS))
    if isinstance(source, (str, Path, bytes)):
        reader, _ = open_video(source)
        return len(rule(len(reader), reader.get_avg_fps()))
    return len(load_frames(source, rule))


def files_of(folder: Path) -> list[Path]:
    """The frames of a folder by name."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    if not files:
        raise ValueError(f"the folder {folder} holds no frame")
    return files


def open_video(source: str | Path | bytes):
    """decord's reader of a video file or of its bytes, and a name for messages."""
    name = f"{len(source)} bytes of video" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise FileNotFoundError(f"no video at {name}; give a video file or a folder of frames")
    try:
        import decord
    except ImportError as error:
        raise ImportError("reading a video file needs decord: pip install 'llada-v[video]'") from error
    try:
        reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else name, num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be decoded as a video (damaged, or not a video file)") from error
    if not len(reader):
        raise ValueError(f"the video {name} has no frames")
    return reader, name


def decode(source: str | Path | bytes, rule: FrameRule) -> list[Image.Image]:
    """Frames of a video file, or of its bytes."""
    reader, name = open_video(source)
    import decord  # it is there: `open_video` needs it too

    indices = rule(len(reader), reader.get_avg_fps())
    try:
        frames = reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise ValueError(f"{name} is damaged: its frames cannot be decoded") from error
    return [Image.fromarray(frame) for frame in frames]
