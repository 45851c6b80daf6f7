"""Time and memory of the data path over a large JSON array: index, lengths, second start, training.

    python scripts/measure_data.py --records 1000000

Writes a synthetic array of that many records (one to three turns, one in five without a picture) over pictures of mixed
sizes into a temporary folder, or uses what is in `--folder`. Each step is a process of its own, so that its peak of
resident memory is its own. The training steps are those of the tiny model in two processes, of which the larger numbers
are shown, once over all records and once over a thousand: the difference is what the number of records costs.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL, RECIPE = ROOT / "model" / "llada-v-tiny", ROOT / "scripts" / "recipes" / "tiny" / "instruct.yaml"
PICTURES = 500
WORDS = "the of a red green blue circle square triangle left right above below how many objects are there".split()
FEW = 1000
STEPS = 20
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def write_data(folder: Path, count: int) -> None:
    """Pictures, `records.json` with `count` records, and `few.json` with the first thousand."""
    from PIL import Image

    draw = random.Random(0)
    (folder / "images").mkdir()
    for number in range(PICTURES):
        size = draw.randint(80, 400), draw.randint(80, 400)
        Image.effect_noise(size, 80).save(folder / "images" / f"{number}.png")
    for name, total in (("few", FEW), ("records", count)):
        with (folder / f"{name}.json").open("w") as stream:
            stream.write("[")
            for number in range(total):
                stream.write((",\n" if number else "\n") + json.dumps(record(draw, number)))
            stream.write("\n]\n")


def record(draw: random.Random, number: int) -> dict:
    """A record of random words."""
    turns = []
    for _ in range(draw.randint(1, 3)):
        turns.append({"from": "human", "value": " ".join(draw.choices(WORDS, k=draw.randint(3, 30)))})
        turns.append({"from": "gpt", "value": " ".join(draw.choices(WORDS, k=draw.randint(1, 40)))})
    made = {"id": f"record-{number}", "conversations": turns}
    if number % 5:
        turns[0]["value"] = "<image>\n" + turns[0]["value"]
        made["image"] = f"images/{draw.randrange(PICTURES)}.png"
    return made


def settings(folder: Path, name: str, epochs: float) -> dict[str, str]:
    """Overrides of the recipe."""
    changes = {
        "model": MODEL,
        "output": folder / f"run_{name}",
        "data": folder / f"{name}.json",
        "image_root": folder,
        "epochs": epochs,
        "group_by_length": "true",
        "max_length": 4096,
        "save_steps": 1_000_000,
        "workers": 2,
    }
    return {key: str(value) for key, value in changes.items()}


def run_step(step: str, folder: Path, name: str, epochs: float) -> None:
    """One step in this process; prints what it took as JSON."""
    from llada_v import LladaVProcessor
    from llada_v.training.recipe import load_recipe
    from llada_v.training.records import RecordDataset
    from llada_v.training.train import train

    recipe = load_recipe(RECIPE, settings(folder, name, epochs))
    processor = LladaVProcessor.from_pretrained(recipe.model)
    before, start = peak(), time.perf_counter()
    if step == "train":
        train(recipe)
    else:
        dataset = RecordDataset(recipe, processor)
        if step == "lengths":
            dataset.measures()
        if step == "second start":
            lengths, _ = dataset.measures()
            assert len(lengths) == len(dataset) and dataset[len(dataset) - 1]
    took = {"seconds": time.perf_counter() - start, "before": before, "peak": peak(), "workers": peak(True)}
    print(json.dumps(took | anonymous()))


def peak(children: bool = False) -> int:
    """Peak resident memory of this process, or of the largest process it started, in MiB."""
    from llada_v.machine import peak_bytes

    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return peak_bytes(who) // 2**20


def anonymous() -> dict[str, int]:
    """Resident memory now: its own, and pages of files (the index among them), which the system may take back; MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[name].split()[0]) // 1024 for key, name in (("own", "RssAnon"), ("files", "RssFile"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", help="with `records.json` and `few.json` of an earlier run")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step, folder, name, epochs = args.step
        return run_step(step, Path(folder), name, float(epochs))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if not (folder / "records.json").is_file():
            write_data(folder, args.records)
        measure(folder, args.records)


def measure(folder: Path, records: int) -> None:
    """Print a line for each step."""
    size = os.path.getsize(folder / "records.json") / 2**20
    print(f"{records:,} records, {size:,.0f} MiB of JSON, {PICTURES} pictures; memory in MiB", flush=True)
    print(f"{'step':32}{'seconds':>9}{'at start':>10}{'peak':>8}{'worker':>8}{'own':>8}{'files':>8}", flush=True)
    steps = [(step, "records") for step in ("index", "lengths", "second start", "train")] + [("train", "few")]
    for step, name in steps:
        epochs = STEPS * 16 / (records if name == "records" else FEW)
        launcher = TWO_PROCESSES if step == "train" else ()
        command = [sys.executable, *launcher, __file__, "--step", step, str(folder), name, str(epochs)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        took = {key: max(report[key] for report in reports) for key in reports[0]}
        label = f"{step}, {FEW if name == 'few' else records:,} records"
        cells = "".join(f"{took[key]:8}" for key in ("peak", "workers", "own", "files"))
        print(f"{label:32}{took['seconds']:9.1f}{took['before']:10}{cells}", flush=True)


if __name__ == "__main__":
    main()
