"""Records, tars, pictures and videos as no data set has them: each is read right or is one clear error, in time.

pytest -m slow tests/fuzz/test_data.py
"""

import io
import json
import tarfile
import time

import numpy as np
import pytest
from PIL import Image, ImageFile
from published import pattern
from sample_data import turns, write_clip

from llada_v import decoding
from llada_v.data.measure import Encoding, Measurer
from llada_v.data.mix import mix
from llada_v.data.records import Records
from llada_v.images import load_image
from llada_v.video import frames_evenly, load_frames

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FILES, LINES = 200, 25  # of odd records, and odd records in each
TARS, PICTURES, CLIPS = 1_500, 3_000, 500
SECONDS = 10.0


def each(count: int, *strategies):
    """Runs a function on so many examples; returns how many there were."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    def run(function):
        tried = []

        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.tuples(*strategies))
        def one(values):
            start = time.monotonic()
            function(*values)
            tried.append(time.monotonic() - start)
            assert tried[-1] < SECONDS

        one()
        assert len(tried) >= count * 0.9  # hypothesis leaves out what it has had

    return run


def damage():
    """A function that changes a few bytes, cuts or inserts some."""
    from hypothesis import strategies as st

    place = st.floats(0, 1, exclude_max=True) | st.floats(0, 0.05) | st.floats(0.9, 1, exclude_max=True)
    edits = st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)
    return st.builds(changed, edits, st.none() | place, st.none() | st.tuples(place, st.binary(max_size=20)))


def changed(edits, cut, insert):
    def change(data: bytes) -> bytes:
        found = bytearray(data)
        for place, value in edits:
            found[int(place * len(found))] = value
        if insert is not None:
            at = int(insert[0] * len(found))
            found[at:at] = insert[1]
        return bytes(found[: int(cut * len(found)) + 1] if cut is not None else found)

    return change


# Records


def records():
    """Lines of JSON that look like records more or less, some of them with bytes changed."""
    from hypothesis import strategies as st

    texts = (
        st.sampled_from(["Hi", "<image>", "<image>\nWhat?", "<|mdm_mask|>", "\ud800", "", " ", "word " * 50])
        | st.text()
    )
    names = st.sampled_from(["a.png", "", ".", "..", "a", "nowhere.png", "\0", "a.png/", "frames"]) | st.text(
        max_size=9
    )
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts | names,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    )
    turn = st.fixed_dictionaries(
        {"from": st.sampled_from(["human", "gpt", "system"]) | anything, "value": texts | anything}
    )
    talk = st.builds(turns, texts, texts) | st.lists(turn, max_size=4) | anything
    files = st.none() | names | st.lists(names, max_size=3) | anything
    keys = {"id": anything, "image": files, "video": files, "images": files, "conversations": talk}
    record = st.fixed_dictionaries({}, optional=keys)
    whole = st.builds(turns, texts.map(lambda text: f"<image>{text}"), texts)
    likely = st.fixed_dictionaries({"image": st.just("a.png"), "conversations": whole})
    line = (record | likely).map(lambda value: json.dumps(value).encode())
    return line | st.builds(lambda change, text: change(text), damage(), line) | st.binary(max_size=60)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "frames").mkdir()
    return tmp_path


def is_right(record: dict) -> bool:
    """Whether a record that counts as text names no picture."""
    return not any(record.get(key) for key in ("image", "video"))


def test_every_record_is_sound_or_bad_by_itself(folder, tiny_processor):
    from hypothesis import strategies as st

    good = json.dumps({"id": "good", "image": "a.png", "conversations": turns("<image>\nWhat?")}).encode()
    count, sound = 0, 0

    def one(lines):
        nonlocal count, sound
        lines = [line.replace(b"\n", b" ") for line in lines if line.strip() and b"\0" not in line[:4]]
        file = folder / "a.jsonl"
        file.write_bytes(b"\n".join([good, *lines, good]))
        found = Records(str(file), str(folder), str(folder / "index"), 0)
        assert len(found) == len([line for line in lines if line.replace(b" ", b"").strip()]) + 2
        measurer = Measurer(found, tiny_processor, Encoding("chat", 4, 2048), decode=True)
        measures = measurer.measure(range(len(found)))
        assert measures[0].error is None and measures[-1].error is None
        for number, measure in enumerate(measures):
            count += 1
            if measure.error is None:
                sound += 1
                with found.reading(number) as record:
                    assert measure.modality or is_right(record)
                    encoded = tiny_processor.encode_record(record, max_frames=4)
                assert len(encoded["input_ids"]) == measure.length
        try:
            mix(file, file, folder / "mix.json", 0)
            json.loads((folder / "mix.json").read_text(encoding="utf-8"))
        except ValueError as error:
            assert "a.jsonl: " in str(error)

    each(FILES, st.lists(records(), min_size=LINES, max_size=LINES))(one)
    print(f"{count} records, {sound} sound")


def test_every_tar_is_read_or_refused(folder, tiny_processor):
    from hypothesis import strategies as st

    stems = st.sampled_from(["1", "2", "a/1", "./1", "._1", ".DS_Store", "__MACOSX/1", "é", "\udcff", ""])
    suffixes = st.sampled_from(["json", "png", "JPG", "mp4", "txt", "left.png", "JSON", "", "png.gz"])
    png = (folder / "a.png").read_bytes()
    text = json.dumps({"id": 1, "conversations": turns("<image>\nWhat?")}).encode()
    member = st.tuples(stems, suffixes, st.sampled_from([png, text, b"", b"{}"]) | st.binary(max_size=30))
    kinds = st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])

    def one(members, change):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for (stem, suffix, content), kind in members:
                info = tarfile.TarInfo(f"{stem}.{suffix}")
                info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
                tar.addfile(info, io.BytesIO(content))
        file = folder / "a.tar"
        file.write_bytes(change(stream.getvalue()) if change else stream.getvalue())
        try:
            found = Records(str(file), str(folder), str(folder / "index"), 0)
        except ValueError as error:
            assert "a.tar" in str(error)
            return
        measurer = Measurer(found, tiny_processor, Encoding("chat", 4, 2048), decode=True)
        for number, measure in enumerate(measurer.measure(range(len(found)))):
            if measure.error is None and measure.modality == 0:
                with found.reading(number) as record:
                    assert is_right(record) and not found.index[number].entry.blobs

    each(TARS, st.lists(st.tuples(member, kinds), min_size=1, max_size=6), st.none() | damage())(one)


# Pictures and videos


def encoded(image, kind, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


SMALL = pattern(60, 40, 1)
PICTURE_FILES = {
    "png": encoded(SMALL, "PNG"),
    "png, 16 bits": encoded(Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20), "PNG"),
    "jpeg": encoded(SMALL, "JPEG"),
    "jpeg, progressive": encoded(pattern(400, 300, 2), "JPEG", progressive=True),
    "webp": encoded(SMALL, "WEBP"),
    "gif": encoded(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(90)]),
    "tiff": encoded(SMALL, "TIFF"),
    "tiff, lzw": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "tiff, float": encoded(Image.fromarray(np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)), "TIFF"),
    "bmp": encoded(SMALL, "BMP"),
}


def test_every_picture_is_read_or_refused_whatever_pillows_switch_says(monkeypatch):
    from hypothesis import strategies as st

    def one(name, change):
        data, found = change(PICTURE_FILES[name]), []
        for switch in (False, True):
            monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)
            try:
                found.append(load_image(data).tobytes())
            except ValueError as error:
                assert f"{len(data)} bytes of picture" in str(error)
                found.append(None)
        assert found[0] == found[1]

    each(PICTURES, st.sampled_from(list(PICTURE_FILES)), damage())(one)


@pytest.mark.parametrize("decoder", decoding.DECODERS)
def test_every_clip_is_read_or_refused(tmp_path, monkeypatch, decoder):
    from hypothesis import strategies as st

    monkeypatch.setattr("llada_v.video.installed", lambda: [decoder])
    monkeypatch.setattr(decoding, "LIMIT", SECONDS / 3)
    decoding.DECODER.end()
    pictures = [np.asarray(pattern(64, 48, number)) for number in range(12)]
    clips = {
        "mp4": write_clip(tmp_path / "a.mp4", pictures).read_bytes(),
        "b-frames": write_clip(tmp_path / "b.mp4", pictures, "libx264", bf="2", g="6").read_bytes(),
        "mkv": write_clip(tmp_path / "c.mkv", pictures, "libx264").read_bytes(),
        "webm": write_clip(tmp_path / "d.webm", pictures, "libvpx-vp9").read_bytes(),
        "avi": write_clip(tmp_path / "e.avi", pictures).read_bytes(),
    }
    found: dict[str, int] = {}

    def one(name, change):
        data = change(clips[name])
        try:
            frames = load_frames(data, lambda total, fps: frames_evenly(total, 4))
            told = f"{len(frames)} frames"
        except ValueError as error:
            assert f"{len(data)} bytes of video" in str(error)
            told = str(error).partition(" of video ")[2]
        found[told] = found.get(told, 0) + 1

    each(CLIPS, st.sampled_from(list(clips)), damage())(one)
    decoding.DECODER.end()
    print(decoder, found)
