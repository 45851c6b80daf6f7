"""Promises about the pages: what they show runs, and what they link to is there."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
notebook = runpy.run_path(str(ROOT / "docs" / "notebook.py"))


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_notebook_runs_and_holds_the_same_cells_as_the_page(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = notebook["PAGE"].read_text(encoding="utf-8")
    kept = json.loads(notebook["NOTEBOOK"].read_text(encoding="utf-8"))
    made = notebook["notebook_of"](page)
    assert [cell["source"] for cell in kept["cells"]] == [cell["source"] for cell in made["cells"]]
    assert all(cell["outputs"] for cell in kept["cells"] if "print(" in "".join(cell["source"]) and "outputs" in cell)


@pytest.mark.slow
def test_the_page_about_transformers_runs_from_top_to_bottom(monkeypatch, tmp_path, capsys):
    for name in ("model", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    page, known = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8"), {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(block, "docs/transformers.md", "exec"), known)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "3" and len(known["chats"]) == 2 and said[1] == said[2]
    decided = list(known["decided"].values())
    assert [decision.value for decision in decided] == [True, "3"] and min(d.probability for d in decided) > 0.9
    assert known["counted"] == "3" == known["served"].choices[0].message.content.strip()
    assert known["losses"][-1] < known["losses"][0]
    losses = [line["loss"] for line in known["sft"].state.log_history if "loss" in line]
    assert losses[-1] < losses[0] / 2


def test_the_pages_build_without_a_warning(tmp_path):
    """In a copy, so that no `site/` is left behind; every link and every name of the reference is looked up."""
    for name in ("docs", "data", "llada_v"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "toyworld"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "SamplerConfig" in (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_on_finetuning_teaches_what_it_says(tmp_path, monkeypatch, capsys):
    """Every block in order, in a folder of its own; of the shell's the commands of llada-v."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "llada-v-tiny").symlink_to(ROOT / "model" / "llada-v-tiny")
    page = (ROOT / "docs" / "fine_tune.md").read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(python|yaml|bash)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if kind == "python":
            exec(compile(block, "fine_tune.md", "exec"), {})
        elif kind == "yaml":
            (tmp_path / "data" / "arrows" / "recipe.yaml").write_text(block, encoding="utf-8")
        else:
            for line in re.findall(r"^llada-v .*$", block, re.MULTILINE):
                words = line.replace("llada-v", f"{sys.executable} -m llada_v", 1)
                assert subprocess.run(words, shell=True, timeout=1800).returncode == 0, line
    right, asked = map(int, re.findall(r"(\d+) of (\d+)", capsys.readouterr().out)[-1])
    assert right >= 0.9 * asked
