"""Small runs for the tests: a recipe of a few steps on the small world, started here or by the real launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from llada_v.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parent.parent
# Twelve steps, four an epoch, the fourth of half a batch; in float32.
SMALL = {
    "train": ["vision_tower", "projector", "language_model"],
    "style": "chat",
    "train_eos_padding": False,
    "global_batch_size": 4,
    "micro_batch_size": 2,
    "epochs": 3,
    "learning_rate": 1e-3,
    "vision_learning_rate": None,
    "t_min": 0.0,
    "antithetic_t": False,
    "save_steps": 2,
    "save_total": 9,
    "log_steps": 1,
    "bf16": False,
    "attn_implementation": "sdpa",
    "peak_tflops": 1,
}
# What makes a run one of adapters.
ADAPTED = {"train": ["projector", "language_model"], "lora_rank": 4, "lora_alpha": 8.0, "lora_dropout": 0.1}


def texts(values: dict) -> dict[str, str]:
    """Values as the command line gives them."""
    return {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in values.items()}


def changes_for(model, toys, output, **changes) -> dict:
    """What makes a recipe a small run of `model` on the records in `toys`."""
    places = {"model": str(model), "output": str(output), "data": str(toys / "records.json"), "image_root": str(toys)}
    return SMALL | places | changes


def small_recipe(model, toys, output, **changes) -> Recipe:
    """A small run."""
    return load_recipe(ROOT / "scripts/recipes/tiny/sft.yaml", texts(changes_for(model, toys, output, **changes)))


def words(values: dict) -> list[str]:
    """Values as words of a command line."""
    return [word for key, text in texts(values).items() for word in (f"--{key}", text)]


def launch(script: str, *arguments: str, timeout: float = 600, **variables: str) -> subprocess.CompletedProcess:
    """Run a shell script of the project as a user would, one thread a process."""
    variables = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables
    command = ["bash", str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=timeout)


def losses(output) -> dict[int, float]:
    """The logged loss of each step, from the newest checkpoint's history."""
    newest = max(Path(output).glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def weights(folder) -> dict[str, torch.Tensor]:
    """The finished weights of an output folder."""
    return load_file(Path(folder) / "model.safetensors")


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Over all weights of two models."""
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)
