"""Benchmarks without lmms-eval: settings, prompts, tables, and the queue around a scripted lmms-eval."""

import functools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image
from published import PLACEHOLDER, fill_in, golden

from llada_v import LladaVProcessor, charts, cli
from llada_v.conversation import SYSTEM_PROMPT
from llada_v.evaluation import run
from llada_v.evaluation.extraction import choices_in
from llada_v.evaluation.gen_kwargs import settings_of
from llada_v.evaluation.prompts import chat_prompt, messages_of, original_prompt
from llada_v.evaluation.results import Row, draw_table, failed, markdown, read_log, rows_of, save_table
from llada_v.evaluation.settings import SETTINGS_FILE, Benchmark, Score, chosen_tasks, read_settings
from llada_v.toyworld import tasks as toyworld

ROOT = Path(__file__).resolve().parent.parent
PICTURE = Image.new("RGB", (384, 384), "red")
SEVENTEEN = (
    "mmmu_val mmmu_pro_standard mmmu_pro_vision mmstar ai2d muirbench mmbench_en_dev seedbench videomme mlvu_dev mme "
    "realworldqa chartqa docvqa_val infovqa_val mathvista_testmini mathverse_testmini_vision"
).split()


# The settings file


@pytest.fixture(scope="module")
def settings():
    return read_settings()


def test_all_benchmarks_of_the_paper_have_their_settings(settings):
    assert [task.name for task in chosen_tasks(settings, None)] == SEVENTEEN
    short = set(SEVENTEEN) - {
        "chartqa",
        "docvqa_val",
        "infovqa_val",
        "mathvista_testmini",
        "mathverse_testmini_vision",
    }
    lengths = {name: (2, 2, 2) for name in short} | {
        "chartqa": (16, 16, 16),
        "docvqa_val": (32, 32, 16),
        "infovqa_val": (32, 32, 16),
        "mathvista_testmini": (96, 96, 48),
        "mathverse_testmini_vision": (64, 64, 32),
    }
    for name in SEVENTEEN:
        sampling = settings[name].sampling("paper")
        assert tuple(sampling.pop(key) for key in ("gen_length", "block_length", "steps")) == lengths[name]
        assert sampling == {"temperature": 0.0, "cfg_scale": 0.0, "remasking": "low_confidence"}
        assert settings[name].think_mode == ("think" if name.startswith("math") else "no_think")
        assert settings[name].until == (("\n",) if name == "chartqa" else ())


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_every_task_has_settings_that_the_sampler_takes(settings, processor, preset):
    for task in settings.values():
        if not task.is_likelihood:
            settings_of(parsed(task.gen_kwargs(preset)), processor, 128)


def parsed(gen_kwargs):
    """As lmms-eval reads --gen_kwargs: commas inside brackets do not part."""
    found = {}
    for part in re.split(r",(?![^\[]*\])", gen_kwargs):
        name, value = part.split("=", 1)
        try:
            found[name] = float(value) if "." in value else int(value)
        except ValueError:
            found[name] = value
    return found


def test_stop_strings_and_mode_survive_the_command_line(settings, processor):
    found = settings_of(parsed(settings["chartqa"].gen_kwargs("paper")), processor, 128)
    assert found.sampler.stop_strings == ["\n"] and found.think_mode == "no_think"


def test_the_fast_preset_changes_what_it_names_alone(settings):
    task = settings["mathvista_testmini"]
    paper, fast = task.sampling("paper"), task.sampling("fast")
    assert {key for key in paper.keys() | fast.keys() if paper.get(key) != fast.get(key)} == set(task.fast)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.update(task={}), "has the key 'task'; did you mean 'tasks'"),
        (
            lambda table: table["every"].update(temprature=0),
            "every has the key 'temprature'; did you mean 'temperature'",
        ),
        (
            lambda table: table["tasks"]["mme"].update(gen_lenght=2),
            "mme has the key 'gen_lenght'; did you mean 'gen_length'",
        ),
        (lambda table: table["tasks"]["mme"]["fast"].update(cfg=1), "mme, fast has the key 'cfg'"),
        (lambda table: table["tasks"]["mme"]["scores"][0].update(papers=1), "mme, scores has the key 'papers'"),
        (lambda table: table["tasks"]["mme"]["scores"][0].update(by="gpt"), "by is 'gpt'; choose one of"),
        (lambda table: table["tasks"]["mme"].update(think_mode="deep"), "mme: think_mode is 'deep'"),
        (lambda table: table["tasks"]["mme"].pop("scores"), "mme has no scores"),
        (lambda table: table["tasks"].update(mme=[1]), "mme is .*expected keys"),
    ],
)
def test_a_wrong_key_in_the_settings_is_named(tmp_path, change, told):
    table = yaml.safe_load(SETTINGS_FILE.read_text())
    change(table)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(ValueError, match=told):
        read_settings(tmp_path / "settings.yaml")


def test_a_settings_file_that_is_no_yaml_says_so(tmp_path):
    (tmp_path / "settings.yaml").write_text("tasks: [")
    with pytest.raises(ValueError, match="settings.yaml is not valid YAML"):
        read_settings(tmp_path / "settings.yaml")


def test_an_unknown_task_is_named_with_its_neighbours(settings):
    with pytest.raises(ValueError, match="no task 'mmstarr' in the settings; did you mean mmstar"):
        chosen_tasks(settings, "mme,mmstarr")


def test_groups_of_tasks_can_be_named_and_nothing_runs_twice(settings):
    names = [task.name for task in chosen_tasks(settings, "mme,toyworld,toyworld_video")]
    assert names == ["mme", *(name for name in settings if name.startswith("toyworld_"))]
    assert len(names) == 7


# Generation settings


def test_settings_reach_the_sampler_by_their_own_names(processor):
    given = {"gen_length": 8, "steps": 4, "block_length": 4, "cfg_scale": 0.5, "temperature": 0.2, "cache": "none"}
    found = settings_of(given, processor, 128).sampler
    assert all(getattr(found, name) == value for name, value in given.items())
    assert found.stop_token_ids == [[processor.config.eot_token_id]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cfg": 0}, "has 'cfg', which is no setting; did you mean 'cfg_scale'"),
        ({"gen_steps": 2}, "has 'gen_steps', which is no setting"),
        ({"stop_token_ids": [[1]]}, "has 'stop_token_ids', which is no setting"),
        ({"top_p": 0.9}, "top_p=0.9, which the sampler lacks; --gen_kwargs top_p=1"),
        ({"num_beams": 5}, "num_beams=5, which the sampler lacks"),
        ({"think_mode": "maybe"}, "think_mode is 'maybe'; choose one of think, no_think"),
        ({"gen_length": 10, "block_length": 4}, "not a multiple of block_length"),
        ({"gen_length": "long"}, "gen_length is 'long'"),
    ],
)
def test_a_setting_that_cannot_be_met_stops_the_run(processor, given, told):
    with pytest.raises(ValueError, match=told):
        settings_of(given, processor, 128)


def test_what_task_files_say_to_other_models_is_let_pass(processor):
    given = {"max_new_tokens": 16, "do_sample": False, "top_p": 1.0, "num_beams": 1, "temperature": 0, "until": None}
    assert settings_of(given, processor, 128).sampler.gen_length == 16
    assert settings_of(given | {"max_new_tokens": 16384}, processor, 128).sampler.gen_length == 128
    assert settings_of(given | {"gen_length": 64}, processor, 128).sampler.gen_length == 64


def test_the_originals_stops_are_ids_and_those_that_cannot_end_an_answer_are_left_out(original):
    found = settings_of({"gen_length": 2, "until": ["ASSISTANT:", "\n", "\nQ"]}, original, 128)
    assert found.sampler.stop_token_ids == [[original.config.eot_token_id], original.encode("\n")]
    assert found.sampler.stop_strings is None


# Prompts


@pytest.fixture(scope="module")
def original(processor):
    """The processor that writes prompts as the original does."""
    return LladaVProcessor(processor.tokenizer, processor.config, reproduce_original=True)


def ids_with_one_placeholder(sequence, config):
    """A prompt's ids, each picture as the figures write it."""
    folded, visuals = [], iter(sequence.visuals)
    left = 0
    for token in sequence.input_ids:
        if token != config.image_token_id:
            folded.append(token)
            continue
        if left == 0:
            left = next(visuals).num_features
            folded.append(PLACEHOLDER)
        left -= 1
    return folded


def test_the_originals_prompt_is_the_recorded_one_token_by_token(original):
    record = golden("prompts")[0]
    question = record["turns"][0][0].removeprefix("<image>\n")
    prompt = original_prompt(original, question, [PICTURE])
    assert ids_with_one_placeholder(prompt, original.config) == record["input_ids"]
    expected = fill_in([record["input_ids"]], [prompt.visuals[0].num_features], original.config.image_token_id)
    assert prompt.input_ids == expected[0].tolist()


def text_of(processor, sequence):
    """The prompt of a sequence between its headers, a picture's features written as <image>."""
    ids = ids_with_one_placeholder(sequence, processor.config)
    image = processor.encode("<image>")
    flat = [token for id in ids for token in (image if id == PLACEHOLDER else [id])]
    return (
        processor.decode(flat).split("<|start_header_id|>user<|end_header_id|>\n\n")[1].split("<|start_header_id|>")[0]
    )


@pytest.mark.parametrize(
    ("context", "count", "mode", "expected"),
    [
        # Lost with the original: the newline behind the last picture, the spaces between pictures.
        ("What?\nA. cat", 1, "no_think", "<image>What?\nA. cat /no_think<|eot_id|>"),
        ("What?", 1, "think", "<image>What? /think<|eot_id|>"),
        ("What?", 1, None, "<image>What?<|eot_id|>"),
        (" What? ", 2, "no_think", "<image><image> What?  /no_think<|eot_id|>"),
        ("\nWhat?", 1, None, "<image>\nWhat?<|eot_id|>"),
        # Neither text alone nor a context with its own <image> gets a suffix; the latter loses a token behind each.
        ("What?", 0, "no_think", "What?<|eot_id|>"),
        ("Is <image> like <image>?", 2, "think", "Is <image>like <image><|eot_id|>"),
        ("See <image>", 1, "think", "See <image>"),
        ("<image 1> is what?", 1, "no_think", "<image><image 1> is what? /no_think<|eot_id|>"),
    ],
)
def test_what_the_original_makes_of_a_context(original, context, count, mode, expected):
    prompt = original_prompt(original, context, [PICTURE] * count, mode)
    assert text_of(original, prompt) == expected
    assert [visual.num_features for visual in prompt.visuals] == [1485] * (count == 1) + [729] * (
        count if count > 1 else 0
    )


@pytest.mark.parametrize(
    ("context", "count", "mode", "expected"),
    [
        ("What?\nA. cat", 1, "no_think", "<image>\nWhat?\nA. cat /no_think<|eot_id|>"),
        ("What?", 2, "think", "<image> <image>\nWhat? /think<|eot_id|>"),
        ("What?", 0, "no_think", "What? /no_think<|eot_id|>"),
        ("Is <image> like <image>?", 2, "think", "Is <image> like <image>? /think<|eot_id|>"),
        ("What is <image>?", 1, None, "<image>\nWhat is ?<|eot_id|>"),
    ],
)
def test_a_prompt_is_laid_out_as_in_training(processor, context, count, mode, expected):
    prompt = chat_prompt(processor, messages_of(context, [PICTURE] * count), mode)
    assert text_of(processor, prompt) == expected
    assert [visual.num_features for visual in prompt.visuals] == [1485] * (count == 1) + [730] * (
        count if count > 1 else 0
    )


def test_pictures_stay_where_a_chat_has_them(processor):
    parts = [
        {"type": "text", "text": "First"},
        {"type": "image", "url": PICTURE},
        {"type": "text", "text": "then"},
        {"type": "image", "url": PICTURE},
        {"type": "text", "text": "which?"},
    ]
    prompt = chat_prompt(processor, [{"role": "user", "content": parts}], "no_think")
    assert text_of(processor, prompt) == "First<image>then<image>which? /no_think<|eot_id|>"


def test_the_training_system_prompt_is_put_in_front_and_the_answer_opened(processor):
    text = processor.decode(chat_prompt(processor, messages_of("Hello?", [])).input_ids)
    assert text.startswith(f"<|startoftext|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM_PROMPT}<|eot_id|>")
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_a_list_of_frames_is_one_video(processor):
    prompt = chat_prompt(processor, messages_of("What?", [[PICTURE] * 3]))
    assert text_of(processor, prompt) == "<image>\nWhat?<|eot_id|>"
    assert len(prompt.visuals) == 1 and len(prompt.visuals[0].tiles) == 3


@pytest.mark.parametrize("make", [original_prompt, lambda processor, *rest: chat_prompt(processor, messages_of(*rest))])
def test_more_placeholders_than_pictures_are_refused(original, make):
    with pytest.raises(ValueError, match="2 <image> for 1"):
        make(original, "<image> or <image>?", [PICTURE])


# The table


def results_of(metrics, documents=4):
    return {"results": {"task": metrics}, "n-samples": {"task": {"original": 9, "effective": documents}}}


BENCHMARK = Benchmark("task", {"gen_length": 2}, (Score("acc", paper=48.6), Score("judge_acc", by="judge", scale=1.0)))


def test_a_row_has_score_difference_seconds_and_skipped_documents():
    log = [
        {"task": "task", "doc_id": 0, "idx": 0, "seconds": 1.0},
        {"task": "task", "doc_id": 1, "idx": 0, "seconds": 2.0},
        {"task": "task", "doc_id": 2, "idx": 0, "skipped": "document 2 of task cannot be read"},
    ]
    (row,) = rows_of(BENCHMARK, results_of({"acc,none": 0.5, "acc_stderr,none": 0.1}), log, "2/2/2")
    assert (row.score, row.paper, row.seconds, row.documents, row.skipped) == (50.0, 48.6, 1.5, 4, 1)
    assert row.difference == pytest.approx(1.4)
    assert row.cells() == ["task", "50.0", "48.6", "+1.4", "1.50", "4", "1", "lmms-eval", "2/2/2"]


def test_a_judge_stands_beside_the_rules_only_where_it_ran():
    rules = Benchmark("math", {}, (Score("rule_accuracy", by="rules"), Score("judge_acc", by="judge", scale=1.0)))
    without = rows_of(rules, results_of({"rule_accuracy,none": 0.5}), [], "")
    both = rows_of(rules, results_of({"rule_accuracy,none": 0.5, "judge_acc,none": 55.0}), [], "")
    assert [row.cells()[7] for row in without] == ["rule-based extraction"]
    assert [(row.cells()[7], row.score) for row in both] == [("rule-based extraction", 50.0), ("judge model", 55.0)]


def test_a_group_has_the_mean_of_its_tasks():
    results = {
        "results": {"a": {"acc,none": 0.2}, "b": {"acc,answer": 0.6}, "group": {"alias": "group"}},
        "n-samples": {"a": {"effective": 2}, "b": {"effective": 2}},
    }
    (row,) = rows_of(Benchmark("group", {}, (Score("acc"),)), results, [], "")
    assert row.score == pytest.approx(40.0)


def test_a_metric_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="no metric 'acc'; there are exact_match,none"):
        rows_of(BENCHMARK, results_of({"exact_match,none": 0.5}), [], "")


def test_the_error_of_log_likelihoods_is_in_the_table():
    log = [{"task": "t", "doc_id": 0, "idx": i, "seconds": 1.0, "standard_error": 0.1 * i} for i in (0, 1)]
    (row,) = rows_of(Benchmark("t", {}, (Score("acc"),)), results_of({"acc,none": 1.0}), log, "128 masks")
    assert row.cells()[-1] == "128 masks, error 0.050 nats" and row.seconds == 2.0


def test_of_several_log_lines_about_one_request_the_last_counts_and_a_cut_one_none(tmp_path):
    lines = [{"task": "t", "doc_id": 0, "idx": 0, "skipped": "x"}, {"task": "t", "doc_id": 0, "idx": 0, "seconds": 1.0}]
    (tmp_path / "log.rank0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"task": "t", "do')
    (tmp_path / "log.rank1.jsonl").write_text(json.dumps({"task": "t", "doc_id": 1, "idx": 0, "seconds": 3.0}) + "\n")
    assert [entry["seconds"] for entry in read_log(tmp_path)] == [1.0, 3.0]


ROWS = [
    Row("mmstar", "2/2/2 no_think", "lmms-eval", 60.0, 60.1, 1.25, 1500),
    Row("mme perception", "2/2/2", "lmms-eval", 1500.0, 1507.0, 1.0, 10, 2),
    failed(BENCHMARK, "2/2/2", "document 3 of task cannot be read | broken"),
]


def test_the_table_is_written_as_markdown_json_and_a_picture(tmp_path):
    save_table(ROWS, tmp_path, "model, preset paper", {"model": "m"})
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("# model, preset paper") and markdown(ROWS) in text
    assert "failed: document 3 of task cannot be read \\| broken" in text
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["model"] == "m" and table["rows"][0]["difference"] == pytest.approx(-0.1)
    assert table["rows"][1]["skipped"] == 2 and table["rows"][2]["score"] is None
    assert Image.open(tmp_path / "table.png").size == draw_table(ROWS, "t").size


def test_every_line_of_the_markdown_table_is_as_wide():
    lines = markdown(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + len(ROWS)


def test_a_longer_bar_is_a_larger_score_and_the_mark_is_the_papers():
    image = draw_table([Row("half", "", "lmms-eval", 50.0, 75.0), Row("all", "", "lmms-eval", 100.0)], "t")
    left = charts.MARGIN + charts.BAR_NAME
    rows = [charts.BAR_TOP + charts.BAR_ROW * index + 12 for index in range(2)]
    lengths = [
        sum(image.getpixel((x, row)) == charts.PALE for x in range(left, left + charts.BAR_LENGTH)) for row in rows
    ]
    assert lengths[0] == pytest.approx(lengths[1] / 2, abs=3) and lengths[1] > 400
    marks = [x for x in range(left, left + charts.BAR_LENGTH) if image.getpixel((x, rows[0])) == charts.INK]
    assert marks and marks[0] - left == pytest.approx(0.75 * charts.BAR_LENGTH, abs=2)


# The queue


class ScriptedLmmsEval:
    """Stands for the processes that run lmms-eval: writes what they would, or fails."""

    told = "Traceback (most recent call last):\nValueError: document 3 cannot be read\n"

    def __init__(self, failing=()):
        self.failing, self.commands = failing, []

    def __call__(self, command, stdout, stderr, env):
        self.commands.append(command)
        self.environment = env
        values = dict(zip(command, command[1:], strict=False))
        name = values["--tasks"]
        if name in self.failing:
            stdout.write(self.told)
            return subprocess.CompletedProcess(command, self.failing[name])
        metrics = {"exact_match,none": 0.25, "accuracy,none": 0.25}
        folder = Path(values["--output_path"]) / "model"
        folder.mkdir(parents=True, exist_ok=True)
        results = {"results": {name: metrics}, "n-samples": {name: {"effective": 4}}}
        (folder / f"{time.time()}_results.json").write_text(json.dumps(results))
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def queue(monkeypatch, tiny_folder, tmp_path):
    """Run tasks with a scripted lmms-eval: (status, table, the scripted one)."""
    monkeypatch.setattr(run, "check_installed", lambda: None)
    monkeypatch.setattr(run, "version", lambda package: "0")
    monkeypatch.setattr(run, "TASK_FILES", shutil.copytree(run.TASK_FILES, tmp_path / "task files"))
    (run.TASK_FILES / "toyworld" / "data").mkdir(exist_ok=True)
    for name in (*toyworld.ASKED, "multiple_choice"):
        (run.TASK_FILES / "toyworld" / "data" / f"{name}.parquet").write_bytes(name.encode())
    copied = functools.partial(shutil.copytree, run.TASK_FILES / "toyworld", dirs_exist_ok=True)
    monkeypatch.setattr(toyworld, "write_tasks", lambda folder, count: copied(folder))

    def start(tasks, *options, failing=None, model=tiny_folder):
        scripted = ScriptedLmmsEval(failing or {})
        monkeypatch.setattr(run.subprocess, "run", scripted)
        argv = ["--model", str(model), "--tasks", tasks, "--output", str(tmp_path), *options]
        status = cli.main(["evaluate", *argv])
        table = max(tmp_path.glob("*/*/table.json"), key=lambda file: file.stat().st_mtime_ns)
        return status, json.loads(table.read_text())["rows"], scripted

    return start


def test_a_failed_task_is_reported_the_others_go_on_and_the_status_says_so(queue, capsys):
    tasks = "toyworld_video,toyworld_reasoning,toyworld_short_answer"
    # lmms-eval ends with 0 after most errors.
    status, rows, scripted = queue(tasks, failing={"toyworld_video": 0, "toyworld_reasoning": 1})
    assert status == 1 and len(scripted.commands) == 3
    assert [row["problem"] for row in rows] == ["document 3 cannot be read"] * 2 + [None]
    told = capsys.readouterr()
    assert "toyworld_video: failed: document 3 cannot be read (see" in told.err
    assert "| toyworld_short_answer | 25.0" in told.out


def test_a_finished_task_is_not_run_again_and_a_failed_one_is(queue):
    tasks = "toyworld_video,toyworld_short_answer"
    assert queue(tasks, failing={"toyworld_video": 1})[0] == 1
    status, rows, scripted = queue(tasks)
    assert status == 0 and len(scripted.commands) == 1
    assert [row["score"] for row in rows] == [25.0, 25.0]
    assert len(queue(tasks, "--fresh")[2].commands) == 2


def places_of(folder, task="toyworld_video"):
    """The places of a task's results."""
    return {file.parent for file in folder.glob(f"*/*/{task}/*/done.json")}


def files_in(places):
    return {file: file.read_bytes() for place in places for file in place.rglob("*") if file.is_file()}


def test_other_settings_get_a_place_of_their_own_and_the_old_one_stays_and_is_listed(queue, tmp_path, capsys):
    queue("toyworld_video")
    (first,) = places_of(tmp_path)
    before = files_in([first])
    assert len(queue("toyworld_video", "--limit", "2")[2].commands) == 1
    assert len(places_of(tmp_path)) == 2 and files_in([first]) == before
    assert f"kept beside: {first}: limit None" in capsys.readouterr().err
    assert f"- {first}: limit None" in (first.parents[1] / "table.md").read_text()
    for options in (("--limit", "2"), ()):
        assert len(queue("toyworld_video", *options)[2].commands) == 0, "both are done"


@pytest.mark.parametrize("options", [("--batch-size", "8"), ("--num-processes", "2"), ("--on-bad-document", "skip")])
def test_what_changes_no_answer_runs_no_finished_task_again(queue, options):
    queue("toyworld_video")
    assert len(queue("toyworld_video", *options)[2].commands) == 0


@pytest.mark.parametrize("options", [("--preset", "fast"), ("--reproduce-original",), ("--dtype", "bfloat16")])
def test_what_changes_answers_runs_a_finished_task_again(queue, options):
    queue("toyworld_video")
    assert len(queue("toyworld_video", *options)[2].commands) == 1


def test_a_model_counts_by_what_it_holds_and_not_by_where_or_when(queue, tmp_path, tiny_folder):
    queue("toyworld_video")
    copied = tmp_path / "elsewhere" / tiny_folder.name
    shutil.copytree(tiny_folder, copied)
    (copied / "README.md").write_text("about it")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}, sort_keys=True))
    assert len(queue("toyworld_video", model=copied)[2].commands) == 0
    (weights,) = copied.glob("*.safetensors")
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert len(queue("toyworld_video", model=copied)[2].commands) == 1
    assert len(places_of(tmp_path)) == 2
    assert len(queue("toyworld_video")[2].commands) == 0


def test_a_comment_in_a_task_file_changes_nothing_and_its_question_does(queue, tmp_path):
    queue("toyworld_video")
    file = run.TASK_FILES / "toyworld" / "toyworld_video.yaml"
    file.write_text("# another comment\n" + file.read_text())
    assert len(queue("toyworld_video")[2].commands) == 0
    file.write_text(file.read_text().replace("doc_to_text: question", "doc_to_text: other"))
    assert len(queue("toyworld_video")[2].commands) == 1
    (run.TASK_FILES / "toyworld" / "data" / "video.parquet").write_bytes(b"other questions")
    assert len(queue("toyworld_video")[2].commands) == 1
    assert len(places_of(tmp_path)) == 3


def test_answers_are_scored_again_in_their_place_when_the_rules_change(queue, tmp_path, monkeypatch):
    queue("toyworld_video")
    monkeypatch.setattr(run, "RULES_VERSION", run.RULES_VERSION + 1)
    assert len(queue("toyworld_video")[2].commands) == 1
    assert len(places_of(tmp_path)) == 1
    assert len(queue("toyworld_video")[2].commands) == 0
    monkeypatch.setattr(run, "ANSWERS_VERSION", run.ANSWERS_VERSION + 1)
    assert len(queue("toyworld_video")[2].commands) == 1
    assert len(places_of(tmp_path)) == 2


def test_starting_afresh_moves_what_was_there_aside(queue, tmp_path, capsys):
    queue("toyworld_video")
    (place,) = places_of(tmp_path)
    before = {name.relative_to(place): content for name, content in files_in([place]).items()}
    for number in (1, 2):
        queue("toyworld_video", "--fresh")
        aside = place.with_name(f"{place.name}-{number}")
        assert aside in places_of(tmp_path)
        assert f"kept beside: {aside}: the same settings, moved aside" in capsys.readouterr().err
    first = place.with_name(f"{place.name}-1")
    assert {name.relative_to(first): content for name, content in files_in([first]).items()} == before


def test_results_of_an_earlier_version_stay(queue, tmp_path, tiny_folder, capsys):
    old = tmp_path / tiny_folder.name / "paper" / "toyworld_video"
    old.mkdir(parents=True)
    (old / "done.json").write_text("{}")
    queue("toyworld_video")
    assert (old / "done.json").read_text() == "{}"
    assert f"kept beside: {old}: of an earlier version" in capsys.readouterr().err


def test_a_run_that_stopped_at_a_bad_document_goes_on_in_its_place_and_skips(queue, tmp_path):
    assert queue("toyworld_video", failing={"toyworld_video": 1})[0] == 1
    stopped = {file.parent for file in tmp_path.glob("*/*/toyworld_video/*/made_with.json")}
    status, _, scripted = queue("toyworld_video", "--on-bad-document", "skip")
    assert status == 0 and places_of(tmp_path) == stopped
    assert scripted.environment["LLADA_V_ON_BAD_DOCUMENT"] == "skip"


def test_documents_that_were_skipped_stop_a_run_that_must_not_skip(queue, tmp_path):
    queue("toyworld_video", "--on-bad-document", "skip")
    (place,) = places_of(tmp_path)
    (place / "documents").mkdir()
    skipped = {"task": "toyworld_video", "doc_id": 0, "idx": 0, "skipped": "cannot be read"}
    (place / "documents" / "log.rank0.jsonl").write_text(json.dumps(skipped) + "\n")
    assert len(queue("toyworld_video", "--on-bad-document", "skip")[2].commands) == 0
    assert len(queue("toyworld_video")[2].commands) == 1


def test_the_command_carries_settings_and_model(queue, tiny_folder, tmp_path):
    command = queue("toyworld_video", "--preset", "fast", "--on-bad-document", "skip", "--limit", "3")[2].commands[0]
    values = dict(zip(command, command[1:], strict=False))
    assert command[:3] == [sys.executable, "-m", "lmms_eval"]
    assert values["--model"] == "llada_v" and values["--tasks"] == "toyworld_video" and values["--limit"] == "3"
    assert f"pretrained={tiny_folder}" in values["--model_args"] and f"log={tmp_path}" in values["--model_args"]
    assert "rule=factor" in values["--gen_kwargs"] and "steps" not in values["--gen_kwargs"]
    assert "--force_simple" not in command
    likelihood = queue("toyworld_likelihood")[2].commands[0]
    assert "--force_simple" in likelihood and "--gen_kwargs" not in likelihood


def test_the_originals_prompts_need_plain_requests_and_get_a_table_of_their_own(queue, tmp_path):
    command = queue("toyworld_video", "--reproduce-original")[2].commands[0]
    assert "--force_simple" in command and "reproduce_original=True" in command[command.index("--model_args") + 1]
    assert (tmp_path / "model" / "paper-original" / "table.md").is_file()


def test_choices_that_are_read_stand_beside_what_is_written(queue, tmp_path, capsys):
    name = "toyworld_multiple_choice"
    assert [row["score"] for row in queue(name)[1]] == [25.0]
    _, (row,), scripted = queue(name, "--read", "choices")
    assert (row["score"], row["chosen"], row["settings"]) == (None, 25.0, "32 masks, one read")
    assert "read=choices" in scripted.commands[0][scripted.commands[0].index("--model_args") + 1]
    assert (tmp_path / "model" / "paper-choices" / "table.md").is_file() and not queue(name)[2].commands
    assert queue("toyworld_likelihood", "--read", "choices")[0] == 2
    assert "scores given ones; leave it out" in capsys.readouterr().err


def test_a_column_for_choices_is_there_where_one_was_read():
    read = Row("read", "", "rules", documents=3, chosen=75.0, paper=80.0)
    assert "by probability" not in markdown(ROWS)
    header, _, *_, last = (line.split("|") for line in markdown([*ROWS, read]).splitlines())
    found = dict(zip(map(str.strip, header), map(str.strip, last), strict=True))
    assert (found["score"], found["by probability"], found["difference"]) == ("", "75.0", "")
    assert draw_table([read], "t").getpixel((charts.MARGIN + charts.BAR_NAME + 9, charts.BAR_TOP + 12)) == charts.PALE


def test_what_a_question_lists_is_found():
    found = {"A": ["A", "a star"], "B": ["B", "B-52"]}
    assert choices_in("Which?\n(A) a star\n(B) B-52\nAnswer with the letter.") == found
    assert choices_in("Which? A: a star, B: B-52") == found
    assert choices_in("Is it red? Please answer Yes or No.") == {"Yes": ["Yes", "yes"], "No": ["No", "no"]}
    assert choices_in("A. Why? Is it so, yes or not?") == {}


def test_several_processes_start_through_torchrun(queue):
    command = queue("toyworld_video", "--num-processes", "2")[2].commands[0]
    assert command[1:6] == ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m"]


def test_several_machines_meet_where_the_environment_says(queue, monkeypatch, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="2 nodes need MASTER_ADDR"):
        run.Evaluation(nodes=2, tasks="toyworld_video")
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("NODE_RANK", "1")
    scripted = ScriptedLmmsEval()
    monkeypatch.setattr(run.subprocess, "run", scripted)
    argv = ["--model", str(tiny_folder), "--tasks", "toyworld_video", "--output", str(tmp_path), "--nodes", "2"]
    assert cli.main(["evaluate", *argv]) == 0
    assert {"--nnodes=2", "--node-rank=1", "--master-addr=first", "--master-port=29199"} <= set(scripted.commands[0])
    assert not list(tmp_path.glob("*/*/table.json")), "the first machine writes the table"


OWN_CHECK = f"""INFO start
\x1b[31mTraceback (most recent call last):\x1b[0m
[rank1]:   File "/lib/lmms_eval/evaluator.py", line 700, in evaluate
[rank1]:     run()
[rank1]:   File "{run.PACKAGE}/evaluation/lmms.py", line 190, in prepare
[rank1]:     raise BadDocument(f"{{name}} cannot be read")
[rank1]: llada_v.evaluation.lmms.BadDocument: document 7 of ai2d cannot be read
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
====
exitcode : 1
"""
FAULT = f"""Traceback (most recent call last):
  File "/lib/lmms_eval/evaluator.py", line 700, in evaluate
    run()
  File "{run.PACKAGE}/evaluation/lmms.py", line 190, in prepare
    first, second = numbers
    ^^^^^^^^^^^^^
ValueError: not enough values to unpack (expected 2, got 1)
"""


@pytest.mark.parametrize("name", ["llada_v.evaluation.lmms.BadDocument", "llada_v.errors.WrongValue", "ValueError"])
def test_an_error_of_our_own_checks_is_one_line(tmp_path, name):
    (tmp_path / "log.txt").write_text(OWN_CHECK.replace("llada_v.evaluation.lmms.BadDocument", name))
    assert run.problem_in(tmp_path / "log.txt") == ("document 7 of ai2d cannot be read", [])


@pytest.mark.parametrize(
    "text", [FAULT, FAULT.replace(str(run.PACKAGE), "/lib/torch").replace("first, second", "raise")]
)
def test_a_fault_shows_the_end_of_its_traceback(tmp_path, text):
    (tmp_path / "log.txt").write_text(text)
    assert run.problem_in(tmp_path / "log.txt") == (text.splitlines()[-1], text.rstrip().splitlines())


@pytest.mark.parametrize(("text", "told"), [("killed\n", "killed"), ("", "no output")])
def test_a_log_without_an_error_gives_its_last_line(tmp_path, text, told):
    (tmp_path / "log.txt").write_text(text)
    assert run.problem_in(tmp_path / "log.txt") == (told, [])


def test_only_what_the_run_itself_wrote_is_looked_at(tmp_path):
    (tmp_path / "log.txt").write_text(FAULT + "killed\n")
    assert run.problem_in(tmp_path / "log.txt", len(FAULT.encode())) == ("killed", [])


def test_a_fault_in_a_task_is_shown_with_the_path_of_its_log(queue, monkeypatch, capsys):
    monkeypatch.setattr(ScriptedLmmsEval, "told", FAULT)
    status, (row,), _ = queue("toyworld_video", failing={"toyworld_video": 1})
    told = capsys.readouterr().err
    assert status == 1 and "ValueError: not enough values to unpack" in row["problem"] and "log.txt" in row["problem"]
    assert "    first, second = numbers\n" in told and "line 190, in prepare" in told


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--tasks", "mmstarr"], "no task 'mmstarr'"),
        (["--limit", "0"], "limit is 0; it must be a whole number from 1"),
        (["--preset", "slow"], "preset is 'slow'; choose one of paper, fast"),
        (["--settings", "nowhere.yaml"], "there is no file nowhere.yaml"),
    ],
)
def test_a_request_that_cannot_be_met_ends_with_one_line_and_status_2(argv, told, capsys):
    assert cli.main(["evaluate", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


def test_a_model_folder_without_a_processor_is_said_before_anything_runs(queue, tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    with pytest.raises(OSError, match="has no tokenizer.json"):
        run.evaluate(run.Evaluation(str(tmp_path / "bare"), "toyworld_video", output=tmp_path))


# The small world's tasks


def test_every_task_file_of_the_small_world_has_its_settings_and_data(settings):
    files = {file.stem: file.read_text() for file in toyworld.TASKS.glob("*.yaml")}
    assert set(files) == {name for name in settings if name.startswith("toyworld_")}
    kinds = {re.search(r"data/(\w+)\.parquet", text)[1] for text in files.values()}
    assert kinds == {*toyworld.ASKED, "multiple_choice"}


def test_every_settings_row_with_files_of_its_own_has_them(settings):
    for task in settings.values():
        if task.files is not None:
            assert list((ROOT / "eval" / "tasks" / task.files).glob("*.yaml")), task.name


def test_options_are_alike_different_and_hold_the_answer():
    rows = list(toyworld.multiple_choice(28, 1))
    for row in rows:
        assert row["answer"] in row["choices"] and len(set(row["choices"])) == len(row["choices"]) >= 2
        assert len({choice.isdigit() for choice in row["choices"]}) == 1
    assert len({row["choices"].index(row["answer"]) for row in rows}) > 2
    assert [row["choices"] for row in toyworld.multiple_choice(28, 1)] == [row["choices"] for row in rows]


def test_data_are_written_once_and_the_same(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the task data are parquet files, written with datasets")
    tasks = toyworld.write_tasks(tmp_path / "a", count=2)
    folder = tasks / "data"
    first = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    toyworld.write_tasks(tasks, count=2)
    assert {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet")} == first
    rows = datasets.Dataset.from_parquet(str(folder / "multi_image.parquet"), cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 2 and len(rows[0]["images"]) == 2
    toyworld.write_tasks(tasks, count=3)
    assert len(datasets.Dataset.from_parquet(str(folder / "video.parquet"), cache_dir=str(tmp_path / "cache"))) == 3


def test_scores_compare_as_the_judge_does():
    doc = {"id": "1", "family": "reasoning", "question": "How many?", "answer": "red 3, blue 4. 3 + 4. Answer: 7"}
    assert toyworld.judged(doc, ["I think. Answer:  7"]) == {"exact_match": 1.0}
    assert toyworld.judged(doc, ["3"]) == {"exact_match": 0.0}
    assert toyworld.chosen({"choices": ["red", "blue"], "answer": "blue"}, ["(B)"]) == {"accuracy": 1.0}
    choice = {"choices": ["red", "blue"], "answer": "blue"}
    assert toyworld.likeliest(choice, ["[-3.5, false]", "[-1.5, true]"]) == {"accuracy": 1.0}
    assert toyworld.likeliest(choice, ["[NaN, false]", "[NaN, false]"]) == {"accuracy": 0.0}
