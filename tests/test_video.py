"""Frames of a video: which are taken, from files, folders and lists, and one clear error for what is no video."""

import sys

import av
import decord
import numpy as np
import pytest
from PIL import Image

from llada_v.video import frames_at_fps, frames_evenly, load_frames

LEVELS = [6 * number for number in range(40)]  # grey of each frame: 0, 6, 12, ...


def every_second(total, fps):
    return frames_at_fps(total, fps)


def levels(frames: list[Image.Image]) -> list[int]:
    """The grey level of each frame."""
    return [round(float(np.asarray(frame).mean())) for frame in frames]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An mp4 of 40 frames at 10 a second, each of one grey."""
    file = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in LEVELS:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


@pytest.fixture
def folder(tmp_path):
    """A folder of seven frames, written in another order than their names'."""
    for number in (5, 0, 3, 6, 1, 4, 2):
        Image.new("L", (8, 6), 10 * number).save(tmp_path / f"frame_{number:02d}.png")
    return tmp_path


# Which frames


@pytest.mark.parametrize(
    "fps, video_fps, stride",
    [(30, 1, 30), (29.97, 1, 30), (2.5, 1, 2), (3.5, 1, 4), (1, 1, 1), (0.6, 1, 1), (25, 2, 12), (27, 2, 14)],
)
def test_the_stride_is_rounded_to_the_nearest_and_halves_to_even(fps, video_fps, stride):
    assert frames_at_fps(100, fps, video_fps) == list(range(0, 100, stride))


@pytest.mark.parametrize("fps, video_fps", [(0.5, 1), (0.2, 1), (10, 25)])
def test_too_few_frames_a_second_is_a_clear_error(fps, video_fps):
    with pytest.raises(ValueError, match=f"the video has {fps:g} frames a second, too few .* lower video_fps"):
        frames_at_fps(100, fps, video_fps)


def test_more_frames_than_the_cap_are_spread_evenly_instead():
    assert frames_at_fps(100, 10, max_frames=4) == [0, 33, 66, 99]
    assert frames_at_fps(100, 10, max_frames=10) == list(range(0, 100, 10))
    assert len(frames_at_fps(100, 10, max_frames=9)) == 9


def test_without_a_cap_all_are_taken():
    assert len(frames_at_fps(10_000, 10)) == 1000


def test_even_frames_run_from_the_first_to_the_last_and_may_repeat():
    assert frames_evenly(100, 4) == [0, 33, 66, 99]
    assert frames_evenly(2, 4) == [0, 0, 0, 1]
    assert frames_evenly(1, 3) == [0, 0, 0]
    assert len(frames_evenly(1000)) == 32


# Where they come from


def test_a_film_gives_the_frames_asked_for(film):
    frames = load_frames(film, every_second)
    assert all(frame.mode == "RGB" and frame.size == (64, 48) for frame in frames)
    # mpeg4 loses a little: measured 1 level.
    assert np.abs(np.subtract(levels(frames), LEVELS[::10])).max() <= 3


def test_the_rule_learns_how_long_and_how_fast_a_film_is(film):
    told = []
    load_frames(str(film), lambda *facts: told.append(facts) or [0])
    assert told == [(40, 10.0)]


def test_a_folder_is_read_by_name_at_two_frames_a_second(folder):
    assert levels(load_frames(folder, every_second)) == [0, 20, 40, 60]
    assert levels(load_frames(str(folder), lambda total, fps: frames_evenly(total, 3))) == [0, 30, 60]


def test_a_list_is_taken_whole_whatever_it_holds(folder):
    pictures = [Image.new("L", (8, 6), level) for level in (7, 8)]
    arrays = [np.full((6, 8, 3), 9, np.uint8), np.full((6, 8), 10, np.uint8)]
    frames = load_frames([*pictures, *arrays, folder / "frame_04.png"], every_second)
    assert levels(frames) == [7, 8, 9, 10, 40]
    assert {frame.mode for frame in frames} == {"RGB"}


def test_one_array_is_a_video(folder):
    assert levels(load_frames(np.full((3, 6, 8, 3), 9, np.uint8), every_second)) == [9, 9, 9]


# What is no video


def test_no_frames_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="the video has no frames; give at least one"):
        load_frames([], every_second)
    with pytest.raises(ValueError, match=f"the folder {tmp_path} holds no frame"):
        load_frames(tmp_path, every_second)


def test_a_missing_film_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no video at .*give a video file or a folder of frames"):
        load_frames(tmp_path / "nowhere.mp4", every_second)


def test_a_file_that_is_no_film_is_refused_by_name(tmp_path):
    file = tmp_path / "letter.mp4"
    file.write_text("no film")
    with pytest.raises(ValueError, match="letter.mp4 cannot be decoded as a video"):
        load_frames(file, every_second)


def test_a_film_cut_short_is_refused_by_name(film, tmp_path):
    file = tmp_path / "short.mp4"
    file.write_bytes(film.read_bytes()[:-200])
    with pytest.raises(ValueError, match="short.mp4 cannot be decoded as a video"):
        load_frames(file, every_second)


def test_frames_that_cannot_be_decoded_are_said_so(film, monkeypatch):
    def get_batch(reader, indices):
        raise decord.DECORDError("deep in a decoder")

    monkeypatch.setattr(decord.VideoReader, "get_batch", get_batch)
    with pytest.raises(ValueError, match="film.mp4 is damaged: its frames cannot be decoded"):
        load_frames(film, every_second)


def test_a_frame_of_a_folder_that_is_no_picture_is_refused_by_name(folder):
    (folder / "frame_00.png").write_text("no picture")
    with pytest.raises(ValueError, match="frame_00.png is not a picture"):
        load_frames(folder, every_second)


@pytest.mark.parametrize("source", [3, None, Image.new("RGB", (4, 4))])
def test_anything_else_is_a_type_error(source):
    with pytest.raises(TypeError, match="a video is a path or a list of frames, not"):
        load_frames(source, every_second)


def test_without_decord_the_message_says_what_to_install(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match=r"needs decord: pip install 'llada-v\[video\]'"):
        load_frames(film, every_second)
