"""The GIF: one frame a step, boxes that stay where they are, and colours that mean what the legend says."""

import pytest
import torch
from PIL import Image, ImageFont

from llada_v.animation import (
    BEHIND_STOP,
    MARGIN,
    MASK,
    PICTURE_SIDE,
    PICTURE_WIDTH,
    TEXT_WIDTH,
    Recorder,
    Scene,
    column_of,
    frame_of,
    save_gif,
    wrap,
)
from llada_v.charts import CONFIDENCE, PAPER, colour_of
from llada_v.generation.sampler import SamplerState

WORDS = ["<mask>", "<end>", "a", " red", " circle", " on", " the", " table"]


def decode(ids):
    return "".join(WORDS[token] for token in ids)


def state_of(canvas, confidence, stop, step=1):
    """A `SamplerState` of one row; id 0 is masked."""
    ids = torch.tensor([canvas])
    return SamplerState(ids, ids == 0, torch.tensor([confidence]), [[]], torch.tensor([stop]), step, len(canvas))


def recorded(answer, length):
    """A recorder that saw `answer` appear from left to right on a canvas of `length`, all but sure, then the end."""
    recorder = Recorder()
    ids = [*answer, 1]
    for step in range(1, len(ids) + 1):
        canvas = ids[:step] + [0] * (length - step)
        stop = len(answer) if step == len(ids) else length
        recorder(state_of(canvas, [1.0] * step + [0.0] * (length - step), stop))
    return recorder


def scene_of(answer, length, room=PICTURE_SIDE, question="What is it?"):
    return Scene(question, recorded(answer, length).steps, decode(answer), decode, room)


def colour_in(frame, scene, position):
    """The colour just inside the left edge of a box, where no letter is. Pictures are left out."""
    left, top, _, bottom = scene.boxes[position]
    return frame.getpixel((MARGIN + left + 2, MARGIN + scene.top + (top + bottom) // 2))


def test_a_recorder_keeps_copies():
    recorder = Recorder()
    state = state_of([2, 0, 0], [0.5, 0.0, 0.0], 3)
    recorder(state)
    state.canvas[0, 1] = 3
    state.is_masked[0, 1] = False
    recorder(state)
    assert [step.canvas for step in recorder.steps] == [[2, 0, 0], [2, 3, 0]]
    assert [step.is_masked for step in recorder.steps] == [[False, True, True], [False, False, True]]


def test_one_frame_a_step_between_the_masks_and_the_text(tmp_path):
    file = tmp_path / "answer.gif"
    picture = Image.new("RGB", (64, 48), (20, 90, 200))
    save_gif(file, [("What is it?", recorded([2, 3, 4], 8), "a red circle")], [picture], decode)
    with Image.open(file) as gif:
        assert gif.n_frames == 4 + 2
        assert gif.info["loop"] == 0
        assert gif.width == MARGIN + round(64 * PICTURE_SIDE / 48) + MARGIN + TEXT_WIDTH + MARGIN
        gif.seek(gif.n_frames - 1)
        assert gif.info["duration"] == 2000
        assert gif.convert("RGB").getpixel((MARGIN + 5, MARGIN + 5)) == (20, 90, 200)


def test_boxes_are_grey_until_they_are_revealed():
    scene = scene_of([2, 3, 4], 8)
    masks, first, last = (frame_of(scene, index, None, scene.height + 2 * MARGIN) for index in (-1, 0, 3))
    assert [colour_in(masks, scene, n) for n in range(8)] == [MASK] * 8
    assert [colour_in(first, scene, n) for n in range(8)] == [CONFIDENCE[2]] + [MASK] * 7
    assert [colour_in(last, scene, n) for n in range(8)] == [CONFIDENCE[2]] * 3 + [BEHIND_STOP] * 5


def test_the_last_frame_holds_the_text_alone():
    scene = scene_of([2, 3, 4], 8)
    frame = frame_of(scene, len(scene.steps), None, scene.height + 2 * MARGIN)
    colours = {colour for _, colour in frame.getcolors(1 << 16)}
    assert PAPER in colours
    assert not colours & {MASK, BEHIND_STOP, *CONFIDENCE}
    assert scene.answer == ["a red circle"]


def test_confidence_runs_from_red_over_amber_to_green():
    assert (colour_of(0.0), colour_of(0.5), colour_of(1.0)) == CONFIDENCE
    assert colour_of(1.0000001) == CONFIDENCE[2]


@pytest.mark.parametrize("length", [8, 64, 128])
def test_boxes_of_usual_lengths_fit_beside_the_picture(length):
    scene = scene_of([2, 3, 4, 5, 6, 7] * (length // 8), length)
    assert scene.height <= PICTURE_SIDE
    assert all(right <= TEXT_WIDTH for _, _, right, _ in scene.boxes)


def test_a_very_long_answer_makes_the_frame_higher(tmp_path):
    scene = scene_of([2, 3, 4, 5, 6, 7] * 100, 640)
    assert scene.height > PICTURE_SIDE
    assert max(bottom for *_, bottom in scene.boxes) <= scene.height - scene.top


def test_boxes_do_not_overlap():
    boxes = scene_of([2, 3, 4, 5, 6, 7] * 4, 32).boxes
    for (left, top, right, bottom), (next_left, next_top, _, _) in zip(boxes, boxes[1:], strict=False):
        assert next_left > right or next_top > bottom and next_left == 0
        assert left < right and top < bottom


@pytest.mark.parametrize(("width", "height"), [(40, 60), (1024, 768), (3000, 400)])
def test_one_picture_is_as_large_as_it_may_be(width, height):
    column = column_of([Image.new("RGB", (width, height))])
    assert column.height == PICTURE_SIDE or column.width == PICTURE_WIDTH
    assert column.height <= PICTURE_SIDE and column.width <= PICTURE_WIDTH
    assert column.width / column.height == pytest.approx(width / height, rel=0.02)


def test_several_pictures_all_appear():
    colours, sizes = [(200, 0, 0), (0, 200, 0), (0, 0, 200)], [(9, 30), (30, 9), (8, 8)]
    column = column_of([Image.new("RGB", size, colour) for size, colour in zip(sizes, colours, strict=True)])
    assert column.width == PICTURE_WIDTH
    assert set(colours) <= {colour for _, colour in column.getcolors(1 << 16)}


def test_no_picture_is_fine(tmp_path):
    save_gif(tmp_path / "answer.gif", [("What?", recorded([2], 4), "a")], [], decode)
    with Image.open(tmp_path / "answer.gif") as gif:
        assert gif.width == 2 * MARGIN + TEXT_WIDTH


def test_nothing_recorded_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="pass the recorder to generate"):
        save_gif(tmp_path / "answer.gif", [("What?", Recorder(), "a")], [], decode)


def test_lines_keep_every_word_and_stay_inside():
    font = ImageFont.load_default(16)
    text = "a few words and " + "averylongwordwithoutanyspace" * 3
    lines = wrap(text, font, 150)
    assert all(font.getlength(line) <= 150 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("", font, 150) == [""]
