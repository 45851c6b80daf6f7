"""Scenes: what is in a picture, how one is made up from a seed, and how it is drawn.

A scene is the exact truth about a picture. This file knows nothing of questions or records. All lengths are
pixels of the finished picture, x to the right and y downwards from the top left corner, height before width.
"""

import math
import zlib
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..errors import WrongValue
from .alphabet import LETTER_HEIGHT, LETTERS, WORDS, word_width
from .found import FOUND, Found, paste, pick, split_of_found

KINDS = ("shapes", "sign", "chart")
KIND_WEIGHTS = (60, 20, 20)
ALL_KINDS = (*KINDS, *FOUND)
"""What is drawn, and what was found."""

SHAPES = ("circle", "square", "triangle", "star", "cross")

COLORS = {
    "red": (222, 28, 36),
    "green": (22, 160, 60),
    "blue": (36, 104, 250),
    "yellow": (250, 214, 0),
    "purple": (158, 48, 196),
    "orange": (255, 128, 0),
}
"""Colours of things, bars and signs: saturated and far apart."""

NEUTRALS = {"white": (255, 255, 255), "black": (16, 16, 20)}
"""Further colours of plates and letters, only on signs."""

BACKGROUNDS = {
    "white": (255, 255, 255),
    "grey": (214, 216, 220),
    "beige": (240, 228, 208),
    "black": (14, 14, 18),
    "navy": (10, 16, 48),
}
"""Background tones, pale or dark, apart from every colour above."""

DARK_BACKGROUNDS = ("black", "navy")

MAX_VALUE = 9
"""The largest value of a bar; the smallest is 1."""

SPLITS = ("train", "heldout")

SHORT_SIDE = (48, 72)
"""Range of a side that fits one tile of the tiny vision tower."""

LONG_SIDE = (84, 144)
"""Range of a side that needs two tiles."""

MIN_THING, MAX_THING = 16, 32
"""Range of a thing's size: never less than a patch and a third of the tiny vision tower."""

MIN_CELL, MAX_CELL = 24, 42
"""Range of the side of the grid cells that things are placed in."""

MIN_DOT, MAX_DOT = 10, 20
"""Range of the side of a letter's dot, in drawn pixels (quarters of a finished one): letters from 12.5 x 17.5 px on."""

PLATE_MARGIN = 1.5
"""Width of the plate around a word, in dots."""

CHART_MARGIN = 6
"""Free border of a chart."""

MIN_SLOT = 14
"""Least width a chart gives to one bar and the gap beside it."""

SUPERSAMPLING = 4
"""Pictures are drawn this many times larger and averaged down, so edges are smooth."""


@dataclass(frozen=True)
class Thing:
    """One shape of one colour; (x, y) is the centre, `size` the side of the square it touches."""

    shape: str
    color: str
    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Sign:
    """One printed word; (x, y) is its centre."""

    word: str
    """One of WORDS."""
    color: str
    """Colour of the letters."""
    plate: str | None
    """Colour of the plate behind the letters; None prints them on the background."""
    x: int
    y: int
    dot: float
    """Side of a dot: a letter is 5 dots wide and 7 high."""


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: a colour and a whole value, 1 to MAX_VALUE."""

    color: str
    value: int


@dataclass(frozen=True)
class Scene:
    """The exact content of one picture; which of `things`, `sign`, `bars`, `found` is filled follows from `kind`."""

    kind: str
    """One of ALL_KINDS."""
    height: int
    width: int
    background: str
    """A key of BACKGROUNDS."""
    things: tuple[Thing, ...] = ()
    sign: Sign | None = None
    bars: tuple[Bar, ...] = ()
    """The bars from left to right."""
    found: tuple[Found, ...] = ()
    """What was found, from left to right."""
    ink: str | None = None
    """Colour of digits and texts that were found."""


def make_scene(rng, kind=None):
    """A new scene drawn from `rng`, a random.Random; equal states give equal scenes.

    Without `kind`, shapes, signs and charts come 60 : 20 : 20. Raises ValueError for an unknown kind,
    NoPackage where the package is missing that something is found in.
    """
    if kind is None:
        kind = rng.choices(KINDS, KIND_WEIGHTS)[0]
    if kind not in ALL_KINDS:
        raise WrongValue(f"found kind {kind!r}, expected one of {ALL_KINDS}; leave it out to draw one at random")
    height, width = _draw_size(rng)
    background = rng.choice(tuple(BACKGROUNDS))
    if kind == "shapes":
        return Scene(kind, height, width, background, things=_draw_things(rng, height, width))
    if kind in FOUND:
        width, items = pick(kind, rng, height, width)
        ink = rng.choice(_bright_or_deep(on_dark=background in DARK_BACKGROUNDS))
        return Scene(kind, height, width, background, found=items, ink=ink)
    if kind == "sign":
        word = rng.choice(WORDS)
        # Four letters at the least dot need 67 px, still one tile.
        plate_width = (word_width(word) + 2 * PLATE_MARGIN) * MIN_DOT / SUPERSAMPLING
        width = max(width, math.ceil(plate_width) + 2)
        return Scene(kind, height, width, background, sign=_draw_sign(rng, word, height, width, background))
    num_bars = rng.randint(2, 4)
    # A unit of 6 px needs a whole tile in height; four bars need 68 px in width, still one tile.
    height, width = max(height, SHORT_SIDE[1]), max(width, 2 * CHART_MARGIN + num_bars * MIN_SLOT)
    colors = rng.sample(tuple(COLORS), num_bars)
    bars = tuple(Bar(color, rng.randint(1, MAX_VALUE)) for color in colors)
    return Scene(kind, height, width, background, bars=bars)


def scene_key(scene):
    """A string equal for equal scenes and different for different ones, whatever the order of the things."""
    parts = [scene.kind, f"{scene.height}x{scene.width}", scene.background]
    parts += sorted(f"{t.color} {t.shape} {t.size} at {t.x},{t.y}" for t in scene.things)
    if scene.sign is not None:
        s = scene.sign
        parts.append(f"{s.word} {s.color} on {s.plate or 'plain'} {s.dot:.2f} at {s.x},{s.y}")
    parts += [f"{bar.color} {bar.value}" for bar in scene.bars]
    parts += [f"{f.name} {f.source} {f.size} {f.angle} in {scene.ink} at {f.x},{f.y}" for f in scene.found]
    return "; ".join(parts)


def split_of(scene):
    """The split of a scene: "heldout" for about a tenth of all scenes, "train" for the others.

    It depends on the scene alone, so the two splits never share one, whatever seeds they are made from. Handwritten
    digits and pictures from outside are held out by themselves, half of the digits.
    """
    return split_of_found(scene.kind, scene.found) or split_of_key(scene_key(scene))


def split_of_key(key):
    """The split of whatever has this key."""
    return "heldout" if zlib.crc32(key.encode()) % 10 == 0 else "train"


def draw(scene):
    """The picture of a scene, an RGB PIL image of (scene.height, scene.width) pixels.

    Raises ValueError for a kind that is not one of ALL_KINDS.
    """
    if scene.kind not in ALL_KINDS:
        raise WrongValue(f"found a scene of kind {scene.kind!r}, expected one of {ALL_KINDS}; make it with make_scene")
    size = (scene.width * SUPERSAMPLING, scene.height * SUPERSAMPLING)
    canvas = Image.new("RGB", size, BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(canvas)
    for thing in scene.things:
        _paint_thing(pen, thing)
    if scene.sign is not None:
        _paint_sign(pen, scene.sign)
    if scene.bars:
        _paint_chart(pen, scene)
    picture = canvas.reduce(SUPERSAMPLING)
    if scene.found:
        paste(picture, scene.kind, scene.found, (COLORS | NEUTRALS)[scene.ink])
    return picture


# Making


def _draw_size(rng):
    """(height, width): half of all pictures fit one tile, 35 % are wide or tall, 15 % are large both ways."""
    layout = rng.choices(("small", "long", "large"), (50, 35, 15))[0]
    if layout == "small":
        return rng.randint(*SHORT_SIDE), rng.randint(*SHORT_SIDE)
    if layout == "large":
        return rng.randint(*LONG_SIDE), rng.randint(*LONG_SIDE)
    short, long = rng.randint(*SHORT_SIDE), rng.randint(*LONG_SIDE)
    return (short, long) if rng.random() < 0.5 else (long, short)


def _draw_things(rng, height, width):
    """One to five things (four in a one-tile picture), each in a cell of its own, jittered, never touching."""
    rows, columns = _draw_cells(rng, height), _draw_cells(rng, width)
    one_tile = height <= SHORT_SIDE[1] and width <= SHORT_SIDE[1]
    most = min(4 if one_tile else 5, rows * columns)
    # A lone thing leaves little to ask.
    count = rng.choices(range(1, most + 1), (2, 4, 4, 4, 4)[:most])[0]
    # Few shapes or few colours in most pictures, or every count of circles or of red things would be one.
    shapes, colors = SHAPES, tuple(COLORS)
    narrowed = rng.choice(("shapes", "colors", "neither"))
    if narrowed == "shapes":
        shapes = rng.sample(shapes, 2)
    elif narrowed == "colors":
        colors = rng.sample(colors, 2)
    looks = rng.sample([(shape, color) for shape in shapes for color in colors], count)
    cells = sorted(rng.sample(range(rows * columns), count))
    cell_height, cell_width = height / rows, width / columns
    things = []
    for (shape, color), cell in zip(looks, cells, strict=True):
        row, column = divmod(cell, columns)
        largest = min(MAX_THING, int(min(cell_height, cell_width)) - 3)
        size = rng.randint(max(MIN_THING, largest * 3 // 5), largest)
        x = _jitter(rng, column * cell_width, cell_width, size)
        y = _jitter(rng, row * cell_height, cell_height, size)
        things.append(Thing(shape, color, x, y, size))
    return tuple(things)


def _draw_cells(rng, length):
    """How many cells a side of `length` is cut into, each MIN_CELL to MAX_CELL long."""
    return rng.randint(math.ceil(length / MAX_CELL), length // MIN_CELL)


def _jitter(rng, start, length, size):
    """A whole centre so that `size` stays a pixel inside the cell [start, start + length]."""
    return rng.randint(math.ceil(start + size / 2 + 1), math.floor(start + length - size / 2 - 1))


def _draw_sign(rng, word, height, width, background):
    """A sign with the word as large as fits, down to half of that; letters contrast with what is behind them."""
    dots_wide, dots_high = word_width(word) + 2 * PLATE_MARGIN, LETTER_HEIGHT + 2 * PLATE_MARGIN
    largest = min(MAX_DOT, math.floor(SUPERSAMPLING * min((width - 2) / dots_wide, (height - 2) / dots_high)))
    dot = rng.randint(max(MIN_DOT, largest // 2), largest) / SUPERSAMPLING
    plate_kind = rng.choice(("coloured", "neutral", "none"))
    if plate_kind == "coloured":
        plate = rng.choice(tuple(COLORS))
        color = "black" if plate in ("yellow", "orange") else "white"
    elif plate_kind == "neutral":
        dark = background in DARK_BACKGROUNDS
        plate = "white" if dark else "black"
        color = rng.choice(_bright_or_deep(on_dark=not dark))
    else:
        plate = None
        color = rng.choice(_bright_or_deep(on_dark=background in DARK_BACKGROUNDS))
    x = _centre(rng, width, dots_wide * dot)
    y = _centre(rng, height, dots_high * dot)
    return Sign(word, color, plate, x, y, dot)


def _bright_or_deep(on_dark):
    """The colours whose thin strokes stand out on a dark, or on a pale, ground."""
    return ("red", "green", "yellow", "orange", "white") if on_dark else ("red", "green", "blue", "purple", "black")


def _centre(rng, side, length):
    """A whole centre so that `length` stays inside a picture's side; the middle where nothing else fits."""
    low, high = math.ceil(length / 2), math.floor(side - length / 2)
    return rng.randint(low, high) if low <= high else side // 2


# Painting: everything below multiplies by SUPERSAMPLING


def _paint_thing(pen, thing):
    """Paint one thing; its centre is inside the shape for every shape."""
    x, y, r = thing.x * SUPERSAMPLING, thing.y * SUPERSAMPLING, thing.size * SUPERSAMPLING / 2
    fill = COLORS[thing.color]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r - 1, y + r - 1), fill=fill)
    elif thing.shape == "square":
        # A little smaller than its box, or it would look larger than the others.
        pen.rectangle((x - 0.92 * r, y - 0.92 * r, x + 0.92 * r - 1, y + 0.92 * r - 1), fill=fill)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=fill)
    elif thing.shape == "star":
        pen.polygon([(x + r * dx, y + r * dy) for dx, dy in _STAR], fill=fill)
    elif thing.shape == "cross":
        pen.rectangle((x - r, y - 0.32 * r, x + r - 1, y + 0.32 * r - 1), fill=fill)
        pen.rectangle((x - 0.32 * r, y - r, x + 0.32 * r - 1, y + r - 1), fill=fill)
    else:
        raise WrongValue(f"found shape {thing.shape!r}, expected one of {SHAPES}; make scenes with make_scene")


def _star_points():
    """The ten corners of a five-pointed star within [-1, 1], first the top one."""
    radii = (1.08, 0.44)  # a slender star, a little over its circle so that it reaches its box at the sides
    angles = [math.pi * corner / 5 for corner in range(10)]
    return [(radii[i % 2] * math.sin(angle), 0.06 - radii[i % 2] * math.cos(angle)) for i, angle in enumerate(angles)]


_STAR = _star_points()


def _paint_sign(pen, sign):
    """Paint the plate, if any, and the letters, dot by dot."""
    palette = COLORS | NEUTRALS
    dot = round(sign.dot * SUPERSAMPLING)
    left = sign.x * SUPERSAMPLING - word_width(sign.word) * dot // 2
    top = sign.y * SUPERSAMPLING - LETTER_HEIGHT * dot // 2
    if sign.plate is not None:
        margin = round(PLATE_MARGIN * dot)
        right, bottom = left + word_width(sign.word) * dot, top + LETTER_HEIGHT * dot
        pen.rectangle((left - margin, top - margin, right + margin - 1, bottom + margin - 1), fill=palette[sign.plate])
    for letter in sign.word:
        for row, dots in enumerate(LETTERS[letter]):
            for column, printed in enumerate(dots):
                if printed == "#":
                    x, y = left + column * dot, top + row * dot
                    pen.rectangle((x, y, x + dot - 1, y + dot - 1), fill=palette[sign.color])
        left += word_width("A") * dot + dot


def _paint_chart(pen, scene):
    """Paint one grid line a unit, a stronger one at five, the baseline, the axis and the bars."""
    unit = (scene.height - 2 * CHART_MARGIN) // MAX_VALUE * SUPERSAMPLING
    base = (scene.height - CHART_MARGIN) * SUPERSAMPLING
    left, right = CHART_MARGIN * SUPERSAMPLING, (scene.width - CHART_MARGIN) * SUPERSAMPLING
    dark = scene.background in DARK_BACKGROUNDS
    ink = (235, 235, 235) if dark else (40, 40, 40)
    weak, strong = ((70, 70, 78), (150, 150, 158)) if dark else ((188, 188, 190), (110, 110, 114))
    for value in range(1, MAX_VALUE + 1):
        y = base - value * unit
        pen.rectangle((left, y - 2, right, y + 1), fill=strong if value == 5 else weak)
    slot = (right - left) / len(scene.bars)
    bar_width = min(0.7 * slot, 28 * SUPERSAMPLING)
    for i, bar in enumerate(scene.bars):
        middle = left + (i + 0.5) * slot
        box = (round(middle - bar_width / 2), base - bar.value * unit, round(middle + bar_width / 2), base)
        pen.rectangle(box, fill=COLORS[bar.color])
    pen.rectangle((left, base, right, base + 5), fill=ink)
    pen.rectangle((left - 6, base - MAX_VALUE * unit, left - 1, base + 5), fill=ink)
