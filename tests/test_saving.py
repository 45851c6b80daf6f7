"""What a run leaves on disk: whole checkpoints or none, an honest origin, and clear words where it cannot go on."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from runs import ROOT, changes_for, largest_difference, losses, small_recipe, weights, words

from llada_v.training import output as output_module
from llada_v.training import saving, stop
from llada_v.training.after_save import AfterSave
from llada_v.training.output import check_data, check_output, held, write_origin
from llada_v.training.recipe import load_recipe
from llada_v.training.records import RecordDataset
from llada_v.training.saving import SEAL, newest_checkpoint, whole_checkpoint
from llada_v.training.stop import Stopped
from llada_v.training.train import train
from llada_v.training.trainer import LladaVTrainer


@pytest.fixture
def recipe(tiny_folder, toys, tmp_path):
    """Twelve steps on the small world."""
    return small_recipe(tiny_folder, toys, tmp_path / "run")


def at_call(monkeypatch, name, number, action):
    """Do something at the `number`-th call of a method of the trainer, before the method itself."""
    method, calls = getattr(LladaVTrainer, name), []

    def wrapped(trainer, *args, **kwargs):
        calls.append(trainer.state.global_step)
        if len(calls) == number:
            action()
        return method(trainer, *args, **kwargs)

    monkeypatch.setattr(LladaVTrainer, name, wrapped)


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


# A checkpoint is whole or it is not there


def test_what_was_not_written_to_its_end_is_passed_over(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / ".writing" / "checkpoint-12").mkdir(parents=True)
    for folder in ("checkpoint-2", "checkpoint-9", ".writing/checkpoint-12"):
        (tmp_path / folder / "trainer_state.json").touch()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")


def test_a_run_that_is_asked_to_stop_saves_the_step_it_is_in_and_goes_on_the_same(recipe, tmp_path, monkeypatch):
    recipe = replace(recipe, epochs=1.0, save_steps=4)
    unbroken = train(replace(recipe, output=str(tmp_path / "unbroken")))
    with monkeypatch.context() as patch:
        at_call(patch, "compute_loss", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped) as stopped:
            train(recipe)
    assert stopped.value.code == 0
    assert newest_checkpoint(recipe.output).endswith("checkpoint-2")  # of two forward passes a step the third
    resumed = train(recipe)
    assert losses(resumed) == losses(unbroken) and list(losses(resumed)) == [1, 2, 3, 4]
    assert largest_difference(weights(resumed), weights(unbroken)) == 0


def test_a_run_that_was_killed_before_its_finished_model_only_writes_that(recipe, monkeypatch):
    recipe = replace(recipe, epochs=0.5)
    output = train(recipe)
    before = weights(output)
    os.remove(output / "model.safetensors")
    at_call(monkeypatch, "compute_loss", 1, lambda: pytest.fail("a step was taken"))
    assert largest_difference(weights(train(recipe)), before) == 0
    assert newest_checkpoint(output).endswith("checkpoint-2")


# A damaged checkpoint


EMPTY = ["optimizer.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "scheduler.pt", SEAL]


@pytest.fixture(scope="module")
def two_checkpoints(tiny_folder, toys, tmp_path_factory):
    """The output of four steps with checkpoints of the second and the fourth."""
    return train(small_recipe(tiny_folder, toys, tmp_path_factory.mktemp("two") / "run", epochs=1.0, save_steps=2))


def broken(two_checkpoints, output, name, text=b""):
    """A copy of the output whose newest checkpoint has other bytes in one file."""
    shutil.copytree(two_checkpoints, output)
    file = output / "checkpoint-4" / name
    file.write_bytes(text)
    return file


@pytest.mark.parametrize("name", EMPTY)
def test_a_damaged_checkpoint_is_named_and_set_aside_for_the_one_before_it(two_checkpoints, tmp_path, name, caplog):
    output = tmp_path / "run"
    broken(two_checkpoints, output, name)
    assert whole_checkpoint(output) == str(output / "checkpoint-2")
    assert f"checkpoint-4 is damaged ({name} " in caplog.text
    assert (output / "damaged-checkpoint-4" / name).is_file() and not (output / "checkpoint-4").exists()


def test_a_changed_byte_and_a_missing_file_are_damage_and_a_second_one_is_kept_too(two_checkpoints, tmp_path, caplog):
    output = tmp_path / "run"
    file = broken(two_checkpoints, output, "model.safetensors")
    whole = (two_checkpoints / "checkpoint-4" / "model.safetensors").read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.remove(output / "checkpoint-2" / "optimizer.pt")
    (output / "damaged-checkpoint-4").mkdir()
    assert whole_checkpoint(output) is None
    assert "model.safetensors is not what was written" in caplog.text and "optimizer.pt is missing" in caplog.text
    assert (output / "damaged-checkpoint-4-2" / SEAL).is_file()


def test_a_checkpoint_without_a_list_of_its_files_is_taken_unless_a_file_is_empty(two_checkpoints, tmp_path):
    output = tmp_path / "run"
    for name in (SEAL, "optimizer.pt"):
        shutil.rmtree(output, ignore_errors=True)
        broken(two_checkpoints, output, name)
        os.remove(output / "checkpoint-4" / SEAL)
        assert whole_checkpoint(output) == str(output / ("checkpoint-4" if name == SEAL else "checkpoint-2"))


def test_a_run_goes_on_the_same_from_before_a_damaged_checkpoint(two_checkpoints, tiny_folder, toys, tmp_path):
    output = tmp_path / "run"
    broken(two_checkpoints, output, "optimizer.pt")
    os.remove(output / "model.safetensors")
    recipe = small_recipe(tiny_folder, toys, output, epochs=1.0, save_steps=2)
    assert losses(train(recipe)) == losses(two_checkpoints)
    assert largest_difference(weights(output), weights(two_checkpoints)) == 0


def test_only_so_many_checkpoints_are_kept_and_nothing_unfinished(recipe):
    output = train(replace(recipe, epochs=1.0, save_steps=1, save_total=2))
    assert sorted(folder.name for folder in output.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert not (output / ".writing").exists()


def test_a_checkpoint_is_due_after_so_many_minutes(recipe, monkeypatch):
    """By a clock on which a minute goes by at each look: at the beginning, after each step, and after a checkpoint."""
    clock = iter(range(0, 60_000, 60))
    monkeypatch.setattr(stop, "monotonic", lambda: next(clock))
    output = train(replace(recipe, max_steps=5, save_steps=0, save_minutes=1.5))
    assert sorted(folder.name for folder in output.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_max_steps_take_the_place_of_epochs(recipe):
    output = train(replace(recipe, max_steps=5, save_steps=5))
    history = json.loads((output / "checkpoint-5" / "trainer_state.json").read_text())
    rates = [entry["learning_rate"] for entry in history["log_history"] if "loss" in entry]
    assert len(rates) == 5 and rates[-1] < 0.2 * max(rates)  # the cosine ends there
    with pytest.raises(ValueError, match="max_steps is 0; it must be a whole number from 1 to"):
        replace(recipe, max_steps=0)


def test_without_save_steps_only_the_finished_model_is_saved(recipe):
    output = train(replace(recipe, epochs=0.25, save_steps=0))
    assert not list(output.glob("checkpoint-*")) and (output / "model.safetensors").is_file()


KILLING = """
import os, signal, sys
from llada_v.cli import main
from llada_v.training.trainer import LladaVTrainer

name, number, calls = sys.argv[1], int(sys.argv[2]), []
method = getattr(LladaVTrainer, name)

def wrapped(*args, **kwargs):
    calls.append(name)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*args, **kwargs)

setattr(LladaVTrainer, name, wrapped)
main(["train", *sys.argv[3:]])
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(tiny_folder, toys, tmp_path):
    def run(output, name="compute_loss", number=0):
        command = [sys.executable, "-c", KILLING, name, str(number), "scripts/recipes/tiny/sft.yaml"]
        command += words(changes_for(tiny_folder, toys, tmp_path / output))
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )

    assert run("unbroken").returncode == 0
    passes = random.Random(7).sample(range(4, 9), 2)  # two forward passes a step: inside its first two to four steps
    for name, number in (("compute_loss", passes[0]), ("_save_rng_state", 1), ("compute_loss", passes[1])):
        killed = run("killed", name, number)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "killed" / "model.safetensors").exists()
        assert (tmp_path / "killed" / ".writing").exists() == (name == "_save_rng_state")
    assert run("killed").returncode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "unbroken")
    assert list(losses(tmp_path / "killed")) == list(range(1, 13))
    assert largest_difference(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) == 0


# A full disk


def test_a_full_disk_ends_the_run_with_what_to_do_and_keeps_what_is_whole(recipe, monkeypatch):
    at_call(monkeypatch, "_save_rng_state", 2, full_disk)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="the disk of .*run is full; free space .* goes on from .*checkpoint-2"):
        train(recipe)
    assert signal.getsignal(signal.SIGTERM) is before
    assert newest_checkpoint(recipe.output).endswith("checkpoint-2")
    assert not os.path.exists(os.path.join(recipe.output, ".writing"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/0"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_library_s_full_disk_is_recognised(tmp_path, error):
    with pytest.raises(OSError, match="the disk of .* is full; .* from the beginning"), saving.disk_errors(tmp_path):
        raise error
    with pytest.raises(ZeroDivisionError), saving.disk_errors(tmp_path):
        raise ZeroDivisionError


def test_a_disk_too_small_for_a_checkpoint_is_refused_before_the_first_step(recipe, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda folder: usage(30_000_000))
    # 3.8 million weights and two moments of each, in float32
    with pytest.raises(OSError, match="has 0.0 GB free, one checkpoint takes about 0.0 GB; free space"):
        train(recipe)


def test_a_log_that_cannot_be_written_is_told_once_and_ends_nothing(recipe, monkeypatch, caplog):
    def failing(handler, record):
        try:
            full_disk()
        except OSError:
            handler.handleError(record)

    monkeypatch.setattr(output_module.LogFile, "emit", failing)
    output = train(replace(recipe, max_steps=1, save_steps=0))
    assert (output / "model.safetensors").is_file()
    assert caplog.text.count("train.log cannot be written: [Errno 28] No space left on device") == 1


def test_a_disk_that_is_full_everywhere_still_ends_with_what_to_do(recipe, monkeypatch):
    note = LladaVTrainer.note

    def noted(trainer, status, *why):
        full_disk() if status == "failed" else note(trainer, status, *why)

    monkeypatch.setattr(LladaVTrainer, "note", noted)
    at_call(monkeypatch, "compute_loss", 3, full_disk)
    with pytest.raises(OSError, match="the disk of .*run is full; free space"):
        train(recipe)


# Where the weights come from


def test_recipe_revision_and_packages_lie_beside_the_weights(recipe):
    write_origin(recipe, num_devices=3)
    assert load_recipe(os.path.join(recipe.output, "recipe.yaml")) == recipe
    with open(os.path.join(recipe.output, "environment.json")) as stream:
        environment = json.load(stream)
    assert environment["packages"]["torch"] == version("torch") and environment["devices"] == 3
    revision = environment["revision"]
    assert revision is None or len(revision.removesuffix("+")) == 40


def finished(recipe, *names):
    """Make the output folder of the recipe look used."""
    write_origin(recipe, 1)
    for name in names:
        file = os.path.join(recipe.output, name)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        open(file, "w").close()


MAY_CHANGE = {
    "on_bad_record": "skip",
    "on_changed_data": "go_on",
    "max_bad_share": 0.5,
    "workers": 3,
    "save_steps": 7,
    "save_total": 1,
    "save_minutes": 15.0,
    "on_save": "true",
    "log_steps": 9,
    "report_to": ["wandb"],
    "peak_tflops": 5.0,
    "index_folder": "elsewhere",
    "gradient_checkpointing": True,
    "attn_implementation": "eager",
    "micro_batch_size": 1,
    "pad_to_multiple_of": 8,
}
MUST_EQUAL = {
    "epochs": 5.0,
    "seed": 1,
    "model": "another",
    "learning_rate": 1.0,
    "global_batch_size": 8,
    "train_eos_padding": True,
    "bf16": True,
    "max_length": 99,
    "t_min": 0.1,
    "data": "other.json",
}


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint-2/trainer_state.json", "adapter_model.safetensors"])
def test_an_output_folder_of_another_recipe_is_refused_with_the_keys_that_differ(recipe, name):
    finished(recipe, name)
    check_output(recipe)
    with pytest.raises(
        ValueError, match=r"made by another recipe \(epochs 3.0 there, 5.0 here, seed 42 there, 1 here\)"
    ):
        check_output(replace(recipe, epochs=5.0, seed=1, workers=3))


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_what_does_not_change_what_is_learned_may_change_and_is_said(recipe, key, caplog):
    caplog.set_level("INFO")
    finished(recipe, "checkpoint-2/trainer_state.json")
    check_output(replace(recipe, **{key: MAY_CHANGE[key]}))
    assert (
        f"changed since {recipe.output} was made: {key} {getattr(recipe, key)} there, {MAY_CHANGE[key]} here"
        in caplog.text
    )


@pytest.mark.parametrize("key", MUST_EQUAL)
def test_what_changes_what_is_learned_must_be_equal(recipe, key):
    finished(recipe, "checkpoint-2/trainer_state.json")
    with pytest.raises(ValueError, match=f"made by another recipe .{key} "):
        check_output(replace(recipe, **{key: MUST_EQUAL[key]}))


@pytest.mark.parametrize("key", ["micro_batch_size", "pad_to_multiple_of"])
def test_filler_that_is_trained_must_stay_the_same(recipe, key):
    recipe = replace(recipe, train_eos_padding=True)
    finished(recipe, "checkpoint-2/trainer_state.json")
    with pytest.raises(ValueError, match=f"made by another recipe .{key} "):
        check_output(replace(recipe, **{key: MAY_CHANGE[key]}))


# The records


def index_of(recipe, folder, data):
    """The index over the records in a file."""
    return RecordDataset(replace(recipe, data=str(data), index_folder=str(folder)), None).records.index


def test_other_records_than_a_run_began_with_are_refused_unless_it_is_told_to_go_on(recipe, toys, tmp_path, caplog):
    records = json.loads((toys / "records.json").read_text())
    data = tmp_path / "records.json"
    data.write_text(json.dumps(records))
    check_data(recipe, index_of(recipe, tmp_path / "index", data))
    finished(recipe, "checkpoint-2/trainer_state.json")
    check_data(recipe, index_of(recipe, tmp_path / "index", data))
    # The same records elsewhere, newer and in other lines, are the same.
    moved = tmp_path / "moved.jsonl"
    moved.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    check_output(replace(recipe, data=str(moved), image_root="elsewhere"))
    check_data(recipe, index_of(recipe, tmp_path / "elsewhere", moved))
    for others, told in ((records[1:], "14 there, 13 here"), (records[::-1], "14, but other ones")):
        data.write_text(json.dumps(others))
        index = index_of(recipe, tmp_path / "index", data)
        with pytest.raises(ValueError, match=f"are not those that .* was trained on .{told}.*--on_changed_data go_on"):
            check_data(recipe, index)
    check_data(replace(recipe, on_changed_data="go_on"), index)
    assert "going on with the new ones" in caplog.text
    check_data(recipe, index)


def test_a_key_that_an_older_recipe_lacks_does_not_count(recipe):
    finished(recipe, "model.safetensors")
    file = os.path.join(recipe.output, "recipe.yaml")
    with open(file) as stream:
        lines = [line for line in stream if not line.startswith("seed")]
    with open(file, "w") as stream:
        stream.writelines(lines)
    check_output(replace(recipe, seed=1))


def test_without_its_recipe_a_folder_goes_on_with_another_one_unless_it_holds_a_model_alone(recipe, tiny_folder):
    finished(recipe, "checkpoint-2/trainer_state.json")
    os.remove(os.path.join(recipe.output, "recipe.yaml"))
    check_output(replace(recipe, epochs=5.0))
    with pytest.raises(ValueError, match="holds a model that no recipe has made; choose another output"):
        check_output(replace(recipe, output=str(tiny_folder)))


# One run at a time


def test_a_second_run_on_one_output_is_refused_at_its_start_and_a_killed_one_holds_nothing(recipe):
    """Another process that has forked workers holds the folder; they outlive it for a moment."""
    holding = """
import multiprocessing, sys, time
from llada_v.training.output import held
with held(sys.argv[1]):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    print("held", flush=True)
    time.sleep(60)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", holding, recipe.output]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"another run is at work in .*run .process {process.pid} on .* since "):
            train(recipe)
        process.kill()
        process.wait()
        with held(recipe.output):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_an_output_that_cannot_be_written_is_said_with_what_to_do(recipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write into .*file/run: .*; choose another output"):
        train(replace(recipe, output=str(tmp_path / "file" / "run")))


# A finished model


@pytest.mark.parametrize("epochs", [0.0, -1.0])
def test_a_model_that_took_no_step_is_not_published(recipe, epochs):
    try:
        recipe = replace(recipe, epochs=epochs)
    except ValueError:
        return  # the recipe refuses it already
    with pytest.raises(ValueError, match="0 optimizer steps were taken, of .* that epochs .* make"):
        train(recipe)
    assert not os.path.exists(os.path.join(recipe.output, "model.safetensors"))


def test_a_model_that_took_fewer_steps_than_were_planned_is_not_published(recipe, monkeypatch):
    monkeypatch.setattr(LladaVTrainer, "_run_epoch", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match="0 optimizer steps were taken, of 12 that epochs 3 and max_steps None make"):
        train(recipe)
    assert not os.path.exists(os.path.join(recipe.output, "model.safetensors"))


def test_a_run_writes_its_log_and_the_traceback_of_what_ended_it_into_the_output(recipe, monkeypatch):
    monkeypatch.setattr(LladaVTrainer, "compute_loss", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(recipe)
    text = (Path(recipe.output) / "train.log").read_text()
    assert "trainable parameters" in text and "Traceback" in text and "ZeroDivisionError: division by zero" in text
    told = json.loads((Path(recipe.output) / "run.json").read_text())
    assert told == {"status": "failed", "step": 0, "steps": 12, "why": "ZeroDivisionError: division by zero"}


# A command after each checkpoint


def test_a_command_gets_each_checkpoint_and_the_finished_model(recipe, tmp_path):
    told = tmp_path / "told"
    command = f'test -f "$LLADA_V_SAVED/model.safetensors" && echo "$LLADA_V_STEP $LLADA_V_SAVED" >> {told}'
    output = train(replace(recipe, epochs=0.5, save_steps=1, on_save=command))
    steps = [line.split(" ", 1) for line in told.read_text().splitlines()]
    # The first is never passed over, and the last is the model.
    assert steps[0] == ["1", str(output / "checkpoint-1")] and steps[-1] == ["2", str(output)]


def test_a_checkpoint_that_the_command_is_at_work_on_stays_and_the_next_one_is_passed_over(tmp_path, caplog):
    after = AfterSave('while [ ! -e "$LLADA_V_OUTPUT/go" ]; do sleep 0.05; done; exit 3', tmp_path)
    folders = []
    for number in (1, 2, 3):
        written = saving.clear_writing(tmp_path) / f"checkpoint-{number}"
        written.mkdir()
        (written / "trainer_state.json").write_text("{}")
        saving.publish_checkpoint(written, tmp_path, 1, after.busy_with())
        folders.append(tmp_path / written.name)
        after.start(folders[-1], number)
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert f"on_save is still at work on {folders[0]}: {folders[2]} is passed over" in caplog.text
    (tmp_path / "go").touch()
    after.wait()
    assert f"on_save ended with status 3 for {folders[0]}" in caplog.text and after.busy_with() is None
