"""One run that measures a device: every part on a small shape, what is left out, and what a cut run leaves."""

import json
import os
import subprocess
import sys

import pytest
import torch

from llada_v.benchmark import measure
from llada_v.benchmark.clients import NoTokenizer, serve_clients
from llada_v.benchmark.measure import JSON, MARKDOWN, Found, Measurement, Part
from llada_v.errors import WrongValue
from llada_v.generation.config import SamplerConfig
from llada_v.serving.engine import Engine
from llada_v.serving.limits import EngineConfig
from llada_v.shipped import ROOT

NAMES = ["machine", "picture", "forwards", "answers", "batches", "profile", "serving", "compiled", "stage 1"]
NAMES += ["int8", "training"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A measurement whose model is there."""
    found = Measurement("small", torch.device("cpu"), torch.float32, tmp_path_factory.mktemp("measured"))
    assert found.run_part(found.parts[0], 100)
    return found


def part(name, run, seconds=1.0):
    return Part(name, seconds, f"About {name}.", run)


def row(**cells):
    return Found({"": [cells]})


def written(folder):
    return json.loads((folder / JSON).read_text())["parts"], (folder / MARKDOWN).read_text()


def with_parts(folder, *parts):
    """A measurement of these parts alone."""
    found = Measurement("small", torch.device("cpu"), torch.float32, folder)
    found.parts = list(parts)
    return found


def raises(error):
    def run():
        raise error

    return run


def test_both_files_are_whole_after_every_part(tmp_path):
    seen = []

    def second():
        seen.append(written(tmp_path))
        return row(b=2.0)

    assert with_parts(tmp_path, part("first", lambda: row(a=1.25)), part("second", second)).run(60) == 0
    (parts, text), (all_parts, all_text) = seen[0], written(tmp_path)
    assert list(parts) == ["first"] and "| 1.25 |" in text and "second" not in text
    assert list(all_parts) == ["first", "second"] and "## second" in all_text
    assert all_parts["first"]["found"] == {"": [{"a": 1.25}]}
    assert not [name for name in os.listdir(tmp_path) if name not in (JSON, MARKDOWN)]


@pytest.mark.parametrize(
    "error, failed, why",
    [
        (WrongValue("it needs 64 GiB"), 0, "it needs 64 GiB"),
        (torch.OutOfMemoryError("no room"), 0, "no room"),
        (ZeroDivisionError("by nothing"), 1, "it failed with ZeroDivisionError: by nothing"),
    ],
    ids=repr,
)
def test_a_part_that_cannot_be_is_left_out_with_the_reason_and_the_others_go_on(tmp_path, capsys, error, failed, why):
    measurement = with_parts(tmp_path, part("first", raises(error)), part("second", lambda: row(a=1)))
    assert measurement.run(60) == failed
    parts, text = written(tmp_path)
    assert parts["first"] == {"left_out": why} and parts["second"]["found"]
    assert f"Left out: {why}." in text
    assert ("Traceback" in capsys.readouterr().err) == bool(failed)


def test_a_part_that_may_need_more_time_than_is_left_is_not_begun(tmp_path):
    long, short = part("long", raises(AssertionError("begun")), 100.0), part("short", lambda: row(a=1), 1.0)
    assert with_parts(tmp_path, long, short).run(20) == 0
    parts, _ = written(tmp_path)
    assert parts["long"] == {"left_out": "it may need 100 s, and 20 are left"} and "found" in parts["short"]


@pytest.mark.slow
def test_a_run_that_hangs_is_ended_and_leaves_what_it_found(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "import test_measure as t\n"
        "parts = t.part('first', lambda: t.row(a=1)), t.part('hangs', lambda: time.sleep(60))\n"
        "t.with_parts(pathlib.Path(sys.argv[1]), *parts).run(4)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=100)
    assert ended.returncode == 1 and b"Timeout" in ended.stderr
    assert list(written(tmp_path)[0]) == ["first"]


def test_the_machine_is_told_first(measured):
    assert [part.name for part in measured.parts] == NAMES
    parts, text = written(measured.report.folder)
    assert "measured, the best of several" in text and f"torch {torch.__version__}" in text
    (found,) = parts["machine"]["found"][""]
    weights = sum(weight.numel() for weight in measured.model.parameters()) * 4
    assert found["weights, GiB"] == pytest.approx(weights / 2**30)
    assert found["keys and values of 1,000 positions, GiB"] == pytest.approx(1000 * 2 * 2 * 64 * 4 / 2**30)


def test_forward_passes_stand_beside_their_floor(measured, monkeypatch):
    monkeypatch.setattr(measure, "STEPS", 2)
    monkeypatch.setattr(measure, "LENGTHS", (1, 2))
    found = measured.answers()
    plain, one, two = found.data
    assert [row["forwards"] for row in found.data] == [2, 1, 2]
    assert all(row["forward_seconds"] > row["floor_seconds"] > 0 for row in found.data)
    assert "times floor" in found.tables[""][0]


def test_a_picture_is_measured_against_counted_operations(measured):
    ((cells,),) = measured.picture().tables.values()
    assert cells["tiles"] == 5 and cells["times floor"] == pytest.approx(cells["ms"] / cells["floor, ms"])


def test_a_profile_says_operations_kernels_and_waits_of_a_forward(measured, monkeypatch):
    monkeypatch.setattr(measure, "STEPS", 2)
    each, heaviest = measured.profile().tables.values()
    assert 100 < each[0]["operations"] < 1000 and each[0]["waits"] == 0
    assert each[0]["ms of kernels"] > 0 and "aten::mm" in [row["kernel"] for row in heaviest]


def test_steps_of_training_learn_and_leave_the_model_as_it_was(measured):
    before = {name: weight.clone() for name, weight in measured.model.named_parameters()}
    (found,) = measured.stage_1().data
    assert found["rows"] == 16 and found["tiles"] == 16 and found["length"] == 16 + measure.TEXT
    assert found["mfu"] > 0 and found["tokens_per_second"] == pytest.approx(16 * found["length"] / found["seconds"])
    changed = {name for name, weight in measured.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all("multi_modal_projector" in name for name in changed)
    assert not measured.model.training and not any(weight.requires_grad for weight in measured.model.parameters())


def test_clients_are_all_answered_and_a_failure_reaches_the_caller(measured):
    prompts = [{"input_ids": torch.randint(0, 900, (1, 8))} for _ in range(5)]
    engine = Engine(measured.model, NoTokenizer(), EngineConfig(pool_tokens=64, tick_tokens=64)).start()
    try:
        found = serve_clients(engine, prompts, SamplerConfig(gen_length=4, steps=2, stop_token_ids=[]), clients=3)
        assert found.tokens_per_second == pytest.approx(4 * found.requests_per_second)
        assert 0 < found.median <= found.slowest and 4 <= found.forwards <= 10
        with pytest.raises(WrongValue, match="positions in one call"):
            serve_clients(engine, prompts, SamplerConfig(gen_length=64), clients=1)
    finally:
        engine.close()


@pytest.mark.slow
def test_the_rehearsal_runs_every_part(tmp_path):
    words = ["bash", "scripts/measure_gpu.sh", "--rehearse", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHON": sys.executable}
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570)
    assert ended.returncode == 0, ended.stderr
    parts, text = written(tmp_path)
    assert list(parts) == NAMES and not [name for name, found in parts.items() if "left_out" in found]
    assert ended.stdout.strip() == text.strip()
