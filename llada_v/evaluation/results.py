"""What came out: rows of a table from lmms-eval's results and the model's log, as text, Markdown, JSON and a picture.

Knows files and settings, no model and no lmms-eval.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from ..charts import Bar, bars
from ..errors import WrongValue
from .settings import Benchmark, Score

COLUMNS = ("task", "score", "paper", "difference", "seconds", "documents", "skipped", "scored by", "settings")
BY_CHOICE = "by probability"  # the column of choices that were read, where there are any
SCORED_BY = {"lmms-eval": "lmms-eval", "rules": "rule-based extraction", "judge": "judge model"}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    score, paper: in the paper's unit; None: failed, or the paper gives none. seconds: a document took in its process,
    pictures' features included. skipped: documents whose picture or video could not be read, scored as no answer;
    unscored: those whose scorer raised, also scored as no answer.
    chosen: the score where choices were read, in place of `score`, which is of written answers.
    settings: of the sampler. standard_error: mean Monte-Carlo error of the log-likelihoods, in nats.
    problem: why there is no score.
    """

    task: str
    settings: str
    by: str
    score: float | None = None
    paper: float | None = None
    seconds: float | None = None
    documents: int = 0
    skipped: int = 0
    unscored: int = 0
    standard_error: float | None = None
    problem: str | None = None
    chosen: float | None = None

    @property
    def difference(self) -> float | None:
        """Score minus the paper's."""
        return None if self.score is None or self.paper is None else self.score - self.paper

    def cells(self) -> list[str]:
        """The row's texts under `COLUMNS`."""
        if self.problem is not None:
            score = f"failed: {self.problem}"
        else:
            score = shown(self.score)
        settings = self.settings
        if self.standard_error is not None:
            settings += f", error {self.standard_error:.3f} nats"
        return [
            self.task,
            score,
            shown(self.paper),
            shown(self.difference, "+.1f"),
            shown(self.seconds, ".2f"),
            str(self.documents),
            str(self.skipped) + (f", {self.unscored} not scored" if self.unscored else ""),
            SCORED_BY[self.by],
            settings,
        ]


def shown(value: float | None, style: str = ".1f") -> str:
    """A number for the table; nothing for None."""
    return "" if value is None else format(value, style)


def read_log(folder: str | Path) -> list[dict]:
    """The lines that the model logged in a folder, of all processes; of several about one request the last."""
    found = {}
    for file in sorted(Path(folder).glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.endswith("}"):
                continue  # cut off by a kill
            entry = json.loads(line)
            found[entry["task"], entry["doc_id"], entry["idx"]] = entry
    return list(found.values())


def rows_of(benchmark: Benchmark, results: dict, log: list[dict], settings: str, is_read: bool = False) -> list[Row]:
    """The rows of a task that ran: one a score. A judge's score is left out where no judge ran.

    results: lmms-eval's results file. is_read: whether choices were read, and no answers written.
    Raises ValueError where a metric is missing.
    """
    skipped = {(entry["task"], entry["doc_id"]) for entry in log if "skipped" in entry}
    documents = sum(counts["effective"] for counts in results["n-samples"].values())
    timed: dict[tuple, float] = {}
    for entry in log:
        if "seconds" in entry:
            key = entry["task"], entry["doc_id"]
            timed[key] = timed.get(key, 0.0) + entry["seconds"]
    errors = [entry["standard_error"] for entry in log if "standard_error" in entry]
    shared: dict[str, Any] = dict(
        settings=settings,
        seconds=fmean(timed.values()) if timed else None,
        documents=int(documents),
        skipped=len(skipped),
        unscored=sum("unscored" in entry for entry in log),
        standard_error=fmean(errors) if errors else None,
    )
    rows = []
    for score in benchmark.scores:
        value = value_of(score, results["results"])
        if value is None and score.by == "judge":
            continue
        if value is None:
            metrics = sorted({key for task in results["results"].values() for key in task if "_stderr" not in key})
            raise WrongValue(f"lmms-eval's results have no metric {score.metric!r}; there are {', '.join(metrics)}")
        name = f"{benchmark.name} {score.name}".strip()
        value *= score.scale
        found: dict[str, Any] = {"chosen": value} if is_read else {"score": value}
        rows.append(Row(task=name, by=score.by, paper=score.paper, **found, **shared))
    return rows


def value_of(score: Score, tasks: dict[str, dict]) -> float | None:
    """The mean of a metric over the tasks that have it; lmms-eval writes "metric,filter"."""
    found = [
        value
        for task in tasks.values()
        for key, value in task.items()
        if key.split(",")[0] == score.metric and isinstance(value, (int, float))
    ]
    return fmean(found) if found else None


def failed(benchmark: Benchmark, settings: str, problem: str) -> Row:
    """The row of a task that did not come to an end."""
    return Row(task=benchmark.name, settings=settings, by=benchmark.scores[0].by, problem=problem)


# Forms of the table


def markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table, columns aligned for reading as text."""
    cells = [list(COLUMNS), *(row.cells() for row in rows)]
    if any(row.chosen is not None for row in rows):
        for line, chosen in zip(cells, [BY_CHOICE, *(shown(row.chosen) for row in rows)], strict=True):
            line.insert(2, chosen)
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def save_table(rows: list[Row], folder: str | Path, title: str, about: dict, beside: Sequence[str] = ()) -> None:
    """Write table.json, table.md and table.png.

    about: what else is to be known, such as model and versions. beside: lines about other results of the same tasks.
    """
    folder = Path(folder)
    table = [asdict(row) | {"difference": row.difference} for row in rows]
    known = about | {"rows": table, "beside": list(beside)}
    (folder / "table.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    facts = "".join(f"- {name}: {value}\n" for name, value in about.items())
    kept = "\nOther results of these tasks, made with something else:\n\n" if beside else ""
    kept += "".join(f"- {line}\n" for line in beside)
    (folder / "table.md").write_text(f"# {title}\n\n{facts}\n{markdown(rows)}\n{kept}", encoding="utf-8")
    draw_table(rows, title).save(folder / "table.png")


def draw_table(rows: list[Row], title: str) -> Image.Image:
    """A bar a row, from 0 to 100 or as far as the larger of the two figures, the paper's figure as a mark."""
    drawn = [
        Bar(
            name=row.task,
            value=row.score if row.chosen is None else row.chosen,
            text=(shown(row.score) if row.chosen is None else f"{shown(row.chosen)} {BY_CHOICE}")
            + (f"  ({shown(row.difference, '+.1f')})" if row.difference is not None else ""),
            mark=row.paper,
            full=max(100.0, row.score or row.chosen or 0.0, row.paper or 0.0),
            problem=row.problem or "",
        )
        for row in rows
    ]
    told = "bar: score" + ("    mark: the paper's, difference in brackets" if any(row.paper for row in rows) else "")
    return bars(drawn, title, told)
