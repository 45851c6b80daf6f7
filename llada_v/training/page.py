"""A run on one page: how it stands, its curves, and its answers. HTML that needs nothing but itself.

The same curves as one picture: `llada-v runs FOLDER`.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from ..charts import LINES_HEIGHT, LINES_WIDTH, PAPER, Drawing, Line, Sheet, lines
from ..errors import MissingFile
from .history import ANSWERS, HISTORY, best_measurement, compared, read_account, read_lines
from .output import RUN

PAGE = "run.html"
LOSS, LEVELS = "eval_loss", [f"eval_noise/{level / 10:.1f}" for level in range(10)]
STYLE = """
:root { font: 15px/1.5 system-ui, sans-serif; color: #202124; background: #f4f5f7; }
body { max-width: 1300px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 17px; margin: 34px 0 12px; }
h1 small { font-size: 13px; font-weight: 400; color: #6e7278; margin-left: 10px; }
.bar { height: 6px; border-radius: 3px; background: #e1e4e9; margin: 14px 0 18px; overflow: hidden; }
.bar div { height: 100%; background: #266cc4; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; }
.facts div, .chart, .card { background: #fff; border: 1px solid #e4e6ea; border-radius: 10px; }
.facts div { padding: 8px 16px 9px; min-width: 96px; } .facts b { display: block; font-size: 18px; font-weight: 600; }
.facts span, .muted { color: #6e7278; font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 14px; }
.chart { padding: 8px 10px 2px; } .chart svg { width: 100%; display: block; }
.cards { columns: 3 380px; column-gap: 14px; }
.card { padding: 14px; display: flex; gap: 16px; align-items: flex-start; overflow-wrap: anywhere; }
.card { break-inside: avoid; margin-bottom: 14px; }
.card > div:last-child { flex: 1; min-width: 0; }
.pictures { width: 128px; display: grid; grid-template-columns: 1fr 1fr; gap: 4px; } .pictures:empty { display: none; }
.pictures img { width: 100%; border-radius: 6px; display: block; box-sizing: border-box; border: 1px solid #eceef1; }
.pictures img:only-child { grid-column: 1 / -1; }
.question { font-weight: 600; white-space: pre-line; margin-bottom: 6px; }
table { border-collapse: collapse; width: 100%; } td { padding: 2px 0; vertical-align: top; }
td:first-child { color: #6e7278; font-size: 13px; width: 84px; white-space: nowrap; padding-right: 10px; }
tr.truth td { border-bottom: 1px solid #eceef1; padding-bottom: 5px; } tr.truth + tr td { padding-top: 5px; }
.same { color: #1c7c4a; font-weight: 600; } summary { color: #6e7278; font-size: 13px; cursor: pointer; }
.status { font-size: 13px; border-radius: 99px; padding: 2px 10px; background: #e1e4e9; margin-left: 10px; }
.finished { background: #d7efe1; } .failed { background: #f6d9d5; } .running { background: #dbe8f8; }
"""


def panels(history: Sequence[dict]) -> list[tuple[list[Line], str, str]]:
    """Lines, title and unit of every chart that the log entries have something for."""
    found = [
        ([curve(history, "loss", "training", True), *held_out_lines(history)], "Loss", "nats a token"),
        (by_prefix(history, f"{LOSS}/"), "Held-out loss by kind", "with its standard error"),
        (by_level(history), "Held-out loss by share of masked tokens", "first, best and last measurement"),
        ([curve(history, "grad_norm", "all", True), *by_prefix(history, "grad_norm/", True)], "Gradient norm", ""),
        (by_prefix(history, "learning_rate/"), "Learning rate", ""),
        (
            [curve(history, "mean_length", "mean", True), curve(history, "mean_answer", "answers", True)],
            "Lengths",
            "tokens",
        ),
        ([curve(history, "masked_share", "", True)], "Masked share of the answers' tokens", ""),
        ([curve(history, "tokens_per_second", "", True)], "Tokens a second", "without filler"),
    ]
    return [(kept, title, unit) for chart, title, unit in found if (kept := [line for line in chart if len(line.x)])]


def curve(history: Iterable[dict], key: str, name: str, is_noisy: bool = False) -> Line:
    """One logged number over the steps."""
    entries = [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
    return Line(name, [step for step, _ in entries], [value for _, value in entries], is_noisy=is_noisy)


def held_out_lines(history: Sequence[dict]) -> list[Line]:
    """The held-out loss with its standard error."""
    entries = [entry for entry in history if LOSS in entry]
    steps, losses, errors = ([entry[key] for entry in entries] for key in ("step", LOSS, "eval_error"))
    return [Line("held out", steps, losses, errors)] if entries else []


def by_prefix(history: Sequence[dict], prefix: str, is_noisy: bool = False) -> list[Line]:
    """A line for each logged number whose name begins so, in the order that they came in."""
    keys = dict.fromkeys(key for entry in history for key in entry if key.startswith(prefix))
    found = []
    for key in keys:
        line = curve(history, key, key.removeprefix(prefix).replace("_", " "), is_noisy)
        error = f"eval_error/{key.removeprefix(prefix)}"
        errors = [entry[error] for entry in history if entry.get(key) is not None and error in entry]
        found.append(Line(line.name, line.x, line.y, errors if len(errors) == len(line.x) else (), is_noisy))
    return found


def by_level(history: Sequence[dict]) -> list[Line]:
    """The held-out loss over the noise level, of the first, the best and the last measurement."""
    entries = {entry["step"]: entry for entry in history if LOSS in entry}
    if not entries:
        return []
    best, _ = best_measurement(history)
    found = []
    for step in sorted({min(entries), best, max(entries)}):
        levels = [level for level in range(10) if LEVELS[level] in entries[step]]
        values = [entries[step][LEVELS[level]] for level in levels]
        of_all = entries[step][LOSS]
        found.append(Line(f"step {step:,}, mean", [10 * level + 5 for level in levels], values, told=of_all))
    return found


def picture(history: Sequence[dict]) -> Image.Image:
    """All charts of a run, two beside each other."""
    drawn = [lines(*panel, Sheet) for panel in panels(history)] or [lines([], "Loss")]
    columns = min(2, len(drawn))
    size = (columns * LINES_WIDTH, -(-len(drawn) // columns) * LINES_HEIGHT)
    whole = Image.new("RGB", size, PAPER)
    for number, chart in enumerate(drawn):
        row, column = divmod(number, columns)
        whole.paste(chart, (column * LINES_WIDTH, row * LINES_HEIGHT))
    return whole


def facts(history: Sequence[dict], step: int, steps: int, account: dict) -> list[tuple[str, str]]:
    """(what, how much) of a run, for its head. account: as `read_account` gives it."""
    found = [("step", f"{step:,} of {steps:,}")]
    last = next((entry for entry in reversed(history) if "loss" in entry), None)
    if last is not None:
        found.append(("training loss", f"{last['loss']:.4f}"))
    measured = [entry for entry in history if LOSS in entry]
    if measured:
        found.append(("held-out loss", f"{measured[-1][LOSS]:.4f} ± {measured[-1]['eval_error']:.4f}"))
        best, loss = best_measurement(history)
        found.append((f"best, at step {best:,}", f"{loss:.4f}"))
    if last is not None and "tokens_per_second" in last:
        found.append(("tokens a second", f"{last['tokens_per_second']:,.0f}"))
        found.append(("model FLOPs used", f"{100 * last['mfu']:.1f} %"))
        found.append(("memory", f"{last['memory_gib']:.2f} GiB"))
        if step < steps:
            found.append(("time left", str(timedelta(seconds=round(last["seconds_left"])))))
    for name, what in (("memory", "memory a device"), ("checkpoint", "disk of a checkpoint")):
        if name in account.get("taken", {}):
            found.append((what, compared(account["taken"][name], account["expected"][name])))
    return found


def page(
    name: str,
    status: str,
    steps: tuple[int, int],
    history: Sequence[dict],
    answers: Sequence[dict],
    shown: dict,
    account: dict,
) -> str:
    """The HTML. steps: taken, and all. answers: entries of `answers.jsonl`. shown: data URIs of pictures by record.

    account: as `read_account` gives it.
    """
    step, total = steps
    head = "".join(
        f"<div><span>{escape(what)}</span><b>{escape(text)}</b></div>" for what, text in facts(history, *steps, account)
    )
    charts = "".join(f'<div class="chart">{lines(*panel, Drawing)}</div>' for panel in panels(history))
    parts = [
        f'<h1>{escape(name)}<span class="status {escape(status)}">{escape(status)}</span></h1>',
        f'<div class="bar"><div style="width:{100 * step / max(total, 1):.1f}%"></div></div>',
        f'<div class="facts">{head}</div>',
        f'<h2>Curves</h2><div class="charts">{charts}</div>' if charts else "",
        answer_cards(answers, shown),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)}, step {step}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><body>{"".join(parts)}</body></html>'
    )


def answer_cards(answers: Sequence[dict], shown: dict[str, list[str]]) -> str:
    """A card a question: its pictures, the truth, the newest answer, and the ones before."""
    if not answers:
        return ""
    last = max(entry["step"] for entry in answers)
    newest = [entry for entry in answers if entry["step"] == last]
    same = sum(entry["answer"] == entry["truth"] for entry in newest)
    told = f"{same} of {len(newest)} are word for word the true ones after step {last:,}"
    cards = [f'<h2>Answers <span class="muted">{told}</span></h2><div class="cards">']
    order = {name: number for number, name in enumerate(dict.fromkeys(entry["record"] for entry in answers))}
    by_record = sorted(answers, key=lambda entry: (order[entry["record"]], -entry["step"]))
    for name, group in groupby(by_record, key=lambda entry: entry["record"]):
        now, *before = group
        images = "".join(f'<img src="{uri}" alt="">' for uri in shown.get(name, ()))
        rows = f'<tr class="truth"><td>truth</td><td>{escape(now["truth"])}</td></tr>{answer_row(now)}'
        older = "".join(map(answer_row, before))
        older = f"<details><summary>{len(before)} before</summary><table>{older}</table></details>" if before else ""
        cards.append(
            f'<div class="card"><div class="pictures">{images}</div><div><div class="question">'
            f"{escape(now['question'])}</div><table>{rows}</table>{older}</div></div>"
        )
    return "".join(cards) + "</div>"


def answer_row(entry: dict) -> str:
    """An answer with its step, green where it is the true one."""
    kind = "same" if entry["answer"] == entry["truth"] else ""
    return f'<tr><td>step {entry["step"]:,}</td><td class="{kind}">{escape(entry["answer"]) or "(nothing)"}</td></tr>'


def print_run(folder: Path, file: Path) -> None:
    """Print what a run did and draw its curves into `file`. Raises FileNotFoundError where there is no run."""
    if not (folder / RUN).is_file():
        raise MissingFile(f"no run in {folder}: it has no {RUN}; name the output of a recipe")
    told, history = json.loads((folder / RUN).read_text()), read_lines(folder / HISTORY)
    why = f" ({told['why']})" if told["why"] else ""
    print(f"{folder}: {told['status']}{why}")
    for what, text in facts(history, told["step"], told["steps"], read_account(folder)):
        print(f"  {what:24} {text}")
    for line in by_prefix([entry for entry in history if LOSS in entry][-1:], f"{LOSS}/"):
        print(f"  {f'held-out loss, {line.name}':24} {line.y[-1]:.4f}")
    answers = read_lines(folder / ANSWERS)
    if answers:
        newest = [entry for entry in answers if entry["step"] == answers[-1]["step"]]
        same = sum(entry["answer"] == entry["truth"] for entry in newest)
        print(f"  {'shown answers':24} {same} of {len(newest)} are word for word the true ones ({folder / PAGE})")
    picture(history).save(file)
    print(f"  {'curves':24} {file}")
