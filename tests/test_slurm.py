"""A job that goes back into Slurm's queue until its run is finished. Slurm's commands, and for all but one test Python,
are stand-ins: what is tested is what the script makes of them."""

import os
import signal
import subprocess
import sys
import time

import pytest
from runs import ROOT, changes_for, words

from llada_v.training.history import HISTORY, read_lines

STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do echo "srun $1" >>"$SAID"; shift; done\nexec "$@"',
    "scontrol": 'if [ "$1" = show ]; then printf "first\\nsecond\\n"; else echo "scontrol $*" >>"$SAID"; fi',
    # A dry run names the output; a run does what $DOES says, and hears a stop as the launcher does.
    "python": """
if [[ " $* " == *" --dry-run "* ]]; then echo "output: $OUTPUT"; exit; fi
echo "python $*" >>"$SAID"
note() { printf '{\\n "status": "%s",\\n "step": %s,\\n "steps": 9\\n}\\n' "$1" "$2" >"$OUTPUT/run.json"; }
stopped() { note stopped "${STOPS_AT:-5}"; exit 0; }
trap stopped USR1 TERM
case $DOES in
    finishes) note finished 9 ;;
    fails) exit 3 ;;
    waits) note running 2; echo ready >>"$SAID"; for _ in $(seq 300); do sleep 0.1; done ;;
esac
""",
}


class Job:
    """The script as Slurm would run it in a job of two nodes."""

    def __init__(self, folder, *given, **variables):
        self.said = folder / "said"
        for name, text in STAND_INS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / name).chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SAID": str(self.said)}
        environment |= {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "some[1-2]"}
        environment |= {"SLURM_NODEID": "0", "SLURM_GPUS_ON_NODE": "4", "PYTHON": str(folder / "python")}
        environment |= {"OUTPUT": str(folder), "CUDA_VISIBLE_DEVICES": ""} | variables
        environment.pop("NODE_RANK", None)
        self.process = subprocess.Popen(
            ["bash", "scripts/slurm.sbatch", *given], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )

    def wait_for(self, text):
        """Wait until a stand-in has said this."""
        end = time.monotonic() + 60
        while not self.said.is_file() or text not in self.said.read_text():
            assert self.process.poll() is None and time.monotonic() < end
            time.sleep(0.02)

    def end(self):
        """Status, what the stand-ins were told, and errors."""
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, self.said.read_text().splitlines(), errors


def test_a_job_before_its_limit_saves_and_goes_back_into_the_queue(tmp_path):
    job = Job(tmp_path, "si_10M", "--epochs", "2", DOES="waits")
    job.wait_for("ready")
    job.process.send_signal(signal.SIGUSR1)
    status, said, errors = job.end()
    assert status == 0, errors
    assert said[0] == "srun --kill-on-bad-exit=1" and said[-1] == "scontrol requeue 17"
    assert "--nnodes 2 --node-rank 0 --master-addr first " in said[1]
    assert said[1].endswith("--nproc-per-node 4 -m llada_v train scripts/recipes/si_10M.yaml --epochs 2")


def test_a_job_that_goes_on_without_dead_nodes_needs_no_number(tmp_path):
    status, said, errors = Job(tmp_path, "si_10M", DOES="finishes", MIN_NODES="1").end()
    assert status == 0, errors
    assert said[0] == "srun --kill-on-bad-exit=0" and "--nnodes 1:2 --rdzv-backend c10d" in said[1]


@pytest.mark.parametrize("does, expected", [("finishes", 0), ("fails", 3)])
def test_a_job_that_is_finished_or_fails_does_not_go_back(tmp_path, does, expected):
    status, said, _ = Job(tmp_path, "si_10M", DOES=does).end()
    assert status == expected and not any("requeue" in line for line in said)


def test_a_job_that_takes_no_step_does_not_go_back_for_ever(tmp_path):
    (tmp_path / "run.json").write_text('{\n "status": "stopped",\n "step": 5,\n "steps": 9\n}\n')
    job = Job(tmp_path, "si_10M", DOES="waits")
    job.wait_for("ready")
    job.process.send_signal(signal.SIGUSR1)
    status, said, errors = job.end()
    assert status == 1 and "not a step was taken before the time limit" in errors
    assert not any("requeue" in line for line in said)


def test_a_job_that_is_cancelled_saves_and_does_not_go_back(tmp_path):
    job = Job(tmp_path, "si_10M", DOES="waits")
    job.wait_for("ready")
    job.process.send_signal(signal.SIGTERM)  # scancel tells the script and the nodes
    subprocess.run(["pkill", "-TERM", "-P", str(job.process.pid)], check=True)
    status, said, errors = job.end()
    assert status == 0 and not any("requeue" in line for line in said), errors


@pytest.mark.slow
def test_a_run_that_goes_through_the_queue_ends_as_if_it_had_not(tiny_folder, toys, tmp_path):
    """With the real Python: one node of two processes, told once of its limit, then started again as Slurm would."""
    real = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    changes = changes_for(tiny_folder, toys, tmp_path / "run", save_steps=0, epochs=2.0)
    given = ["scripts/recipes/tiny/sft.yaml", *words(changes)]
    job = Job(tmp_path, *given, **real)
    log = tmp_path / "run" / "train.log"
    end = time.monotonic() + 300
    while not log.is_file() or "step 2 of" not in log.read_text():
        assert job.process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    job.process.send_signal(signal.SIGUSR1)
    errors = job.process.communicate(timeout=300)[1]
    assert job.process.returncode == 0 and "scontrol requeue 17" in job.said.read_text(), errors
    job = Job(tmp_path, *given, **real | {"SLURM_RESTART_COUNT": "1"})
    errors = job.process.communicate(timeout=300)[1]
    assert job.process.returncode == 0 and job.said.read_text().count("requeue") == 1, errors
    assert "going on from" in log.read_text() and (tmp_path / "run" / "model.safetensors").is_file()
    taken = [entry["step"] for entry in read_lines(tmp_path / "run" / HISTORY) if "loss" in entry]
    assert (
        taken == list(range(1, taken[-1] + 1)) and f'"steps": {taken[-1]},' in (tmp_path / "run/run.json").read_text()
    )
