"""How answers appear, as a GIF: pictures on the left, on the right one box a token, grey until it is revealed.

    recorder = Recorder()
    model.generate(..., callback=recorder)
    save_gif("answer.gif", [(question, recorder, text)], images, processor.decode)

Drawn with Pillow alone. It knows ids and a function that turns them into text, no model and no tokenizer.
Sizes are in pixels; a layout is made once an answer, for the tokens it ends with, so nothing moves while it appears.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .charts import INK, MUTED, PAPER, colour_of
from .errors import WrongValue
from .generation.sampler import SamplerState
from .images import load_image

PICTURE_SIDE = 320  # height of a picture, unless that makes it wider than
PICTURE_WIDTH = 480
TEXT_WIDTH = 560  # of the question and the boxes
MARGIN = 20
GAP = 5  # between boxes
FONT_SIZES = (20, 18, 16, 14, 12, 10)  # of the boxes: the largest with which they fit beside the pictures
QUESTION_SIZE = 22
LEGEND_SIZE = 13
LEGEND_HEIGHT = 44
ANSWER_SECONDS = 6.0  # an answer takes about this long, within the two limits for one step
STEP_SECONDS = (0.08, 0.5)
FINAL_SECONDS = 2.0

MASK, BEHIND_STOP = (205, 208, 213), (241, 242, 244)


@dataclass(frozen=True)
class Step:
    """The first row of a `SamplerState`, copied: ids, which are masked, confidence, where the answer ends."""

    canvas: list[int]
    is_masked: list[bool]
    confidence: list[float]
    stop: int


class Recorder:
    """A callback for `generate` that keeps every step of the first answer, in `steps`."""

    def __init__(self):
        self.steps: list[Step] = []

    def __call__(self, state: SamplerState) -> None:
        self.steps.append(
            Step(
                state.canvas[0].tolist(),
                state.is_masked[0].tolist(),
                state.confidence[0].tolist(),
                int(state.stop_positions[0]),
            )
        )


def save_gif(path, answers: list[tuple[str, Recorder, str]], images: list, decode: Callable[[list[int]], str]) -> None:
    """Write the answers, one after the other, as an endless GIF.

    answers: (question, recorder, final text) of each.
    images: PIL images or paths; none is fine.
    decode: a list of ids to text.
    Raises ValueError where nothing was recorded.
    """
    if not answers or not all(recorder.steps for _, recorder, _ in answers):
        raise WrongValue("an answer has no recorded step; pass the recorder to generate as its callback")
    pictures = column_of([load_image(image) for image in images])
    room = max(PICTURE_SIDE, pictures.height if pictures else 0)
    scenes = [Scene(question, recorder.steps, text, decode, room) for question, recorder, text in answers]
    height = max(room, *(scene.height for scene in scenes)) + 2 * MARGIN
    frames, milliseconds = [], []
    for scene in scenes:
        least, most = STEP_SECONDS
        seconds = min(most, max(least, ANSWER_SECONDS / len(scene.steps)))
        for index in range(-1, len(scene.steps) + 1):
            frames.append(frame_of(scene, index, pictures, height))
            milliseconds.append(round(1000 * seconds))
        milliseconds[-1] = round(1000 * FINAL_SECONDS)
    palette = palette_of(frames[0], pictures)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # Pillow drops frames equal to the one before unless told not to, and their time would go to the wrong step.
    frames[0].save(Path(path), save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False)


# Layout


class Scene:
    """One answer, laid out beside pictures that are `room` high: where each token's box is, how high the panel gets."""

    def __init__(self, question: str, steps: list[Step], text: str, decode: Callable[[list[int]], str], room: int):
        self.steps = steps
        self.labels = [label_of(token, decode) for token in steps[-1].canvas]
        self.is_revealed = [not masked for masked in steps[-1].is_masked]
        self.question_font = ImageFont.load_default(QUESTION_SIZE)
        self.question = wrap(question, self.question_font, TEXT_WIDTH)
        self.top = line_height(self.question_font) * len(self.question) + MARGIN
        room -= self.top + LEGEND_HEIGHT
        for size in FONT_SIZES:
            self.font = ImageFont.load_default(size)
            self.boxes = self.flow()
            if self.boxes[-1][3] <= room:
                break
        for size in FONT_SIZES:
            self.answer_font = ImageFont.load_default(size)
            self.answer = wrap(text, self.answer_font, TEXT_WIDTH)
            answer_height = line_height(self.answer_font) * len(self.answer)
            if answer_height <= room:
                break
        self.height = self.top + max(self.boxes[-1][3], answer_height) + LEGEND_HEIGHT

    def flow(self) -> list[tuple[int, int, int, int]]:
        """(left, top, right, bottom) of each box below the question, filled row by row."""
        high = line_height(self.font)
        boxes, left, top = [], 0, 0
        for label, revealed in zip(self.labels, self.is_revealed, strict=True):
            wide = round(self.font.getlength(label)) + high // 2 if revealed else 0
            wide = min(max(wide, high), TEXT_WIDTH)
            if left and left + wide > TEXT_WIDTH:
                left, top = 0, top + high + GAP
            boxes.append((left, top, left + wide, top + high))
            left += wide + GAP
        return boxes


def label_of(token: int, decode: Callable[[list[int]], str]) -> str:
    """A token as it stands in its box: without the space in front, a line break as \\n."""
    return decode([token]).strip(" ").replace("\n", "\\n").replace("\t", "\\t") or " "


def line_height(font) -> int:
    """Pixels from one line to the next, and the height of a box."""
    ascent, descent = font.getmetrics()
    return round(1.25 * (ascent + descent))


def wrap(text: str, font, width: int) -> list[str]:
    """Lines of at most `width` pixels; a word that is longer is cut. At least one line, maybe empty."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            while font.getlength(word) > width:
                cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        lines.append(line)
    return lines


def column_of(pictures: list[Image.Image]) -> Image.Image | None:
    """The pictures in one image: one as large as it may be, several in rows of two."""
    if not pictures:
        return None
    if len(pictures) == 1:
        picture = pictures[0]
        return scaled(picture, min(PICTURE_SIDE / picture.height, PICTURE_WIDTH / picture.width))
    side = (PICTURE_WIDTH - GAP) // 2
    rows = -(-len(pictures) // 2)
    column = Image.new("RGB", (PICTURE_WIDTH, rows * side + (rows - 1) * GAP), PAPER)
    for index, picture in enumerate(pictures):
        small = scaled(picture, side / max(picture.size))
        left = index % 2 * (side + GAP) + (side - small.width) // 2
        column.paste(small, (left, index // 2 * (side + GAP) + (side - small.height) // 2))
    return column


def scaled(picture: Image.Image, scale: float) -> Image.Image:
    """The picture `scale` times as large. Pixels of small pictures stay sharp squares."""
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


# Drawing


def frame_of(scene: Scene, index: int, pictures: Image.Image | None, height: int) -> Image.Image:
    """The frame after step `index`; -1 is the canvas of masks, one past the last step the final text."""
    left = MARGIN + (pictures.width + MARGIN if pictures else 0)
    frame = Image.new("RGB", (left + TEXT_WIDTH + MARGIN, height), PAPER)
    if pictures:
        frame.paste(pictures, (MARGIN, MARGIN))
    draw = ImageDraw.Draw(frame)
    write(draw, scene.question, (left, MARGIN), scene.question_font, INK)
    top = MARGIN + scene.top
    if index == len(scene.steps):
        write(draw, scene.answer, (left, top), scene.answer_font, INK)
    else:
        step = scene.steps[index] if index >= 0 else None
        for position, box in enumerate(scene.boxes):
            draw_box(draw, scene, step, position, (box[0] + left, box[1] + top, box[2] + left, box[3] + top))
        draw_legend(draw, left, height - MARGIN)
    return frame


def write(draw, lines: list[str], corner: tuple[int, int], font, colour) -> None:
    """Lines of text from the corner (left, top) down."""
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * line_height(font)), line, colour, font)


def draw_box(draw, scene: Scene, step: Step | None, position: int, box) -> None:
    """One token: grey while masked, its confidence's colour once revealed, pale behind the end of the answer."""
    is_masked = step is None or position >= len(step.is_masked) or step.is_masked[position]
    is_behind = step is not None and position >= step.stop
    colour = MASK
    if is_behind:
        colour = BEHIND_STOP
    elif not is_masked:
        colour = colour_of(step.confidence[position])
    draw.rounded_rectangle(box, (box[3] - box[1]) // 8, colour)
    if not is_masked:
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        draw.text(middle, scene.labels[position], MUTED if is_behind else INK, scene.font, anchor="mm")


def draw_legend(draw, left: int, bottom: int) -> None:
    """A grey box for what is masked, and the colours of confidence from 0 to 1."""
    font = ImageFont.load_default(LEGEND_SIZE)
    high, wide = 12, 120
    middle = bottom - high // 2
    draw.rounded_rectangle((left, bottom - high, left + high, bottom), 3, MASK)
    draw.text((left + high + 6, middle), "masked", MUTED, font, anchor="lm")
    left += 100
    draw.text((left, middle), "confidence  0", MUTED, font, anchor="lm")
    left += round(font.getlength("confidence  0")) + 6
    for x in range(wide):
        draw.line((left + x, bottom - high, left + x, bottom), colour_of(x / (wide - 1)))
    draw.text((left + wide + 6, middle), "1", MUTED, font, anchor="lm")


def palette_of(frame: Image.Image, pictures: Image.Image | None) -> Image.Image:
    """256 colours for all frames: those of boxes and text first, the rest for the pictures."""
    fixed: list[tuple[int, ...]] = [PAPER, MASK, BEHIND_STOP]
    shades = [colour_of(n / 12) for n in range(13)]
    for ground in (PAPER, MASK, BEHIND_STOP, *shades):
        fixed += [tuple(round(g + n / 4 * (i - g)) for g, i in zip(ground, INK, strict=True)) for n in range(5)]
    fixed = list(dict.fromkeys(fixed))
    colours = [channel for colour in fixed for channel in colour]
    if pictures:
        reduced = pictures.quantize(256 - len(fixed))
        colours += reduced.getpalette()[: 3 * (256 - len(fixed))]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette
