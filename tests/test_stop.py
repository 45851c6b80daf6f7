"""A stop that is asked for: whatever asks, the run saves, says so, leaves no process, and goes on the same."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from runs import ROOT, changes_for, largest_difference, losses, small_recipe, weights, words

from llada_v.training.launch import main as launch
from llada_v.training.saving import newest_checkpoint
from llada_v.training.stop import Stopped, StopPolitely
from llada_v.training.train import train
from llada_v.training.trainer import LladaVTrainer

SIGNALS = ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"]
RECIPE = "scripts/recipes/tiny/sft.yaml"
SHARDINGS = {
    "DDP": {},
    "ZeRO-2": {"deepspeed": "scripts/deepspeed/zero2.json"},
    "ZeRO-3": {"deepspeed": "scripts/deepspeed/zero3.json"},
    "FSDP2": {"fsdp": True},
}


@pytest.fixture
def recipe(tiny_folder, toys, tmp_path):
    """Twelve steps on the small world, read by two workers."""
    return small_recipe(tiny_folder, toys, tmp_path / "run", workers=2)


@pytest.fixture(scope="module")
def unbroken(tiny_folder, toys, tmp_path_factory):
    """The output of a run of eight steps that nothing stops."""
    return train(small_recipe(tiny_folder, toys, tmp_path_factory.mktemp("unbroken") / "run", epochs=2.0, workers=2))


@pytest.fixture(autouse=True)
def heard_signals():
    """Signals that end a program, also where nohup or a shell in the background had the tests ignore some."""
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in ("SIGHUP", "SIGINT")}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


class Started:
    """A run in a session of its own, started as a user would, with as many threads as this process; what it says."""

    def __init__(self, command, folder):
        self.log, self.output = folder / "log", folder / "run"
        threads = str(torch.get_num_threads())  # sums are added in another order by another number of them
        environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": threads}
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        self.seen = []

    def wait_for(self, text):
        """Wait until the run has said `text`."""
        end = time.monotonic() + 300
        while text not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.05)
        self.seen = [self.process.pid, *(child.pid for child in self.children())]

    def children(self):
        """All its processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, seconds=15):
        """Its exit status, once none of its processes is left, so many seconds later at most."""
        status = self.process.wait(timeout=300)
        left = [psutil.Process(pid) for pid in self.seen if psutil.pid_exists(pid)]
        left = psutil.wait_procs(left, timeout=seconds)[1]
        assert not left, left
        return status

    def told(self):
        """How the run stands."""
        return json.loads((self.output / "run.json").read_text())


def started(model, toys, folder, *devices, **changes):
    """A run of a tiny recipe: by the launcher on so many devices, or as one process."""
    given = words(changes_for(model, toys, folder / "run", workers=2, **changes))
    if devices:
        return Started(["bash", "scripts/launch.sh", RECIPE, *devices, *given], folder)
    return Started([sys.executable, "-m", "llada_v", "train", RECIPE, *given], folder)


# One process


@pytest.mark.parametrize("name", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.slow) for name in SIGNALS[1:])])
def test_a_signal_to_all_processes_of_a_run_saves_and_ends_it_with_status_0(
    tiny_folder, toys, tmp_path, unbroken, name
):
    run = started(tiny_folder, toys, tmp_path, save_steps=0, epochs=2.0)
    run.wait_for("step 1 of 8")
    os.killpg(run.process.pid, getattr(signal, name))
    assert run.end() == 0, run.log.read_text()[-3000:]
    told = run.told()
    assert told["status"] == "stopped" and told["why"] == name and 1 <= told["step"] < told["steps"] == 8
    assert newest_checkpoint(run.output).endswith(f"checkpoint-{told['step']}")
    assert f"{name}: stopped after step {told['step']} of 8, saved; the same command goes on" in run.log.read_text()
    assert not (run.output / "model.safetensors").exists()
    resumed = train(small_recipe(tiny_folder, toys, run.output, epochs=2.0, workers=2, save_steps=8))
    assert losses(resumed) == losses(unbroken) and list(losses(resumed)) == list(range(1, 9))
    assert largest_difference(weights(resumed), weights(unbroken)) == 0


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_before_the_first_step_ends_a_lone_process_at_once(name):
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(Stopped), StopPolitely():
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(5)
        pytest.fail("went on")
    assert signal.getsignal(getattr(signal, name)) is before


def test_a_signal_that_was_to_be_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopPolitely() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.why is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_killed_loader_worker_stops_the_run_after_its_step_and_it_goes_on_the_same(
    recipe, unbroken, monkeypatch, caplog
):
    """The rest of the step is read without workers, so that processes that wait for this one are not left alone."""
    caplog.set_level("INFO")
    recipe = replace(recipe, epochs=2.0)
    compute_loss, calls = LladaVTrainer.compute_loss, []

    def killing(trainer, *args, **kwargs):
        calls.append(0)
        if len(calls) == 1:
            for child in psutil.Process().children():
                child.kill()
        return compute_loss(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LladaVTrainer, "compute_loss", killing)
        with pytest.raises(Stopped):
            train(recipe)
    told = json.loads(open(f"{recipe.output}/run.json").read())
    assert told["status"] == "stopped" and told["why"] == "a loader's worker was killed" and told["step"] < 8
    assert "lower workers" in caplog.text
    resumed = train(recipe)
    assert losses(resumed) == losses(unbroken) and list(losses(resumed)) == list(range(1, 9))
    assert largest_difference(weights(resumed), weights(unbroken)) == 0


def test_an_error_of_a_record_in_a_worker_is_no_killed_worker(recipe, monkeypatch):
    monkeypatch.setattr("llada_v.training.records.check_length", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(replace(recipe, group_by_length=False))
    assert json.loads(open(f"{recipe.output}/run.json").read())["status"] == "failed"


@pytest.mark.slow
def test_workers_leave_when_a_run_is_killed_and_the_next_start_goes_on_the_same(tiny_folder, toys, tmp_path, unbroken):
    run = started(tiny_folder, toys, tmp_path, epochs=2.0)
    run.wait_for("step 3 of 8")
    run.process.kill()
    assert run.end() == -signal.SIGKILL
    assert run.told()["status"] == "running"
    resumed = train(small_recipe(tiny_folder, toys, run.output, epochs=2.0, workers=2))
    assert losses(resumed) == losses(unbroken)
    assert largest_difference(weights(resumed), weights(unbroken)) == 0


# The launcher


def test_a_launcher_without_processes_leaves_at_once(monkeypatch):
    def asked(words):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("went on")

    monkeypatch.setattr("llada_v.training.launch.torchrun", asked)
    monkeypatch.setattr(psutil.Process, "children", lambda process: [])
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as left:
            launch([])
        assert left.value.code == 0
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize(
    "name, to", [*((name, "the launcher") for name in SIGNALS), ("SIGTERM", "everything"), ("SIGUSR1", "everything")]
)
def test_a_signal_to_a_launched_run_saves_and_ends_it_with_status_0(tiny_folder, toys, tmp_path, sharding, name, to):
    """A terminal tells the launcher alone, a cluster every process of a job."""
    run = started(tiny_folder, toys, tmp_path, "1", "2", save_steps=0, **SHARDINGS[sharding])
    run.wait_for("step 1 of 9")
    for pid in run.seen if to == "everything" else run.seen[:1]:
        os.kill(pid, getattr(signal, name))
    assert run.end() == 0, run.log.read_text()[-3000:]
    told = run.told()
    assert told["status"] == "stopped" and told["why"] == name and 1 <= told["step"] < told["steps"] == 9
    assert newest_checkpoint(run.output).endswith(f"checkpoint-{told['step']}")
    assert "Traceback" not in run.log.read_text()


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_save_and_leave(tiny_folder, toys, tmp_path):
    run = started(tiny_folder, toys, tmp_path, "1", "2", save_steps=0)
    run.wait_for("step 1 of 9")
    run.process.kill()
    assert run.end(seconds=120) == -signal.SIGKILL
    told = run.told()
    assert told["status"] == "stopped" and told["why"] == "the launcher is gone" and told["step"] < 9
    assert newest_checkpoint(run.output).endswith(f"checkpoint-{told['step']}")
