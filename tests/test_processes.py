"""Promises of processes: whatever they leave half-done, they end."""

import subprocess
import sys

HALF_READ = """
import torch
from llada_v.processes import calm_worker

loader = torch.utils.data.DataLoader(range(1000), num_workers=2, worker_init_fn=calm_worker)
kept = iter(loader)  # as a traceback keeps it
next(kept)
{end}
"""


def ended(end):
    return subprocess.run([sys.executable, "-c", HALF_READ.format(end=end)], timeout=60, capture_output=True, text=True)


def test_a_process_that_keeps_deaf_workers_ends_all_the_same():
    assert ended("").returncode == 0


def test_so_does_one_that_an_error_ends():
    fault = ended("raise RuntimeError('a fault')")
    assert fault.returncode == 1 and "a fault" in fault.stderr
