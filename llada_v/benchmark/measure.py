"""What a device does with the 8B model, in one run of some minutes: part after part, each written at once.

    llada-v measure --output measured             # one GPU, random weights, no network; `scripts/measure_gpu.sh`
    llada-v measure --output measured --rehearse  # every part on a CPU with a small shape

Weights are random: times are those of trained weights of the same sizes, tokens are not. A part has so many seconds as
it may need on a slow card, and is left out where fewer are left, where the memory does not hold it, or where a package
is missing; `measured.json` and `measured.md` say so. A run that is cut off leaves whole files with all parts before.
"""

import copy
import faulthandler
import gc
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from ..anyres import Layout
from ..configuration_llada_v import LladaVConfig
from ..errors import NoPackage, UserError
from ..generation.config import SamplerConfig
from ..machine import timed
from ..quantization import quantize
from ..serving.engine import Engine
from ..serving.limits import EngineConfig
from ..training.budget import SHARDINGS, BudgetMaker
from ..training.progress import Work, forward_flops
from ..training.recipe import Recipe, load_recipe
from .bench import bench, machine_of, random_task
from .candidates import Setting, expand
from .clients import NoTokenizer, serve_clients
from .floor import Machine
from .learning import measure_steps, picture_batch
from .memory import GIB, free_memory
from .profiling import HEAVIEST, profile
from .report import Measured, cells_of, describe, three_digits
from .shapes import SHAPES, build, random_model

JSON, MARKDOWN = "measured.json", "measured.md"
KEPT: dict[str, Any] = {"cache": "prompt", "refresh_interval": 0}
RENEWED: dict[str, Any] = {"cache": "prompt", "refresh_interval": 8}
STEPS, BATCH_STEPS = 32, 4  # forward passes of an answer of the shape's canvas
LENGTHS, BATCHES = (2, 32, 96, 128), (1, 4, 16)
CLIENTS, REQUESTS = 8, 16
SHORTER = 30  # tokens by which a second prompt is shorter, for what is built for it
TEXT = 64  # tokens that are learned behind a picture
LAYERS = 8  # of the trunk that is trained as a whole

Table = list[dict[str, Any]]


@dataclass
class Found:
    """What a part found: tables by what they are about, for people; data, the same for programs, where it is more."""

    tables: dict[str, Table]
    data: Any = None


@dataclass
class Part:
    """One part. seconds: that it may need. told: what it is about."""

    name: str
    seconds: float
    told: str
    run: Callable[[], Found]


@dataclass
class Report:
    """The two files, whole after every part. parts: by name, what was found or why nothing was."""

    folder: Path
    about: str = ""
    parts: dict[str, dict] = field(default_factory=dict)
    sections: list[str] = field(default_factory=list)

    def add(self, part: Part, seconds: float, found: Found | None, why: str = "") -> None:
        """Note a part, and write."""
        lines = [f"## {part.name}", part.told]
        if found is None:
            self.parts[part.name] = {"left_out": why}
            lines.append(f"Left out: {why}.")
        else:
            self.parts[part.name] = {"seconds": seconds, "found": found.tables if found.data is None else found.data}
            for title, rows in found.tables.items():
                lines += ([f"{title}:"] if title else []) + [markdown(rows)]
            lines.append(f"This part took {seconds:.0f} s.")
        self.sections.append("\n\n".join(lines))
        self.write()

    def write(self) -> None:
        """Both files, each in place of the one before at once."""
        versions = {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        told = f"{self.about}. {', '.join(map(' '.join, versions.items()))}."
        for name, text in (
            (JSON, json.dumps({"about": self.about, **versions, "parts": self.parts}, indent=1)),
            (MARKDOWN, "\n\n".join([f"# Measured\n\n{told}", *self.sections])),
        ):
            draft = self.folder / f".{name}"
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(self.folder / name)


def markdown(rows: Table) -> str:
    """Rows as a table."""
    cells = [[three_digits(cell) if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (list(rows[0]), ["---"] * len(rows[0]), *cells))


class Measurement:
    """The parts, on one device. shape: a name in SHAPES."""

    model: Any
    machine: Machine

    def __init__(self, shape: str, device: torch.device, dtype: torch.dtype, folder: Path):
        self.name, self.shape, self.device, self.dtype = shape, SHAPES[shape], device, dtype
        self.report = Report(folder)
        self.parts = [
            Part("machine", 90, "What the device reaches, measured here.", self.reach),
            Part("picture", 20, "Tower and projector on one picture, against the counted operations.", self.picture),
            Part("forwards", 60, f"An answer of the whole canvas in {STEPS} steps.", self.forwards),
            Part("answers", 60, "One token a step, the prompt computed once.", self.answers),
            Part("batches", 90, f"Several prompts at once, {BATCH_STEPS} steps.", self.batches),
            Part("profile", 40, f"An answer in {STEPS} steps, the prompt computed once.", self.profile),
            Part("serving", 60, "Clients that ask again once they are answered.", self.serving),
            Part("compiled", 150, "The prompt computed once, without and with torch.compile.", self.compiled),
            Part("stage 1", 60, "A step of training of the projector alone, on captions.", self.stage_1),
            Part("int8", 60, "The trunk's weights in 8 bits.", self.int8),
            Part("training", 60, f"A step of training of everything, the trunk cut to {LAYERS} layers.", self.training),
        ]

    def run(self, seconds: float) -> int:
        """Every part for which there is time; the number of parts that failed by a fault of ours."""
        self.report.folder.mkdir(parents=True, exist_ok=True)
        end, failed = time.monotonic() + seconds, 0
        # A part that hangs takes nothing with it: all that was found is written.
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
        try:
            for part in self.parts:
                failed += not self.run_part(part, end - time.monotonic())
        finally:
            faulthandler.cancel_dump_traceback_later()
        return failed

    def run_part(self, part: Part, left: float) -> bool:
        """One part, and its report. Whether nothing failed: what is left out did not."""
        if left < part.seconds:
            why = f"it may need {part.seconds:.0f} s, and {max(left, 0):.0f} are left"
            self.report.add(part, 0, None, why)
            return True
        print(f"{part.name} ({left:.0f} s are left)", file=sys.stderr, flush=True)
        start, why, is_right, found = time.monotonic(), "", True, None
        try:
            found = part.run()
        except (UserError, torch.OutOfMemoryError) as error:
            why = " ".join(str(error).split())
        except Exception as error:  # the parts behind it are worth having all the same
            traceback.print_exc()
            why, is_right = f"it failed with {type(error).__name__}: {error}", False
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        self.report.add(part, time.monotonic() - start, found, why)
        return is_right

    # The parts

    def reach(self) -> Found:
        """Bandwidth, rate and memory, and the model."""
        self.model = build(self.name, self.device, self.dtype)
        weights = sum(weight.nbytes for weight in self.model.parameters())
        self.machine = machine_of(self.model)
        self.report.about = describe(self.device, self.dtype, self.machine)
        free, text = free_memory(self.device), self.model.config.text_config
        kept = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * self.dtype.itemsize
        row = {
            "reads, GB/s": self.machine.bandwidth / 1e9,
            "multiplies, TFLOP/s": self.machine.matrix_rate / 1e12,
            "weights, GiB": weights / GIB,
            "free beside them, GiB": "not known" if free is None else free / GIB,
            "keys and values of 1,000 positions, GiB": 1000 * kept / GIB,
        }
        return Found({"": [row]})

    def picture(self) -> Found:
        """One picture through tower and projector."""
        batch = next(self.task(1).batches(1)).pictures
        tiles = len(batch["pixel_values"])
        flops = forward_flops(self.model.config, Work(1, 1, tiles, 0))
        floor = (flops["vision_tower"] + flops["projector"]) / self.machine.matrix_rate

        @torch.no_grad()
        def encode():
            self.model.encode_pictures(**batch)

        encode()
        seconds = min(timed(encode, 1, self.device) for _ in range(3))
        row = {"tiles": tiles, "ms": 1000 * seconds, "floor, ms": 1000 * floor, "times floor": seconds / floor}
        return Found({"": [row]})

    def forwards(self) -> Found:
        """Plain, renewed, kept."""
        return self.bench([Setting("renewed", RENEWED), Setting("kept", KEPT)], rounds=3)

    def answers(self) -> Found:
        """Several lengths."""
        return self.bench(expand("kept", KEPT | {"gen_length": list(LENGTHS)}))

    def batches(self) -> Found:
        """Several batch sizes."""
        return self.bench([Setting("kept", KEPT)], BATCHES, BATCH_STEPS)

    def profile(self) -> Found:
        """What a step is made of."""
        batch = next(self.task(1).batches(1))
        features = self.model.encode_pictures(**batch.pictures)
        sampler = SamplerConfig(gen_length=self.shape.gen_length, steps=STEPS, stop_token_ids=[], **KEPT)

        def run():
            self.model.generate(**batch.prompts, image_features=features, sampler=sampler)

        found = profile(run, self.device)
        row = {
            "ms a forward": 1000 * found.seconds / STEPS,
            "operations": found.operations / STEPS,
            "kernels": sum(kernel.count for kernel in found.kernels) / STEPS,
            "waits": found.waits / STEPS,
            "ms of kernels": 1000 * found.kernel_seconds / STEPS,
            "ms of the host": 1000 * found.host_seconds / STEPS,
        }
        heaviest = [
            {"kernel": kernel.name[:80], "times a forward": kernel.count / STEPS, "ms": 1000 * kernel.seconds / STEPS}
            for kernel in found.kernels[:HEAVIEST]
        ]
        return Found({"Each forward": [row], "The heaviest": heaviest})

    def serving(self) -> Found:
        """One client and several."""
        prompts = [batch.prompts | batch.pictures for batch in self.task(REQUESTS).batches(1)]
        sampler = SamplerConfig(gen_length=self.shape.gen_length, steps=STEPS, stop_token_ids=[], **RENEWED)
        whole = prompts[0]["input_ids"].shape[1] + sampler.canvas_length
        config = EngineConfig(pool_tokens=CLIENTS * whole, tick_tokens=max(EngineConfig.tick_tokens, 2 * whole))
        engine = Engine(self.model, NoTokenizer(), config).start()
        try:
            serve_clients(engine, prompts[:2], sampler, 2)  # what is built at the first use
            rows = []
            for clients in (1, CLIENTS):
                found = serve_clients(engine, prompts, sampler, clients)
                rows.append(
                    {
                        "clients": clients,
                        "requests/s": found.requests_per_second,
                        "tokens/s": found.tokens_per_second,
                        "seconds, median": found.median,
                        "slowest": found.slowest,
                        "forwards": found.forwards,
                    }
                )
        finally:
            engine.close()
        return Found({f"{REQUESTS} requests, {STEPS} steps each": rows})

    def compiled(self) -> Found:
        """The same without and with compiled layers, and what the first answer takes."""
        if self.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "c++")):
            raise NoPackage("torch.compile needs a C++ compiler on a CPU, and there is no c++; install one")
        sampler = SamplerConfig(gen_length=self.shape.gen_length, steps=STEPS, compile=True, stop_token_ids=[], **KEPT)
        rows = []
        for length in (self.shape.prompt_length, self.shape.prompt_length - SHORTER, self.shape.prompt_length):
            shape = replace(self.shape, prompt_length=length)
            batch = next(random_task(self.model, shape, 1, shape.gen_length, STEPS).batches(1))
            answer = partial(self.model.generate, **batch.prompts, **batch.pictures, sampler=sampler)
            rows.append({"tokens of the prompt": length, "s": timed(answer, 1, self.device)})
        found = self.bench([Setting("kept", KEPT), Setting("kept, compiled", KEPT | {"compile": True})])
        found.tables["The first compiled answers, one after the other, with what is built for each"] = rows
        return found

    def int8(self) -> Found:
        """After this the model is another."""
        quantize(self.model, "int8")
        return self.bench([Setting("kept", KEPT)])

    def stage_1(self) -> Found:
        """A small picture and its caption a record."""
        recipe = self.recipe("pretrain", deepspeed=None)
        config = self.model.config
        side = (config.tile_size, config.tile_size)
        batch = picture_batch(config, recipe.micro_batch_size, Layout.FLAT, side, TEXT, self.device)
        try:
            return self.steps(self.model, recipe, batch)
        finally:
            self.model.to(self.dtype)

    def training(self) -> Found:
        """The shape's picture and some text, one record."""
        self.model = None  # what trains needs its memory
        gc.collect()
        config = LladaVConfig(**copy.deepcopy(self.shape.config))
        config.text_config.num_hidden_layers = min(LAYERS, config.text_config.num_hidden_layers)
        recipe = self.recipe("si_10M", deepspeed=None, projector=None)
        model = random_model(config, f"{LAYERS} layers to train", self.device, torch.float32, copies=4)
        batch = picture_batch(config, 1, Layout.ANYRES, self.shape.picture, TEXT, self.device)
        return self.steps(model, recipe, batch)

    # What they share

    def task(self, count: int, steps: int | None = None):
        """Random prompts of the shape."""
        return random_task(self.model, self.shape, count, self.shape.gen_length, steps or STEPS)

    def bench(self, settings: list[Setting], sizes=(1,), steps: int | None = None, rounds: int = 1) -> Found:
        """Settings side by side with the plain sampler."""
        rows: list[Measured] = bench(self.task(max(sizes), steps), settings, sizes, rounds, machine=self.machine)
        return Found({"": [cells_of(row) for row in rows]}, [asdict(row) for row in rows])

    def recipe(self, name: str, **changes) -> Recipe:
        """A published recipe, on a model that is not on a disk."""
        changes |= {"bf16": self.device.type == "cuda"}
        return load_recipe(name, {key: json.dumps(value) for key, value in changes.items()})

    def steps(self, model, recipe: Recipe, batch: dict[str, torch.Tensor]) -> Found:
        """Steps of training, beside the memory that `llada-v budget` says they take."""
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            budget = BudgetMaker(replace(recipe, model=folder), batch["input_ids"].shape[1]).budget(SHARDINGS[0], 1)
        found = measure_steps(model, recipe, batch)
        row = {
            "rows": found.rows,
            "tokens a row": found.length,
            "tiles": found.tiles,
            "ms a step": 1000 * found.seconds,
            "tokens/s": found.tokens_per_second,
            "MFU, %": 100 * found.mfu,
            "peak, GiB": "not measured" if found.peak_bytes is None else found.peak_bytes / GIB,
            "budgeted, GiB": budget.total / GIB,
        }
        return Found({"": [row]}, [asdict(found) | {"budgeted_bytes": budget.total}])
