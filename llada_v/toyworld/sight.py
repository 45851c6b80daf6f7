"""Teach the tiny tower to see, before any language: what SigLIP2's own training is to the published model.

For every patch of a tile the tower says what the patch's centre shows (a shape, a letter, a bar of some value, a
plate, nothing), in which colour, and as the how-manieth of its kind in reading order, so that a language model can find
the second letter. The three linear heads are thrown away afterwards.

    python -m llada_v.toyworld sight exp/tiny/random exp/tiny/sight --steps 1400
"""

import random
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from ..anyres import resized_on_canvas, select_canvas
from ..configuration_llada_v import IGNORE
from ..images import anyres_tiles
from ..modeling_llada_v import LladaVForConditionalGeneration
from ..processing_llada_v import LladaVProcessor
from .alphabet import LETTER_HEIGHT, LETTER_WIDTH, word_width
from .questions import in_reading_order
from .scenes import CHART_MARGIN, COLORS, KINDS, MAX_VALUE, PLATE_MARGIN, SHAPES, Scene, draw
from .stories import scene_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WHAT = ("nothing", "plate", *SHAPES, *LETTERS, *(f"bar {value}" for value in range(1, MAX_VALUE + 1)))
COLOR = ("none", *COLORS)
FIRST_LETTER = WHAT.index("A")
MOST = 5  # things, letters or bars of one picture
NOTHING = ("nothing", "none", 0)
KIND_SHARES = (30, 50, 20)  # of shapes, signs and charts: a letter is the hardest to tell
NOTHING_WEIGHT = 0.1  # of a patch that shows nothing; most do
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
    return NOTHING


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


class Tiles(IterableDataset):
    """An endless stream of training pictures: the squashed tile and one other, with the labels of their patches."""

    def __init__(self, config, seed: int):
        self.config, self.seed = config, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(f"sight/{self.seed}/{worker.id if worker else 0}")
        while True:
            scene = scene_of("train", rng, kind=rng.choices(KINDS, KIND_SHARES)[0])
            tiles, views = anyres_tiles(draw(scene), self.config), tile_views(scene, self.config)
            chosen = [0, rng.randrange(1, len(views))]
            yield tiles[chosen], torch.tensor([patch_labels(scene, views[index], self.config) for index in chosen])


def learn_to_see(source, target, steps: int, batch_size: int = 48, learning_rate: float = 1e-3, seed: int = 0) -> None:
    """Train the tower of the model folder `source` for `steps` batches of pictures and write the folder `target`."""
    torch.manual_seed(seed)
    processor = LladaVProcessor.from_pretrained(source)
    model = LladaVForConditionalGeneration.from_pretrained(source, dtype="float32")
    tower, config = model.model.vision_tower, model.config
    width = config.vision_config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, size) for size in (len(WHAT), len(COLOR), MOST + 1)])
    learned = [*tower.embeddings.parameters(), *tower.encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learned, learning_rate, weight_decay=0.0)

    def rate(step):
        return min((step + 1) / WARMUP, 1.0, (steps - step) / (FADE * steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    batches = iter(DataLoader(Tiles(config, seed), batch_size, num_workers=1))
    with tqdm(total=steps, desc="sight", unit="step") as bar:
        for step in range(steps):
            tiles, labels = (part.flatten(0, 1) for part in next(batches))
            with torch.autocast("cpu", torch.bfloat16):
                features = tower.encoder(inputs_embeds=tower.embeddings(tiles)).last_hidden_state  # (T, P, D)
                scores = [head(features).float().flatten(0, 1) for head in heads]
            labels = labels.flatten(0, 1).unbind(-1)
            losses = sum(cross_entropy(*pair, reduction="none") for pair in zip(scores, labels, strict=True))
            what, _, number = labels
            weights = torch.where(what > 0, 1.0, NOTHING_WEIGHT)
            loss = (losses * weights).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            if step % 20 == 0:
                is_letter = (what >= FIRST_LETTER) & (what < FIRST_LETTER + len(LETTERS))
                is_right, is_counted = scores[0].argmax(-1) == what, number > 0
                bar.set_postfix(
                    loss=f"{loss.item():.3f}",
                    patches_right=f"{is_right[what > 0].float().mean().item():.3f}",
                    letters_right=f"{is_right[is_letter].float().mean().item():.3f}",
                    numbers_right=f"{(scores[2].argmax(-1) == number)[is_counted].float().mean().item():.3f}",
                )
    model.save_pretrained(target)
    processor.save_pretrained(target)
