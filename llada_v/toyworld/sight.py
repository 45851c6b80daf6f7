"""Teach the tiny tower to see, apart from any language: what SigLIP2's own training is to the published model.

For every patch of a tile the tower says what the patch's centre shows (a shape, a letter, a digit, an icon, a bar of
some value, a plate, nothing, a picture from outside), in which colour, and as the how-manieth in reading order, so that
a language model can find the second letter. The three linear heads are thrown away afterwards. An interrupted run goes
on from its last state.

    python -m llada_v.toyworld sight exp/tiny/random exp/tiny/tower --steps 10000
"""

import os
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from ..anyres import resized_on_canvas, select_canvas
from ..checkpoint.files import growing
from ..configuration_llada_v import IGNORE
from ..images import anyres_tiles, normalised
from ..modeling_llada_v import LladaVForConditionalGeneration
from ..processing_llada_v import LladaVProcessor
from ..training.merging import write_like
from ..training.muon import MuonAndAdamW, takes_muon
from .alphabet import LETTER_HEIGHT, LETTER_WIDTH, word_width
from .found import ICONS, check_packages, part_at
from .questions import in_reading_order
from .scenes import ALL_KINDS, CHART_MARGIN, COLORS, MAX_VALUE, PLATE_MARGIN, SHAPES, Scene, draw
from .stories import scene_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BARS = tuple(f"bar {value}" for value in range(1, MAX_VALUE + 1))
WHAT = ("nothing", "plate", *SHAPES, *LETTERS, *BARS, *"0123456789", *ICONS, "outside")
COLOR = ("none", *COLORS)
READ = tuple(WHAT.index(sign) for sign in (*LETTERS, *"0123456789"))
MOST = 5  # things, letters or bars of one picture
NOTHING = ("nothing", "none", 0)
KIND_SHARES = (12, 28, 8, 12, 32, 6, 2)  # of ALL_KINDS: a letter is the hardest to tell
SAVE_STEPS = 500
GROUND = tuple(WHAT.index(name) for name in ("nothing", "plate", "outside"))
GROUND_WEIGHT = 0.1  # of a patch that shows one of these, as most do
WARMUP, FADE = 50, 0.6  # steps up to the full rate; share of the steps in which it falls to zero


def shown_at(scene: Scene, x: float, y: float) -> tuple[str, str, int]:
    """What a picture shows at a point (pixels), a member of WHAT, its colour, a member of COLOR, and its number.

    A thing counts as its whole square, a letter as its whole box; colours of letters and neutral plates are "none".
    The number counts things in reading order, letters and bars from the left, from 1; it is 0 for all else.
    """
    for number, thing in enumerate(in_reading_order(scene), start=1):
        if max(abs(x - thing.x), abs(y - thing.y)) <= thing.size / 2:
            return thing.shape, thing.color, number
    if scene.sign is not None:
        sign = scene.sign
        column = (x - sign.x) / sign.dot + word_width(sign.word) / 2
        row = (y - sign.y) / sign.dot + LETTER_HEIGHT / 2
        letter = int(column // (LETTER_WIDTH + 1))
        if 0 <= row < LETTER_HEIGHT and 0 <= letter < len(sign.word):
            return sign.word[letter], "none", letter + 1
        is_on_plate = -PLATE_MARGIN <= row < LETTER_HEIGHT + PLATE_MARGIN
        is_on_plate &= -PLATE_MARGIN <= column < word_width(sign.word) + PLATE_MARGIN
        if sign.plate is not None and is_on_plate:
            return "plate", sign.plate if sign.plate in COLORS else "none", 0
    if scene.bars:
        slot = (scene.width - 2 * CHART_MARGIN) / len(scene.bars)
        index, offset = divmod((x - CHART_MARGIN) / slot, 1)
        unit = (scene.height - 2 * CHART_MARGIN) // MAX_VALUE
        height = (scene.height - CHART_MARGIN - y) / unit
        if 0 <= index < len(scene.bars) and abs(offset - 0.5) * slot <= min(0.35 * slot, 14):
            bar = scene.bars[int(index)]
            if 0 <= height <= bar.value:
                return f"bar {bar.value}", bar.color, int(index) + 1
    if scene.kind == "outside":
        return "outside", "none", 0
    part = part_at(scene.kind, scene.found, x, y)
    return NOTHING if part is None else (part[0], "none", part[1])


def tile_views(scene: Scene, config) -> list[tuple[float, float, float, float]]:
    """For each tile of a picture (x0, y0, dx, dy): tile pixel (u, v) shows picture point (x0 + u dx, y0 + v dy)."""
    tile, height, width = config.tile_size, scene.height, scene.width
    canvas = select_canvas(height, width, config.image_grid_pinpoints)
    on_height, on_width = resized_on_canvas(height, width, canvas)
    top, left = (canvas[0] - on_height) // 2, (canvas[1] - on_width) // 2
    dx, dy = width / on_width, height / on_height
    views = [(0.0, 0.0, width / tile, height / tile)]
    for row in range(0, canvas[0], tile):
        for column in range(0, canvas[1], tile):
            views.append(((column - left) * dx, (row - top) * dy, dx, dy))
    return views


def patch_labels(scene: Scene, view: tuple[float, float, float, float], config) -> list[tuple[int, int, int]]:
    """For the patches of one tile, row by row: index into WHAT, index into COLOR, number.

    Where the tile shows a part of the picture the number cannot be known, and is -100.
    """
    x0, y0, dx, dy = view
    patch = config.vision_config.patch_size
    centres = [patch * (index + 0.5) for index in range(config.tile_side)]
    is_whole = config.tile_size * dx >= scene.width and config.tile_size * dy >= scene.height
    labels = []
    for v in centres:
        for u in centres:
            x, y = x0 + u * dx, y0 + v * dy
            is_inside = 0 <= x < scene.width and 0 <= y < scene.height
            what, color, number = shown_at(scene, x, y) if is_inside else NOTHING
            labels.append((WHAT.index(what), COLOR.index(color), number if is_whole else IGNORE))
    return labels


class Tiles(Dataset):
    """Training pictures without end: the squashed tile and one other, with the labels of their patches."""

    def __init__(self, config, seed: int, count: int):
        self.config, self.seed, self.count = config, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two tiles of picture `index`, and three labels for each of their patches; the same in every run."""
        rng = random.Random(f"sight/{self.seed}/{index}")
        scene = scene_of("train", rng, kind=rng.choices(ALL_KINDS, KIND_SHARES)[0])
        tiles, views = normalised(anyres_tiles(draw(scene), self.config)), tile_views(scene, self.config)
        chosen = [0, rng.randrange(1, len(views))]
        return tiles[chosen], torch.tensor([patch_labels(scene, views[index], self.config) for index in chosen])


def learn_to_see(source, target, steps: int, batch_size: int = 16, learning_rate: float = 2e-3, seed: int = 0) -> None:
    """Train the tower of the model folder `source` for `steps` batches of pictures and write the folder `target`.

    An interrupted run leaves its state beside the target and goes on from there, as if nothing had happened.
    """
    check_packages()
    torch.manual_seed(seed)
    processor = LladaVProcessor.from_pretrained(source)
    model = LladaVForConditionalGeneration.from_pretrained(source, dtype="float32")
    tower, config = model.model.vision_tower, model.config
    width = config.vision_config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, size) for size in (len(WHAT), len(COLOR), MOST + 1)])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    learned = nn.ModuleList([tower.embeddings, tower.encoder, heads]).to(device)
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": learning_rate, "weight_decay": 0.0, "muon": is_muon} for is_muon in (False, True)
    ]
    for name, parameter in learned.named_parameters():
        groups[takes_muon(name, parameter)]["params"].append(parameter)
    optimizer = MuonAndAdamW(groups)

    def rate(step):
        return min((step + 1) / WARMUP, 1.0, (steps - step) / (FADE * steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    parts: tuple[Any, ...] = (learned, optimizer, schedule)  # what goes on where it was
    state = Path(f"{target}.state.pt")
    first = 0
    if state.is_file():
        saved = torch.load(state, device, weights_only=True)
        for part, values in zip(parts, saved["parts"], strict=True):
            part.load_state_dict(values)
        first = saved["step"]
    pictures = Subset(Tiles(config, seed, steps * batch_size), range(first * batch_size, steps * batch_size))
    batches = DataLoader(pictures, batch_size, num_workers=max(1, (os.cpu_count() or 1) - 1))
    for step, batch in enumerate(tqdm(batches, desc="sight", unit="step", mininterval=10), start=first):
        tiles, labels = (part.flatten(0, 1).to(device) for part in batch)
        with torch.autocast(device, torch.bfloat16):
            features = tower.encoder(inputs_embeds=tower.embeddings(tiles)).last_hidden_state  # (T, P, D)
            scores = [head(features).float().flatten(0, 1) for head in heads]
        labels = labels.flatten(0, 1).unbind(-1)
        losses = sum(cross_entropy(*pair, reduction="none") for pair in zip(scores, labels, strict=True))
        weights = torch.where(torch.isin(labels[0], torch.tensor(GROUND, device=device)), GROUND_WEIGHT, 1.0)
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}, {told(scores, labels)}", flush=True)
        if (step + 1) % SAVE_STEPS == 0:
            saved = {"step": step + 1, "parts": [part.state_dict() for part in parts]}
            torch.save(saved, state.with_suffix(".new"))
            state.with_suffix(".new").rename(state)
    with growing(Path(target)) as draft:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
    state.unlink(missing_ok=True)


def join(language, tower, target) -> None:
    """Write to `target` the model of the folder `language` with the vision tower of the folder `tower`."""
    model = LladaVForConditionalGeneration.from_pretrained(language, dtype="auto")
    seeing = LladaVForConditionalGeneration.from_pretrained(tower, dtype="auto")
    model.model.vision_tower = seeing.model.vision_tower
    write_like(model, language, target)


def told(scores: list[torch.Tensor], labels: list[torch.Tensor]) -> str:
    """The shares of patches that show something, of letters and digits among them, and of numbers that are right."""
    what, _, number = labels
    is_right, is_numbered = scores[0].argmax(-1) == what, scores[2].argmax(-1) == number
    is_read = torch.isin(what, torch.tensor(READ, device=what.device))
    shares = (is_right[what > 0], is_right[is_read], is_numbered[number > 0])
    return "{:.3f} of patches right, {:.3f} of letters, {:.3f} of numbers".format(*(s.float().mean() for s in shares))
