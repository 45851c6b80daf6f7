"""transformers' own tests, run against our classes: all that apply pass, and what does not apply is named.

The tests are those of the installed version, from its source distribution, fetched once into a folder of the user's
cache; nothing of them is in this repository. `suites/` says which of our classes stands for what.
"""

import ensurepip
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from exceptions import DO_NOT_APPLY

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llada-v" / "transformers-tests"
SUITES = ("models", "processing", "image_processing")
pytestmark = pytest.mark.slow


def pip() -> list[str]:
    """The command pip: of this environment, or where there is none, as in those that uv makes, Python's own copy."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    return [sys.executable, str(wheel / "pip")]


def tests_of(release: str) -> Path:
    """The folder with the tests of that release of transformers as a package `peer_tests`."""
    folder = CACHE / release
    if not (folder / "peer_tests" / "__init__.py").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        download = [*pip(), "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        subprocess.run([*download, "--dest", str(folder), f"transformers=={release}"], check=True, timeout=300)
        (archive,) = folder.glob("transformers-*.tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = Path(member.name).parts
                if len(parts) > 2 and parts[1] == "tests" and member.isfile():
                    member.name = str(Path("peer_tests", *parts[2:]))
                    tar.extract(member, folder, filter="data")
        archive.unlink()
        (folder / "peer_tests" / "__init__.py").touch()
    return folder


@pytest.mark.parametrize("suite", SUITES)
def test_transformers_own_tests_pass(suite, tmp_path):
    report = tmp_path / "report.xml"
    paths = [str(HERE / "suites"), str(tests_of(version("transformers"))), str(HERE.parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--junitxml={report}"]
    run = subprocess.run(
        [*command, str(HERE / "suites" / f"peer_{suite}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert report.is_file(), run.stdout + run.stderr
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {case.get("name") for case in cases if case.findall("failure") + case.findall("error")}
    expected = DO_NOT_APPLY.get(suite, {})
    assert len(cases) > 20 and failed <= expected.keys(), run.stdout[-20000:]
    assert expected.keys() <= failed, f"these pass: {sorted(expected.keys() - failed)}; take them off the list"
