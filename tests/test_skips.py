"""No test is skipped in CI for a missing package, and what needs a GPU is named."""

import os
import subprocess
import sys

import pytest

from llada_v.shipped import ROOT

TEXT = """
import pytest
MARK
def test_it():
    BODY
"""


@pytest.fixture
def run(tmp_path):
    """run(body, mark, ci): (status, output) of pytest on one test."""

    def start(body="pass", mark="", ci="true"):
        (tmp_path / "test_one.py").write_text(TEXT.replace("MARK", mark).replace("BODY", body))
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\naddopts = -m 'not gpu' -p skips -p no:cacheprovider\nmarkers = gpu: asks for one\n"
        )
        environment = os.environ | {"CI": ci, "PYTHONPATH": str(ROOT / "tests")}
        command = [sys.executable, "-m", "pytest", "-q", str(tmp_path)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout

    return start


@pytest.mark.parametrize("body", ["pytest.importorskip('no_such_package')", "pytest.skip('not today')"])
def test_a_skip_fails_the_run_in_ci_alone(run, body):
    status, output = run(body)
    assert status == 1 and "SKIPPED test_one.py::test_it: " in output
    assert run(body, ci="")[0] == 0


def test_a_skip_for_want_of_a_gpu_is_listed_and_allowed(run):
    status, output = run("pytest.skip('needs a CUDA device')")
    assert status == 0 and "NOT RUN test_one.py::test_it: needs a CUDA device" in output


def test_a_test_marked_gpu_that_is_left_out_is_listed(run):
    assert "NOT RUN test_one.py::test_it: needs a CUDA device" in run(mark="@pytest.mark.gpu")[1]


def test_a_run_without_skips_is_green(run):
    assert run()[0] == 0
