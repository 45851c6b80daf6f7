#!/usr/bin/env python
"""Measures how time and memory of an answer grow with prompt, canvas and batch, beside their floor, and draws it.

python scripts/measure_growth.py --png growth.png --json growth.json

Random weights of a small shape; the lengths are those of real use. The floor of a forward pass is that of `llada-v
bench`; that of memory is what has to be there at once beside the weights: kept keys and values, and one layer's MLP.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image

from llada_v import charts, machine
from llada_v.answering import device_of, dtype_of
from llada_v.benchmark.bench import bench, machine_of, random_task
from llada_v.benchmark.candidates import Setting
from llada_v.benchmark.memory import PeakMemory, proc_kilobytes
from llada_v.benchmark.report import describe
from llada_v.benchmark.shapes import SHAPES, random_model
from llada_v.configuration_llada_v import LladaVConfig

SIZES = dict(vocab_size=1024, hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4)
PROMPTS, CANVASES, BATCHES = (500, 1000, 2000, 4000, 8000), (32, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32)
PROMPT, CANVAS = 1000, 32  # of what does not vary
SETTINGS = [Setting("kept", {"cache": "prompt", "refresh_interval": 0})]
RESIDENT = Path("/proc/self/status")


def cases() -> Iterator[tuple[str, int, int, int, int]]:
    """(what varies, its value, prompt, canvas, batch)."""
    yield from (("tokens of the prompt", length, length, CANVAS, 1) for length in PROMPTS)
    yield from (("tokens of the canvas", length, PROMPT, length, 1) for length in CANVASES)
    yield from (("prompts at once", size, PROMPT // 2, CANVAS, size) for size in BATCHES)


def needed(config, dtype: torch.dtype, prompt: int, canvas: int, batch: int, is_kept: bool) -> int:
    """Bytes that have to be there at once beside the weights: keys and values, and one MLP with the stream."""
    text, positions = config.text_config, batch * (prompt + canvas)
    kept = 2 * text.num_hidden_layers * text.hidden_size * positions if is_kept else 0
    return dtype.itemsize * (kept + positions * (2 * text.hidden_size + 2 * text.intermediate_size))


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="forward passes an answer (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is answered (%(default)s)")
    parser.add_argument("--cpu-time", action="store_true", help="as of `llada-v bench`: for a machine that is shared")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    args = parser.parse_args()
    device = device_of(None)
    if args.cpu_time:
        torch.set_num_threads(1)
        machine.clock = time.process_time
    dtype = dtype_of(None, device)
    small = SHAPES["small"]
    config = LladaVConfig(**small.config | {"text_config": SIZES})
    model = random_model(config, "growth", device, dtype)
    reached, found = machine_of(model), []
    about = describe(device, dtype, reached)
    for name, value, prompt, canvas, batch in cases():
        shape = replace(small, prompt_length=prompt, gen_length=canvas, steps=args.steps)
        PeakMemory(device).reset()
        before = proc_kilobytes(RESIDENT, "VmRSS")
        for row in bench(random_task(model, shape, batch), SETTINGS, (batch,), args.rounds, machine=reached):
            least = needed(config, dtype, prompt, canvas, batch, row.setting.name == "kept")
            memory = None if row.peak_bytes is None else row.peak_bytes - before
            found.append(asdict(row) | {"varies": name, "value": value, "memory": memory, "memory_floor": least})
            print(
                f"{name} {value:5} {row.setting.name:6} {1000 * row.forward_seconds:9.1f} ms a forward, floor "
                f"{1000 * row.floor_seconds:9.1f}, {(memory or 0) / 2**20:8.1f} MiB, least {least / 2**20:8.1f}",
                flush=True,
            )
        args.json.write_text(json.dumps({"about": about, "rows": found}, indent=1) + "\n")
    draw(found, about).save(args.png)


def draw(found: list[dict], about: str) -> Image.Image:
    """Six charts: time above, memory below; prompt, canvas and batch from left to right."""
    names = list(dict.fromkeys(row["varies"] for row in found))
    sheet = Image.new("RGB", (len(names) * charts.LINES_WIDTH, 2 * charts.LINES_HEIGHT + 40), charts.PAPER)
    for column, name in enumerate(names):
        for line, (title, told, keys, scale) in enumerate(
            (
                ("Time a forward", "ms", ("forward_seconds", "floor_seconds"), 1000),
                ("Memory beside the weights", "MiB", ("memory", "memory_floor"), 1 / 2**20),
            )
        ):
            lines = []
            for setting in ("plain", "kept"):
                rows = [row for row in found if row["varies"] == name and row["setting"]["name"] == setting]
                for key, label in zip(keys, (setting, f"{setting}, floor"), strict=True):
                    if rows and all(row[key] is not None for row in rows):
                        values = [scale * row[key] for row in rows]
                        lines.append(charts.Line(label, [row["value"] for row in rows], values))
            chart = charts.lines(lines, f"{title} by {name}", told)
            sheet.paste(chart, (column * charts.LINES_WIDTH, line * charts.LINES_HEIGHT))
    note = charts.Sheet(sheet.width, 40)
    note.text(charts.INSET, 16, about, charts.SMALL, charts.MUTED)
    sheet.paste(note.finished(), (0, 2 * charts.LINES_HEIGHT))
    return sheet


if __name__ == "__main__":
    main()
