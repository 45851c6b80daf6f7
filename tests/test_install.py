"""What init_env.sh installs is what was tested, and a machine that it does not fit is told so in one line."""

import re
import shutil
import stat
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from llada_v.shipped import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_LOCKED = {"torch", "flash-attn", "llada-v"}  # see constraints.txt; it is built for a torch; ourselves
SCRIPT = (ROOT / "init_env.sh").read_text()


def key_of(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def direct():
    """Every requirement that pyproject.toml states."""
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return [Requirement(line) for line in lines]


def pins():
    """(marker, version) of every line of the lock, by package."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(key_of(pin.name), []).append(next(iter(pin.specifier)).version)
    return found


def test_the_lock_pins_all_that_the_project_names_within_its_bounds():
    locked = pins()
    for requirement in direct():
        name = key_of(requirement.name)
        if name not in NOT_LOCKED:
            assert all(Version(version) in requirement.specifier for version in locked[name]), name


def test_the_lock_says_which_torch_it_was_made_for():
    torch = re.search("^# torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert torch in next(requirement for requirement in direct() if requirement.name == "torch").specifier


def test_every_dependency_has_a_lower_bound_and_an_upper_one_or_is_a_tool():
    tools = {"build", "mypy", "ninja", "pre-commit", "types-PyYAML", "types-tqdm", "uv"}
    for requirement in direct():
        kinds = {specifier.operator for specifier in requirement.specifier}
        bounded = kinds in ({"=="}, {">=", "<"}) or requirement.name in tools and ">=" in kinds
        assert bounded or requirement.name == "llada-v", str(requirement)


def test_the_extra_for_tests_has_every_other_but_what_needs_a_gpu_a_browser_or_a_cluster():
    whole = next(requirement for requirement in map(Requirement, EXTRAS["dev"]) if requirement.name == "llada-v")
    assert whole.extras == set(EXTRAS) - {"dev", "flash-attn", "browser", "cluster"}


def test_init_env_knows_every_extra():
    line = re.search(r"choose from (.*), all", SCRIPT)[1]
    assert set(line.split(", ")) == set(EXTRAS)


# init_env.sh in a folder of its own, with a Python that writes down what pip is asked for


PYTHON = """#!/usr/bin/env bash
if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit; fi
if [ "$2" = pip ]; then echo "$*" >>HERE/pip.log; [[ "$*" != *"FAILING"* ]]; exit; fi
if [[ "$*" == *sys.version_info* ]]; then echo VERSION; exit; fi
PYTHONPATH=HERE exec REAL -S "$@"
"""
TORCH = 'class version: cuda = {cuda!r}\nclass cuda: is_available = lambda: {available}\n__version__ = "2.13.0"\n'


@pytest.fixture
def install(tmp_path):
    """install(*words, version=, failing=, there=, gpu=): the finished process and the words of every call of pip."""
    for name in ("init_env.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()

    def program(name, text):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755 | stat.S_IXUSR)

    def start(*words, version="3.12", failing="NEVER", there="", gpu=None):
        text = PYTHON.replace("VERSION", version).replace("FAILING", failing).replace("REAL", sys.executable)
        program("python3", text.replace("HERE", str(tmp_path)).replace("sys.VERSION", "sys.version"))
        program("nvidia-smi", f"#!/usr/bin/env bash\nexit {int(gpu is None)}\n")
        if gpu:
            (tmp_path / "torch.py").write_text(TORCH.format(**gpu))
        if there:
            metadata = tmp_path / f"torch-{there}.dist-info" / "METADATA"
            metadata.parent.mkdir(exist_ok=True)
            metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {there}\n")
        environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": str(tools / "python3")}
        done = subprocess.run(
            ["bash", "init_env.sh", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        log = tmp_path / "pip.log"
        return done, log.read_text().splitlines() if log.exists() else []

    return start


def test_the_tested_versions_are_taken_and_torch_stays_out_of_them(install):
    done, calls = install("train", there="2.11.0")
    assert done.returncode == 0, done.stderr
    assert "install -c constraints.txt -e .[train] torch==2.11.0" in calls[0]


def test_latest_takes_what_the_project_allows(install):
    done, calls = install("--latest", "train", there="2.11.0")
    assert done.returncode == 0, done.stderr
    assert "constraints.txt" not in calls[0] and "install --upgrade -e .[train] torch==2.11.0" in calls[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only there pip would take the build for CUDA")
def test_without_a_gpu_torch_is_the_build_for_the_cpu_where_there_is_one(install):
    done, calls = install(failing="+cpu")
    assert re.search(r"--no-deps .*torch==[\d.]+\+cpu$", calls[0])
    assert done.returncode == 0 and "taking the one with CUDA" in done.stdout
    assert re.search(r"-e \. torch==[\d.]+$", calls[-1])


def test_nothing_is_done_twice(install, tmp_path):
    install("train", there="2.11.0")
    stamp = (tmp_path / ".venv" / "llada-v.stamp").read_text().splitlines()
    assert stamp[1:] == ["train"]


@pytest.mark.parametrize(("version", "words"), [("3.10", ()), ("3.14", ()), ("3.10", ("--latest",))])
def test_a_python_that_does_not_fit_is_one_line_with_the_remedy(install, version, words):
    done, calls = install(*words, version=version)
    assert done.returncode == 1 and not calls
    assert re.fullmatch(f"error: .* is {version}, but this needs Python 3.11 .*PYTHON=/path/to/python.*\n", done.stderr)


def test_an_environment_of_another_python_is_one_line_with_the_remedy(install, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    done, calls = install()
    assert done.returncode == 1 and not calls
    assert re.fullmatch(r"error: \.venv has Python \(none that starts\), .*remove \.venv .*\n", done.stderr)


def test_a_lock_that_does_not_fit_the_machine_names_the_way_without_it(install):
    done, _ = install("eval", there="2.11.0", failing="constraints.txt")
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: the tested versions \(constraints.txt\) do not fit this machine \(.*Python 3.12, torch 2.11.0\), .*"
        r"'bash init_env.sh --latest eval'.*\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("gpu", "told"),
    [
        ({"cuda": None, "available": False}, "built without CUDA; for the GPU: .*pip install --force-reinstall torch"),
        ({"cuda": "13.0", "available": False}, "driver is too old for CUDA 13.0"),
        ({"cuda": "13.0", "available": True}, None),
    ],
)
def test_a_torch_that_cannot_use_the_gpu_is_one_line(install, gpu, told):
    done, _ = install(there="2.13.0", gpu=gpu)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(f"warning: .*{told}.*\n", done.stderr) if told else not done.stderr


def test_init_env_refuses_an_unknown_extra(install):
    done, calls = install("nothing")
    assert done.returncode == 2 and not calls
    assert "unknown extra 'nothing'" in done.stderr
