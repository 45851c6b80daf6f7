"""Files that are not code are found by one name in a clone and in an installed wheel, from every folder."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import llada_v
from llada_v.shipped import ROOT, located, recipe_file, shipped
from llada_v.training.recipe import load_recipe
from llada_v.training.zero import read_deepspeed

WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]


def in_wheel(name):
    """Whether a wheel takes the file or folder along."""
    return any(Path(name).is_relative_to(taken) for taken in WHEEL["only-include"])


def test_a_wheel_has_every_file_that_the_code_asks_for_by_name():
    code = "".join(file.read_text() for file in (ROOT / "llada_v").rglob("*.py"))
    names = re.findall(r'\bshipped\("([^"]+)"\)', code)
    assert names
    for name in names:
        assert shipped(name).exists() and in_wheel(name), name


def test_a_wheel_has_every_file_of_the_project_that_a_recipe_names():
    for file in shipped("scripts/recipes").rglob("*.yaml"):
        names = [value for value in yaml.safe_load(file.read_text()).values() if str(value).startswith("scripts/")]
        for name in [file.relative_to(ROOT), *names]:
            assert shipped(name).exists() and in_wheel(name), name


def test_a_folder_of_the_repository_that_goes_into_a_wheel_goes_into_its_shipped_folder():
    outside = {Path(name).parts[0] for name in WHEEL["only-include"]} - {"llada_v"}
    assert WHEEL["sources"] == {name: f"llada_v/shipped/{name}" for name in outside}


@pytest.mark.parametrize("name", ["pretrain", "tiny/sft", "scripts/recipes/pretrain.yaml"])
def test_a_shipped_recipe_is_found_from_every_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    assert recipe.deepspeed is None or read_deepspeed(recipe.deepspeed)


def test_a_file_at_hand_comes_before_the_shipped_one_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "scripts/recipes/pretrain.yaml"
    assert located(name) == shipped(name)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("own: true\n")
    assert located(name).read_text() == recipe_file("pretrain").read_text() == "own: true\n"


def test_what_is_nowhere_keeps_the_name_it_was_asked_by():
    assert located("scripts/none.json") == Path("scripts/none.json")


def test_the_version_has_one_source():
    assert version("llada-v") == llada_v.__version__
