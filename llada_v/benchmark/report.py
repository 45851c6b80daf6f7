"""From runs to rows, and from rows to a table, a verdict, JSON and a picture."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from .. import charts
from .accuracy import Estimate, difference, front, loses_nothing, share
from .candidates import Setting
from .floor import Machine
from .memory import GIB
from .rounds import Run


@dataclass(frozen=True)
class Measured:
    """One line of the table: a setting at a batch size. Times in seconds, memory in bytes.

    batch: prompts answered together. questions: answers given.
    seconds: per answer, pictures included. speedup: the plain sampler's seconds at the same batch size over these.
    tokens_per_second: tokens of the answers, up to their stops.
    forwards: model calls of one call of `generate`. forward_seconds: of one model call, pictures not included.
    floor_seconds: what one model call takes at least; weight_bytes, cache_bytes, flops: what it asks for.
    picture_seconds: per answer. peak_bytes: None: not measured.
    equal: share of tokens equal to those of the plain sampler, at the first batch size.
    right, change: share of right answers, and its difference to the plain sampler's; None where nothing is judged.
    """

    setting: Setting
    batch: int
    questions: int
    seconds: float
    speedup: float
    tokens_per_second: float
    forwards: float
    forward_seconds: float
    floor_seconds: float
    weight_bytes: float
    cache_bytes: float
    flops: float
    picture_seconds: float
    peak_bytes: int | None
    equal: float
    right: Estimate | None
    change: Estimate | None


def row_of(run: Run, plain: Run, reference: Sequence[Sequence[int]], batch: int, machine: Machine) -> Measured:
    """The line of one run.

    plain: the run of the plain sampler on the same batches. reference: its answers at the first batch size.
    """
    questions = len(run.answers)
    seconds = run.picture_seconds + run.seconds
    return Measured(
        setting=run.setting,
        batch=batch,
        questions=questions,
        seconds=seconds / questions,
        speedup=(plain.picture_seconds + plain.seconds) / seconds,
        tokens_per_second=sum(map(len, run.answers)) / seconds,
        forwards=run.forwards / len(run.batches),
        forward_seconds=run.seconds / run.forwards,
        floor_seconds=run.work.floor(machine) / run.work_forwards,
        weight_bytes=run.work.weight_bytes / run.work_forwards,
        cache_bytes=run.work.cache_bytes / run.work_forwards,
        flops=run.work.flops / run.work_forwards,
        picture_seconds=run.picture_seconds / questions,
        peak_bytes=run.peak,
        equal=equal_share(run.answers, reference),
        right=share(run.is_right) if run.is_right else None,
        change=difference(run.is_right, plain.is_right) if run.is_right else None,
    )


def equal_share(answers: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> float:
    """The share of positions that hold the reference's token; where one answer is longer, its rest is not equal.

    1.0 where all answers are empty.
    """
    pairs = list(zip(answers, reference, strict=True))
    equal = sum(a == b for answer, other in pairs for a, b in zip(answer, other, strict=False))
    total = sum(max(len(answer), len(other)) for answer, other in pairs)
    return equal / total if total else 1.0


def fastest_without_loss(rows: Sequence[Measured]) -> Measured:
    """Of the rows whose share of right answers is not significantly below the plain sampler's, the fastest.

    rows: of one batch size. Not significantly: the 95 % interval of the paired difference reaches 0. The plain sampler
    itself always counts.
    """
    return min((row for row in rows if loses_nothing(row.change)), key=lambda row: row.seconds)


def by_batch(rows: Sequence[Measured]) -> dict[int, list[Measured]]:
    """Batch size -> its rows."""
    return {batch: [row for row in rows if row.batch == batch] for batch in dict.fromkeys(row.batch for row in rows)}


def verdict_on(rows: Sequence[Measured]) -> str:
    """The fastest setting that loses nothing at each batch size, and what these words mean."""
    lines = []
    for batch, part in by_batch(rows).items():
        best = fastest_without_loss(part)
        lines.append(
            f"The fastest setting that loses nothing, batch {batch}: {best.setting.name}, {best.speedup:.2f} times as "
            f"fast as plain; {per_cent(best.right)} right, {points(best.change)} points against plain; a loss of up to "
            f"{max(0.0, -100 * best.change.low):.1f} points is not excluded.\n    {best.setting}"
        )
    lines.append(
        f"To lose nothing: the 95 % interval of the difference, paired over the same {rows[0].questions} questions, "
        "reaches 0."
    )
    return "\n".join(lines)


def per_cent(estimate: Estimate) -> str:
    """A share and its interval."""
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def points(estimate: Estimate) -> str:
    """A difference and its interval, in points of a hundred."""
    return f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


def table(rows: Sequence[Measured]) -> str:
    """The rows as Markdown."""
    cells = [cells_of(row) for row in rows]
    lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(row.values()) for row in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells_of(row: Measured) -> dict[str, str]:
    """Heading -> cell."""
    cells = {
        "setting": row.setting.name,
        "batch": str(row.batch),
        "s per answer": three_digits(row.seconds),
        "times plain": f"{row.speedup:.2f}",
        "tokens/s": three_digits(row.tokens_per_second),
        "forwards": f"{row.forwards:.1f}",
        "ms per forward": three_digits(1000 * row.forward_seconds),
        "floor, ms": three_digits(1000 * row.floor_seconds),
        "times floor": f"{row.forward_seconds / row.floor_seconds:.2f}",
        "peak, GiB": "not measured" if row.peak_bytes is None else f"{row.peak_bytes / GIB:.2f}",
        "equal tokens": f"{100 * row.equal:.1f} %",
    }
    if row.right is not None:
        cells |= {"right": per_cent(row.right), "points against plain": points(row.change)}
    return cells


def three_digits(value: float) -> str:
    """Three digits that count, written out."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def describe(device: torch.device, dtype: torch.dtype, machine: Machine) -> str:
    """The machine in one line: what it is, and what it reaches."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}"
    return (
        f"{name}, {str(dtype).removeprefix('torch.')}: reads {machine.bandwidth / 1e9:.1f} GB/s, "
        f"multiplies {machine.matrix_rate / 1e12:.3g} TFLOP/s (measured, the best of several)"
    )


def save_json(
    file: Path, rows: Sequence[Measured], about: str, machine: Machine, left_out: Sequence[Measured] = (), **more
) -> None:
    """Everything as one JSON object.

    left_out: rows that did not answer every question. more: what else belongs to the result.
    """
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    result = {"machine": {"about": about} | asdict(machine) | versions, "rows": [asdict(row) for row in rows]}
    if rows[0].right is not None:
        best = {batch: fastest_without_loss(part).setting.name for batch, part in by_batch(rows).items()}
        result["fastest_without_loss"] = best
    if left_out:
        result["left_out"] = [asdict(row) for row in left_out]
    file.write_text(json.dumps(result | more, indent=1) + "\n", encoding="utf-8")


def save_png(file: Path, rows: Sequence[Measured], about: str) -> None:
    """Accuracy against speed; where nothing was judged, the share of tokens equal to the plain sampler's."""
    batches = {row.batch for row in rows}
    chart = [
        charts.Point(
            row.setting.name + (f", batch {row.batch}" if len(batches) > 1 else ""),
            1 / row.seconds,
            *((row.right.value, row.right.low, row.right.high) if row.right else (row.equal, row.equal, row.equal)),
        )
        for row in rows
    ]
    label = "right answers, 95 % interval" if rows[0].right else "tokens equal to the plain sampler's"
    best = front([(point.x, point.share) for point in chart])
    charts.points(chart, best, "answers a second", label, about).save(file)
