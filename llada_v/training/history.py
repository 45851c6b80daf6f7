"""What a run has logged and answered, one JSON object a line beside its checkpoints, cut where it goes on from before.

account.json       what the run was expected to take, and what it took: see `account`
history.jsonl      every log entry with its step
answers.jsonl      every answer to the questions that are shown
"""

import json
from collections.abc import Iterable
from pathlib import Path

from .output import write_whole

ACCOUNT, HISTORY, ANSWERS = "account.json", "history.jsonl", "answers.jsonl"


def read_lines(file: str | Path) -> list[dict]:
    """The objects of a file's whole lines; none where there is no file."""
    if not Path(file).is_file():
        return []
    return [json.loads(line) for line in Path(file).read_text().splitlines(keepends=True) if line.endswith("\n")]


def write_lines(file: str | Path, entries: Iterable[dict]) -> None:
    """Write a file of these objects in place of what is there."""
    write_whole(Path(file), "".join(json.dumps(entry) + "\n" for entry in entries))


def add_lines(file: str | Path, entries: Iterable[dict]) -> None:
    """Write these objects behind what is there."""
    with Path(file).open("a") as stream:
        stream.write("".join(json.dumps(entry) + "\n" for entry in entries))


def held_out(history: Iterable[dict]) -> list[tuple[int, float]]:
    """(step, loss) of the measurements on held-out records."""
    return [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]


def best_measurement(history: Iterable[dict]) -> tuple[int, float] | None:
    """(step, loss) of the first measurement that none has gone below; None where there was none."""
    return min(held_out(history), key=lambda found: found[1], default=None)


def without_gain(history: Iterable[dict]) -> int:
    """How many measurements have followed the best one."""
    losses = [loss for _, loss in held_out(history)]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def read_account(output: str | Path) -> dict:
    """What the run in a folder was expected to take, and what it took; nothing where it has not said so."""
    file = Path(output) / ACCOUNT
    return json.loads(file.read_text()) if file.is_file() else {}


def amount(number: float) -> str:
    """Bytes in words."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"


def compared(taken: float, expected: float) -> str:
    """Bytes that were taken beside those that were expected, in words."""
    return f"{amount(taken)}, {amount(expected)} expected ({100 * (taken / expected - 1):+.0f} %)"
