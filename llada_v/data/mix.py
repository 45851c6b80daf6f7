"""The data of the last stage: ordinary and reasoning records interleaved, each told apart by a suffix of the question.

Ordinary records get ` /no_think` at the end of every human turn, reasoning records ` /think` at the end of each
human turn with probability one half. Records come in the order of their files, n ordinary ones, then m
reasoning ones, and so on; n : m is the simple ratio closest to that of the two numbers of records. Every record is
written exactly once.
"""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..conversation import NO_THINK, THINK
from ..errors import WrongValue
from .sources import name_of, parsed, read_entries
from .writing import write_array

MAX_RATIO = 5


def ratio_of(normal: int, reasoning: int) -> tuple[int, int]:
    """The ratio among 1:1, 2:1 .. 5:1 and 1:2 .. 1:5 that is closest to normal : reasoning.

    Of two as close it is the simpler. Nothing on one side gives 1:0 or 0:1. Raises ValueError for nothing at all.
    """
    if not normal and not reasoning:
        raise WrongValue("both files are empty; there is nothing to mix")
    if not normal or not reasoning:
        return (1, 0) if normal else (0, 1)
    wide = range(1, MAX_RATIO + 1)
    candidates = sorted({(n, 1) for n in wide} | {(1, n) for n in wide}, key=sum)
    distance = {pair: abs(normal / reasoning - pair[0] / pair[1]) for pair in candidates}
    nearest = min(distance.values())
    return next(pair for pair in candidates if distance[pair] <= nearest + 1e-9)


def interleave(normal: Iterator, reasoning: Iterator, ratio: tuple[int, int]) -> Iterator:
    """n of the first, m of the second, until both are exhausted; what is left of one follows in order."""
    first, second = ratio
    while taken := [*islice(normal, first), *islice(reasoning, second)]:
        yield from taken


def with_suffixes(record: dict, suffix_of) -> dict:
    """The record with `suffix_of()` behind each human turn; one without a list of turns as it is."""
    turns = record.get("conversations")
    if not isinstance(turns, list):
        return record
    written = []
    for turn in turns:
        if isinstance(turn, dict) and turn.get("from") == "human":
            if not isinstance(turn.get("value"), str):
                raise WrongValue(f"a human turn has the value {turn.get('value')!r}; expected a text")
            turn = turn | {"value": turn["value"] + suffix_of()}
        written.append(turn)
    return record | {"conversations": written}


def records_of(file: Path, suffix_of) -> Iterator[dict]:
    """The records of a file with their suffixes, streamed. Raises ValueError with the place of a bad one."""
    for entry in read_entries(file, may_be_empty=True):
        try:
            yield with_suffixes(parsed(entry), suffix_of)
        except WrongValue as error:
            raise WrongValue(f"record {name_of(entry)} of {file}: {error}") from error


def mix(normal: str | Path, reasoning: str | Path, output: str | Path, seed: int) -> tuple[int, int, tuple[int, int]]:
    """Write the mixture as one JSON array; returns the numbers of ordinary and reasoning records, and the ratio.

    Both files are read twice, never held. The output appears only when it is complete.
    Raises FileNotFoundError and ValueError as reading does, ValueError where the output is one of the inputs.
    """
    normal, reasoning, output = Path(normal), Path(reasoning), Path(output)
    if output.resolve() in (normal.resolve(), reasoning.resolve()):
        raise WrongValue(f"{output} is one of the files to read; write the mixture to another")
    num_normal, num_reasoning = (sum(1 for _ in read_entries(file, may_be_empty=True)) for file in (normal, reasoning))
    ratio = ratio_of(num_normal, num_reasoning)
    draw = random.Random(seed)
    ordinary = records_of(normal, lambda: NO_THINK)
    thinking = records_of(reasoning, lambda: THINK if draw.random() < 0.5 else "")
    write_array(output, interleave(ordinary, thinking, ratio))
    return num_normal, num_reasoning, ratio
