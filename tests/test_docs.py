"""Promises about the pages: what they show runs, and what they link to is there."""

import json
import re
import runpy
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
    assert known["losses"][-1] < known["losses"][0]
