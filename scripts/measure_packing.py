"""Tokens a second of training and the share of filler: records padded together, sorted by length, and packed.

    python scripts/measure_packing.py [--model FOLDER] [--steps 12]

Two synthetic sets, texts, single pictures and clips: "long" after MAmmoTH-VL, with answers of about a hundred words and
pictures of mixed sizes; "short" with answers of a few words, pictures of one canvas and three texts in eight. Their
shares and lengths are guesses, see `MIXES`.

The first table is arithmetic, of the lengths that the 8B model has; filler is what pads records to the longest beside
them. The second trains the tiny model, each way for as many steps on the same records, in a process of its own, and
shows the median of the steps; "tokens" are those of records, filler is not among them. On a CPU a second is one of the
processor, so that others on the machine count less. Packed rows have no filler but in attention alone, unless flash
attention computes it.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from llada_v import LladaVConfig
from llada_v.anyres import Layout, num_features
from llada_v.training.order import GroupedSampler, ShuffledSampler
from llada_v.training.packing import PackSampler

ROOT = Path(__file__).resolve().parent.parent
WORDS = "the of a red green blue circle square triangle left right above below how many objects are there".split()
STEP = 32  # records
TEMPLATE = 40  # tokens around a question
RECORDS = 1024  # of a set that is trained on
WARM_UP = 2  # steps that are not counted


class Mix(NamedTuple):
    """A set of records: shares of texts, pictures and clips, and the median of the words in an answer."""

    text: float
    picture: float
    clip: float
    words: int
    sides: tuple[float, float]  # of a picture, in tiles
    pack_length: int  # of the tiny model's rows


MIXES = {
    "long": Mix(0.12, 0.8, 0.08, 100, (0.6, 3.0), 2048),
    "short": Mix(0.375, 0.6, 0.025, 4, (0.4, 0.6), 2048),
}
WAYS = {
    "padded, by chance": dict(micro_batch_size=8, group_by_length=False),
    "padded, grouped": dict(micro_batch_size=8, group_by_length=True),
    "one a row": dict(micro_batch_size=1, group_by_length=True),
    "packed": dict(micro_batch_size=1, group_by_length=True),
}


class Drawn(NamedTuple):
    """What one record is made of; sides in tiles."""

    modality: int
    answer: int
    height: float
    width: float
    frames: int


def drawn(mix: Mix, count: int, seed: int = 0) -> list[Drawn]:
    """The records of a set, the same each time."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        kind = draw.choices((0, 1, 3), mix[:3])[0]
        answer = max(1, min(8 * mix.words, round(draw.lognormvariate(np.log(mix.words), 0.7))))
        found.append(Drawn(kind, answer, draw.uniform(*mix.sides), draw.uniform(*mix.sides), draw.randint(8, 32)))
    return found


# The 8B model's lengths


def published_lengths(records: list[Drawn]) -> np.ndarray:
    """Tokens of each record as the published model has them, 1.3 a word."""
    config, found = LladaVConfig(), []
    for record in records:
        height, width = (round(config.tile_size * side) for side in (record.height, record.width))
        if record.modality == 1:
            pictures = num_features(Layout.ANYRES, height, width, config)
        else:
            pictures = num_features(Layout.VIDEO, 1, 1, config, record.frames) if record.modality == 3 else 0
        found.append(TEMPLATE + pictures + round(1.3 * record.answer))
    return np.array(found, np.int32)


def filler(way: str, lengths: np.ndarray, modalities: np.ndarray, pack_length: int) -> tuple[float, float]:
    """(share of filler among the tokens that are computed, forward passes of a step) on one device."""
    settings = WAYS[way]
    order = (
        GroupedSampler(lengths, modalities, STEP, 0)
        if settings["group_by_length"]
        else ShuffledSampler(len(lengths), 0)
    )
    if way == "packed":
        steps = list(PackSampler(order, lengths, STEP, pack_length, 0, 1))
        return 0.0, sum(map(len, steps)) / len(steps)
    size = settings["micro_batch_size"]
    found = lengths[list(order)][: len(lengths) // size * size].reshape(-1, size)
    return 1 - found.sum() / (found.max(1).sum() * size), STEP / size


# The tiny model, trained


def write_data(folder: Path, records: list[Drawn], tile: int) -> None:
    """The records with their pictures; a clip is a folder of frames."""
    draw, made = random.Random(1), []
    folder.mkdir(parents=True)
    frame = Image.new("RGB", (tile, tile), "blue")
    for number, record in enumerate(records):
        told = {"id": str(number)}
        if record.modality == 1:
            size = round(tile * record.width), round(tile * record.height)
            Image.new("RGB", size, "red").save(folder / f"{number}.png")
            told["image"] = f"{number}.png"
        elif record.modality == 3:
            (folder / str(number)).mkdir()
            for second in range(2 * record.frames):  # a folder holds two frames a second, of which one is taken
                frame.save(folder / str(number) / f"{second:03}.png")
            told["video"] = str(number)
        question = ("<image>\n" if record.modality else "") + " ".join(draw.choices(WORDS, k=6))
        answer = " ".join(draw.choices(WORDS, k=record.answer))
        told["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        made.append(told)
    (folder / "records.json").write_text(json.dumps(made))


def run_way(folder: Path, way: str, pack_length: int, model: str, steps: int) -> None:
    """Train one way in this process; prints the tokens a second of its steps."""
    from llada_v.training import progress
    from llada_v.training.recipe import load_recipe
    from llada_v.training.train import train

    if not torch.cuda.is_available():
        progress.time = SimpleNamespace(perf_counter=time.process_time)
    output = folder / way.replace(", ", "_").replace(" ", "_")
    settings = dict(
        model=model,
        output=output,
        data=folder / "records.json",
        image_root=folder,
        max_steps=steps,
        global_batch_size=STEP,
        pack_length=pack_length if way == "packed" else 0,
        max_length=8192,
        train_eos_padding="false",
        pad_to_multiple_of=1,
        bf16="false",
        save_steps=0,
        log_steps=1,
        attn_implementation="sdpa",
        peak_tflops=1,
        **WAYS[way],
    )
    recipe = ROOT / "scripts/recipes/tiny/finetune.yaml"
    train(load_recipe(recipe, {key: str(value) for key, value in settings.items()}))
    history = map(json.loads, (output / "history.jsonl").read_text().splitlines())
    print(statistics.median(line["tokens_per_second"] for line in history if "loss" in line and line["step"] > WARM_UP))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "model" / "llada-v-tiny"), help="what is trained")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of each way; 0: no training")
    parser.add_argument("--sets", nargs="+", choices=MIXES, default=list(MIXES))
    parser.add_argument("--way", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        return run_way(Path(args.way[0]), args.way[1], MIXES[args.sets[0]].pack_length, args.model, args.steps)
    print("| set | way | filler, 8B lengths | forward passes of a step |\n|---|---|---|---|")
    for name, mix in MIXES.items():
        records = drawn(mix, 20_000)
        lengths, kinds = published_lengths(records), np.array([record.modality for record in records], np.int8)
        for way in WAYS:
            share, passes = filler(way, lengths, kinds, 8192)
            print(f"| {name}, {lengths.mean():,.0f} tokens | {way} | {100 * share:.1f} % | {passes:.1f} |", flush=True)
    if not args.steps:
        return
    tile = LladaVConfig.from_pretrained(args.model).tile_size
    print("\n| set | way | tokens a second | packed is faster by |\n|---|---|---|---|")
    for name in args.sets:
        with tempfile.TemporaryDirectory() as temporary:
            folder, speeds = Path(temporary) / name, {}
            write_data(folder, drawn(MIXES[name], RECORDS), tile)
            for way in WAYS:
                given = ["--model", args.model, "--steps", str(args.steps), "--sets", name]
                command = [sys.executable, __file__, *given, "--way", str(folder), way]
                done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
                speeds[way] = float(done.stdout.split()[-1])
        for way, speed in speeds.items():
            print(f"| {name} | {way} | {speed:,.0f} | {speeds['packed'] / speed:.2f} |", flush=True)


if __name__ == "__main__":
    main()
