"""Every record read, every picture and video decoded, before the first step: what there is, how long, what is bad.

Writes into a folder: `report.json`, `bad_records.jsonl` and `lengths.png`.
"""

import json
import logging
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..charts import histogram
from .measure import MODALITIES, UNKNOWN, BadRecord, Encoding, Measurer, collected, keep
from .records import Records
from .writing import whole_file

log = logging.getLogger(__name__)

SHOWN = 20  # bad records on the screen; the file has all
BINS = 20
BAR = 50  # letters of the longest bar


@dataclass
class Report:
    """What a check found.

    counts: records by modality, bad ones left out.
    lengths: tokens of every record whose length is known, too long ones included.
    bad: (number, what is wrong) of every bad record.
    """

    max_length: int
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    lengths: array = field(default_factory=lambda: array("i"))
    bad: list[tuple[int, str]] = field(default_factory=list)

    def histogram(self) -> tuple[list[int], list[int]]:
        """(records in each bin, the bins' edges in tokens)."""
        counts, edges = np.histogram(self.lengths, bins=BINS, range=(0, max(self.lengths, default=1)))
        return counts.tolist(), [round(edge) for edge in edges.tolist()]

    def text(self) -> str:
        """The report for a terminal."""
        total = sum(self.counts.values()) + len(self.bad)
        lines = [f"{total:,} records: " + ", ".join(f"{count:,} {name}" for name, count in self.counts.items())]
        if self.lengths:
            lines.append(f"tokens: {', '.join(f'{name} {value:,}' for name, value in self.summary().items())}")
            counts, edges = self.histogram()
            for count, start, end in zip(counts, edges, edges[1:], strict=False):
                lines.append(f"{start:>7,} - {end:>7,} {count:>11,} {'#' * round(BAR * count / max(counts))}".rstrip())
        lines.append(f"{len(self.bad):,} bad records" + (":" if self.bad else ""))
        lines += [f"  {reason}" for _, reason in self.bad[:SHOWN]]
        if len(self.bad) > SHOWN:
            lines.append(f"  and {len(self.bad) - SHOWN:,} more")
        return "\n".join(lines)

    def summary(self) -> dict[str, int]:
        """Shortest, median, 99th percentile and longest record, all together, and the limit, in tokens."""
        if not self.lengths:
            return {}
        median, high = np.percentile(self.lengths, (50, 99)).round().astype(int).tolist()
        return {
            "shortest": min(self.lengths),
            "median": median,
            "99 %": high,
            "longest": max(self.lengths),
            "sum": sum(self.lengths),
            "limit": self.max_length,
        }

    def write(self, folder: Path) -> None:
        """The report's files."""
        counts, edges = self.histogram()
        report = {
            "records": self.counts,
            "bad": len(self.bad),
            "tokens": self.summary(),
            "histogram": {"edges": edges, "records": counts},
        }
        with whole_file(folder / "report.json") as stream:
            stream.write(json.dumps(report, indent=2) + "\n")
        with whole_file(folder / "bad_records.jsonl") as stream:
            stream.writelines(json.dumps({"number": number, "reason": reason}) + "\n" for number, reason in self.bad)
        with whole_file(folder / "lengths.png", "wb") as stream:
            histogram(counts, edges, self.max_length, "tokens", "records").save(stream, "png")


def check(records: Records, processor, encoding: Encoding, workers: int) -> Report:
    """Read and decode every record in `workers` processes (0: in this one).

    The lengths are left beside the index, so that a training need not find them again.
    """
    measurer = Measurer(records, processor, encoding, decode=True)
    bad: dict[int, BadRecord] = {}
    modalities, lengths = collected(measurer, workers, "check", bad.__setitem__)
    try:
        keep(measurer, modalities, lengths)
    except OSError as error:
        log.warning("the lengths are not kept for the training: %s", error)
    report = Report(encoding.max_length, bad=[(number, str(error)) for number, error in bad.items()])
    report.lengths.extend(lengths[lengths != UNKNOWN].tolist())
    is_sound = np.ones(len(records), bool)
    is_sound[list(bad)] = False
    for number, name in enumerate(MODALITIES):
        report.counts[name] = int((modalities[is_sound] == number).sum())
    return report
