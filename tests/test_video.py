"""Frames of a video: which are taken, from files, folders and lists, and one clear error for what is no video."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_data import turn_film, write_clip

from llada_v import decoding, video
from llada_v.decoding import DECODER
from llada_v.video import count_frames, frames_at_fps, frames_evenly, load_frames

IMPORT = f"import os, sys, time; sys.path.append({os.path.dirname(decoding.__file__)!r}); import decoding"
LEVELS = [6 * number for number in range(40)]  # grey of each frame: 0, 6, 12, ...


def every_second(total, fps):
    return frames_at_fps(total, fps)


def levels(frames: list[Image.Image]) -> list[int]:
    """The grey level of each frame."""
    return [round(float(np.asarray(frame).mean())) for frame in frames]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An mp4 of 40 frames at 10 a second, each of one grey."""
    pictures = [np.full((48, 64, 3), level, np.uint8) for level in LEVELS]
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", pictures, rate=10)


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


def test_frames_are_in_order_of_their_numbers_padded_or_not(tmp_path):
    for number in (1, 2, 3, 9, 10, 11, 12):
        Image.new("L", (8, 6), 10 * number).save(tmp_path / f"frame_{number}.png")
    found = levels(load_frames(tmp_path, lambda total, fps: list(range(total))))
    assert found == [10, 20, 30, 90, 100, 110, 120]


def test_what_desktops_leave_among_frames_is_no_frame(folder):
    for name in (".DS_Store", "._frame_00.png", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"not a picture")
    (folder / "@eaDir").mkdir()
    assert levels(load_frames(folder, lambda total, fps: list(range(total)))) == [0, 10, 20, 30, 40, 50, 60]


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


@pytest.mark.parametrize("decoder", decoding.DECODERS)
def test_frames_that_cannot_be_decoded_are_said_so(moving, monkeypatch, decoder):
    monkeypatch.setattr(video, "installed", lambda: [decoder])
    whole = moving["b-frames.mp4"].read_bytes()
    start = whole.index(b"mdat") + 4
    with pytest.raises(ValueError, match="bytes of video is damaged: its frames cannot be decoded"):
        load_frames(whole[:start] + bytes(1000) + whole[start + 1000 :], every_second)


def test_a_frame_of_a_folder_that_is_no_picture_is_refused_by_name(folder):
    (folder / "frame_00.png").write_text("no picture")
    with pytest.raises(ValueError, match="frame_00.png is not a picture"):
        load_frames(folder, every_second)


@pytest.mark.parametrize("source", [3, None, Image.new("RGB", (4, 4))])
def test_anything_else_is_a_type_error(source):
    with pytest.raises(TypeError, match="a video is a path or a list of frames, not"):
        load_frames(source, every_second)


def test_without_a_decoder_the_message_says_what_to_install(film, monkeypatch):
    monkeypatch.setattr(decoding, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs decord or PyAV: pip install 'llada-v\[video\]'"):
        load_frames(film, every_second)


def test_frames_too_large_to_be_safe_are_refused(film, monkeypatch):
    monkeypatch.setattr(video.images, "MAX_PIXELS", 3000)
    with pytest.raises(ValueError, match="film.mp4 has frames of 3,072 pixels, more than the 3,000 that are safe"):
        load_frames(film, every_second)
    monkeypatch.undo()
    assert len(load_frames(film, every_second)) == 4


# Two decoders, the same frames


def patches(number: int) -> np.ndarray:
    """The picture (64, 128, 3) that the clips below show as frame `number`."""
    colours = np.random.default_rng(number).integers(0, 256, (4, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(colours).resize((128, 64)))


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """Clips of 40 different frames of every kind, by name."""
    folder, pictures = tmp_path_factory.mktemp("moving"), [patches(number) for number in range(40)]
    uneven = np.cumsum([60, 33, 33, 100, 40, 500, 33, 20] * 5).tolist()  # milliseconds
    return {
        name: write_clip(folder / name, pictures, **options)
        for name, options in {
            "constant.mp4": {},
            "variable.mp4": {"codec": "libx264", "times": uneven, "bf": "2", "g": "8"},
            "b-frames.mp4": {"codec": "libx264", "bf": "3", "g": "12"},
            "variable.mkv": {"codec": "libx264", "times": uneven, "bf": "2"},
            "vp9.webm": {"codec": "libvpx-vp9"},
            "b-frames.avi": {"bf": "2"},
        }.items()
    }


RULES = {"all": lambda total, fps: list(range(total)), "some": lambda total, fps: [3, 5, 30, 31, total - 1]}


def frames_by(decoder, source, rule, monkeypatch) -> tuple[np.ndarray, list]:
    """The frames that one decoder gives, and what the rule was told."""
    told = []
    monkeypatch.setattr(video, "installed", lambda: [decoder])
    frames = load_frames(source, lambda *facts: told.append(facts) or rule(*facts))
    assert count_frames(source, rule) == len(frames)
    return np.stack([np.asarray(frame) for frame in frames]), told


KINDS = ["constant.mp4", "variable.mp4", "b-frames.mp4", "variable.mkv", "vp9.webm", "b-frames.avi"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", KINDS)
def test_both_decoders_give_the_same_frames(moving, monkeypatch, name, rule):
    (ours, our_facts), (theirs, their_facts) = (
        frames_by(decoder, moving[name], RULES[rule], monkeypatch) for decoder in decoding.DECODERS
    )
    assert our_facts == their_facts and our_facts[0][0] == 40
    assert np.array_equal(ours, theirs)
    shown = np.stack([patches(number) for number in range(40)]).astype(int)
    assert [np.abs(shown - frame).mean((1, 2, 3)).argmin() for frame in ours] == RULES[rule](40, 10)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_both_decoders_give_a_turned_clip_upright(moving, monkeypatch, tmp_path, degrees):
    file = turn_film(moving["b-frames.mp4"], tmp_path / "turned.mp4", degrees)
    ours, theirs = (frames_by(decoder, file, RULES["some"], monkeypatch)[0] for decoder in decoding.DECODERS)
    straight, _ = frames_by("av", moving["b-frames.mp4"], RULES["some"], monkeypatch)
    assert np.array_equal(ours, theirs) and np.array_equal(ours, np.rot90(straight, -degrees // 90, axes=(1, 2)))


def test_what_the_first_decoder_cannot_read_the_second_does(film, tmp_path, monkeypatch):
    file = turn_film(film, tmp_path / "turned.mp4", 90)  # decord has no frame of 48 pixels across for a turned clip
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="is damaged"):
        frames_by("decord", file, every_second, patch)
    assert load_frames(file, every_second)[0].size == (48, 64)


def test_a_frame_may_be_asked_for_twice(film):
    assert levels(load_frames(film, lambda total, fps: [0, 0, 20, 20])) == levels(
        load_frames(film, lambda total, fps: [0, 0, 20, 20])
    )
    assert len(load_frames(film, lambda total, fps: [0, 0, 0, 1])) == 4


# A decoder that crashes, or never ends


@pytest.fixture
def broken_child(monkeypatch):
    """Has the child run a line of code in place of decord; the process has a sound child again afterwards."""

    def run(line):
        code = f"{IMPORT}\ndef broken(source): {line}\ndecoding.Decord = broken; decoding.main()"

        def start():
            command = [sys.executable, "-c", code, str(decoding.LIMIT)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            return subprocess.Popen(command, bufsize=0, **pipes)

        DECODER.end()
        monkeypatch.setattr(decoding, "start_child", start)
        monkeypatch.setattr(video, "installed", lambda: ["decord"])

    yield run
    DECODER.end()


def test_a_clip_that_crashes_the_decoder_is_a_bad_clip(film, broken_child, monkeypatch):
    broken_child("os.kill(os.getpid(), 11)")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"film.mp4 crashes its decoder \(signal 11\)"):
            load_frames(film, every_second)
    monkeypatch.setattr(video, "installed", lambda: ["decord", "av"])
    assert len(load_frames(film, every_second)) == 4


def test_a_clip_that_never_ends_is_a_bad_clip(film, broken_child, monkeypatch):
    monkeypatch.setattr(decoding, "LIMIT", 0.5)
    broken_child("time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(ValueError, match="film.mp4 gives no frame within 0.5 seconds"):
        load_frames(film, every_second)
    assert time.monotonic() - start < 20


def test_a_fault_of_our_own_in_the_child_shows_where_it_is(film, broken_child):
    broken_child("undefined()")
    with pytest.raises(RuntimeError, match="(?s)the process that decodes videos failed:.*name 'undefined' is not def"):
        load_frames(film, every_second)


def test_a_mutated_clip_that_crashed_decord_ends_nothing(film):
    source = (Path(__file__).parent / "cases" / "crash.mp4").read_bytes()
    for _ in range(3):
        try:
            load_frames(source, RULES["all"])
        except ValueError as error:
            assert f"{len(source)} bytes of video" in str(error)
    assert len(load_frames(film, every_second)) == 4


# The child


def read_in_worker(film, results):
    """In a process: how many frames a film has."""
    results.put(len(load_frames(film, every_second)))


def test_the_workers_of_a_loader_have_children_of_their_own(film):
    load_frames(film, every_second)  # the parent's child is there when the workers are forked
    processes = multiprocessing.get_context("fork")
    results = processes.Queue()
    workers = [processes.Process(target=read_in_worker, args=(film, results), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [4, 4]
    for worker in workers:
        worker.join(60)
    assert len(load_frames(film, every_second)) == 4


def test_threads_read_at_once(film):
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: len(load_frames(film, every_second)), range(20))) == [4] * 20


def test_signals_that_stop_a_run_leave_the_child_to_its_parent(film):
    load_frames(film, every_second)
    child = DECODER.process
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(child.pid, number)
    assert len(load_frames(film, every_second)) == 4 and DECODER.process is child


def test_the_child_ends_with_its_parent(film):
    code = (
        f"{IMPORT}\nwith decoding.DECODER.opened('av', sys.argv[1]): print(decoding.DECODER.process.pid, flush=True)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code + "os._exit(0)", film], capture_output=True, text=True, timeout=60)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{int(ran.stdout)}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{int(ran.stdout)}").exists()
