"""From a benchmark's messages or context to a prompt: laid out as in training, or token by token as the original's.

The two differ in where pictures stand (ours: where the benchmark puts them), in the mode suffix (ours: always at the
end of the question) and in the tokens that the original loses. Knows the processor, no model and no lmms-eval.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ..conversation import IMAGE, NO_THINK, SYSTEM_PROMPT, THINK, check_count, pieces_of, read_messages
from ..errors import WrongValue
from ..processing_llada_v import LladaVProcessor
from ..sequence import Sequence

THINK_MODES = {"think": THINK, "no_think": NO_THINK}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def check_think_mode(think_mode: str | None) -> None:
    """Raise ValueError unless it is one of `THINK_MODES`, or None: no suffix."""
    if think_mode is not None and think_mode not in THINK_MODES:
        raise WrongValue(f"think_mode is {think_mode!r}; choose one of {', '.join(THINK_MODES)}, or leave it out")


def kind_of(visual) -> str:
    """Whether lmms-eval's visual is an "image" or a "video". Raises ValueError for anything else, such as a sound."""
    if isinstance(visual, Image.Image):
        return "image"
    if isinstance(visual, (str, Path)):
        return "image" if Path(visual).suffix.lower() in IMAGE_SUFFIXES else "video"
    if isinstance(visual, (list, tuple, np.ndarray)):
        return "video"
    raise WrongValue(f"a visual is a PIL image, a path or a list of frames, not {type(visual).__name__}")


def messages_of(context: str, visuals: list) -> list[dict]:
    """One user message: the pictures or videos, then the text."""
    parts = [{"type": kind_of(visual), "url": visual} for visual in visuals]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": context}]}]


def chat_prompt(processor: LladaVProcessor, messages: list[dict], think_mode: str | None = None) -> Sequence:
    """The prompt of lmms-eval's chat messages, the assistant's turn opened.

    messages: {"role", "content": parts {"type": "text", "text"}, {"type": "image" | "video", "url"}}. Where a message's
        texts hold `<image>` and its visuals stand apart, each visual goes where its `<image>` is.
    think_mode: its suffix goes behind the last question, as in the training data.
    Raises ValueError for a part that is neither, and what `read_messages` and reading pictures raise.
    """
    check_think_mode(think_mode)
    conversation = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else [part_of(part) for part in content]
        conversation.append({"role": message["role"], "content": in_place(parts)})
    asked = [message for message in conversation if message["role"] == "user"]
    if think_mode and asked:
        asked[-1]["content"].append({"type": "text", "text": THINK_MODES[think_mode]})
    turns, images, videos = read_messages(conversation)
    visuals = processor.visuals_of(images) + processor.visuals_of(videos, is_video=True)
    return processor.sequence([*turns, ("assistant", [])], visuals, is_open=True)


def part_of(part: dict) -> dict:
    """A part of lmms-eval's content as the processor names it."""
    kind = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind not in ("image", "video"):
        raise WrongValue(f"a message holds {kind}; the model takes text, images and videos")
    if part["url"] is None:
        raise WrongValue(f"a message holds an {kind} that is None")
    return {"type": kind, kind: part["url"]}


def in_place(parts: list[dict]) -> list[dict]:
    """The parts with each visual where its `<image>` stands in the texts; unchanged where no text has one."""
    visuals = [part for part in parts if part["type"] != "text"]
    if not visuals or not any(IMAGE in part["text"] for part in parts if part["type"] == "text"):
        return parts
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    pieces = text.split(IMAGE)
    if len(pieces) - 1 != len(visuals):
        raise WrongValue(f"the text has {len(pieces) - 1} {IMAGE} for {len(visuals)} pictures or videos")
    placed = []
    for visual, piece in zip([None, *visuals], pieces, strict=True):
        placed += ([visual] if visual else []) + ([{"type": "text", "text": piece}] if piece else [])
    return placed


def original_prompt(processor: LladaVProcessor, context: str, visuals: list, think_mode: str | None = None) -> Sequence:
    """The prompt that the original's evaluation makes of a context, with a processor that has `reproduce_original`.

    All pictures stand in front, and only then is there a mode suffix; a context with its own `<image>` stays as it is.
    Raises ValueError where those do not match the pictures: the original would repeat one or lose one.
    """
    check_think_mode(think_mode)
    question = context
    if visuals and IMAGE not in context:
        question = " ".join([IMAGE] * len(visuals)) + "\n" + context + THINK_MODES.get(think_mode, "")
    images = [visual for visual in visuals if kind_of(visual) == "image"]
    videos = [visual for visual in visuals if kind_of(visual) == "video"]
    if images and videos:
        raise WrongValue(f"the question has {len(images)} images and {len(videos)} videos; one kind at a time")
    pieces = pieces_of(question, bool(visuals))
    check_count(pieces, visuals, "the question")
    turns = [("system", [SYSTEM_PROMPT]), ("user", pieces)]
    prepared = processor.visuals_of(images) + processor.visuals_of(videos, is_video=True)
    return processor.sequence([*turns, ("assistant", [])], prepared, is_open=True)
