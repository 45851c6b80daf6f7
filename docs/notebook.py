"""Writes `first_answer.ipynb` from `first_answer.md`: `python docs/notebook.py` runs each block, keeps its output."""

import contextlib
import io
import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PAGE, NOTEBOOK = DOCS / "first_answer.md", DOCS / "first_answer.ipynb"


def cells_of(page: str) -> list[tuple[str, str]]:
    """("code" or "markdown", text) of each part of a page, in order; blocks of Python are code, all else is text."""
    parts = re.split(r"^```python\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL)
    return [("code" if place % 2 else "markdown", part.strip()) for place, part in enumerate(parts) if part.strip()]


def notebook_of(page: str, run: bool = True) -> dict:
    """The page as a notebook; with `run` what each block prints stands below it."""
    names: dict = {}
    cells = []
    for number, (kind, text) in enumerate(cells_of(page)):
        cell = {"id": f"cell-{number}", "cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
            if run:
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(compile(text, f"{PAGE.name}, cell {number}", "exec"), names)
                lines = printed.getvalue().splitlines(keepends=True)
                cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": lines}] if lines else []
        cells.append(cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    NOTEBOOK.write_text(json.dumps(notebook_of(PAGE.read_text(encoding="utf-8")), indent=1) + "\n", encoding="utf-8")
