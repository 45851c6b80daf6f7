"""How fast a step of training is: tokens a second, the share of the device that the model uses, and memory."""

import warnings
from dataclasses import dataclass
from statistics import median

import torch

from ..anyres import Layout, num_features, num_tiles
from ..configuration_llada_v import IGNORE, LladaVConfig
from ..machine import peak_rate, timed
from ..training.build import freeze, parameter_groups
from ..training.muon import MuonAndAdamW
from ..training.progress import Work, training_flops
from ..training.recipe import Recipe
from .memory import PeakMemory

STEPS = 3  # that are timed, behind an untimed one


@dataclass(frozen=True)
class Learned:
    """A step of training. seconds: of the median step. mfu: share of the device's peak that the model's operations are.

    rows, length, tiles: of its batch. peak_bytes: None: not measured. loss: of the last step.
    """

    rows: int
    length: int
    tiles: int
    seconds: float
    tokens_per_second: float
    mfu: float
    peak_bytes: int | None
    loss: float


def picture_batch(
    config: LladaVConfig, rows: int, layout: Layout, picture: tuple[int, int], text: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Rows of a picture of noise and behind it `text` random tokens, all of which are learned.

    picture: (height, width) in pixels.
    """
    features, tiles = num_features(layout, *picture, config), num_tiles(layout, *picture, config)
    chance = torch.Generator().manual_seed(0)
    shape = (rows, features + text)
    ids = torch.randint(0, min(config.special_token_ids().values()), shape, generator=chance)
    labels = ids.clone()
    ids[:, :features], labels[:, :features] = config.image_token_id, IGNORE
    side = config.tile_size
    pixels = torch.randint(0, 256, (rows * tiles, 3, side, side), generator=chance, dtype=torch.uint8)
    batch = {
        "input_ids": ids,
        "labels": labels,
        "pixel_values": pixels,
        "image_sizes": torch.tensor([picture] * rows),
        "image_layouts": torch.tensor([[layout, tiles]] * rows),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def measure_steps(model, recipe: Recipe, batch: dict[str, torch.Tensor]) -> Learned:
    """Steps of the recipe's kind on one batch: noise, loss, gradients, clipping, optimizer. The model's weights change.

    What learns is float32, the rest what it is, as `training.build.load_model` has them without DeepSpeed.
    """
    device, positions = model.device, 0
    freeze(model, recipe.train, recipe.style)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.data = parameter.data.float()
    model.train()
    if recipe.gradient_checkpointing:
        recompute(model, True)
    groups = parameter_groups(model, recipe)
    is_muon = recipe.optimizer == "muon"
    optimizer = MuonAndAdamW(groups) if is_muon else torch.optim.AdamW(groups, fused=device.type == "cuda")
    chance, peak = torch.Generator().manual_seed(0), PeakMemory(device)
    losses: list[torch.Tensor] = []

    def count(head, inputs):
        nonlocal positions
        positions += inputs[0].shape[0]

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            loss = model(**batch, generator=chance).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    hook = model.lm_head.register_forward_pre_hook(count)
    try:
        peak.reset()
        timed(step, 1, device)
        positions = 0
        seconds = median(timed(step, 1, device) for _ in range(STEPS))
        most = peak.read()
    finally:
        hook.remove()
        model.eval().requires_grad_(False)
        if recipe.gradient_checkpointing:
            recompute(model, False)
    (rows, length), tiles = batch["input_ids"].shape, len(batch["pixel_values"])
    flops = float(training_flops(model.config, recipe, Work.of_rows(rows, length, tiles, positions // STEPS)))
    rate = peak_rate(device, torch.bfloat16 if recipe.bf16 else torch.float32)
    return Learned(
        rows, length, tiles, seconds, rows * length / seconds, flops / seconds / rate, most, losses[-1].item()
    )


def recompute(model, is_on: bool) -> None:
    """Make activations again in the backward pass, or keep them."""
    with warnings.catch_warnings():
        # Newer versions of transformers rename it and take both names; older ones know this one alone.
        warnings.filterwarnings("ignore", message="`gradient_checkpointing.*` is deprecated", category=FutureWarning)
        if is_on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
