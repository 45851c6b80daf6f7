"""Odd data end as a right record or as one bad one, by its id, in `data check`, training, `mix` and conversion."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from sample_data import turns, write_clip
from test_data_sources import png, write_tar

from llada_v.data.measure import Encoding, Measurer
from llada_v.data.mix import mix
from llada_v.data.records import BadRecord, Records
from llada_v.data.visualwebinstruct import convert

GOOD = {"id": "good", "image": "a.png", "conversations": turns("<image>\nWhat colour?", "Red.")}


@pytest.fixture
def folder(tmp_path):
    """A folder with a picture, a film, and frames."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "frames" / "1.png")
    return tmp_path


@pytest.fixture
def measure(folder, tiny_processor):
    """Reads and decodes each record of a file, as `data check` does; returns the measures and the read records."""

    def run(file):
        records = Records(str(file), str(folder), str(folder / "index"), 0)
        measures = Measurer(records, tiny_processor, Encoding("chat", 4, 2048), decode=True).measure(
            range(len(records))
        )
        read = []
        for number in range(len(records)):
            try:
                with records.reading(number) as record:
                    read.append(record)
            except BadRecord as error:
                read.append(str(error))
        return measures, read

    return run


def write_records(folder, *records):
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "a.jsonl"


def question(text="<image>\nWhat?", **more) -> dict:
    """A record `odd`."""
    return {"id": "odd", "conversations": turns(text)} | more


BAD = [
    (question(images=["a.png", "a.png"]), "nothing reads its key 'images'; a record names files under 'image'"),
    (question(image_path="a.png"), "nothing reads its key 'image_path'"),
    (question(Image_Files=["a.png"]), "nothing reads its key 'Image_Files'"),
    (question(videos=["film.mp4"]), "nothing reads its key 'videos'"),
    (question("What?", img="a.png"), "nothing reads its key 'img'"),
    (question(picture={"bytes": "AAAA"}), "nothing reads its key 'picture'"),
    (question(image=None, media="a.png"), "nothing reads its key 'media'"),
    (question(video="."), "'video' names '.', which is no file"),
    (question(video="frames/.."), "'video' names 'frames/..', which is no file"),
    (question(video=".."), "'video' names '..', which is no file"),
    (question(image="./"), "'image' names './', which is no file"),
    (question(image=" "), "'image' names ' ', which is no file"),
    (question(video=[""]), "'video' names '', which is no file"),
    (question(image=["a.png", ""]), "'image' names '', which is no file"),
    (question(video=""), "'video' is '', but its text has <image>; name the file, or leave the key out"),
    (question(image=None), "'image' is None, but its text has <image>"),
    (question(image=[]), r"'image' is \[\], but its text has <image>"),
    (question("Say \udc80 please", image="a.png"), r"it holds half a character, '\\udc80'"),
    (question(image="a.png", more=float("nan")), "NaN is no number of JSON"),
    (question(image="a\0.png"), "no picture at"),
    (question(image="a" * 5000), "too long"),
    (question(image={"path": "a.png"}), "a picture is a PIL image, a path or bytes, not dict"),
    (question(image="frames"), "no picture at .*frames"),
    (question(video=3), "a video is a path or a list of frames, not int"),
    ({"id": "odd", "conversations": 3}, "conversations is 3; a list of turns is expected"),
    ({"id": "odd", "conversations": [{"from": [], "value": "Hi"}]}, r"this one is {'from': \[\], 'value': 'Hi'}"),
    ({"id": "odd", "conversations": [{"from": "human", "value": ["x" * 9999]}]}, r"this one is .{100}\.\.\. \("),
]


@pytest.mark.parametrize("record, told", BAD)
def test_an_odd_record_is_one_bad_record_by_its_id(measure, folder, record, told):
    measures, read = measure(write_records(folder, GOOD, record, GOOD))
    assert [entry.error is None for entry in measures] == [True, False, True]
    assert measures[1].error.args[0].startswith("record 'odd' of ")
    with pytest.raises(BadRecord, match=f"record 'odd' of .*: .*{told}"):
        raise measures[1].error


NONE = [None, "", []]


@pytest.mark.parametrize("value", NONE, ids=str)
@pytest.mark.parametrize("key", ["image", "video"])
def test_null_and_an_empty_text_and_an_empty_list_all_stand_for_no_file(measure, folder, key, value):
    measures, read = measure(write_records(folder, question("What is two?", **{key: value}), GOOD | {"video": value}))
    assert [(entry.modality, entry.error) for entry in measures] == [(0, None), (1, None)]
    assert read[0]["image"] == [] and read[0]["video"] is None


def test_metadata_about_pictures_is_not_taken_for_pictures(measure, folder):
    metadata = {"image_id": 7, "image_size": [20, 20], "image_source": "web", "num_frames": 3, "images": ["other.png"]}
    records = [GOOD | metadata, question("What is two?", image_id=7, images=[], image_url=None)]
    assert [entry.error for entry in measure(write_records(folder, *records))[0]] == [None, None]


def test_an_image_mark_in_a_record_without_the_key_is_text(measure, folder):
    (found,), _ = measure(write_records(folder, question("What does <image> mean in HTML?")))
    assert (found.modality, found.error) == (0, None)


# Tars


def sample(name, record, *files):
    """Members of a tar: a record, and files beside it."""
    return [(f"{name}.json", json.dumps(record).encode()), *((f"{name}.{suffix}", data) for suffix, data in files)]


def encoded(kind) -> bytes:
    """A picture in a format."""
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), "red").convert("L" if kind == "PPM" else "RGB").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    "suffix, kind",
    [("pgm", "PPM"), ("JPG", "JPEG"), ("jp2", "JPEG2000"), ("tga", "TGA"), ("jfif", "JPEG"), ("avif", "AVIF")],
)
def test_every_picture_that_can_be_read_counts_in_a_tar(measure, folder, suffix, kind):
    file = write_tar(folder / "a.tar", sample("1", question(), (suffix, encoded(kind))))
    (found,), (read,) = measure(file)
    assert (found.modality, found.error) == (1, None) and len(read["image"]) == 1


def test_every_video_that_can_be_read_counts_in_a_tar(measure, folder):
    film = write_clip(folder / "film.avi", [np.zeros((64, 64, 3), np.uint8)] * 12, rate=4)
    file = write_tar(folder / "a.tar", sample("1", question(), ("AVI", film.read_bytes())))
    (found,), (read,) = measure(file)
    assert (found.modality, found.error) == (3, None) and isinstance(read["video"], bytes)


@pytest.mark.parametrize("suffix", ["txt", "npy", "ico", "eps", "mp3", "png.gz", "cls"])
def test_what_is_neither_picture_nor_video_beside_a_record_is_named(measure, folder, suffix):
    bad, good = sample("1", question("Hi"), (suffix, b"data")), sample("2", GOOD, ("png", png((20, 20))))
    (first, second), _ = measure(write_tar(folder / "a.tar", bad + good))
    assert second.error is None
    with pytest.raises(
        BadRecord, match=rf"record 'odd' of .*: 1.{suffix} beside it in the tar is neither a picture nor"
    ):
        raise first.error


def test_a_link_in_a_tar_is_named(measure, folder):
    with tarfile.open(folder / "a.tar", "w") as tar:
        text = json.dumps(question()).encode()
        member = tarfile.TarInfo("1.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.LNKTYPE, "elsewhere.png"
        tar.addfile(link)
    (found,), _ = measure(folder / "a.tar")
    assert "record 'odd' of " in str(found.error) and "1.png beside it in the tar is a link, not a file" in str(
        found.error
    )


def test_a_picture_beside_a_video_that_is_named_is_not_taken_for_it(measure, folder):
    film = write_clip(folder / "film.mp4", [np.zeros((64, 64, 3), np.uint8)] * 12, rate=4)
    files = ("png", png((20, 20))), ("mp4", film.read_bytes())
    named, unnamed = sample("1", question(video="1.mp4"), *files), sample("2", question(), *files)
    (first, second), _ = measure(write_tar(folder / "a.tar", named + unnamed))
    assert (first.modality, first.error) == (3, None)
    assert "a picture and a video lie beside it in the tar; name the one that is meant" in str(second.error)


# The other tools


@pytest.mark.parametrize("number", [17, 18])
def test_mixing_and_converting_name_the_odd_record(folder, number):
    file = write_records(folder, GOOD, BAD[number][0])
    for run in (lambda: mix(file, file, folder / "out.json", 0), lambda: convert(file, folder / "out.json")):
        with pytest.raises(ValueError, match=f"record 'odd' of .*a.jsonl: .*{BAD[number][1]}"):
            run()
    assert not list(folder.glob("out*"))


def test_a_full_disk_leaves_no_half_mixture_and_is_one_line(folder, monkeypatch):
    file = write_records(folder, *[GOOD] * 100)
    open_file = type(folder).open

    def full(path, mode="r", *args, **kwargs):
        if "w" not in mode:
            return open_file(path, mode, *args, **kwargs)
        return open_file(type(folder)("/dev/full"), mode, *args, **kwargs)

    (folder / "out.json").write_text("old")
    monkeypatch.setattr(type(folder), "open", full)
    with pytest.raises(OSError, match="cannot write .*out.json: No space left on device"):
        mix(file, file, folder / "out.json", 0)
    monkeypatch.undo()
    assert (folder / "out.json").read_text() == "old" and {path.name for path in folder.glob("out*")} == {"out.json"}
