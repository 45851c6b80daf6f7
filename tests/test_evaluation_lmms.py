"""The model inside lmms-eval: its own commands run it, on local tasks, and what comes out is what we get directly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from glob import glob
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

datasets = pytest.importorskip("datasets", reason="needs the extra eval: bash init_env.sh eval")
pytest.importorskip("lmms_eval", reason="needs the extra eval: bash init_env.sh eval")

from lmms_eval import evaluator  # noqa: E402
from lmms_eval.api.task import ConfigurableTask  # noqa: E402
from lmms_eval.tasks import TaskManager  # noqa: E402

from llada_v import SamplerConfig, decide  # noqa: E402
from llada_v.answering import DEMO_MODEL, load  # noqa: E402
from llada_v.evaluation import lmms  # noqa: E402
from llada_v.evaluation.extraction import lettered, option  # noqa: E402
from llada_v.evaluation.likelihood import log_likelihoods  # noqa: E402
from llada_v.evaluation.prompts import messages_of  # noqa: E402
from llada_v.evaluation.results import read_log, rows_of  # noqa: E402
from llada_v.evaluation.settings import read_settings  # noqa: E402
from llada_v.serving.together import answer_together  # noqa: E402
from llada_v.toyworld import tasks as toyworld  # noqa: E402
from llada_v.toyworld.judge import judge  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
COUNT = 8
SAMPLER = SamplerConfig(gen_length=32, steps=8)
GENERATED = [f"toyworld_{kind}" for kind in (*toyworld.ASKED, "multiple_choice")]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with the small world's task files and a few questions of each kind."""
    folder = tmp_path_factory.mktemp("tasks")
    return toyworld.write_tasks(folder, COUNT)


@pytest.fixture(scope="module")
def shipped():
    """The model that ships, and its processor."""
    return load(DEMO_MODEL, "cpu")


def evaluate(tasks, names, simple=False, gen_kwargs="gen_length=32,steps=8", model_args="", cache=None, batch_size=3):
    """lmms-eval's results for tasks of a folder, through its own entry."""
    return evaluator.simple_evaluate(
        model="llada_v",
        model_args=model_args,
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False, model_name="llada_v"),
        batch_size=batch_size,
        device="cpu",
        gen_kwargs=gen_kwargs,
        force_simple=simple,
        use_cache=None if cache is None else str(cache),
        cli_args=Namespace(process_with_media=False, reasoning_tags=None),
    )


def answers(results, name):
    """The answers of a task in the order of its documents."""
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


@pytest.fixture(scope="module")
def results(tasks):
    """What lmms-eval makes of all tasks with free answers."""
    return evaluate(tasks, GENERATED)


@pytest.mark.parametrize("kind", toyworld.ASKED)
def test_answers_and_score_are_those_of_the_judge(results, shipped, kind):
    verdicts = judge(*shipped, COUNT, sampler=SAMPLER, families=toyworld.ASKED[kind])
    assert answers(results, f"toyworld_{kind}") == [verdict.found.strip() for verdict in verdicts]
    share = sum(verdict.is_right for verdict in verdicts) / COUNT
    assert results["results"][f"toyworld_{kind}"]["exact_match,none"] == pytest.approx(share)


def test_options_are_answered_and_scored_as_directly(results, shipped):
    model, processor = shipped
    right = []
    for row, found in zip(
        toyworld.multiple_choice(COUNT, 1), answers(results, "toyworld_multiple_choice"), strict=True
    ):
        messages = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": row["images"][0]},
                    {"type": "text", "text": toyworld.question_with_options(row)},
                ],
            }
        ]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
        )
        output = model.generate(**inputs, sampler=SAMPLER, return_dict_in_generate=True)
        assert found == processor.decode(output.answers[0], skip_special_tokens=True).strip()
        options = lettered(row["choices"])
        right.append(options.get(option(found, options)) == row["answer"])
    assert results["results"]["toyworld_multiple_choice"]["accuracy,none"] == pytest.approx(sum(right) / COUNT)


def test_choices_are_read_as_directly_and_scored_in_a_column_of_their_own(tasks, shipped, tmp_path):
    name = "toyworld_multiple_choice"
    found = evaluate(tasks, [name], model_args=f"read=choices,on_bad_document=skip,log={tmp_path}/log")
    right, log = [], {entry["doc_id"]: entry for entry in read_log(tmp_path)}
    rows = zip(toyworld.multiple_choice(COUNT, 1), answers(found, name), strict=True)
    for number, (row, letter) in enumerate(rows):
        options = lettered(row["choices"])
        if len(options) < 2:  # of so few questions some have no other answers
            assert letter == "" and "lists no answers" in log[number]["skipped"]
            right.append(False)
            continue
        may_be = {letter: [letter, text] for letter, text in options.items()}
        asked = (toyworld.question_with_options(row), may_be)
        one = decide(*shipped, {"q": asked}, row["images"], gen_length=32, alone=True)["q"]
        assert letter == one.value and log[number]["probabilities"] == pytest.approx(one.probabilities, abs=1e-4)
        right.append(options[letter] == row["answer"])
    assert any(right)
    share = 100 * sum(right) / COUNT
    scores = {"results": {name: found["results"][name]}, "n-samples": {}}
    (row,) = rows_of(read_settings()[name], scores, [], "", is_read=True)
    assert (row.score, row.chosen, row.difference) == (None, pytest.approx(share), None)


def test_plain_requests_give_the_same_answers_as_chat(results, tasks):
    names = ["toyworld_multi_image", "toyworld_video"]
    plain = evaluate(tasks, names, simple=True, batch_size=8)
    for name in names:
        assert answers(plain, name) == answers(results, name)


@pytest.fixture(scope="module")
def likelihoods(tasks, tmp_path_factory):
    """Results of the log-likelihood task, its log, and the same again from lmms-eval's cache."""
    folder = tmp_path_factory.mktemp("likelihood")
    first = evaluate(tasks, ["toyworld_likelihood"], True, "", f"log={folder / 'log'},num_masks=15", folder / "cache")
    log = (folder / "log.rank0.jsonl").read_text()
    again = evaluate(tasks, ["toyworld_likelihood"], True, "", f"log={folder / 'log'},num_masks=15", folder / "cache")
    assert (folder / "log.rank0.jsonl").read_text() == log, "the second run computed something"
    return first, [json.loads(line) for line in log.splitlines()], again


def test_log_likelihoods_and_their_score_are_those_computed_directly(likelihoods, shipped):
    model, processor = shipped
    right = []
    for row, sample in zip(toyworld.multiple_choice(COUNT, 1), samples_of(likelihoods[0]), strict=True):
        content = [{"type": "image", "image": row["images"][0]}, {"type": "text", "text": row["question"]}]
        messages = [{"role": "user", "content": content}]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
        )
        ids = [[*processor.encode(choice), processor.config.eot_token_id] for choice in row["choices"]]
        expected = log_likelihoods(model, inputs, ids, prompt_of=[0] * len(ids), num_masks=15)
        found = [json.loads(text)[0] for text in sample["filtered_resps"]]
        assert found == pytest.approx([likelihood.log_likelihood for likelihood in expected], abs=2e-4)
        right.append(row["choices"][int(np.argmax(found))] == row["answer"])
    assert likelihoods[0]["results"]["toyworld_likelihood"]["accuracy,none"] == pytest.approx(sum(right) / COUNT)


def samples_of(results):
    return sorted(results["samples"]["toyworld_likelihood"], key=lambda sample: sample["doc_id"])


def test_every_log_likelihood_is_logged_with_its_error(likelihoods):
    entries = likelihoods[1]
    assert len(entries) == sum(len(row["choices"]) for row in toyworld.multiple_choice(COUNT, 1))
    assert all(entry["standard_error"] >= 0 and entry["num_masks"] >= 1 for entry in entries)
    assert any(entry["standard_error"] > 0 for entry in entries), "no answer was long enough for random masks"


def test_cached_log_likelihoods_score_the_same(likelihoods):
    first, _, again = likelihoods
    assert [s["filtered_resps"] for s in samples_of(first)] == [list(s["filtered_resps"]) for s in samples_of(again)]
    assert first["results"] == again["results"]


def test_scoring_of_lmms_evals_own_takes_the_likeliest_choice(tasks, tmp_path):
    """A multiple-choice task without scoring of its own: lmms-eval takes the smallest number, so the sign is turned."""
    folder = tmp_path / "tasks"
    shutil.copytree(tasks, folder)
    text = (folder / "toyworld_likelihood.yaml").read_text()
    text = text.replace("process_results: !function llada_v.toyworld.tasks.likeliest\n", "")
    (folder / "toyworld_likelihood.yaml").write_text(text.replace("accuracy", "acc"))
    own = evaluate(folder, ["toyworld_likelihood"], True, "", "num_masks=15")
    ours = evaluate(tasks, ["toyworld_likelihood"], True, "", "num_masks=15")
    assert own["results"]["toyworld_likelihood"]["acc,none"] == ours["results"]["toyworld_likelihood"]["accuracy,none"]


@pytest.fixture
def with_a_broken_picture(tasks, tmp_path):
    """The tasks with a picture in the third document that cannot be decoded."""
    folder = tmp_path / "tasks"
    shutil.copytree(tasks, folder)
    file = folder / "data" / "short_answer.parquet"
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    undecoded = rows.cast_column("images", datasets.Sequence(datasets.Image(decode=False))).to_list()
    undecoded[2]["images"][0]["bytes"] = b"no picture"
    datasets.Dataset.from_list(undecoded, features=rows.features).to_parquet(file)
    return folder


def test_a_broken_picture_stops_the_run_and_is_named(with_a_broken_picture):
    with pytest.raises(ValueError, match="document 2 of toyworld_short_answer cannot be read: UnidentifiedImageError"):
        evaluate(with_a_broken_picture, ["toyworld_short_answer"])


def test_a_broken_picture_can_be_skipped_and_is_counted_in_the_table(with_a_broken_picture, results, tmp_path):
    name = "toyworld_short_answer"
    options = f"on_bad_document=skip,log={tmp_path / 'documents' / 'log'}"
    found = evaluate(with_a_broken_picture, [name], model_args=options)
    expected = answers(results, name)
    assert answers(found, name) == [*expected[:2], "", *expected[3:]]
    (row,) = rows_of(read_settings()[name], found, read_log(tmp_path / "documents"), "")
    assert (row.documents, row.skipped) == (COUNT, 1)


SCORER = """
from llada_v.toyworld.tasks import judged


def scored(doc, results):
    if doc["id"] == "{id}" and results[0]:
        raise OverflowError("cannot convert float infinity to integer")
    return judged(doc, results)
"""


def test_a_scorer_that_raises_loses_one_answer_and_is_named(tasks, results, tmp_path, monkeypatch):
    name, folder = "toyworld_short_answer", tmp_path / "tasks"
    shutil.copytree(tasks, folder)
    lost = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])[2]
    (folder / "scorer.py").write_text(SCORER.format(id=lost["doc"]["id"]))
    file = folder / f"{name}.yaml"
    file.write_text(file.read_text().replace("llada_v.toyworld.tasks.judged", "scorer.scored"))
    monkeypatch.setattr(ConfigurableTask.process_results.retry, "sleep", lambda seconds: None)
    found = evaluate(folder, [name], model_args=f"log={tmp_path / 'documents' / 'log'}")
    assert answers(found, name) == answers(results, name)
    scores = {sample["doc_id"]: sample["exact_match"] for sample in results["samples"][name]}
    scores[2] = 0.0
    assert found["results"][name]["exact_match,none"] == pytest.approx(sum(scores.values()) / COUNT)
    (row,) = rows_of(read_settings()[name], found, read_log(tmp_path / "documents"), "")
    assert (row.documents, row.skipped, row.unscored) == (COUNT, 0, 1) and row.cells()[6] == "0, 1 not scored"
    (entry,) = [entry for entry in read_log(tmp_path / "documents") if "unscored" in entry]
    assert entry["doc_id"] == lost["doc"]["id"] and entry["unscored"].startswith("OverflowError: cannot convert")


# Through the commands


def run_command(*arguments, **options):
    """A command in the repository's folder, with the interpreter of the tests and few threads."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, text=True, **options)


@pytest.mark.slow
def test_two_processes_give_the_answers_and_scores_of_one(results, tasks, tmp_path):
    name = "toyworld_short_answer"
    arguments = ["--model", "llada_v", "--tasks", name, "--include_path", tasks, "--output_path", tmp_path]
    arguments += ["--log_samples", "--gen_kwargs", "gen_length=32,steps=8", "--batch_size", "2", "--verbosity", "DEBUG"]
    arguments += ["--model_args", f"log={tmp_path / 'log'}"]
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "lmms_eval"]
    process = run_command(*torchrun, *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    (samples,) = tmp_path.glob("**/*samples*.jsonl")
    found = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"] for sample in found] == answers(results, name)
    (aggregated,) = tmp_path.glob("**/*results.json")
    assert json.loads(aggregated.read_text())["results"][name]["exact_match,none"] == pytest.approx(
        results["results"][name]["exact_match,none"]
    )
    assert all((tmp_path / f"log.rank{rank}.jsonl").read_text() for rank in (0, 1)), "both processes answered"


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_and_its_table_is_the_judges(tmp_path):
    name, count = "toyworld_short_answer", 24
    command = ["llada_v", "evaluate", "--tasks", name, "--limit", str(count), "--output", str(tmp_path)]
    folder = tmp_path / DEMO_MODEL.name / "paper"
    log = folder / name / "*" / "documents" / "log.rank0.jsonl"
    killed = run_command(*command, stderr=subprocess.PIPE, start_new_session=True)
    while len(kept := lines_of(log)) < 3 * lmms.WINDOW:
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = lines_of(log)
    assert len(kept) < count, "it ended before it was killed"
    again = run_command(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, told = again.communicate()
    assert again.returncode == 0, told
    going_on = int(told.split("going on with ")[1].split(" ")[0])
    assert len(kept) - 2 * lmms.WINDOW <= going_on <= len(kept)
    computed = [json.loads(line)["doc_id"] for line in lines_of(log)[len(kept) :]]
    assert sorted(computed) == list(range(count))[going_on:]
    verdicts = judge(*load(DEMO_MODEL, "cpu"), count)
    share = 100 * sum(verdict.is_right for verdict in verdicts) / count
    (row,) = json.loads((folder / "table.json").read_text())["rows"]
    assert row["score"] == pytest.approx(share) and row["documents"] == count
    assert f"| {share:.1f}" in output
    done = run_command(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    same, told = done.communicate()
    assert same == output and told.splitlines()[0] == f"{name}: done before"


def lines_of(pattern: Path) -> list[str]:
    """The lines of the only file of that pattern; none where there is no file yet."""
    return [line for file in glob(str(pattern)) for line in Path(file).read_text().splitlines()]


# Without lmms-eval's tasks: the model alone


def asked(task, doc_id, content, gen_kwargs=None):
    """A chat request."""
    args = ("", lambda document: content, gen_kwargs or {"gen_length": 4}, doc_id, task, "test")
    return SimpleNamespace(args=args, task_name=task, doc_id=doc_id, idx=0, request_type="generate_until")


def model_on(folder, documents, **options):
    """A chat model over documents."""
    model = lmms.LladaVChat(str(folder), device="cpu", **options)
    model.task_dict = {"fake": {"test": documents}}
    return model


PICTURE = Image.new("RGB", (40, 30), "red")


def test_answers_come_in_the_order_asked_whatever_their_length(tiny_folder):
    questions = ["Is there a star? " * n for n in (1, 9, 3, 7, 2, 8)]
    requests = [asked("fake", i, messages_of(text, [PICTURE])) for i, text in enumerate(questions)]
    one = model_on(tiny_folder, [{}] * 6, batch_size=1)
    four = model_on(tiny_folder, [{}] * 6, batch_size=4)
    texts = [[answer.text for answer in model.generate_until(requests)] for model in (one, four)]
    assert texts[0] == texts[1]
    counts = [answer.token_counts.input_tokens for answer in four.generate_until(requests)]
    assert [counts[i] for i in (0, 4, 2, 3, 5, 1)] == sorted(counts)


@pytest.mark.parametrize("continuous", [True, False])
def test_answers_are_given_before_all_are_computed(tiny_folder, continuous):
    requests = [asked("fake", i, messages_of("Hello?", [])) for i in range(3 * lmms.WINDOW)]
    model = model_on(tiny_folder, [{}] * len(requests), continuous=continuous)
    seen = []
    note = model.note
    model.note = lambda item, *rest: (seen.append(item), note(item, *rest))
    next(model.generate_until(requests))
    assert len(seen) == lmms.WINDOW


def test_a_choice_is_read_only_where_the_question_lists_some(tiny_folder, tmp_path):
    texts = ["Which?\nA. a star\nB. a moon\nC. an odd one", "Is it red? Answer yes or no.", "Why?"]
    requests = [asked("fake", i, messages_of(text, [PICTURE]), {"gen_length": 2}) for i, text in enumerate(texts)]
    settings = {"read": "choices", "on_bad_document": "skip", "log": str(tmp_path / "log")}
    one = model_on(tiny_folder, [{}] * 3, batch_size=1, **settings)
    two = model_on(tiny_folder, [{}] * 3, batch_size=2, **settings)
    found = [[answer.text for answer in model.generate_until(requests)] for model in (one, two)]
    assert found[0] == found[1] and found[0][0] in "ABC" and found[0][1] in ("Yes", "No") and found[0][2] == ""
    log = {entry["doc_id"]: entry for entry in read_log(tmp_path)}
    assert log[0]["probabilities"].keys() == set("ABC") and "lists no answers" in log[2]["skipped"]
    with pytest.raises(ValueError, match="document 2 of fake lists no answers to choose from; .*read=answers"):
        list(model_on(tiny_folder, [{}] * 3, read="choices").generate_until(requests))


def test_answers_that_make_room_for_the_next_are_those_of_batches(tiny_folder, tmp_path):
    wishes = (
        {"gen_length": 8},
        {"gen_length": 4, "temperature": 1.0},
        {"until": ["e"]},
        {"gen_length": 16, "steps": 3},
    )
    contents = [messages_of("Hello? " * (i + 1), [PICTURE] if i % 2 else []) for i in range(7)]
    requests = [asked("fake", i, content, dict(wishes[i % 4])) for i, content in enumerate(contents)]
    found = []
    for continuous, size in ((True, 3), (False, 3), (False, 1)):
        log = tmp_path / f"{continuous}{size}"
        model = model_on(tiny_folder, [{}] * 7, batch_size=size, continuous=continuous, log=str(log))
        answers = [(answer.text, answer.token_counts) for answer in model.generate_until(requests)]
        entries = [json.loads(line) for line in Path(f"{log}.rank0.jsonl").read_text().splitlines()]
        assert sorted(entry["doc_id"] for entry in entries) == list(range(7))
        found.append((answers, {entry["doc_id"]: entry["num_forwards"] for entry in entries}))
    assert found[0] == found[2] and found[0][0] == found[1][0]


def test_random_answers_do_not_depend_on_batch_or_order(tiny_folder):
    requests = [asked("fake", i, messages_of("Hello?", []), {"gen_length": 4, "temperature": 1.0}) for i in range(4)]
    model = model_on(tiny_folder, [{}] * 4, batch_size=4)
    forwards = [answer.text for answer in model.generate_until(requests)]
    assert len(set(forwards)) > 1
    assert [answer.text for answer in model.generate_until(requests[::-1])] == forwards[::-1]


def test_a_repeated_request_is_drawn_again(tiny_folder):
    request = asked("fake", 0, messages_of("Hello?", []), {"gen_length": 8, "temperature": 1.0})
    model = model_on(tiny_folder, [{}])
    first, second = (answer.text for answer in model.generate_until([request, request]))
    assert first != second


def broken(document):
    raise OSError("cannot identify image file")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (messages_of("What?", ["gone.png"]), "no picture at gone.png"),
        (messages_of("What?", ["gone.mp4"]), "no video at gone.mp4"),
        (messages_of("<image> or <image>?", [PICTURE]), "2 <image> for 1 pictures"),
        (messages_of("", [PICTURE]), "the question is empty"),
        ([{"role": "user", "content": [{"type": "image", "url": None}]}], "an image that is None"),
        ([{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}], "holds audio"),
    ],
)
def test_a_bad_document_is_named(tiny_folder, content, told):
    model = model_on(tiny_folder, [{}] * 3)
    with pytest.raises(ValueError, match=f"document 2 of fake .*{told}.*on_bad_document=skip"):
        list(model.generate_until([asked("fake", 2, content)]))


@pytest.mark.parametrize(
    "error", [OSError("cannot identify image file"), SystemExit("no video"), AttributeError("None")]
)
def test_what_a_benchmarks_own_code_raises_names_the_document(tiny_folder, error):
    def fails(document):
        raise error

    request = asked("fake", 1, None)
    request.args = ("", fails, {}, 1, "fake", "test")
    with pytest.raises(ValueError, match=f"document 1 of fake cannot be read: {type(error).__name__}: {error}"):
        list(model_on(tiny_folder, [{}] * 2).generate_until([request]))


def test_a_bad_document_can_be_skipped_and_is_logged(tiny_folder, tmp_path):
    model = model_on(tiny_folder, [{}] * 3, on_bad_document="skip", log=str(tmp_path / "log"))
    contents = [messages_of("Hello?", []), messages_of("What?", ["gone.png"]), messages_of("Hello?", [])]
    first, bad, last = model.generate_until([asked("fake", i, content) for i, content in enumerate(contents)])
    assert bad.text == "" and first.text == last.text
    entries = [json.loads(line) for line in (tmp_path / "log.rank0.jsonl").read_text().splitlines()]
    assert [entry["doc_id"] for entry in entries if "skipped" in entry] == [1]
    assert "no picture at gone.png" in next(entry["skipped"] for entry in entries if "skipped" in entry)


def test_a_prompt_too_long_for_the_model_is_a_bad_document(tiny_folder):
    model = model_on(tiny_folder, [{}])
    with pytest.raises(ValueError, match="document 0 of fake is too long: .* the model has 2048 positions"):
        list(model.generate_until([asked("fake", 0, messages_of("word " * 3000, []))]))


def test_a_device_out_of_memory_gets_half_the_batch_and_says_so_once(tiny_folder, monkeypatch):
    model = model_on(tiny_folder, [{}] * 8, batch_size=8, continuous=False)
    sizes, told = [], []
    generate = model.model.generate

    def narrow(input_ids, **rest):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(input_ids, **rest)

    monkeypatch.setattr(model.model, "generate", narrow)
    monkeypatch.setattr(lmms.logger, "warning", told.append)
    requests = [asked("fake", i, messages_of("Hello?" * (i + 1), [])) for i in range(8)]
    found = [answer.text for answer in model.generate_until(requests)]
    assert told == [
        "out of memory with batches of 8; going on with 4",
        "out of memory with batches of 4; going on with 2",
    ]
    assert found == [answer.text for answer in model_on(tiny_folder, [{}] * 8).generate_until(requests)]


@pytest.mark.parametrize("given", [{"compile": True}, {"rule": "klass"}])
def test_settings_that_no_engine_steps_stay_in_batches(tiny_folder, given):
    model = model_on(tiny_folder, [{}] * 4, batch_size=4, continuous=True)
    sizes = []
    model.answer_batch = lambda batch: (sizes.append(len(batch)), [model.note(item, "a", 1, 1, 0.1) for item in batch])
    wishes = [{"gen_length": 4}, {"gen_length": 4} | given]
    requests = [asked("fake", i, messages_of("Hello?", []), wishes[i > 1]) for i in range(4)]
    answers = [answer.text for answer in model.generate_until(requests)]
    assert sizes == [2] and answers[2:] == ["a", "a"]


def test_what_was_answered_before_a_device_ran_out_of_memory_is_kept(tiny_folder, monkeypatch):
    model = model_on(tiny_folder, [{}] * 8, batch_size=8, continuous=True)
    asked_for, told = [], []

    def narrow(model, processor, questions, at_once):
        asked_for.append(len(questions))
        for number, found in enumerate(answer_together(model, processor, questions, at_once)):
            if number and at_once > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield found

    monkeypatch.setattr(lmms, "answer_together", narrow)
    monkeypatch.setattr(lmms.logger, "warning", told.append)
    requests = [asked("fake", i, messages_of("Hello?" * (i + 1), []), {"gen_length": 2 + i}) for i in range(8)]
    found = [answer.text for answer in model.generate_until(requests)]
    assert asked_for == [8, 7, 6]
    assert told == [
        "out of memory with batches of 8; going on with 4",
        "out of memory with batches of 4; going on with 2",
    ]
    assert found == [answer.text for answer in model_on(tiny_folder, [{}] * 8).generate_until(requests)]


@pytest.mark.parametrize("continuous", [True, False])
def test_a_document_too_large_alone_says_so(tiny_folder, monkeypatch, continuous):
    model = model_on(tiny_folder, [{}], continuous=continuous)

    def never(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.model, "generate", never)
    monkeypatch.setattr(model.model.model.language_model, "run", never)
    with pytest.raises(ValueError, match="document 0 of fake does not fit into the device's memory"):
        list(model.generate_until([asked("fake", 0, messages_of("Hello?", []))]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": "auto"}, "batch_size is 'auto'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"on_bad_document": "ignore"}, "on_bad_document is 'ignore'; choose one of error, skip"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"conv_template": "llava_llada"}, "model_args has conv_template; the model llada_v takes pretrained"),
        ({"reproduce_original": True}, "add --force_simple"),
        ({"read": "minds"}, "read is 'minds'; choose one of answers, choices"),
    ],
)
def test_a_wrong_argument_of_the_model_says_so(options, told):
    with pytest.raises(ValueError, match=told):
        lmms.LladaVChat(**options)


def test_a_folder_without_a_processor_says_so(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*", "processor*"))
    with pytest.raises(OSError, match="has no tokenizer.json"):
        lmms.LladaVChat(str(tmp_path / "model"), device="cpu")


def test_an_unknown_generation_setting_stops_before_the_first_answer(tiny_folder):
    model = model_on(tiny_folder, [{}] * 2)
    requests = [asked("fake", 0, messages_of("Hello?", [])), asked("fake", 1, messages_of("Hello?", []), {"cfg": 1})]
    with pytest.raises(ValueError, match="gen_kwargs has 'cfg', which is no setting; did you mean 'cfg_scale'"):
        next(model.generate_until(requests))


def test_guidance_reaches_the_sampler(tiny_folder, monkeypatch):
    model = model_on(tiny_folder, [{}])
    seen = []

    def watched(model, processor, questions, at_once):
        seen.extend(question.sampler for question in questions)
        return answer_together(model, processor, questions, at_once)

    monkeypatch.setattr(lmms, "answer_together", watched)
    list(model.generate_until([asked("fake", 0, messages_of("Hello?", []), {"gen_length": 4, "cfg_scale": 0.5})]))
    assert seen[0].cfg_scale == 0.5 and seen[0].gen_length == 4


def test_an_answer_ends_at_a_string_of_until(tiny_folder, monkeypatch):
    model = model_on(tiny_folder, [{}])
    monkeypatch.setattr(model.processor.tokenizer, "decode", lambda ids, **_: " first\nsecond ")
    found = list(
        model.generate_until([asked("fake", 0, messages_of("Hello?", []), {"gen_length": 4, "until": ["\n"]})])
    )
    assert found[0].text == "first"
