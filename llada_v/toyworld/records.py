"""Records: scenes and questions in the LLaVA format the training reads, streamed or written to a folder.

A record is {"id", "image", "conversations": [{"from": "human" | "gpt", "value": text}, ...]}; `image` is a PIL
picture in a stream and a path relative to the folder in a written data set.
"""

import json
import random
import tempfile
from pathlib import Path

from .questions import FAMILIES, Question, dense_caption, questions_about
from .scenes import SPLITS, draw, make_scene, split_of

STYLES = ("caption", "instruct")

LIST = "List everything."
"""The question whose answer is the dense caption."""

IMAGE_TOKEN = "<image>"
"""Where the picture stands in a conversation."""


def caption_record(scene, id, image):
    """The record that asks nothing and answers the dense caption; `image` is put in as it is."""
    return _record(id, image, [(IMAGE_TOKEN, dense_caption(scene))])


def instruction_record(scene, id, image, questions):
    """The record that asks `questions` about one picture in turns; only the first turn shows the picture.

    Raises ValueError if there is no question.
    """
    if not questions:
        raise ValueError(f"record {id!r}: found no question, expected at least one; pass some of questions_about")
    turns = [(question.text, question.answer) for question in questions]
    turns[0] = (f"{IMAGE_TOKEN}\n{turns[0][0]}", turns[0][1])
    return _record(id, image, turns)


def generate_records(split, count, seed, style="caption", max_turns=10, max_things=None):
    """Yield `count` records with PIL images; record i depends on (split, seed, style, i) only, so streams can be cut.

    Style "caption" gives one turn with the dense caption; "instruct" up to `max_turns` (at least 1) shuffled
    questions, the request for the dense caption among them. With `max_things`, all pictures show shapes, at most
    that many. Raises ValueError, before the first record, for an unknown split or style, a negative count,
    max_turns or max_things below 1.
    """
    _check(split in SPLITS, "split", split, f"one of {SPLITS}")
    _check(style in STYLES, "style", style, f"one of {STYLES}")
    _check(count >= 0, "count", count, "0 or more records")
    _check(max_turns >= 1, "max_turns", max_turns, "1 or more turns")
    _check(max_things is None or max_things >= 1, "max_things", max_things, "1 or more things, or None")
    return (_generate_record(split, i, seed, style, max_turns, max_things) for i in range(count))


def heldout_questions(count, seed):
    """A list of `count` (PIL image, Question, id), one question a picture, all pictures of the held-out split.

    The families take turns, so their numbers differ by one at most. Raises ValueError for a negative count.
    """
    _check(count >= 0, "count", count, "0 or more questions")
    items = []
    for i in range(count):
        family = FAMILIES[i % len(FAMILIES)]
        rng = random.Random(f"heldout/{seed}/questions/{i}")
        found = []
        while not found:
            scene = scene_of("heldout", rng)
            found = [question for question in questions_about(scene, rng) if question.family == family]
        items.append((draw(scene), rng.choice(found), f"toy-heldout-{family}-{seed}-{i:06d}"))
    return items


def write_dataset(folder, split, count, seed, style="caption", max_turns=10, max_things=None):
    """Write the records of `generate_records` as `records.json` and `images/*.png`; returns the folder's Path.

    The folder appears only when it is complete. Raises ValueError as `generate_records` does, and
    FileExistsError if the folder is there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"found {folder}, expected a new folder; remove it or name another one")
    records = generate_records(split, count, seed, style, max_turns, max_things)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # On the same disk, so that the last step is one rename.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        draft = Path(temporary) / "dataset"
        (draft / "images").mkdir(parents=True)
        written = []
        for i, record in enumerate(records):
            path = f"images/{i:06d}.png"
            record["image"].save(draft / path)
            written.append(record | {"image": path})
        lines = ",\n".join(json.dumps(record) for record in written)
        (draft / "records.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        draft.rename(folder)
    return folder


def _generate_record(split, i, seed, style, max_turns, max_things):
    """Record i of a stream."""
    # A string seeds by its SHA-512, the same in every run; a tuple would go through hash(), which is not.
    rng = random.Random(f"{split}/{seed}/{style}/{i}")
    scene = scene_of(split, rng, max_things)
    id = f"toy-{split}-{style}-{seed}-{i:06d}"
    if style == "caption":
        return caption_record(scene, id, draw(scene))
    questions = questions_about(scene, rng)
    # The dense caption among the questions: every part of the picture is asked for, whatever the questions are.
    questions.append(Question("list", LIST, dense_caption(scene)))
    rng.shuffle(questions)
    return instruction_record(scene, id, draw(scene), questions[:max_turns])


def scene_of(split, rng, max_things=None):
    """The next scene of `rng` that belongs to the split and, with `max_things`, shows so few shapes."""
    while True:
        scene = make_scene(rng)
        is_simple = max_things is None or scene.kind == "shapes" and len(scene.things) <= max_things
        if is_simple and split_of(scene) == split:
            return scene


def _record(id, image, turns):
    """A record in the LLaVA format from (human, gpt) texts."""
    conversations = []
    for human, gpt in turns:
        conversations += [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": id, "image": image, "conversations": conversations}


def _check(good, name, found, expected):
    """Raise the ValueError of a bad argument."""
    if not good:
        raise ValueError(f"found {name}={found!r}, expected {expected}; change {name}")
