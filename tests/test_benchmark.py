"""`bench` and `tune`: who is timed when, what the rows say, who goes on, and what a wrong request is told."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llada_v import cli, machine
from llada_v.benchmark import bench as bench_module
from llada_v.benchmark import memory, shapes
from llada_v.benchmark import tune as tune_module
from llada_v.benchmark.batches import Batch, question_batches
from llada_v.benchmark.bench import Task, bench
from llada_v.benchmark.candidates import Setting
from llada_v.benchmark.floor import Machine, Work
from llada_v.benchmark.report import equal_share, fastest_without_loss, row_of, table, verdict_on
from llada_v.benchmark.rounds import Answered, Rounds, Run
from llada_v.benchmark.tune import nearest_the_front, stages, tune
from llada_v.cli.bench import heldout_items
from llada_v.evaluation.extraction import Verdict

CPU = torch.device("cpu")
MACHINE = Machine(bandwidth=1e9, matrix_rate=1e9)


class ScriptedModel:
    """Answers [number of steps] to everything; remembers which settings were asked, in order."""

    device, dtype = CPU, torch.float32

    def __init__(self):
        self.asked, self.compiled = [], []
        self.model = SimpleNamespace(language_model=torch.nn.Linear(1, 1))
        self.lm_head = torch.nn.Linear(1, 1)

    def generate(self, input_ids, image_features, sampler, generator, return_dict_in_generate):
        self.asked.append(sampler.resolved.steps)
        self.compiled.append(sampler.compile)
        answers = [torch.tensor([sampler.resolved.steps])] * len(input_ids)
        return SimpleNamespace(answers=answers, num_forwards=sampler.resolved.steps)


def batches(count, size=1):
    return [Batch({"input_ids": torch.zeros(size, 3, dtype=torch.long)}, {}) for _ in range(count)]


def settings(*steps):
    return [Setting(f"s{number}", {"gen_length": 8, "steps": number}) for number in steps]


def run_of(name, is_right, seconds, answers=None, batch=1):
    """A run whose every batch took `seconds`."""
    verdicts = [Verdict(str(i), "", "?", "yes", "yes" if right else "no") for i, right in enumerate(is_right)]
    answers = answers or [[1]] * len(is_right)
    answered = [Answered([a], [v], 2, [0.0], [seconds]) for a, v in zip(answers, verdicts, strict=True)]
    setting = Setting(name, {"gen_length": 8})
    return Run(setting, setting.sampler(), answered, peak=2**30, work=Work(10**6, 10**6, 10**6), work_forwards=1)


def rows_of(plain, *others):
    return [row_of(run, plain, plain.answers, 1, MACHINE) for run in (plain, *others)]


# Rounds


def test_settings_take_turns_and_each_begins_in_turn():
    model = ScriptedModel()
    rounds = Rounds(model, settings(1, 2, 3))
    rounds.answer(batches(1))
    assert model.asked == [1, 1, 2, 2, 3, 3]  # untimed, timed
    model.asked.clear()
    rounds.answer(batches(3))
    assert model.asked == [1, 2, 3, 2, 3, 1, 3, 1, 2]


def test_warm_up_is_untimed():
    model = ScriptedModel()
    rounds = Rounds(model, settings(1), warmup=4)
    rounds.answer(batches(1))
    assert len(model.asked) == 5
    assert len(rounds.runs[0].batches[0].seconds) == 1


def test_compiled_settings_are_counted_without_and_timed_with_it():
    model = ScriptedModel()
    Rounds(model, [Setting("s", {"gen_length": 8, "compile": True})]).answer(batches(1))
    assert model.compiled == [False, True, True]  # counted, warm, timed


def test_rounds_repeat_times_and_not_answers():
    rounds = Rounds(ScriptedModel(), settings(4))
    for _ in range(3):
        rounds.answer(batches(2, size=2))
    (run,) = rounds.runs
    assert run.answers == [[4]] * 4
    assert run.forwards == 8
    assert [len(batch.seconds) for batch in run.batches] == [3, 3]


def test_a_time_is_the_median_round_of_each_batch():
    run = run_of("s", [True, True], 1.0)
    run.batches[0].seconds[:] = [1.0, 50.0, 2.0]
    run.batches[1].seconds[:] = [7.0, 3.0, 4.0]
    assert run.seconds == 6.0


# Rows


def test_a_row_is_arithmetic_over_a_run():
    plain = run_of("plain", [True] * 4, 2.0, [[1, 2]] * 4)
    fast = run_of("fast", [True] * 4, 0.5, [[1, 2], [1, 3], [1], [1, 2, 3, 4]])
    row = rows_of(plain, fast)[1]
    assert (row.seconds, row.speedup, row.tokens_per_second) == (0.5, 4.0, 9 / 2.0)
    assert (row.forwards, row.forward_seconds) == (2, 0.25)
    assert row.floor_seconds == 2e6 / 1e9
    assert row.equal == (2 + 1 + 1 + 2) / (2 + 2 + 2 + 4)


def test_equal_answers_of_no_tokens_are_equal():
    assert equal_share([[], []], [[], []]) == 1.0
    assert equal_share([[]], [[1]]) == 0.0


def test_the_fastest_setting_that_loses_nothing_is_the_fastest_whose_interval_reaches_zero():
    right = [True] * 50 + [False] * 50
    plain, worse = run_of("plain", right, 1.0), run_of("worse", [True] * 30 + [False] * 70, 0.1)
    good = run_of("good", [False] * 2 + right[2:], 0.3)
    slow = run_of("slow", [True] * 60 + [False] * 40, 2.0)
    rows = rows_of(plain, worse, good, slow)
    assert rows[1].change.high < 0 < rows[2].change.high
    assert fastest_without_loss(rows).setting.name == "good"
    told = verdict_on(rows)
    assert "good, 3.33 times as fast as plain" in told
    assert f"a loss of up to {-100 * rows[2].change.low:.1f} points is not excluded" in told
    assert "over the same 100 questions" in told


def test_where_all_others_lose_the_plain_sampler_is_the_fastest():
    right = [True] * 50 + [False] * 50
    rows = rows_of(run_of("plain", right, 1.0), run_of("worse", [False] * 100, 0.1))
    assert fastest_without_loss(rows).setting.name == "plain"


def test_the_table_says_what_was_not_measured():
    plain = run_of("plain", [True], 1.0)
    row = replace(rows_of(plain)[0], peak_bytes=None, right=None, change=None)
    lines = table([row]).splitlines()
    assert "| not measured |" in lines[2]
    assert "points against plain" not in lines[0]
    assert len({line.count("|") for line in lines}) == 1


# bench, with the tiny model


@pytest.fixture(scope="module")
def task(tiny_model, tiny_processor):
    items = heldout_items(4, seed=0)
    return Task(
        tiny_model,
        len(items),
        lambda size: question_batches(tiny_processor, items, size, CPU),
        dict(gen_length=4, steps=None, stop_token_ids=[]),
        tiny_processor.decode,
    )


@pytest.fixture(scope="module")
def rows(task):
    settings = [Setting("half", {"steps": 2}), Setting("random", {"temperature": 100.0})]
    return bench(task, settings, (1, 4), rounds=1, machine=Machine(bandwidth=1e12, matrix_rate=1e13))


def test_each_setting_has_a_row_at_each_batch_size(rows):
    assert [(row.setting.name, row.batch) for row in rows] == [
        (name, batch) for batch in (1, 4) for name in ("plain", "half", "random")
    ]
    assert all(row.questions == 4 for row in rows)


def test_forward_passes_are_those_of_the_setting(rows):
    assert [row.forwards for row in rows] == [4, 2, 4] * 2


def test_the_plain_sampler_equals_itself_at_every_batch_size(rows):
    assert [row.equal for row in rows if row.setting.name == "plain"] == [1.0, 1.0]
    assert min(row.equal for row in rows) < 1  # the others differ from it


def test_a_larger_batch_reads_the_weights_once_for_all(rows):
    alone, together = rows[0], rows[3]
    assert together.weight_bytes == alone.weight_bytes
    assert together.flops > 3 * alone.flops


def test_every_row_has_its_times(rows):
    for row in rows:
        assert 0 < row.floor_seconds < row.forward_seconds < row.seconds * row.batch


# tune


def test_stages_halve_the_settings_and_double_the_questions():
    assert stages(32, 256, 1) == [(32, 64), (16, 128), (8, 256)]
    assert stages(33, 256, 1) == [(33, 32), (17, 64), (9, 128), (5, 256)]


def test_few_questions_or_settings_mean_one_stage():
    assert stages(32, 20, 1) == [(32, 20)]
    assert stages(8, 1000, 1) == [(8, 1000)]


def test_stages_end_with_whole_batches_but_for_the_last():
    assert stages(16, 101, 8) == [(16, 48), (8, 101)]


def test_the_front_goes_on_first_and_then_the_more_accurate():
    runs = {
        name: run_of(name, [True] * right + [False] * (10 - right), seconds)
        for name, right, seconds in (
            ("exact", 9, 3.0),
            ("quick", 5, 1.0),
            ("second", 8, 3.5),
            ("second quick", 3, 1.5),
            ("hopeless", 1, 9.0),
        )
    }
    names = [run.setting.name for run in nearest_the_front(list(runs.values()), 3)]
    assert names == ["exact", "quick", "second"]


def test_the_search_ends_with_settings_that_answered_everything(tiny_model, tiny_processor, monkeypatch):
    monkeypatch.setattr(tune_module, "FINALISTS", 2)
    monkeypatch.setattr(tune_module, "FEWEST", 2)
    told = []
    rows, left_out = tune(
        tiny_model,
        tiny_processor,
        heldout_items(6, seed=0),
        [Setting(f"s{steps}", {"steps": steps}) for steps in (1, 2, 4)],
        dict(gen_length=4),
        machine=MACHINE,
        report=told.append,
    )
    assert rows[0].setting.name == "plain"
    assert [row.questions for row in rows] == [6, 6, 6]
    assert [row.questions for row in left_out] == [3]
    assert told == ["4 settings answer questions 1 to 3 of 6", "3 settings answer questions 4 to 6 of 6"]


# The command line


@pytest.fixture
def questions(tmp_path):
    Image.new("RGB", (72, 72), (200, 30, 30)).save(tmp_path / "a.png")
    file = tmp_path / "questions.jsonl"
    record = {"image": "a.png", "question": "What colour is it?", "answer": "red"}
    file.write_text("\n".join(json.dumps(record) for _ in range(3)))
    return str(file)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    """Measuring the machine has its own test."""
    monkeypatch.setattr(bench_module, "machine_of", lambda model: MACHINE)
    monkeypatch.setattr(tune_module, "machine_of", lambda model: MACHINE)


def test_bench_prints_a_table_and_writes_json_and_picture(tiny_folder, questions, tmp_path, capsys):
    json_file, png_file = tmp_path / "out.json", tmp_path / "out.png"
    words = ["--model", str(tiny_folder), "--questions", questions, "--gen-length", "4"]
    words += ["--setting", "half: steps=2", "--json", str(json_file), "--png", str(png_file), "--batch", "1,3"]
    assert cli.main(["bench", *words]) == 0
    out = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in out.splitlines()[:6]] == [
        "setting",
        "---",
        *["plain", "half"] * 2,
    ]
    assert "The fastest setting that loses nothing, batch 3:" in out
    result = json.loads(json_file.read_text())
    assert [row["batch"] for row in result["rows"]] == [1, 1, 3, 3]
    assert result["rows"][1]["setting"] == {"name": "half", "fields": {"gen_length": 4, "steps": 2}}
    assert result["machine"]["bandwidth"] == MACHINE.bandwidth
    assert set(result["fastest_without_loss"]) == {"1", "3"}
    with Image.open(png_file) as chart:
        chart.verify()


def test_bench_asks_the_small_world_where_nothing_is_named(tiny_folder, capsys):
    words = ["--model", str(tiny_folder), "--count", "1", "--rounds", "1", "--gen-length", "2"]
    assert cli.main(["bench", *words, "--setting", "one: steps=1"]) == 0
    out = capsys.readouterr().out
    assert "| one | 1 |" in out
    assert "loses nothing" not in out


def test_accuracy_judges_held_out_questions(tiny_folder, capsys):
    words = ["--model", str(tiny_folder), "--count", "2", "--accuracy", "--gen-length", "2"]
    assert cli.main(["bench", *words, "--setting", "one: steps=1"]) == 0
    assert "paired over the same 2 questions" in capsys.readouterr().out


def test_a_shape_has_random_weights_and_its_own_prompt(monkeypatch, capsys):
    small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    shape = replace(shapes.SHAPES["mid"], config=dict(text_config=small, vision_config=tower), gen_length=4, steps=2)
    monkeypatch.setitem(shapes.SHAPES, "mid", shape)
    assert cli.main(["bench", "--shape", "mid", "--rounds", "1", "--setting", "one: steps=1"]) == 0
    shown = capsys.readouterr()
    assert "random weights in float32" in shown.err
    plain, one = shown.out.splitlines()[2:]
    assert [line.split("|")[6].strip() for line in (plain, one)] == ["2.0", "1.0"]


def test_tune_prints_the_front_and_the_fastest(tiny_folder, questions, tmp_path, capsys):
    json_file = tmp_path / "out.json"
    words = [questions, "--model", str(tiny_folder), "--gen-length", "4", "--setting", "s: steps=[1,2]"]
    assert cli.main(["tune", *words, "--json", str(json_file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The front of accuracy and speed, slowest first, of 3 settings:")
    assert "The fastest setting that loses nothing" in out
    assert len(json.loads(json_file.read_text())["rows"]) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bench", "--shape", "huge"], "--shape is 'huge'; choose one of tiny, small, mid, 8b"),
        (["bench", "--setting", "fast: stepz=8"], "setting 'fast' has stepz"),
        (["bench", "--setting", "odd: gen_length=7 block_length=2"], "setting 'odd': gen_length 7 is not a multiple"),
        (["bench", "--settings", "nothing.yaml"], "there is no file nothing.yaml"),
        (["bench", "--setting", "a: steps=8", "--batch", "1,x"], "--batch is '1,x'"),
        (["bench", "--setting", "a: steps=8", "--batch", "4,4"], "--batch is '4,4'"),
        (["bench", "--setting", "a: steps=8", "--count", "0"], "--count is 0"),
        (["bench", "--setting", "a: steps=8", "--questions", "nothing.json"], "no data file at nothing.json"),
        (["bench", "--setting", "a: steps=8", "--shape", "mid", "--accuracy"], "no right answer"),
        (["bench", "--setting", "a: steps=8", "--json", "out.txt"], "ends in .json"),
        (["bench", "--setting", "a: steps=8", "--png", "no/such/out.png"], "in a folder that exists"),
        (["tune", "nothing.json"], "no data file at nothing.json"),
        (["tune", "nothing.json", "--batch", "0"], "--batch is 0"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(words, told, capsys):
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_a_shape_that_does_not_fit_is_refused_before_it_is_made(monkeypatch, capsys):
    monkeypatch.setattr(shapes, "free_memory", lambda device: 10 * memory.GIB)
    monkeypatch.setattr(shapes.LladaVForConditionalGeneration, "_from_config", None)
    assert cli.main(["bench", "--shape", "8b", "--device", "cpu", "--setting", "a: steps=8"]) == 2
    told = capsys.readouterr().err
    assert "8.4 billion" in told or "8.43 billion" in told
    assert "cpu has 10.0 GiB free" in told
    assert "--dtype bfloat16" in told


def test_a_question_with_a_missing_picture_is_named(tmp_path, capsys):
    file = tmp_path / "questions.json"
    file.write_text(json.dumps([{"image": "lost.png", "question": "?", "answer": "no"}]))
    assert cli.main(["tune", str(file)]) == 2
    assert "record 1: no picture at" in capsys.readouterr().err


def test_cpu_time_leaves_out_what_others_take(monkeypatch, capsys):
    monkeypatch.setattr(machine, "clock", machine.clock)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    words = ["--shape", "small", "--gen-length", "4", "--steps", "1", "--rounds", "1", "--setting", "one: steps=1"]
    assert cli.main(["bench", "--cpu-time", *words]) == 0
    assert machine.timed(lambda: time.sleep(0.2), 1, torch.device("cpu")) < 0.1
    assert "| one | 1 |" in capsys.readouterr().out
