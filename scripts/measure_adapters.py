"""Adapters against full finetuning of the tiny model: `python scripts/measure_adapters.py DATA FOLDER [--steps 80]`.

The shipped model learns the records of DATA (`records.json` and pictures, as the arrows of docs/fine_tune.md), each way
with the same batches and noise. It is asked those of DATA's `held_out.json`, and held-out questions of two families
that it knew. The table has the share of right answers with Wilson's 95 % interval, how many weights are saved, the
median time of five more steps (on a CPU the processor's own, so that others on the machine count less), and the peak of
memory.

What is in FOLDER already (runs, verdicts) is taken as it is, so the script goes on where it was.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open

from llada_v import answer, load
from llada_v.benchmark.accuracy import share
from llada_v.training.history import HISTORY, read_lines

ROOT = Path(__file__).resolve().parent.parent
RECIPES, MODEL = ROOT / "scripts" / "recipes" / "tiny", ROOT / "model" / "llada-v-tiny"
WAYS = {"full": "finetune", "adapters": "finetune_lora"}
NEW, KNOWN = "held_out", ("relation", "compare")
BATCH = 16
TIMED = 5  # steps, after a first one that is not


def llada_v(*words: object) -> str:
    """What a verb prints."""
    command = [sys.executable, "-m", "llada_v", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def settings_of(data: Path, output: Path, steps: int) -> dict[str, str]:
    """What each way changes in its recipe."""
    changes = {
        "model": MODEL,
        "output": output,
        "data": data / "records.json",
        "image_root": data,
        "max_steps": steps,
        "micro_batch_size": BATCH,
        "save_steps": 40,
        "save_total": 1,
        "log_steps": 10,
        "bf16": "false",
    }
    return {key: str(value) for key, value in changes.items()}


def train(data: Path, folder: Path, way: str, steps: int) -> Path:
    """The folder of the whole model that one way leaves."""
    output, settings = folder / way, settings_of(data, folder / way, steps)
    llada_v("train", RECIPES / f"{WAYS[way]}.yaml", *(word for key in settings for word in (f"--{key}", settings[key])))
    if not (output / "adapter_model.safetensors").is_file():
        return output
    if not (folder / f"{way}_merged").is_dir():
        llada_v("merge-lora", output, folder / f"{way}_merged", "--model", MODEL)
    return folder / f"{way}_merged"


def right_answers(data: Path, folder: Path, model: Path, name: str, count: int) -> dict[str, list[bool]]:
    """Which held-out records, and which questions of each family, are answered rightly."""
    file = folder / f"{name}.json"
    if not file.is_file():
        verdicts = json.loads(
            llada_v("judge", "--model", model, "--count", count * len(KNOWN), "--json", "--families", *KNOWN)
        )
        found: dict[str, list[bool]] = {NEW: held_out_answers(data, model)}
        for verdict in verdicts["verdicts"]:
            found.setdefault(verdict["family"], []).append(verdict["is_right"])
        file.write_text(json.dumps(found))
    return json.loads(file.read_text())


def held_out_answers(data: Path, folder: Path) -> list[bool]:
    """Which first turns of DATA's held_out.json the model of a folder answers to the letter."""
    model, processor = load(folder)
    is_right = []
    for record in json.loads((data / f"{NEW}.json").read_text()):
        question, expected = (turn["value"] for turn in record["conversations"][:2])
        found = answer(model, processor, question.removeprefix("<image>\n"), images=[data / record["image"]])
        is_right.append(found.text == expected)
    return is_right


def told(is_right: list[bool]) -> str:
    """A share with its interval."""
    found = share(is_right)
    return f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def time_steps(data: Path, way: str) -> None:
    """Take some steps in this process and print the median of their seconds, and the peak of memory in GiB."""
    from llada_v.training import progress
    from llada_v.training.recipe import load_recipe
    from llada_v.training.train import train as train_here

    if not torch.cuda.is_available():
        progress.time = SimpleNamespace(perf_counter=time.process_time)
    with tempfile.TemporaryDirectory() as temporary:
        changes = settings_of(data, Path(temporary) / "run", 1 + TIMED) | {"log_steps": "1", "save_steps": "0"}
        output = train_here(load_recipe(RECIPES / f"{WAYS[way]}.yaml", changes))
        logged = [entry for entry in read_lines(output / HISTORY) if "loss" in entry][1:]
    seconds = statistics.median(BATCH * entry["mean_length"] / entry["tokens_per_second"] for entry in logged)
    print(seconds, logged[-1]["memory_gib"])


def cost(data: Path, folder: Path, way: str) -> str:
    """Weights that are saved, seconds of a step, memory."""
    output = folder / way
    file = next(file for name in ("adapter_model", "model") if (file := output / f"{name}.safetensors").is_file())
    with safe_open(file, "pt") as weights:
        count = sum(weights.get_tensor(name).numel() for name in weights.keys())
    command = [sys.executable, __file__, str(data), str(folder), "--time", way]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return f"{count / 1e6:.2f} M | {float(told[-2]):.2f} | {float(told[-1]):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of 16 records")
    parser.add_argument("--count", type=int, default=100, help="questions of a family")
    parser.add_argument("--time", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    data, folder = args.data.resolve(), args.folder.resolve()
    if args.time:
        return time_steps(data, args.time)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"| way | {' | '.join((NEW, *KNOWN))} | saved weights | seconds a step | memory, GiB |")
    print("|---" * (5 + len(KNOWN)) + "|")
    for way in ("before", *WAYS):
        model = MODEL if way == "before" else train(data, folder, way, args.steps)
        right = right_answers(data, folder, model, way, args.count)
        shares = " | ".join(told(right[family]) for family in (NEW, *KNOWN))
        print(f"| {way} | {shares} | {cost(data, folder, way) if way in WAYS else '| |'} |", flush=True)


if __name__ == "__main__":
    main()
