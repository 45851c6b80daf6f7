"""Ordinary and reasoning records mixed: the original's order, every record once; and VisualWebInstruct's rows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from published import golden

from llada_v import cli
from llada_v.data import sources
from llada_v.data.mix import mix, ratio_of
from llada_v.data.visualwebinstruct import convert

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {f"{figure['normal']} and {figure['reasoning']}": figure for figure in golden("mix")}


def records_of(prefix: str, count: int, num_turns: int = 1) -> list[dict]:
    conversations = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}] * num_turns
    return [{"id": f"{prefix}{number}", "conversations": conversations} for number in range(count)]


def mixed(folder, normal: list, reasoning: list, seed: int = 0) -> list[dict]:
    """The records of a mixture of these."""
    (folder / "normal.json").write_text(json.dumps(normal))
    (folder / "reasoning.json").write_text(json.dumps(reasoning))
    mix(folder / "normal.json", folder / "reasoning.json", folder / "mix.json", seed)
    return json.loads((folder / "mix.json").read_text())


def questions_of(record) -> list[str]:
    return [turn["value"] for turn in record["conversations"] if turn["from"] == "human"]


@pytest.mark.parametrize("name", FIGURES)
def test_the_order_is_that_of_the_original(tmp_path, name):
    figure = FIGURES[name]
    found = mixed(tmp_path, records_of("n", figure["normal"]), records_of("r", figure["reasoning"]))
    order = [record["id"] for record in found]
    assert len(order) == len(set(order)) == figure["total"]
    assert order[: len(figure["first"])] == figure["first"]
    assert figure["order"] is None or order == figure["order"]
    suffixes = {question for record in found if record["id"][0] == "n" for question in questions_of(record)}
    assert suffixes == ({figure["normal_suffix"]} if figure["normal"] else set())


@pytest.mark.parametrize(
    "share, ratio",
    [(2, (2, 1)), (1.5, (1, 1)), (3.5, (3, 1)), (4.5, (4, 1)), (100, (5, 1)), (1 / 3, (1, 3)), (0.1, (1, 5))],
)
def test_the_ratio_is_the_closest_simple_one(share, ratio):
    assert ratio_of(round(3000 * share), 3000) == ratio
    assert ratio_of(0, 3) == (0, 1) and ratio_of(3, 0) == (1, 0)


def test_half_of_the_reasoning_questions_ask_to_think(tmp_path):
    found = mixed(tmp_path, [], records_of("r", 1000, num_turns=2))
    asked = [question for record in found for question in questions_of(record)]
    assert set(asked) == {"q", "q /think"}
    assert abs(asked.count("q /think") - 1000) < 100  # four standard deviations of 2,000 throws
    assert len({tuple(questions_of(record)) for record in found}) == 4  # each turn for itself
    assert all(turn["value"] == "a" for record in found for turn in record["conversations"] if turn["from"] == "gpt")


def test_the_mixture_depends_on_its_seed_alone(tmp_path):
    first, again, other = (mixed(tmp_path, records_of("n", 9), records_of("r", 40), seed) for seed in (1, 1, 2))
    assert first == again != other


def test_the_file_is_what_json_would_write(tmp_path):
    records = [{"id": "é 漢\n", "empty": [], "conversations": [{"from": "human", "value": "x"}]}, {"id": 2, "no": {}}]
    found = mixed(tmp_path, records, [])
    assert (tmp_path / "mix.json").read_text(encoding="utf-8") == json.dumps(found, indent=2, ensure_ascii=False)
    assert found[1] == records[1]  # without a list of turns a record passes as it is


def test_records_are_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 1000)
    longest = []
    read_more = sources.ArrayBuffer.read_more
    monkeypatch.setattr(
        sources.ArrayBuffer,
        "read_more",
        lambda buffer: (read_more(buffer), longest.append(len(buffer.text)))[0],
    )
    assert len(mixed(tmp_path, records_of("n", 300), records_of("r", 100))) == 400
    assert max(longest) < 2000


WRONG = [
    ("[]", "[]", "both files are empty; there is nothing to mix"),
    ("[{", "[]", "normal.json is not valid JSON"),
    ("[{}]", "[1]", "reasoning.json must hold an array of records"),
    ('[{"conversations": [{"from": "human"}]}]', "[{}]", "record 0 of .*normal.json: a human turn has the value None"),
    ("[{}]", None, "no data file at .*reasoning.json"),
]


@pytest.mark.parametrize("normal, reasoning, told", WRONG)
def test_a_mixture_that_fails_is_an_error_and_leaves_nothing(tmp_path, capsys, normal, reasoning, told):
    (tmp_path / "normal.json").write_text(normal)
    if reasoning is not None:
        (tmp_path / "reasoning.json").write_text(reasoning)
    words = ["--normal_data", f"{tmp_path}/normal.json", "--inference_data", f"{tmp_path}/reasoning.json"]
    assert cli.main(["data", "mix", *words, "--output_path", f"{tmp_path}/mix.json"]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert {file.name for file in tmp_path.iterdir()} <= {"normal.json", "reasoning.json"}


def test_a_mixture_never_overwrites_what_it_reads(tmp_path):
    (tmp_path / "a.json").write_text("[{}]")
    with pytest.raises(ValueError, match="a.json is one of the files to read"):
        mix(tmp_path / "a.json", tmp_path / "b.json", tmp_path / "." / "a.json", 0)


def test_the_script_takes_the_documented_options(tmp_path):
    for name, prefix, count in (("normal", "n", 7), ("reasoning", "r", 3)):
        (tmp_path / f"{name}.json").write_text(json.dumps(records_of(prefix, count)))
    words = ["--normal_data", tmp_path / "normal.json", "--inference_data", tmp_path / "reasoning.json"]
    command = [sys.executable, ROOT / "create_mix_data.py", *words, "--output_path", tmp_path / "new" / "mix.json"]
    found = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "7 ordinary and 3 reasoning records, 2:1" in found.stdout
    order = [record["id"] for record in json.loads((tmp_path / "new" / "mix.json").read_text())]
    assert order == ["n0", "n1", "r0", "n2", "n3", "r1", "n4", "n5", "r2", "n6"]


def test_every_file_must_be_named(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "mix", "--normal_data", "a.json", "--inference_data", "b.json"])
    assert ended.value.code == 2 and "--output_path" in capsys.readouterr().err


# VisualWebInstruct


def test_visualwebinstructs_rows_become_an_array(tmp_path, capsys):
    turns = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "Because."}]
    rows = [
        {"image": "images/a.png", "conversations": turns, "source": "web"},
        {"id": "own", "image": ["./images/a.png", "b/c.png"], "conversations": turns},
        {"image": None, "conversations": turns},
        {"image": [], "conversations": turns},
        {"conversations": turns},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    words = ["data", "convert-visualwebinstruct", str(tmp_path / "a.jsonl"), str(tmp_path / "out" / "a.json")]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.endswith("a.json: 5 records\n")
    first, second, *others = json.loads((tmp_path / "out" / "a.json").read_text())
    assert first == {"id": "vw-1", "conversations": turns, "source": "web", "image": "a.png"}
    assert second == {"id": "own", "conversations": turns, "image": ["a.png", "b/c.png"]}
    assert others == [{"id": f"vw-{number}", "conversations": turns} for number in (3, 4, 5)]


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"conversations": [}', "record 1 of .*a.jsonl: it is not valid JSON"),
        ('\n{"question": "Why?"}', "record 2 of .*a.jsonl: the record has no conversations"),
        ('{"conversations": [{"role": "user", "content": "?"}]}', "record 1 of .*: a turn has 'from'"),
        ('{"image": 3, "conversations": [{"from": "gpt", "value": ""}]}', "record 1 of .*: 'image' is 3"),
        ("", "holds no row"),
    ],
)
def test_a_row_that_cannot_be_used_leaves_nothing(tmp_path, text, told):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=told):
        convert(tmp_path / "a.jsonl", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
    with pytest.raises(FileNotFoundError, match="no file at .*nowhere.jsonl"):
        convert(tmp_path / "nowhere.jsonl", tmp_path / "a.json")
