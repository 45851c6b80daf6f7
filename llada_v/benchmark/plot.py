"""Accuracy against speed as a PNG, drawn with Pillow: one dot a setting, its interval, and the front as a line.

Speed is on a logarithmic axis, accuracy in per cent on a straight one. Sizes are in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .accuracy import front

WIDTH, HEIGHT = 1280, 800
LEFT, RIGHT, TOP, BOTTOM = 90, 40, 90, 70  # margins around the axes
DOT, CAP = 6, 5  # radius of a dot, half the width of an interval's end
ROOM = 0.08  # of the data's span, free on each side
TEXT, SMALL = 18, 14
PAPER, INK, MUTED, GRID = (255, 255, 255), (32, 33, 36), (110, 114, 120), (226, 228, 232)
ON_FRONT, BEHIND = (38, 108, 196), (160, 166, 176)


@dataclass(frozen=True)
class Point:
    """A setting: its speed (any unit, above 0), its share in 0..1 and the ends of the share's interval."""

    name: str
    speed: float
    share: float
    low: float
    high: float


def save_plot(file: Path, points: Sequence[Point], speed_label: str, share_label: str, title: str) -> None:
    """Write the chart. Dots on the front (none faster is as good) are blue and joined, the others grey."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    text, small = ImageFont.load_default(TEXT), ImageFont.load_default(SMALL)
    x_of = Axis([math.log10(point.speed) for point in points], LEFT, WIDTH - RIGHT, least=0.3)
    y_of = Axis([end for point in points for end in (point.low, point.high)], HEIGHT - BOTTOM, TOP, least=0.05)
    draw.text((LEFT, 20), title, MUTED, small, anchor="lt")
    draw_grid(draw, x_of, y_of, small)
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18), speed_label, INK, text, anchor="mm")
    draw.text((LEFT, TOP - 10), share_label, INK, text, anchor="lb")
    places = [(x_of(math.log10(point.speed)), y_of(point.share)) for point in points]
    best = front([(point.speed, point.share) for point in points])
    draw.line([places[index] for index in best], ON_FRONT, 2)
    colours = [ON_FRONT if index in best else BEHIND for index in range(len(points))]
    for point, (x, y), colour in zip(points, places, colours, strict=True):
        low, high = y_of(point.low), y_of(point.high)
        draw.line((x, low, x, high), colour, 1)
        for end in (low, high):
            draw.line((x - CAP, end, x + CAP, end), colour, 1)
        draw.ellipse(box(x, y, DOT, DOT), colour)
    taken = [box(x, y, DOT, DOT) for x, y in places]
    for point, (x, y), colour in zip(points, places, colours, strict=True):
        label = place_label(point.name, x, y, small, taken)
        taken.append(label)
        draw.text(label[:2], point.name, INK if colour == ON_FRONT else MUTED, small)
    image.save(file)


class Axis:
    """From a value to its pixel: the values' span, at least `least`, with some room on both sides.

    start, end: pixels between which they lie. low, high: the values there.
    """

    def __init__(self, values: Sequence[float], start: float, end: float, least: float):
        self.start, self.end = start, end
        middle, span = (max(values) + min(values)) / 2, max(max(values) - min(values), least)
        self.low, self.high = middle - (0.5 + ROOM) * span, middle + (0.5 + ROOM) * span

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw_grid(draw, x_of, y_of, font) -> None:
    """Lines and numbers: speeds at 1, 2 and 5 times the powers of ten, shares at round per cents."""
    for power in range(math.floor(x_of.low), math.ceil(x_of.high) + 1):
        for digit in (1, 2, 5):
            value = math.log10(digit) + power
            if x_of.low <= value <= x_of.high:
                x = x_of(value)
                draw.line((x, TOP, x, HEIGHT - BOTTOM), GRID, 1)
                draw.text((x, HEIGHT - BOTTOM + 8), f"{digit * 10.0**power:g}", MUTED, font, anchor="mt")
    step = next(step for step in (1, 2, 5, 10, 20, 50) if 100 * (y_of.high - y_of.low) / step <= 12)
    for value in range(math.ceil(100 * y_of.low / step) * step, math.floor(100 * y_of.high) + 1, step):
        if 0 <= value <= 100:
            y = y_of(value / 100)
            draw.line((LEFT, y, WIDTH - RIGHT, y), GRID, 1)
            draw.text((LEFT - 8, y), f"{value} %", MUTED, font, anchor="rm")


def place_label(name: str, x: float, y: float, font, taken: list) -> tuple[float, float, float, float]:
    """A box for the name beside its dot, as near as it can be without covering another."""
    wide, high = font.getlength(name), SMALL + 2
    corners = []
    for distance in range(0, HEIGHT, high // 2):
        for top in {y - high / 2 - distance, y - high / 2 + distance}:
            corners += [(x + 2 * DOT, top), (x - 2 * DOT - wide, top)]
    boxes = [(left, top, left + wide, top + high) for left, top in corners]
    inside = [b for b in boxes if LEFT <= b[0] and b[2] <= WIDTH and TOP <= b[1] and b[3] <= HEIGHT - BOTTOM]
    return next((found for found in inside if not any(overlap(found, other) for other in taken)), boxes[0])


def box(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) around a middle."""
    return (x - wide, y - high, x + wide, y + high)


def overlap(a, b) -> bool:
    """Whether two boxes share a pixel."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
