"""What nobody here drew: handwritten digits, words set in real fonts, icons, and pictures from outside the world.

Digits come with scikit-learn, fonts and photographs with the packages named here, icons from the sheet `icons.png`.
This file picks and pastes; it knows nothing of scenes and questions. All lengths are pixels of the finished picture.
"""

import math
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import NoPackage
from .alphabet import WORDS

FOUND = ("digit", "print", "icon", "outside")
"""Kinds of pictures of what was found; "outside" is what the tiny model is to say "I do not know." about."""

ICONS = tuple(
    """
    apple banana cherries grapes lemon pear strawberry carrot mushroom bread cheese cake cat dog fox bear
    pig cow frog rabbit lion owl duck whale turtle snail butterfly bee tree cactus tulip sunflower
    sun moon cloud umbrella snowman car bus rocket bicycle sailboat house key bell guitar crown heart
    """.split()
)
"""The icons of the sheet, row by row."""

SHEET_COLUMNS, ICON_SIDE = 8, 48

FONTS = {
    "matplotlib": ("mpl-data/fonts/ttf", "DejaVuSans DejaVuSans-Bold DejaVuSansMono DejaVuSerif DejaVuSerif-Bold"),
    "font_roboto": ("files", "Roboto-Light Roboto-Regular Roboto-Bold Roboto-Black Roboto-Italic"),
    "font_source_sans_pro": ("files", "SourceSansPro-Regular SourceSansPro-Semibold SourceSansPro-Black"),
    "font_source_serif_pro": ("files", "SourceSerifPro-Regular SourceSerifPro-Bold SourceSerifPro-It"),
    "font_caladea": ("files", "Caladea-Regular Caladea-Bold Caladea-Italic"),
    "font_manrope": ("files", "Manrope-Regular Manrope-ExtraBold"),
}
"""Fonts by the package that brings them: their folder in it, and their names."""

PHOTOS = {
    "train": {
        "matplotlib": "mpl-data/sample_data/grace_hopper.jpg",
        "mahotas": "demos/data/DepartmentStore.jpg demos/data/luispedro.jpg",
    },
    "heldout": {
        "skimage": "data/astronaut.png data/brick.png data/camera.png data/chelsea.png data/coffee.png data/coins.png "
        "data/grass.png data/gravel.png data/ihc.png data/moon.png data/retina.jpg data/rocket.jpg",
        "sklearn": "datasets/images/china.jpg datasets/images/flower.jpg",
    },
}
"""Photographs by split and package; those of the held-out split come from other packages."""

TEXTURES = ("grain", "waves")
INSTALL = "pip install 'llada-v[world]', or bash init_env.sh world"
LEAST_EM, MOST_EM = 22, 40
"""Range of a font's size: capitals as large as the letters of drawn signs."""
CAPITAL = 0.72
"""About the height of a capital letter, in ems."""
LEAST_SIDE, MOST_SIDE = 24, 52
"""Range of the side of a digit or an icon."""
MOST_TURN = 8
"""Degrees by which anything is turned, at most."""
MOST_NOISE = 14
"""Standard deviation of the noise over a print, in levels of 255, at most."""


@dataclass(frozen=True)
class Found:
    """One thing that was found; (x, y) is its centre, `angle` its turn to the left in degrees."""

    name: str
    """The digit, the text, the icon, or the source of a picture from outside."""
    source: str
    """Which of the handwritten digits, which font, or which part of an outside picture; empty for an icon."""
    x: int
    y: int
    size: int
    """The side of a digit or an icon, the em of a text."""
    angle: int


def pick(kind, rng, height, width):
    """(width, found): what a new picture of a kind in FOUND shows, and its width, widened where a text needs it."""
    if kind == "outside":
        split = rng.choice(tuple(PHOTOS))
        sources = [f"{package}/{file}" for package, files in PHOTOS[split].items() for file in files.split()]
        name = rng.choice(TEXTURES) if split == "train" and rng.random() < 0.5 else rng.choice(sources)
        return width, (Found(name, str(rng.randrange(1 << 30)), width // 2, height // 2, width, 0),)
    angle = rng.randint(-MOST_TURN, MOST_TURN)
    if kind == "print":
        text = rng.choice(WORDS) if rng.random() < 0.6 else str(rng.randint(10, 10 ** rng.randint(2, 4) - 1))
        font = rng.choice([name for _, names in FONTS.values() for name in names.split()])
        per_em = font_of(font, 100).getlength(text) / 100 + 0.3
        width = max(width, math.ceil(LEAST_EM * per_em))
        em = rng.randint(LEAST_EM, max(LEAST_EM, min(MOST_EM, int(width / per_em), int(height / 1.3))))
        aside, over = (width - em * per_em) / 2, (height - 1.3 * em) / 2
        x = round(width / 2 + rng.uniform(-aside, aside))
        return width, (Found(text, font, x, round(height / 2 + rng.uniform(-over, over)), em, angle),)
    most = min(2 if kind == "digit" else 3, width // (LEAST_SIDE + 6))
    count = rng.choice(range(1, most + 1))
    cell = width / count
    half = rng.choice(("train", "heldout"))
    found = []
    for i in range(count):
        side = rng.randint(LEAST_SIDE, int(min(MOST_SIDE, cell, height)) - 2)
        x, y = (round(rng.uniform(side / 2, length - side / 2)) for length in (cell, height))
        name, source = _digit(rng, half) if kind == "digit" else (rng.choice(ICONS), "")
        found.append(Found(name, source, round(i * cell) + x, y, side, angle))
    return width, tuple(found)


def split_of_found(kind, found):
    """The split that found things decide by themselves; None where the whole picture does."""
    if kind == "digit":
        return half_of_digit(int(found[0].source))
    if kind == "outside":
        return next((split for split, named in PHOTOS.items() if found[0].name.split("/")[0] in named), "train")
    return None


def paste(picture, kind, found, ink):
    """Put what was found onto an RGB picture, digits and texts in the colour `ink` (red, green, blue)."""
    if kind == "outside":
        picture.paste(_outside(found[0], picture.height, picture.width))
        return
    for item in found:
        if kind == "icon":
            picture.paste(*_centred(_icon(item), item))
        else:
            mask, place = _centred(_text(item) if kind == "print" else _handwriting(item), item)
            picture.paste(ink, place, mask)
    if kind == "print":
        random = np.random.default_rng(zlib.crc32(repr(found).encode()))
        noise = random.normal(0, random.uniform(0, MOST_NOISE), (picture.height, picture.width, 3))
        picture.paste(Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)))


def part_at(kind, found, x, y):
    """(which, number) of the digit, letter or icon at a point, counted from the left from 1; None where there is none.

    A thing counts as its whole square, a letter as its whole box.
    """
    for number, item in enumerate(found, start=1):
        turn = math.radians(item.angle)
        across, down = x - item.x, y - item.y
        across, down = across * math.cos(turn) - down * math.sin(turn), across * math.sin(turn) + down * math.cos(turn)
        if kind == "print":
            font = font_of(item.source, 100)
            ends = [font.getlength(item.name[:end]) * item.size / 100 for end in range(len(item.name) + 1)]
            along = across + ends[-1] / 2
            for letter, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
                if start <= along < end and abs(down) <= CAPITAL * item.size / 2:
                    return item.name[letter], letter + 1
        elif max(abs(across), abs(down)) <= item.size / 2:
            return item.name, number
    return None


# Digits


def _digit(rng, half):
    """(digit, number) of a handwritten one of one half."""
    number = rng.choice(_halves()[half])
    return str(_digits().target[number]), str(number)


def half_of_digit(number):
    """The half that a handwritten digit belongs to, by its content alone."""
    return "heldout" if zlib.crc32(_digits().images[number].astype(np.uint8).tobytes()) % 2 else "train"


@cache
def _halves():
    numbers = range(len(_digits().target))
    return {half: [number for number in numbers if half_of_digit(number) == half] for half in ("train", "heldout")}


@cache
def _digits():
    """The 1,797 handwritten digits of scikit-learn, 8 x 8, 0 to 16."""
    _package("sklearn")
    from sklearn.datasets import load_digits

    return load_digits()


def _handwriting(item):
    """The mask of a digit."""
    values = _digits().images[int(item.source)] * 255 / 16
    image = Image.fromarray(values.astype(np.uint8))
    return image.resize((item.size, item.size), Image.Resampling.BICUBIC).rotate(item.angle, Image.Resampling.BICUBIC)


# Fonts and icons


@cache
def font_of(name, em):
    """A font of FONTS at a size."""
    folder, package = next((folder, package) for package, (folder, names) in FONTS.items() if name in names.split())
    return ImageFont.truetype(_package(package) / folder / f"{name}.ttf", em)


def _text(item):
    """The mask of a text whose capitals stand in its middle."""
    fine = 4  # drawn larger and averaged down, as all that is drawn
    font = font_of(item.source, item.size * fine)
    length = font.getlength(item.name)
    mask = Image.new("L", (math.ceil(length) + 2 * item.size * fine, 3 * item.size * fine))
    start = ((mask.width - length) / 2, (mask.height + CAPITAL * item.size * fine) / 2)
    ImageDraw.Draw(mask).text(start, item.name, fill=255, font=font, anchor="ls")
    return mask.rotate(item.angle, Image.Resampling.BICUBIC).reduce(fine)


@cache
def _sheet():
    with Image.open(Path(__file__).with_name("icons.png")) as sheet:
        return sheet.convert("RGBA")


def _icon(item):
    """An icon with its transparency."""
    row, column = divmod(ICONS.index(item.name), SHEET_COLUMNS)
    left, top = column * ICON_SIDE, row * ICON_SIDE
    icon = _sheet().crop((left, top, left + ICON_SIDE, top + ICON_SIDE))
    return icon.resize((item.size, item.size), Image.Resampling.LANCZOS).rotate(item.angle, Image.Resampling.BICUBIC)


def _centred(image, item):
    """(image, place) to paste an image with its centre at the item's; an icon brings its transparency too."""
    place = (item.x - image.width // 2, item.y - image.height // 2)
    return (image, place, image) if image.mode == "RGBA" else (image, place)


# Outside


def _outside(item, height, width):
    """A part of a photograph, mirrored, turned and toned by chance, or a texture."""
    random = np.random.default_rng(int(item.source))
    if item.name in TEXTURES:
        return _texture(item.name, random, height, width)
    photo = _photo(item.name)
    side = min(photo.height, photo.width) * random.uniform(0.25, 1)
    tall, wide = (side, side * width / height) if height > width else (side * height / width, side)
    left, top = random.uniform(0, photo.width - wide), random.uniform(0, photo.height - tall)
    part = photo.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + wide, top + tall))
    if random.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if item.name.split("/")[0] in PHOTOS["heldout"]:
        return part
    # Few photographs are to teach: their colours change places and strengths.
    tones = np.asarray(part)[..., random.permutation(3)] * random.uniform(0.5, 1.4, 3) + random.uniform(-40, 40)
    return Image.fromarray(tones.clip(0, 255).astype(np.uint8))


def _texture(name, random, height, width):
    """Grain of all sizes at once, or waves that cross."""
    if name == "grain":
        picture = np.zeros((height, width, 3))
        for size in random.choice((1, 2, 4, 8, 16, 32), random.integers(1, 4), replace=False):
            shape = (height // size + 2, width // size + 2, 3 if random.random() < 0.7 else 1)
            grain = np.broadcast_to(random.uniform(0, 255, shape), (*shape[:2], 3)).astype(np.uint8)
            picture += np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC))
        picture = (picture - picture.mean()) / picture.std() * random.uniform(20, 70) + random.uniform(60, 200)
    else:
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(-0.7, 0.7, (3, 3)) * (1, 1, 9)]
        picture = 128 + 60 * np.stack(waves, -1) @ random.uniform(-1, 1, (3, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


@cache
def _photo(name):
    """A photograph of PHOTOS, small enough to keep."""
    package, _, file = name.partition("/")
    with Image.open(_package(package) / file) as photo:
        photo.thumbnail((400, 400))
        return photo.convert("RGB")


def check_packages():
    """Raise NoPackage, with what to install, where a package is missing that training pictures need."""
    for package in ("sklearn", *FONTS, *PHOTOS["train"]):
        _package(package)


def _package(name):
    """The folder of an installed package. Raises NoPackage with what to install."""
    spec = find_spec(name)
    if spec is None:
        raise NoPackage(f"no package {name}, which brings pictures of the small world; install it: {INSTALL}")
    return Path(spec.origin).parent
