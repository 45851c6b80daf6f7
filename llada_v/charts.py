"""Charts as pictures: a palette, bars, points with intervals, a histogram, lines. Drawn with Pillow alone, or as SVG.

Everything is drawn twice as large and then halved, so that edges are smooth. Sizes are in pixels of what comes out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, MUTED = (255, 255, 255), (32, 33, 36), (110, 114, 120)
GRID, TRACK = (230, 232, 236), (241, 243, 246)
BLUE, PALE, GREY, RED = (38, 108, 196), (120, 162, 224), (160, 166, 176), (206, 62, 50)
CONFIDENCE = ((232, 106, 94), (247, 196, 88), (112, 190, 120))  # red, amber, green: 0, 0.5, 1
SERIES = (BLUE, (224, 122, 28), (34, 139, 94), (142, 84, 178), RED, GREY)  # of several lines in one chart
LARGE, TEXT, SMALL = 20, 15, 13  # of letters
MARGIN = 28


def colour_of(confidence: float) -> tuple[int, int, int]:
    """Red at 0, amber at 0.5, green at 1, straight lines between."""
    low, high = CONFIDENCE[:2] if confidence < 0.5 else CONFIDENCE[1:]
    share = min(1.0, 2 * confidence - (confidence >= 0.5))
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    return red, green, blue


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, twice as large as asked."""
    return ImageFont.load_default(2 * size)


def width_of(text: str, size: int) -> float:
    """Pixels that a text is wide."""
    return font(size).getlength(text) / 2


def fitted(text: str, size: int, width: float) -> str:
    """The text, cut where it is wider than `width`."""
    if width_of(text, size) <= width:
        return text
    while text and width_of(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


class Sheet:
    """A picture to draw on: places in pixels of the finished one, from the left and from the top."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.image = Image.new("RGB", (2 * width, 2 * height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, size: int = TEXT, colour=INK, anchor: str = "lm", rim=0) -> None:
        """Letters; `anchor` as Pillow names it: "lm" begins at x with its middle at y. rim: of paper around them."""
        self.draw.text((2 * x, 2 * y), text, colour, font(size), anchor=anchor, stroke_width=2 * rim, stroke_fill=PAPER)

    def line(self, *places: tuple[float, float], colour=GRID, width: float = 1) -> None:
        """A line through places."""
        self.draw.line([(2 * x, 2 * y) for x, y in places], colour, round(2 * width), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, colour, radius: float = 0) -> None:
        """A filled box; nothing where it has no width or height."""
        if right - left >= 0.5 and bottom - top >= 0.5:
            self.draw.rounded_rectangle((2 * left, 2 * top, 2 * right - 1, 2 * bottom - 1), 2 * radius, colour)

    def dot(self, x: float, y: float, radius: float, colour) -> None:
        """A disc with a rim of paper, so that two that overlap stay two."""
        for size, fill in ((radius + 1.5, PAPER), (radius, colour)):
            self.draw.ellipse((2 * (x - size), 2 * (y - size), 2 * (x + size), 2 * (y + size)), fill)

    def finished(self) -> Image.Image:
        """The picture."""
        return self.image.reduce(2)


class Drawing:
    """The same strokes as on a `Sheet`, as the text of an SVG for a page."""

    ANCHORS = {"l": "start", "m": "middle", "r": "end"}

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, size: int = TEXT, colour=INK, anchor: str = "lm") -> None:
        """Letters, their middle at y, as wide as they were measured whatever font the browser has."""
        where, wide = self.ANCHORS[anchor[0]], width_of(text, size)
        self.parts.append(
            f'<text x="{x:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size}" fill="{hexed(colour)}" '
            f'text-anchor="{where}" textLength="{wide:.1f}">{escape(text)}</text>'
        )

    def line(self, *places: tuple[float, float], colour=GRID, width: float = 1) -> None:
        """A line through places."""
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self.parts.append(
            f'<polyline points="{points}" fill="none" stroke="{hexed(colour)}" stroke-width="{width}" '
            'stroke-linejoin="round"/>'
        )

    def box(self, left: float, top: float, right: float, bottom: float, colour, radius: float = 0) -> None:
        """A filled box."""
        self.parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0, right - left):.1f}" '
            f'height="{max(0, bottom - top):.1f}" rx="{radius}" fill="{hexed(colour)}"/>'
        )

    def dot(self, x: float, y: float, radius: float, colour) -> None:
        """A disc with a rim of paper."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{hexed(colour)}" stroke="#fff" stroke-width="1.5"/>'
        )

    def finished(self) -> str:
        """The SVG."""
        size = f'viewBox="0 0 {self.width} {self.height}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(self.parts)}</svg>'


def hexed(colour: tuple[int, int, int]) -> str:
    """A colour as pages write it."""
    return "#" + "".join(f"{part:02x}" for part in colour)


# Bars

BAR_ROW, BAR_NAME, BAR_LENGTH, BAR_NUMBER = 34, 240, 460, 150
BAR_TOP = 84  # of the first row


@dataclass(frozen=True)
class Bar:
    """A row of `bars`: its name, value and what is written behind it; a mark at another value.

    full: the value of a whole bar. problem: what is written instead of a bar where there is no value.
    """

    name: str
    value: float | None
    text: str = ""
    mark: float | None = None
    full: float = 100.0
    problem: str = ""


def bars(rows: Sequence[Bar], title: str, told: str) -> Image.Image:
    """A bar a row under a title. told: what bar and mark mean."""
    left = MARGIN + BAR_NAME
    sheet = Sheet(left + BAR_LENGTH + BAR_NUMBER + MARGIN, BAR_TOP + BAR_ROW * len(rows) + MARGIN)
    sheet.text(MARGIN, 34, fitted(title, LARGE, sheet.width - 2 * MARGIN), LARGE)
    sheet.text(MARGIN, 60, told, SMALL, MUTED)
    for index, row in enumerate(rows):
        top = BAR_TOP + BAR_ROW * index
        middle = top + BAR_ROW / 2
        sheet.text(left - 14, middle, fitted(row.name, TEXT, BAR_NAME - 14), anchor="rm")
        sheet.box(left, top + 6, left + BAR_LENGTH, top + BAR_ROW - 6, TRACK, 3)
        if row.value is None:
            sheet.text(left + 10, middle, fitted(row.problem, SMALL, BAR_LENGTH - 20), SMALL, RED)
            continue
        sheet.box(left, top + 6, left + BAR_LENGTH * max(0.0, row.value) / row.full, top + BAR_ROW - 6, PALE, 3)
        if row.mark is not None:
            at = left + BAR_LENGTH * row.mark / row.full
            sheet.box(at - 1.5, top + 3, at + 1.5, top + BAR_ROW - 3, INK)
        sheet.text(left + BAR_LENGTH + 14, middle, row.text)
    return sheet.finished()


# Points

POINTS_WIDTH, POINTS_HEIGHT = 1280, 800
LEFT, RIGHT, TOP, BOTTOM = 92, 40, 100, 78  # margins around the axes
DOT, CAP = 5.5, 4  # radius of a dot, half the width of an interval's end
ROOM = 0.08  # of the data's span, free on each side
PANEL, PANEL_GAP = 420, 84  # side of a reliability diagram, and what is between two


@dataclass(frozen=True)
class Point:
    """A name at a place: x above 0, its share in 0..1 and the ends of the share's interval."""

    name: str
    x: float
    share: float
    low: float
    high: float


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


def points(found: Sequence[Point], best: Sequence[int], x_label: str, y_label: str, title: str) -> Image.Image:
    """Shares in per cent against x on a logarithmic axis; the points `best`, in order of x, are blue and joined."""
    sheet = Sheet(POINTS_WIDTH, POINTS_HEIGHT)
    x_of = Axis([math.log10(point.x) for point in found], LEFT, POINTS_WIDTH - RIGHT, least=0.3)
    y_of = Axis([end for point in found for end in (point.low, point.high)], POINTS_HEIGHT - BOTTOM, TOP, least=0.05)
    sheet.text(LEFT, 34, y_label, LARGE)
    sheet.text(LEFT, 62, fitted(title, SMALL, POINTS_WIDTH - LEFT - RIGHT), SMALL, MUTED)
    draw_grid(sheet, x_of, y_of)
    sheet.text((LEFT + POINTS_WIDTH - RIGHT) / 2, POINTS_HEIGHT - 24, x_label, anchor="mm")
    places = [(x_of(math.log10(point.x)), y_of(point.share)) for point in found]
    order = sorted(range(len(found)), key=lambda index: index in best)  # the best on top
    for index in order:
        (x, _), colour = places[index], PALE if index in best else GRID
        low, high = y_of(found[index].low), y_of(found[index].high)
        sheet.line((x, low), (x, high), colour=colour, width=1.5)
        for end in (low, high):
            sheet.line((x - CAP, end), (x + CAP, end), colour=colour, width=1.5)
    if len(best) > 1:
        sheet.line(*(places[index] for index in best), colour=BLUE, width=2)
    for index in order:
        sheet.dot(*places[index], DOT, BLUE if index in best else GREY)
    taken = [around(x, y, DOT, DOT) for x, y in places]
    for (x, y), (to_x, to_y) in zip([places[i] for i in best], [places[i] for i in best[1:]], strict=False):
        parts = max(1, round((to_x - x) / DOT))
        taken += [around(x + (to_x - x) * n / parts, y + (to_y - y) * n / parts, 1, 1) for n in range(parts)]
    for index in reversed(order):  # the names of the best take their places first
        name = fitted(found[index].name, SMALL, (POINTS_WIDTH - LEFT - RIGHT) / 2)
        label = place_label(name, *places[index], taken)
        taken.append(label)
        (x, y), (left, top, right, bottom) = places[index], label
        if not top <= y <= bottom:  # it stands further off
            sheet.line((x, y), (left - 3 if left > x else right + 3, (top + bottom) / 2), colour=GREY)
        sheet.text(left, top, name, SMALL, INK if index in best else MUTED, "lt", rim=2)
    return sheet.finished()


def draw_grid(sheet: Sheet, x_of: Axis, y_of: Axis) -> None:
    """Lines and numbers: x at 1, 2 and 5 times the powers of ten, shares at round per cents."""
    for power in range(math.floor(x_of.low), math.ceil(x_of.high) + 1):
        for digit in (1, 2, 5):
            value = math.log10(digit) + power
            if x_of.low <= value <= x_of.high:
                sheet.line((x_of(value), TOP), (x_of(value), POINTS_HEIGHT - BOTTOM))
                sheet.text(
                    x_of(value), POINTS_HEIGHT - BOTTOM + 16, f"{digit * 10.0**power:g}", SMALL, MUTED, anchor="mm"
                )
    step = next(step for step in (1, 2, 5, 10, 20, 50) if 100 * (y_of.high - y_of.low) / step <= 12)
    for value in range(math.ceil(100 * y_of.low / step) * step, math.floor(100 * y_of.high) + 1, step):
        if 0 <= value <= 100:
            sheet.line((LEFT, y_of(value / 100)), (POINTS_WIDTH - RIGHT, y_of(value / 100)))
            sheet.text(LEFT - 10, y_of(value / 100), f"{value} %", SMALL, MUTED, anchor="rm")


def place_label(name: str, x: float, y: float, taken: list) -> tuple[float, float, float, float]:
    """A box for the name beside its dot, as near as it can be without covering another."""
    wide, high = width_of(name, SMALL), SMALL + 3
    corners = []
    for distance in range(0, POINTS_HEIGHT, high // 2):
        for top in (y - high / 2 - distance, y - high / 2 + distance):
            corners += [(x + 2 * DOT, top), (x - 2 * DOT - wide, top)]
    boxes = [(left, top, left + wide, top + high) for left, top in corners]
    right, bottom = POINTS_WIDTH - RIGHT, POINTS_HEIGHT - BOTTOM
    inside = [b for b in boxes if LEFT <= b[0] and b[2] <= right and TOP <= b[1] and b[3] <= bottom]
    return next((found for found in inside if not any(overlap(found, other) for other in taken)), boxes[0])


def around(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) around a middle."""
    return (x - wide, y - high, x + wide, y + high)


def overlap(a, b) -> bool:
    """Whether two boxes share a pixel."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# Histogram

HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 840, 420
SIDE, HEAD, FOOT = 76, 72, 42  # margins around the bars


def reliability(found: Mapping[str, Sequence[float]], is_right: Sequence[bool], title: str) -> Image.Image:
    """How often answers are right (up) that are so sure (across), in ten bins; where both are equal is the diagonal.

    found: a panel's name -> the probability of each answer. is_right: whether that answer is. The bar of a bin is its
    share of right answers, the dot stands at their mean probability, the number below says how many they are.
    """
    sheet = Sheet(2 * MARGIN + len(found) * (PANEL + PANEL_GAP) - PANEL_GAP + 44, PANEL + 176)
    sheet.text(MARGIN, 34, fitted(title, LARGE, sheet.width - 2 * MARGIN), LARGE)
    told = "across: how sure    bar: share that is right    dot: mean probability    below: how many"
    sheet.text(MARGIN, 60, told, SMALL, MUTED)
    for number, (name, sure) in enumerate(found.items()):
        left, top = MARGIN + 44 + number * (PANEL + PANEL_GAP), 112
        bottom = top + PANEL
        sheet.text(left, top - 20, name)
        for tenth in range(0, 11, 2):
            place = PANEL * tenth / 10
            sheet.line((left, bottom - place), (left + PANEL, bottom - place))
            sheet.text(left - 8, bottom - place, f"{10 * tenth} %", SMALL, MUTED, "rm")
            sheet.text(left + place, bottom + 42, f"{tenth / 10:g}", SMALL, MUTED, "mm")
        bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
        for probability, right in zip(sure, is_right, strict=True):
            bins[min(9, int(10 * probability))].append((probability, right))
        for tenth, some in enumerate(bins):
            start = left + PANEL * tenth / 10
            if some:
                share = sum(right for _, right in some) / len(some)
                sheet.box(start + 2, bottom - PANEL * share, start + PANEL / 10 - 2, bottom, PALE, 2)
            sheet.text(start + PANEL / 20, bottom + 16, str(len(some)), SMALL, MUTED, "mm")
        sheet.line((left, bottom), (left + PANEL, top), colour=INK, width=1.5)
        for some in filter(None, bins):
            mean = sum(probability for probability, _ in some) / len(some)
            share = sum(right for _, right in some) / len(some)
            sheet.dot(left + PANEL * mean, bottom - PANEL * share, DOT, BLUE)
    return sheet.finished()


def histogram(counts: Sequence[int], edges: Sequence[int], limit: int, unit: str, what: str) -> Image.Image:
    """Bars of the numbers of things by size, with a line at the limit where it lies in the picture.

    edges: one more than counts. unit: of the edges. what: the things that are counted.
    """
    sheet = Sheet(HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT)
    right, bottom = HISTOGRAM_WIDTH - SIDE, HISTOGRAM_HEIGHT - FOOT
    step, most = (right - SIDE) / len(counts), max(*counts, 1)
    sheet.text(SIDE, 28, f"{what.capitalize()} by length in {unit}", LARGE)
    lines = next(n for power in range(20) for n in (10**power, 2 * 10**power, 5 * 10**power) if most <= 5 * n)
    for value in range(lines, most + 1, lines):
        y = bottom - (bottom - HEAD) * value / most
        sheet.line((SIDE, y), (right, y))
        sheet.text(SIDE - 8, y, f"{value:,}", SMALL, MUTED, anchor="rm")
    for index, count in enumerate(counts):
        left = SIDE + index * step
        sheet.box(left + 1, bottom - (bottom - HEAD) * count / most, left + step - 1, bottom, BLUE, 2)
    sheet.line((SIDE, bottom), (right, bottom), colour=MUTED)
    for index in [*range(0, len(counts), max(1, len(counts) // 5)), len(counts)]:
        sheet.text(SIDE + index * step, bottom + 16, f"{edges[index]:,}", SMALL, MUTED, anchor="mm")
    if limit <= edges[-1]:
        at = SIDE + (right - SIDE) * limit / edges[-1]
        sheet.box(at - 1, HEAD - 8, at + 1, bottom, RED)
        sheet.text(min(at, right - 30), HEAD - 18, f"limit {limit:,}", SMALL, RED, anchor="mm")
    return sheet.finished()


# Lines

LINES_WIDTH, LINES_HEIGHT = 620, 330
INSET, TITLE, BASE = 58, 62, 34  # margins left of, above and below the axes
MOST_POINTS = 240  # of one line
SHOWN = 0.98  # share of a noisy line's values that the axis has room for: first losses would flatten all others


@dataclass(frozen=True)
class Line:
    """A named line through (x, y), with the half lengths of intervals around y where there are some.

    is_noisy: it is drawn pale, with its running mean over it.
    told: the value beside its name; None: the last one.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()
    is_noisy: bool = False
    told: float | None = None


def lines(found: Sequence[Line], title: str, told: str = "", sheet_class: Any = Sheet, mark: float | None = None):
    """Lines over one axis of steps, each with its last value; what `sheet_class` makes of a chart.

    told: the unit or the meaning of y. mark: an x with a thin line, such as the best step.
    """
    sheet = sheet_class(LINES_WIDTH, LINES_HEIGHT)
    right, bottom = LINES_WIDTH - 18, LINES_HEIGHT - BASE
    sheet.text(INSET, 20, title, TEXT)
    sheet.text(right, 20, told, SMALL, MUTED, "rm")
    found = [thinned(line) for line in found if len(line.x)]
    if not found:
        sheet.text(LINES_WIDTH / 2, LINES_HEIGHT / 2, "nothing yet", SMALL, MUTED, "mm")
        return sheet.finished()
    x_low, x_high = min(line.x[0] for line in found), max(line.x[-1] for line in found)
    low, high, step = span_of(found)

    def x_of(x: float) -> float:
        return INSET + (x - x_low) / ((x_high - x_low) or 1) * (right - INSET)

    def y_of(y: float) -> float:
        return bottom - (min(max(y, low), high) - low) / (high - low) * (bottom - TITLE)

    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        sheet.line((INSET, y_of(value)), (right, y_of(value)))
        sheet.text(INSET - 8, y_of(value), short(value), SMALL, MUTED, "rm")
    for value in ticks(x_low, x_high):
        sheet.text(x_of(value), bottom + 16, f"{value:,.0f}", SMALL, MUTED, "mm")
    if mark is not None and x_low <= mark <= x_high:
        sheet.line((x_of(mark), TITLE), (x_of(mark), bottom), colour=MUTED)
    at: float = INSET
    for line, colour in zip(found, SERIES * len(found), strict=False):
        places = [(x_of(x), y_of(y)) for x, y in zip(line.x, line.y, strict=True)]
        if line.is_noisy and len(places) > 8:
            sheet.line(*places, colour=PALE if colour == BLUE else GRID, width=1)
            places = [(x_of(x), y_of(y)) for x, y in zip(line.x, running_mean(line.y), strict=True)]
        for (x, _), y, error in zip(places, line.y, line.error, strict=False):
            sheet.line((x, y_of(y - error)), (x, y_of(y + error)), colour=colour, width=1)
        sheet.line(*places, colour=colour, width=2)
        if len(places) <= 40:
            for x, y in places:
                sheet.dot(x, y, 3, colour)
        name = f"{line.name} {short(line.y[-1] if line.told is None else line.told)}".strip()
        if at + width_of(name, SMALL) + 20 <= right:
            sheet.box(at, 38, at + 10, 48, colour, 2)
            sheet.text(at + 15, 43, name, SMALL, MUTED)
        at += width_of(name, SMALL) + 32
    return sheet.finished()


def thinned(line: Line) -> Line:
    """The line with at most MOST_POINTS points, the means of as many neighbours each."""
    size = -(-len(line.x) // MOST_POINTS)
    if size == 1:
        return line
    x, y = ([sum(v[n : n + size]) / len(v[n : n + size]) for n in range(0, len(v), size)] for v in (line.x, line.y))
    return Line(line.name, [*x[:-1], line.x[-1]], y, (), line.is_noisy, line.told)


def running_mean(values: Sequence[float], share: float = 0.06) -> list[float]:
    """The mean of each value's neighbours, as many as `share` of all on each side."""
    reach = max(1, round(share * len(values)))
    return [sum(part) / len(part) for part in (values[max(0, n - reach) : n + reach + 1] for n in range(len(values)))]


def span_of(found: Sequence[Line]) -> tuple[float, float, float]:
    """Bottom and top of the axis, and the step between its marks."""
    values = []
    for line in found:
        kept = sorted(line.y)[: max(1, math.ceil(SHOWN * len(line.y)))] if line.is_noisy else list(line.y)
        errors = line.error or [0.0] * len(line.y)
        values += kept + [y + s * e for y, e in zip(line.y, errors, strict=True) for s in (1, -1) if line.error]
    low, high = min(values), max(values)
    if high - low < 1e-12 + 1e-3 * abs(high):
        low, high = low - (abs(low) / 10 or 0.5), high + (abs(high) / 10 or 0.5)
    step = round_step((high - low) / 4)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def ticks(low: float, high: float) -> list[float]:
    """Round whole numbers between two, about six."""
    step = max(1.0, round_step((high - low) / 6 or 1))
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def round_step(size: float) -> float:
    """1, 2 or 5 times a power of ten, at least `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= 0.999 * size)


def short(value: float) -> str:
    """A value in few letters."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
