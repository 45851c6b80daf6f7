"""Nodes that come and go: one that dies is waited for or done without, and the run goes on by itself."""

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
from runs import ROOT, changes_for, largest_difference, launch, losses, weights, words
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousConnectionError

from llada_v.toyworld.records import write_dataset
from llada_v.training import launch as launcher

RECIPE = "scripts/recipes/tiny/sft.yaml"
STEPS = 20
SIZE = {"global_batch_size": 8, "max_steps": STEPS, "save_steps": 3, "group_by_length": False}


class Node:
    """A launcher with one process, in a session of its own, as if it were a machine."""

    def __init__(self, nodes, given, port, log):
        self.command, self.log = ["bash", "scripts/launch.sh", RECIPE, nodes, "1", *given], log
        self.environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        self.environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.start()

    def start(self):
        """Switch it on."""
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=stream, stderr=stream, start_new_session=True
            )

    def power_off(self):
        """End all that runs on it at once."""
        top = psutil.Process(self.process.pid)
        for process in (top, *top.children(recursive=True)):
            process.kill()
        self.process.wait()

    def told(self):
        """All it has said."""
        return self.log.read_text()


def wait_for(output, steps, nodes, seconds=300):
    """Wait until so many steps have been logged."""
    end = time.monotonic() + seconds
    while not (output / "history.jsonl").is_file() or count_steps(output) < steps:
        assert time.monotonic() < end, [node.told()[-3000:] for node in nodes]
        time.sleep(0.05)


def count_steps(output):
    return sum('"loss"' in line for line in (output / "history.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "many", "train", 64, seed=0, style="instruct", max_turns=2)


@pytest.fixture(scope="module")
def unbroken(tiny_folder, many, tmp_path_factory):
    """The output of two processes that nothing breaks."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    done = launch("scripts/launch.sh", RECIPE, "1", "2", *words(changes_for(tiny_folder, many, output, **SIZE)))
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.mark.slow
@pytest.mark.parametrize("nodes", ["2:2", "1:2"], ids=["waits", "goes on alone"])
@pytest.mark.parametrize("dies", [0, 1], ids=["where all meet", "another"])
def test_a_run_goes_on_by_itself_when_a_node_has_died_and_come_back(tiny_folder, many, unbroken, tmp_path, nodes, dies):
    """One of two is killed with all that runs on it in the middle, and started again by the same line."""
    output, port = tmp_path / "run", free_port()
    given = words(changes_for(tiny_folder, many, output, **SIZE))
    both = [Node(nodes, given, port, tmp_path / f"log{number}") for number in range(2)]
    try:
        wait_for(output, 4, both)
        both.sort(key=lambda node: port not in listening(node.process.pid))
        both[dies].power_off()
        if nodes == "1:2":
            wait_for(output, 5, both)
        both[dies].start()
        statuses = [node.process.wait(timeout=400) for node in both]
    finally:
        for node in both:
            if node.process.poll() is None:
                node.power_off()
    assert statuses == [0, 0], [node.told()[-3000:] for node in both]
    assert "going on from" in "".join(node.told() for node in both)
    assert json.loads((output / "run.json").read_text())["status"] == "finished"
    ours, theirs = losses(output), losses(unbroken)
    difference = max(abs(ours[step] - theirs[step]) for step in theirs)
    print(f"{nodes}: losses {difference:.2g}, weights {largest_difference(weights(output), weights(unbroken)):.2g}")
    assert list(ours) == list(range(1, STEPS + 1))
    assert difference == 0 if nodes == "2:2" else difference < 1e-4


def listening(pid):
    """Ports that a process listens on."""
    return {found.laddr.port for found in psutil.Process(pid).net_connections() if found.status == "LISTEN"}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("errors, status", [([], 0), (["lost"] * 3, 0), (["lost", "closed"], 1)])
def test_a_launcher_looks_for_the_meeting_place_until_the_run_has_ended(errors, status, monkeypatch):
    kinds, left = {"lost": RendezvousConnectionError, "closed": RendezvousClosedError}, list(errors)

    def torchrun(words):
        if left:
            raise kinds[left.pop(0)]

    monkeypatch.setattr(launcher, "torchrun", torchrun)
    monkeypatch.setattr(launcher, "handle_stops", lambda handler: None)
    monkeypatch.setattr(launcher, "sleep", lambda seconds: None)
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "0")
    assert launcher.main([]) == status and not left


def test_a_launcher_gives_up_on_a_meeting_place_that_does_not_come_back(monkeypatch, capsys):
    def torchrun(words):
        raise RendezvousConnectionError

    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(launcher, "torchrun", torchrun)
    monkeypatch.setattr(launcher, "handle_stops", lambda handler: None)
    monkeypatch.setattr(launcher, "sleep", lambda seconds: None)
    monkeypatch.setattr(launcher, "monotonic", lambda: next(clock))
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "0")
    assert launcher.main([]) == 1
    assert "the node where all meet is not back" in capsys.readouterr().err
