"""Promises about the files themselves: who imports whom, scripts that parse, a command that starts."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = set(
    ".venv .venv-versions .git .pytest_cache .ruff_cache .mypy_cache __pycache__ exp wandb build dist".split()
)


def files(pattern, folder=ROOT):
    """The repository's files that match, without caches and what people put beside it."""
    found = (file for file in folder.rglob(pattern) if file.is_file())
    return sorted(file for file in found if not SKIPPED & set(file.relative_to(ROOT).parts))


PACKAGE = files("*.py", ROOT / "llada_v")
SCRIPTS = [*files("*.sh"), ROOT / ".ci" / "run"]


def name_of(file):
    return str(file.relative_to(ROOT))


def imports_of(file, at_top=False):
    """Full names a file imports: modules, and module.name of each imported name; relative ones resolved.

    at_top: leave out imports inside functions.
    """
    tree = ast.parse(file.read_text())
    package = file.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = list(package[: -node.level]) if node.level else []
            module = ".".join(parts + ([node.module] if node.module else []))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def within(names, *modules):
    """Those names that are one of the modules or lie inside one."""
    return sorted(name for name in names if any(name == module or name.startswith(module + ".") for module in modules))


def own(names):
    """Names of the package, without those of its errors, which every file may raise."""
    return sorted(set(within(names, "llada_v")) - set(within(names, "llada_v.errors")))


@pytest.mark.parametrize("file", PACKAGE, ids=name_of)
def test_the_package_never_imports_what_stands_outside(file):
    assert not within(imports_of(file), "eval", "scripts", "tests", "generate_demo", "create_mix_data")


@pytest.mark.parametrize("name", ["modeling_llada.py", "modeling_llada_v.py"])
def test_models_never_see_a_tokenizer_or_a_processor(name):
    names = imports_of(ROOT / "llada_v" / name)
    assert not [found for found in names if re.search("tokeniz|process|images|video|answer|toyworld", found, re.I)]


@pytest.mark.parametrize("name", ["processing_llada_v.py", "images.py", "video.py", "anyres.py"])
def test_the_processor_never_sees_a_model(name):
    names = imports_of(ROOT / "llada_v" / name)
    assert not [found for found in names if re.search("modeling|generation|training", found)]


@pytest.mark.parametrize("room", ["evaluation", "benchmark"])
def test_who_measures_does_not_know_the_small_world(room):
    for file in files("*.py", ROOT / "llada_v" / room):
        assert not within(imports_of(file), "llada_v.toyworld"), name_of(file)


def test_the_geometry_needs_no_tensors():
    assert imports_of(ROOT / "llada_v" / "anyres.py") <= {"enum", "math", "llada_v.errors", "llada_v.errors.WrongValue"}


@pytest.mark.parametrize("file", files("*.py", ROOT / "llada_v" / "generation"), ids=name_of)
def test_the_sampler_knows_tensors_ids_and_a_callable(file):
    names = imports_of(file)
    known = ("llada_v.generation", "llada_v.json_text", "llada_v.fields")
    assert not [name for name in own(names) if not name.startswith(known)]
    assert within(names, "transformers") in ([], ["transformers.utils", "transformers.utils.ModelOutput"])


@pytest.mark.parametrize("file", files("*.py", ROOT / "llada_v" / "checkpoint"), ids=name_of)
def test_checkpoints_get_shapes_and_know_neither_config_nor_model(file):
    known = ("llada_v.checkpoint", "llada_v.json_text")
    assert not [name for name in own(imports_of(file)) if not name.startswith(known)]


@pytest.mark.parametrize("file", files("*.py", ROOT / "llada_v" / "data"), ids=name_of)
def test_the_data_know_no_training(file):
    assert not within(imports_of(file), "llada_v.training")


def test_the_noise_knows_tensors_and_ids():
    names = imports_of(ROOT / "llada_v" / "training" / "noise.py")
    assert set(own(names)) == {"llada_v.configuration_llada_v", "llada_v.configuration_llada_v.IGNORE"}
    assert not within(names, "transformers")


PLAIN = re.compile(r"\braise (ValueError|OSError|FileNotFoundError|FileExistsError|ImportError|ModuleNotFoundError)\b")


def test_checks_of_what_was_given_raise_errors_of_the_user():
    """A plain built-in would show a traceback, see `llada_v.errors`; these files raise some that they catch again."""
    inner = {"llada_v/images.py"}
    found = [name_of(file) for file in PACKAGE if PLAIN.search(file.read_text())]
    assert set(found) <= inner


def test_only_the_command_line_parses_arguments():
    parsing = [name_of(file) for file in PACKAGE if "argparse" in imports_of(file)]
    assert parsing and all(name.startswith("llada_v/cli/") for name in parsing)


def test_inference_needs_no_extra():
    """What importing the package and answering imports, at the top of files, is in the core dependencies."""
    import_name = {"pillow": "PIL", "pyyaml": "yaml"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    # transformers itself requires these two.
    allowed = {import_name.get(name, name) for name in required} | {"huggingface_hub", "tokenizers"}
    for file in PACKAGE:
        if file.relative_to(ROOT / "llada_v").parts[0] in ("training", "data", "evaluation", "serving"):
            continue
        modules = {name.split(".")[0] for name in imports_of(file, at_top=True)} - set(sys.stdlib_module_names)
        assert modules <= allowed | {"llada_v"}, name_of(file)


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_every_shell_script_parses_and_stops_at_errors(script):
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "set -euo pipefail" in script.read_text().splitlines()


def test_no_file_names_a_folder_of_one_machine():
    folders = re.compile("/" + "work/|/" + "root/|/" + r"home/\w|/" + "Users/|file:" + "//")
    text_files = [file for kind in ("*.py", "*.sh", "*.md", "*.yaml", "*.toml", "*.json") for file in files(kind)]
    for file in [*text_files, ROOT / "Makefile", ROOT / ".ci" / "run"]:
        assert not folders.search(file.read_text(encoding="utf-8")), name_of(file)


def test_help_lists_every_verb():
    shown = subprocess.run([sys.executable, "-m", "llada_v", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for verb in ("generate", "convert", "train", "judge"):
        assert f"  {verb} " in shown.stdout
