"""What a run leaves on disk: whole checkpoints or none, an honest origin, and clear words where it cannot go on."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from runs import ROOT, changes_for, largest_difference, losses, small_recipe, weights, words

from llada_v.training import saving
from llada_v.training.recipe import load_recipe
from llada_v.training.saving import check_output, newest_checkpoint, write_origin
from llada_v.training.train import Stopped, train
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
    assert stopped.value.code == 143
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


def test_only_so_many_checkpoints_are_kept_and_nothing_unfinished(recipe):
    output = train(replace(recipe, epochs=1.0, save_steps=1, save_total=2))
    assert sorted(folder.name for folder in output.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert not (output / ".writing").exists()


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
        command = [sys.executable, "-c", KILLING, name, str(number), "scripts/recipes/tiny/instruct.yaml"]
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


# Where the weights come from


def test_recipe_revision_and_packages_lie_beside_the_weights(recipe):
    write_origin(recipe, num_devices=3)
    assert load_recipe(os.path.join(recipe.output, "recipe.yaml")) == recipe
    with open(os.path.join(recipe.output, "environment.json")) as stream:
        environment = json.load(stream)
    assert environment["packages"]["torch"] == torch.__version__ and environment["devices"] == 3
    revision = environment["revision"]
    assert revision is None or len(revision.removesuffix("+")) == 40


def finished(recipe, *names):
    """Make the output folder of the recipe look used."""
    write_origin(recipe, 1)
    for name in names:
        file = os.path.join(recipe.output, name)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        open(file, "w").close()


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint-2/trainer_state.json", "adapter_model.safetensors"])
def test_an_output_folder_of_another_recipe_is_refused_with_the_keys_that_differ(recipe, name):
    finished(recipe, name)
    check_output(recipe)
    check_output(replace(recipe, save_steps=7, workers=3))  # these move no weight
    with pytest.raises(
        ValueError, match=r"made by another recipe \(epochs 3.0 there, 5.0 here, seed 42 there, 1 here\)"
    ):
        check_output(replace(recipe, epochs=5.0, seed=1))


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
