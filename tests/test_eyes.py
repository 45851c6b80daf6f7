"""What one sees of a run: answers, curves, the page, the ends that a held-out loss brings; training does not notice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runs import largest_difference, losses, small_recipe, weights

from llada_v import load
from llada_v.charts import Drawing, Line, Sheet, lines, round_step, span_of
from llada_v.cli import main
from llada_v.toyworld.records import write_dataset
from llada_v.training import trainer as trainer_module
from llada_v.training.history import ANSWERS, HISTORY, best_measurement, read_lines, without_gain
from llada_v.training.page import PAGE, page, panels
from llada_v.training.train import train


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """A file of nine held-out records: one text alone, one video, the others with a picture."""
    folder = write_dataset(tmp_path_factory.mktemp("unseen") / "toys", "heldout", 9, seed=0, style="instruct")
    file = folder / "records.json"
    records = json.loads(file.read_text())
    for record in records:
        record["image"] = str(folder / record["image"])
    first = Path(records[1].pop("image"))
    records[1]["conversations"][0]["value"] = "What is <red> & round?"
    clip = folder / "clip"
    clip.mkdir()
    for number in range(3):
        (clip / f"{number}.png").write_bytes(first.read_bytes())
    records[4] |= {"video": str(clip)}
    del records[4]["image"]
    file.write_text(json.dumps(records))
    return str(file)


@pytest.fixture(scope="module")
def watched(tiny_folder, toys, unseen, tmp_path_factory):
    """The recipe and the output of a run with eyes: four steps, answers after the second and the fourth."""
    output = tmp_path_factory.mktemp("watched") / "run"
    recipe = small_recipe(tiny_folder, toys, output, epochs=1.0, save_steps=4, report_to=["tensorboard"])
    recipe = replace(recipe, eval_data=unseen, eval_steps=2, show_questions=3)
    return recipe, train(recipe)


def test_questions_are_answered_after_each_measurement_and_training_does_not_notice(watched, tmp_path):
    recipe, output = watched
    answers = read_lines(output / ANSWERS)
    assert [entry["step"] for entry in answers] == [2] * 3 + [4] * 3
    assert {entry["question"] for entry in answers} >= {"What is <red> & round?"}
    assert all(entry["truth"] and entry["forwards"] > 0 and "<image>" not in entry["question"] for entry in answers)
    plain = train(replace(recipe, output=str(tmp_path / "plain"), eval_data=None, eval_steps=0, show_questions=0))
    assert losses(output) == losses(plain) and largest_difference(weights(output), weights(plain)) == 0


def test_the_log_entries_say_lengths_masked_share_rates_and_norms_of_every_part(watched):
    entries = [entry for entry in read_lines(watched[1] / HISTORY) if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    for entry in entries:
        assert 0 < entry["masked_share"] < 1 < entry["mean_answer"] < entry["mean_length"]
        parts = [entry[f"grad_norm/{part}"] for part in ("vision_tower", "projector", "language_model")]
        assert sum(norm**2 for norm in parts) ** 0.5 == pytest.approx(entry["grad_norm"], rel=1e-4)
        assert {f"learning_rate/{part}" for part in ("vision_tower", "projector", "language_model")} <= entry.keys()


def test_the_page_holds_curves_pictures_questions_and_answers_and_needs_nothing_else(watched):
    text = (watched[1] / PAGE).read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("<svg") == len(panels(read_lines(watched[1] / HISTORY))) == 8
    assert text.count('src="data:image/webp;base64,') == 1 + 2  # a picture, two frames of the clip, none for the text
    assert "What is &lt;red&gt; &amp; round?" in text and "<red>" not in text
    assert 'class="status finished"' in text and text.count("1 before") == 3


def test_a_page_of_a_run_without_a_step_and_without_answers(tmp_path):
    assert "0 of 0" in page("run", "running", (0, 0), [], [], {}, {})


def test_tensorboard_gets_the_answers_as_a_table_and_the_pictures(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(Path(watched[1]).rglob("events.out*")).parent
    events = EventAccumulator(str(folder)).Reload()
    assert "answers/text_summary" in events.Tags()["tensors"]
    assert any(name.startswith("answers/") for name in events.Tags()["images"])


@pytest.mark.slow
def test_history_and_answers_go_on_from_a_checkpoint_as_if_nothing_had_been_behind_it(watched, tmp_path):
    recipe, output = watched
    later = tmp_path / "run"
    train(replace(recipe, output=str(later), max_steps=None, save_steps=2, save_total=9))
    (later / "model.safetensors").unlink()
    shutil.rmtree(later / "checkpoint-4")
    train(replace(recipe, output=str(later), save_steps=2, save_total=9))
    assert read_lines(later / ANSWERS) == read_lines(output / ANSWERS)
    ours, theirs = ([entry["step"] for entry in read_lines(folder / HISTORY)] for folder in (later, output))
    assert ours == theirs


def falling_then_rising(monkeypatch, values):
    """Have the measurements come out so."""
    found, evaluate = iter(values), trainer_module.LladaVTrainer.log

    def log(trainer, logs, *rest):
        if "eval_loss" in logs:
            logs["eval_loss"] = next(found)
        return evaluate(trainer, logs, *rest)

    monkeypatch.setattr(trainer_module.LladaVTrainer, "log", log)


def test_a_run_ends_where_the_held_out_loss_stops_falling_and_keeps_the_best_weights(
    tiny_folder, toys, unseen, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    recipe = small_recipe(tiny_folder, toys, tmp_path / "run", save_steps=2, epochs=2.0, eval_data=unseen)
    falling_then_rising(monkeypatch, [3.0, 2.0, 2.5, 2.0, 1.0])
    output = train(replace(recipe, eval_steps=1, early_stop=2, keep_best=True))
    told = json.loads((output / "run.json").read_text())
    assert (told["status"], told["step"]) == ("finished", 4)
    assert told["why"] == "the held-out loss has not fallen since step 2, where it was 2.0000"
    assert (output / "model.safetensors").is_file() and (output / "checkpoint-4").is_dir()
    assert largest_difference(weights(output / "best"), weights(output / "checkpoint-2")) == 0
    load(output / "best")
    # Killed before it was finished, it ends at once.
    (output / "model.safetensors").unlink()
    train(replace(recipe, eval_steps=1, early_stop=2, keep_best=True))
    assert (output / "model.safetensors").is_file() and "step 5 of" not in caplog.text


def test_what_needs_held_out_records_says_so(watched):
    with pytest.raises(ValueError, match="show_questions is 3, which needs eval_data; name some records"):
        replace(watched[0], eval_data=None, eval_steps=0)
    with pytest.raises(ValueError, match="show_questions is 3, but style caption answers no questions"):
        replace(watched[0], style="caption")


def test_the_best_measurement_is_the_first_of_equals_and_what_follows_it_is_counted():
    history = [{"step": 1, "loss": 5.0}] + [{"step": n, "eval_loss": v} for n, v in ((1, 2.0), (2, 1.0), (3, 1.0))]
    assert best_measurement(history) == (2, 1.0) and without_gain(history) == 1
    assert best_measurement([]) is None and without_gain([]) == 0


# llada-v runs


def test_runs_prints_what_a_run_did_and_draws_its_curves(watched, capsys, tmp_path):
    assert main(["runs", str(watched[1]), "--plot", str(tmp_path / "curves.png")]) == 0
    told = capsys.readouterr().out
    assert "finished" in told and "4 of 4" in told and "held-out loss" in told and str(tmp_path / "curves.png") in told
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["runs", str(tmp_path)]) == 2
    assert f"no run in {tmp_path}" in capsys.readouterr().err


# Lines


@pytest.mark.parametrize("sheet", [Sheet, Drawing])
def test_lines_are_drawn_for_one_value_for_equal_ones_and_for_none(sheet):
    for found in ([], [Line("a", [1], [2.0])], [Line("a", [1, 2], [0.0, 0.0])], [Line("b", [], [])]):
        assert lines(found, "Loss", sheet_class=sheet)
    many = Line("noisy", list(range(5000)), [9.0] + [1.0] * 4999, is_noisy=True)
    assert lines([many], "Loss", sheet_class=sheet)


def test_an_axis_has_round_steps_and_leaves_out_the_first_values_of_a_noisy_line():
    assert [round_step(size) for size in (0.011, 0.2, 3, 70)] == pytest.approx([0.02, 0.2, 5, 100])
    low, high, _ = span_of([Line("a", range(100), [50.0] + [1.0 + n / 100 for n in range(99)], is_noisy=True)])
    assert low == 1.0 and high <= 2.5
