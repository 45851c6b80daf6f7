"""Every record read, every picture and video decoded, before the first step: what there is, how long, what is bad.

Writes into a folder: `report.json`, `bad_records.jsonl` and `lengths.png`.
"""

import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .measure import MODALITIES, UNKNOWN, Encoding, Measurer, measure_all
from .records import Records
from .writing import whole_file

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
            draw_histogram(counts, edges, self.max_length).save(stream, "png")


def check(records: Records, processor, encoding: Encoding, workers: int) -> Report:
    """Read and decode every record in `workers` processes (0: in this one)."""
    report, number = Report(encoding.max_length), 0
    for measures in measure_all(Measurer(records, processor, encoding, decode=True), workers, "check"):
        for measure in measures:
            if measure.length != UNKNOWN:
                report.lengths.append(measure.length)
            if measure.error is None:
                report.counts[MODALITIES[measure.modality]] += 1
            else:
                report.bad.append((number, str(measure.error)))
            number += 1
    return report


def draw_histogram(counts: list[int], edges: list[int], limit: int) -> Image.Image:
    """Bars of the numbers of records by length in tokens, with a line at the limit where it lies in the picture."""
    width, height, margin = 800, 400, 50
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    right, bottom = width - margin, height - margin
    step = (right - margin) / len(counts)
    for index, count in enumerate(counts):
        left, top = margin + index * step, bottom - (bottom - margin) * count / max(*counts, 1)
        draw.rectangle((left + 1, top, left + step - 1, bottom), fill=(70, 110, 180))
        if index % 4 == 0:
            draw.text((left, bottom + 6), f"{edges[index]:,}", "black", font, anchor="ma")
    draw.line((margin, bottom, right, bottom), "black")
    draw.text((right, bottom + 6), f"{edges[-1]:,}", "black", font, anchor="ma")
    draw.text((width / 2, height - 8), "tokens", "black", font, anchor="ms")
    draw.text((margin, margin - 8), f"records, at most {max(counts):,} in a bar", "black", font, anchor="ls")
    if limit <= edges[-1]:
        at = margin + (right - margin) * limit / edges[-1]
        draw.line((at, margin, at, bottom), (200, 40, 40), width=2)
        draw.text((at, margin - 8), f"limit {limit:,}", (200, 40, 40), font, anchor="ms")
    return image
