"""`data check` finds exactly what is damaged, decodes everything, and says how long records are."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_data import MIXED, turns, write_files

from llada_v import charts, cli
from llada_v.charts import histogram
from llada_v.data import check as data_check
from llada_v.data import index, measure
from llada_v.data.check import Report
from llada_v.data.measure import UNKNOWN, Encoding, Measurer, Measures
from llada_v.data.records import Records
from llada_v.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = str(ROOT / "scripts" / "recipes" / "tiny" / "sft.yaml")


@pytest.fixture
def folder(tmp_path):
    """The pictures and videos of MIXED, to be damaged."""
    (tmp_path / "files").mkdir()
    return write_files(tmp_path / "files")


@pytest.fixture
def check(tiny_folder, folder, tmp_path, capsys):
    """Runs `data check` on a file in this process; returns status, the report, the bad records and what was printed."""

    def run(file, *words):
        given = ["--model", tiny_folder, "--data", file, "--image_root", folder, "--index_folder", tmp_path / "index"]
        given += ["--report", tmp_path / "report", "--processes", "0"]
        status = cli.main(["data", "check", RECIPE, *map(str, given), *words])
        printed = capsys.readouterr()
        if status == 2:
            return status, None, None, printed.err
        report = json.loads((tmp_path / "report" / "report.json").read_text())
        lines = (tmp_path / "report" / "bad_records.jsonl").read_text().splitlines()
        return status, report, [json.loads(line) for line in lines], printed.out

    return run


def write_lines(file, records):
    file.write_text("".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records))
    return file


def test_sound_data_are_counted_by_kind(check, tmp_path):
    status, report, bad, printed = check(write_lines(tmp_path / "a.jsonl", MIXED))
    assert status == 0 and bad == [] and report["bad"] == 0
    assert report["records"] == {"text": 4, "image": 2, "images": 1, "video": 2}
    assert sum(report["histogram"]["records"]) == 9
    assert report["tokens"]["shortest"] < report["tokens"]["longest"] == report["histogram"]["edges"][-1]
    assert "9 records: 4 text, 2 image, 1 images, 2 video\n" in printed and "0 bad records\n" in printed
    with Image.open(tmp_path / "report" / "lengths.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 2


def damaged(folder):
    """(record, what is told about it) of each kind of damage; files are damaged in the folder."""
    whole = (folder / "wide.png").read_bytes()
    Image.effect_noise((200, 200), 90).save(folder / "noise.png")
    (folder / "corrupt.png").write_bytes(whole[:8] + bytes(len(whole) - 8))
    (folder / "truncated.png").write_bytes((folder / "noise.png").read_bytes()[:9000])
    (folder / "broken.mp4").write_bytes((folder / "film.mp4").read_bytes()[:300])
    good = turns("<image>\nWhat?")
    return [
        ({"image": "missing.png", "conversations": good}, "no picture at .*missing.png"),
        ({"image": "corrupt.png", "conversations": good}, "corrupt.png"),
        ({"image": "truncated.png", "conversations": good}, "truncated.png is damaged"),
        ({"image": "wide.png"}, "the record has no conversations"),
        ({"conversations": []}, "the record has no conversations"),
        ({"conversations": turns() + turns()[1:]}, "turn 2 is from gpt"),
        ({"image": "wide.png", "conversations": turns("<image> <image>")}, "has 2 <image> for 1 pictures"),
        ({"video": "broken.mp4", "conversations": good}, "broken.mp4 cannot be decoded"),
        ({"conversations": turns(gpt="")}, "turn 1, an answer, is empty"),
        ({"conversations": turns()[:1]}, "the last turn is from human"),
        ({"conversations": turns("word " * 2100)}, "tokens are more than max_length 2048"),
        ('{"id": "damage-11", "conversations": [}\n', "it is not valid JSON"),
    ]


def test_of_a_folder_with_every_kind_of_damage_exactly_the_damage_is_listed(check, folder, tmp_path):
    records, expected = [], {}
    for number, (record, told) in enumerate(damaged(folder)):
        records.append(MIXED[number % len(MIXED)] | {"id": f"sound-{number}"})
        expected[len(records)] = told
        records.append(record if isinstance(record, str) else {"id": f"damage-{number}"} | record)
    status, report, bad, printed = check(write_lines(tmp_path / "a.jsonl", records))
    assert status == 1 and report["bad"] == len(expected) == 12
    assert [entry["number"] for entry in bad] == list(expected)
    for entry, (number, told) in zip(bad, expected.items(), strict=True):
        name = f"'damage-{number // 2}'" if number < 23 else "24"  # a line that cannot be read has only its number
        assert entry["reason"].startswith(f"record {name} of ")
        assert re.search(told, entry["reason"]), entry["reason"]
        assert entry["reason"] in printed
    assert sum(report["records"].values()) == 12


def test_pixels_are_decoded_not_just_headers(check, folder, tmp_path):
    Image.effect_noise((200, 200), 90).save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with Image.open(folder / "cut.jpg") as picture:
        assert picture.size == (200, 200)  # the header alone looks sound
    status, _, bad, _ = check(
        write_lines(tmp_path / "a.jsonl", [{"image": "cut.jpg", "conversations": turns("<image>")}])
    )
    assert status == 1 and "cut.jpg is damaged" in bad[0]["reason"]


def test_an_array_that_is_not_json_is_one_error(check, tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1}, {"id": 2]')
    status, _, _, printed = check(tmp_path / "a.json")
    assert status == 2 and printed.startswith("error: ") and "a.json is not valid JSON: record 1" in printed


def test_several_processes_find_the_same(check, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", [*MIXED, {}] * 60)  # three chunks
    alone, together = check(file), check(file, "--processes", "2")
    assert alone[1:] == together[1:] and together[0] == 1
    assert together[1]["records"] == {"text": 240, "image": 120, "images": 60, "video": 120}
    assert [entry["number"] for entry in together[2]] == list(range(9, 600, 10))


def test_the_histogram_counts_every_length_once():
    report = Report(max_length=50)
    report.lengths.extend([0, 1, 99, 100, 100])
    counts, edges = report.histogram()
    assert (counts[0], counts[-1], sum(counts)) == (2, 3, 5) and (edges[0], edges[-1]) == (0, 100)
    assert report.summary() == {"shortest": 0, "median": 99, "99 %": 100, "longest": 100, "sum": 300, "limit": 50}


def test_the_picture_has_a_bar_for_each_number_and_a_line_at_the_limit():
    pixels = np.asarray(histogram([0, 10, 5, 0], [0, 10, 20, 30, 40], 30, "tokens", "records"))
    step = (charts.HISTOGRAM_WIDTH - 2 * charts.SIDE) / 4
    heights = [(pixels[:, round(charts.SIDE + (n + 0.5) * step)] == charts.BLUE).all(1).sum() for n in range(4)]
    assert heights[1] == pytest.approx(2 * heights[2], abs=2) and heights[0] == heights[3] == 0
    at = round(charts.SIDE + 3 * step)
    assert (pixels[200, at - 1 : at + 1] == charts.RED).all(-1).any()
    beyond = np.asarray(histogram([1, 1], [0, 10, 20], 30, "tokens", "records"))
    assert not (beyond == charts.RED).all(2).any()


def test_nothing_measurable_is_reported_without_a_histogram():
    report = Report(max_length=50, bad=[(number, f"reason {number}") for number in range(30)])
    text = report.text()
    assert "30 records: 0 text" in text and "30 bad records:" in text and "and 10 more" in text
    assert "reason 19" in text and "reason 20" not in text and "tokens" not in text


@pytest.mark.parametrize("task", ["check", "index"])
def test_what_a_training_needs_is_left_behind(tiny_folder, tiny_processor, folder, tmp_path, capsys, monkeypatch, task):
    file = write_lines(tmp_path / "a.jsonl", [*MIXED, {"id": "odd"}])
    words = ["--model", tiny_folder, "--data", file, "--image_root", folder, "--index_folder", tmp_path / "index"]
    report = ["--report", tmp_path / "report"] if task == "check" else []
    status = cli.main(["data", task, RECIPE, *map(str, [*words, "--processes", 0, *report])])
    printed = capsys.readouterr().out
    assert status == (task == "check") and "record 'odd' of" in printed

    def lengths() -> list[int]:
        records = Records(str(file), str(folder), str(tmp_path / "index"), 0)
        recipe = load_recipe(RECIPE, {})
        encoding = Encoding(recipe.style, recipe.max_frames, recipe.max_length)
        return Measures(Measurer(records, tiny_processor, encoding), 0, lambda *bad: None).lengths.tolist()

    with monkeypatch.context() as patch:
        for module, name in ((index, "write_table"), (measure, "measure_all")):
            patch.setattr(module, name, lambda *given: pytest.fail("made again"))
        found = lengths()
    assert found[-1] == UNKNOWN and len(found) == len(MIXED) + 1
    (tmp_path / "other").mkdir()
    shutil.move(tmp_path / "index", tmp_path / "other" / "index")
    assert lengths() == found


def test_a_check_replaces_the_lengths_of_pictures_that_were_mended(check, folder, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", [{"image": "new.png", "conversations": turns("<image>\nWhat?")}])
    assert check(file)[1]["bad"] == 1
    Image.new("RGB", (20, 20)).save(folder / "new.png")
    assert check(file)[1]["bad"] == 0
    (lengths,) = (tmp_path / "index").glob("*-lengths-*/lengths.npy")
    assert np.load(lengths).min() > 0


def test_lengths_that_cannot_be_kept_do_not_lose_the_report(check, tmp_path, monkeypatch, caplog):
    def refuse(*given):
        raise PermissionError("read-only")

    monkeypatch.setattr(data_check, "keep", refuse)
    assert check(write_lines(tmp_path / "a.jsonl", MIXED))[0] == 0
    assert "the lengths are not kept for the training: read-only" in caplog.text
