"""How fast a run is: what was done since the last line, what that costs in operations, and one line for people.

A multiply-add counts as two operations. Norms, activations and the embedding are left out, and so is filler; recomputed
activations are not counted, so what is divided by the time is the model's use of the device, not the device's work.
"""

import logging
import time
from datetime import timedelta
from typing import NamedTuple

import torch
from transformers import TrainerCallback

from ..configuration_llada_v import LladaVConfig
from ..machine import peak_bytes
from .build import part_of
from .recipe import Recipe

log = logging.getLogger(__name__)


class Work(NamedTuple):
    """What a forward pass works on; numbers, or tensors on a device that nothing is to wait for.

    tokens: of all rows, without filler. squares: the sum over the rows of the square of that. tiles: of all pictures.
    positions: those that get logits.
    """

    tokens: float | torch.Tensor
    squares: float | torch.Tensor
    tiles: int
    positions: int

    @classmethod
    def of_rows(cls, rows: int, length: int, tiles: int, positions: int) -> "Work":
        """The work of rows of one length."""
        return cls(rows * length, rows * length**2, tiles, positions)


def forward_flops(config: LladaVConfig, work: Work) -> dict[str, float | torch.Tensor]:
    """Operations of one forward pass by part, with the head apart."""
    text, vision = config.text_config, config.vision_config
    width, tokens, squares = text.hidden_size, work.tokens, work.squares
    keys = 2 * width * text.num_key_value_heads * text.head_dim
    rest = 2 * width**2 + 3 * width * text.intermediate_size
    # The last block needs only keys and values of what has no logits.
    at_all = 2 * tokens * (text.num_hidden_layers * keys + (text.num_hidden_layers - 1) * rest)
    at_all = at_all + 4 * squares * width * (text.num_hidden_layers - 1)
    at_positions = work.positions * (2 * rest + 4 * width * squares / tokens)
    patches, tower = config.tile_side**2, vision.hidden_size
    layer = 2 * (4 * tower**2 + 2 * tower * vision.intermediate_size) + 4 * patches * tower
    embedding = 2 * vision.num_channels * vision.patch_size**2 * tower  # type: ignore[operator]  # checked to be whole
    return {
        "vision_tower": float(work.tiles * patches * (vision.num_hidden_layers * layer + embedding)),
        "projector": float(2 * work.tiles * patches * (tower * width + width**2)),
        "language_model": at_all + at_positions,
        "head": float(2 * work.positions * width * text.vocab_size),
    }


def training_flops(config: LladaVConfig, recipe: Recipe, work: Work) -> float | torch.Tensor:
    """Operations of one forward and backward pass of what the recipe trains.

    A part costs its forward pass once more for the gradient of its weights, and once more for the gradient of its
    inputs where something before it learns. Adapters count as nothing themselves.
    """
    forward = forward_flops(config, work)
    learns = {part: part in recipe.train for part in ("vision_tower", "projector", "language_model")}
    whole = {part: learns[part] and (recipe.lora_rank == 0 or part == "projector") for part in learns}
    passes = {
        "vision_tower": 1 + learns["vision_tower"] + whole["vision_tower"],
        "projector": 1 + learns["vision_tower"] + whole["projector"],
        "language_model": 2 + whole["language_model"],
        "head": 2 + whole["language_model"],
    }
    return sum(passes[part] * forward[part] for part in forward)


class Meter:
    """What this process has worked on since the last reading: see `COUNTS`."""

    COUNTS = ("tokens", "images", "flops", "rows", "masked", "labelled")

    def __init__(self, device: torch.device):
        self.device = device
        self.reset(0)

    def reset(self, step: int) -> None:
        """Begin to count again, when this many optimizer steps have been taken."""
        self.start, self.step = time.perf_counter(), step
        self.counts = torch.zeros(len(self.COUNTS), device=self.device, dtype=torch.float64)

    def add(self, *counts: float | torch.Tensor) -> None:
        """Count one forward and backward pass; what is on the device stays there, so that nothing waits for it."""
        self.counts += torch.stack([torch.as_tensor(count, device=self.device).double() for count in counts])

    def read(self, step: int) -> tuple[float, int, torch.Tensor]:
        """Seconds, steps, and the counts of this process since the last reading; counts again."""
        seconds, steps = time.perf_counter() - self.start, step - self.step
        counts = self.counts
        self.reset(step)
        return seconds, steps, counts


def memory_gib(device: torch.device) -> float:
    """Most memory so far: of the GPU as torch counts it, without one of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_bytes() / 2**30


class ProgressLines(TrainerCallback):
    """One line a log entry, by the first process. What happens before the first step is not counted.

    has_held_out: whether there are records to measure the loss on, as is always done after the last step.
    """

    def __init__(self, meter: Meter, has_held_out: bool):
        self.meter, self.has_held_out = meter, has_held_out

    def on_train_begin(self, args, state, control, **kwargs):
        self.meter.reset(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        is_last = state.global_step == state.max_steps
        control.should_evaluate |= self.has_held_out and is_last
        control.should_log |= control.should_save or is_last  # what is saved has a loss that was looked at
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "eval_loss" in logs:
            parts = {key.rpartition("/")[2]: value for key, value in logs.items() if key.startswith("eval_loss/")}
            log.info(
                "step %d of %d | held-out loss %.4f +- %.4f | %s",
                state.global_step,
                state.max_steps,
                logs["eval_loss"],
                logs["eval_error"],
                ", ".join(f"{part} {value:.4f}" for part, value in parts.items()),
            )
        if not state.is_world_process_zero or "loss" not in logs:
            return
        log.info(
            "step %d of %d | loss %.4f | %s tokens/s | %.3g images/s | %.3g %% MFU | %.2f GiB | %s left",
            state.global_step,
            state.max_steps,
            logs["loss"],
            f"{logs['tokens_per_second']:,.0f}",
            logs["images_per_second"],
            100 * logs["mfu"],
            logs["memory_gib"],
            timedelta(seconds=round(logs["seconds_left"])),
        )


class PartNorms(TrainerCallback):
    """Norms of the gradients by part at the steps that are logged, as shares of the whole one.

    DeepSpeed has taken its step, and scattered the gradients, before there is anything to see: it logs the whole alone.
    """

    def __init__(self) -> None:
        self.step = -1
        self.norms: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.step = state.global_step + 1
        if self.step % args.logging_steps:
            return
        grads: dict[str, list] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                grads.setdefault(part_of(name), []).append(parameter.grad)
        self.norms = {part: torch.stack(torch._foreach_norm(found)).norm() for part, found in grads.items()}

    def logged(self, step: int, whole: float) -> dict[str, float]:
        """The norms before clipping, whose whole is `whole`; nothing for a step that was not looked at."""
        if step != self.step or not self.norms:
            return {}
        norms = {part: norm.item() for part, norm in self.norms.items()}
        self.norms = {}
        scale = whole / (sum(norm**2 for norm in norms.values()) ** 0.5 or 1.0)
        return {f"grad_norm/{part}": scale * norm for part, norm in norms.items()} if len(norms) > 1 else {}
