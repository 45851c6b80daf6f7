"""Records: scenes and questions in the LLaVA format the training reads, streamed or written to a folder.

A record is {"id", "image", "conversations": [{"from": "human" | "gpt", "value": text}, ...]}; `image` is a PIL
picture in a stream and a path relative to the folder in a written data set.
"""

import json
import random
import tempfile
from functools import partial
from pathlib import Path

from ..processing_llada_v import list_of, user_message
from . import clips, pairs, reasons
from .questions import FAMILIES, Question, dense_caption, questions_about
from .scenes import KINDS, SPLITS, draw, make_scene, split_of

STORY_STYLES = {"pairs": pairs.FAMILY, "clips": clips.FAMILY, "reasoning": reasons.FAMILY}
"""Styles beyond one picture at a glance, and the family of their questions."""

STYLES = ("caption", "instruct", *STORY_STYLES, "numbers")

ALL_FAMILIES = (*FAMILIES, *STORY_STYLES.values())

LIST = "List everything."
"""The question whose answer is the dense caption."""

WISHES = {
    "caption": ("max_things", "kinds"),
    "instruct": ("max_things", "kinds", "families", "answers", "rounds"),
    "pairs": ("max_things", "answers", "rounds", "lists"),
    "clips": ("answers", "rounds", "lists"),
    "reasoning": ("max_things", "kinds", "answers", "rounds"),
    "numbers": ("answers", "rounds"),
}
"""What can be wanted of the records of each style."""

OF_PICTURES = ("max_things", "kinds")
"""The wishes that pictures fulfil; the others are about questions."""

MOST_SCENES = 1000
"""Scenes drawn for one record before it is clear that none of them can be asked what is wanted."""

IMAGE_TOKEN = "<image>"
"""Where the picture stands in a conversation."""


def caption_record(scene, id, image):
    """The record that asks nothing and answers the dense caption; `image` is put in as it is."""
    return _record(id, {"image": image}, [("", dense_caption(scene))])


def instruction_record(scene, id, image, questions):
    """The record that asks `questions` about one picture in turns; only the first turn shows the picture.

    Raises ValueError if there is no question.
    """
    if not questions:
        raise ValueError(f"record {id!r}: found no question, expected at least one; pass some of questions_about")
    return _record(id, {"image": image}, [(question.text, question.answer) for question in questions])


def generate_records(
    split,
    count,
    seed,
    style="caption",
    max_turns=10,
    max_things=None,
    kinds=None,
    families=None,
    answers=None,
    rounds=1,
    lists=False,
):
    """Yield `count` records with PIL images; record i depends on (split, seed, style, i) only, so streams can be cut.

    Styles: "caption" gives one turn with the dense caption; the others up to `max_turns` (at least 1) questions:
    "instruct" shuffled ones about one picture, the request for the dense caption among them; "pairs" about two
    pictures; "clips" about a video, a list of frames; "reasoning" such whose answer starts with a thought; "numbers"
    sums without a picture, one a round.

    What is wanted of them, each None (or 1 round) where it is open: pictures of shapes show at most `max_things`; only
    `kinds` (some of KINDS) of pictures are drawn, equally often; only questions of `families` (some of FAMILIES) with
    one of `answers` are asked, drawn `rounds` times about each picture, so that more can be asked (and some twice);
    with `lists` the dense captions of both pictures, or of the first and the last frame, are asked for too.
    Raises ValueError, before the first record, for an unknown split, style, kind or family, a negative count,
    max_turns, max_things or rounds below 1, or a wish that the style does not know (WISHES); at the first record where
    what is wanted can never be asked.
    """
    _check(split in SPLITS, "split", split, f"one of {SPLITS}")
    _check(style in STYLES, "style", style, f"one of {STYLES}")
    _check(count >= 0, "count", count, "0 or more records")
    _check(max_turns >= 1, "max_turns", max_turns, "1 or more turns")
    _check(max_things is None or max_things >= 1, "max_things", max_things, "1 or more things, or None")
    _check(rounds >= 1, "rounds", rounds, "1 or more rounds")
    _check(kinds is None or kinds and set(kinds) <= set(KINDS), "kinds", kinds, f"some of {KINDS}, or None")
    _check(families is None or families and set(families) <= set(FAMILIES), "families", families, f"some of {FAMILIES}")
    given = {"max_things": max_things, "kinds": kinds, "families": families, "answers": answers}
    for wish, found in (given | {"rounds": rounds if rounds > 1 else None, "lists": lists or None}).items():
        _check(found is None or wish in WISHES[style], wish, found, f"none: the style {style!r} has no such wish")
    wanted = (max_turns, max_things, kinds, families, answers, rounds, lists)
    return (_generate_record(split, i, seed, style, *wanted) for i in range(count))


def heldout_questions(count, seed, families=FAMILIES):
    """A list of `count` (visual, Question, id), one question each about something of the held-out split.

    The families (of ALL_FAMILIES) take turns, so their numbers differ by one at most. The visual is a PIL picture, for
    the family "compare" a list of two, for "motion" a list of frames. Raises ValueError for a negative count or an
    unknown family.
    """
    _check(count >= 0, "count", count, "0 or more questions")
    _check(families and set(families) <= set(ALL_FAMILIES), "families", families, f"some of {ALL_FAMILIES}")
    items = []
    for i in range(count):
        family = families[i % len(families)]
        rng = random.Random(f"heldout/{seed}/questions/{i}")
        visual, question = _heldout_question(family, rng)
        items.append((visual, question, f"toy-heldout-{family}-{seed}-{i:06d}"))
    return items


def _heldout_question(family, rng):
    """(visual, Question) of one family."""
    for style, told in STORY_STYLES.items():
        if family == told:
            visual, questions, _ = _story(style, "heldout", rng)
            # Of a video one frame a second, as training takes them from a folder of two a second.
            seen = visual["video"][::2] if "video" in visual else visual["image"]
            return seen, rng.choice(questions)
    scene, found = _asked_scene("heldout", rng, (family,))
    return draw(scene), rng.choice(found)


def message_of(visual, question):
    """The message that shows a visual of `heldout_questions` and asks its question."""
    if question.family == clips.FAMILY:
        return user_message(question.text, video=visual)
    return user_message(question.text, list_of(visual))


def write_dataset(folder, split, count, seed, one_turn_each=False, **wanted):
    """Write the records of `generate_records` as `records.json` and `images/*.png`; returns the folder's Path.

    wanted: the arguments of `generate_records` from `style` on.

    With `one_turn_each` every turn is a record of its own (`apart`), so there are more records than `count`. The
    folder appears only when it is complete. Raises ValueError as `generate_records` does, and
    FileExistsError if the folder is there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"found {folder}, expected a new folder; remove it or name another one")
    records = generate_records(split, count, seed, **wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # On the same disk, so that the last step is one rename.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        draft = Path(temporary) / "dataset"
        (draft / "images").mkdir(parents=True)
        written = []
        for i, record in enumerate(records):
            record = _with_files(record, draft, f"{i:06d}")
            written += apart(record) if one_turn_each else [record]
        lines = ",\n".join(json.dumps(record) for record in written)
        (draft / "records.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        draft.rename(folder)
    return folder


def apart(record):
    """One record for each turn of `record`, all about the same picture."""
    turns = record["conversations"]
    is_shown = "image" in record or "video" in record
    places = turns[0]["value"].partition("\n")[0] + "\n" if is_shown else ""
    records = []
    for i in range(0, len(turns), 2):
        human, gpt = turns[i : i + 2]
        if i > 0:
            human = human | {"value": places + human["value"]}
        records.append(record | {"id": f"{record['id']}-{i // 2}", "conversations": [human, gpt]})
    return records


def _with_files(record, folder, name):
    """The record with its pictures written below the folder and named by relative paths; a video is a folder."""
    images = record.get("image", record.get("video"))
    if images is None:
        return record
    if not isinstance(images, list):
        path = f"images/{name}.png"
        images.save(folder / path)
        return record | {"image": path}
    home = Path("videos" if "video" in record else "images") / name
    (folder / home).mkdir(parents=True)
    paths = [str(home / f"{index}.png") for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(folder / path)
    return record | ({"video": str(home)} if "video" in record else {"image": paths})


def _generate_record(split, i, seed, style, max_turns, max_things, kinds, families, answers, rounds, lists):
    """Record i of a stream."""
    # A string seeds by its SHA-512, the same in every run; a tuple would go through hash(), which is not.
    rng = random.Random(f"{split}/{seed}/{style}/{i}")
    id = f"toy-{split}-{style}-{seed}-{i:06d}"
    if style == "caption":
        scene = scene_of(split, rng, max_things, kinds and rng.choice(kinds))
        return caption_record(scene, id, draw(scene))
    if style == "instruct":
        scene, questions = _asked_scene(split, rng, families, answers, max_things, kinds)
        for _ in range(rounds - 1):
            questions += _questions_of(scene, rng, families, answers)
        rng.shuffle(questions)
        return instruction_record(scene, id, draw(scene), questions[:max_turns])
    visual, questions, listed = _story(style, split, rng, rounds, answers, max_things=max_things, kinds=kinds)
    if lists:
        # None is cut off, and none is known by its place, which would spare reading what it asks for.
        questions = (listed + questions)[:max_turns]
        rng.shuffle(questions)
    return _record(id, visual, [(question.text, question.answer) for question in questions[:max_turns]])


def _asked_scene(split, rng, families, answers=None, max_things=None, kinds=None):
    """The next scene that questions of the families are about, and these; None: all, and the dense caption."""
    for _ in range(MOST_SCENES):
        scene = scene_of(split, rng, max_things, kinds and rng.choice(kinds))
        questions = _questions_of(scene, rng, families, answers)
        if questions:
            break
    else:
        found = f"kinds={kinds!r} and max_things={max_things!r}"
        raise ValueError(
            f"found {found}, and in {MOST_SCENES} such pictures no question of families={families!r} with "
            f"answers={answers!r}; add a kind, a family, an answer or more things"
        )
    if families is None:
        # Every part of the picture is asked for, whatever the questions are.
        questions.append(Question("list", LIST, dense_caption(scene)))
    return scene, questions


def _questions_of(scene, rng, families, answers):
    """Questions of the families, with one of the answers, about a scene; None stands for any."""
    return [
        question
        for question in questions_about(scene, rng)
        if (families is None or question.family in families) and _is_wanted(question, answers)
    ]


def _is_wanted(question, answers):
    """Whether the final answer of a question is one of `answers`; None stands for any."""
    return answers is None or reasons.final_answer(question.answer) in answers


def _story(style, split, rng, rounds=1, answers=None, **wanted):
    """A visual of a style beyond one picture at a glance, {"image": ...} or {"video": ...}, questions, and its lists.

    wanted: `max_things` and `kinds`, for the styles that know them.
    """
    known = {name: wanted.get(name) for name in OF_PICTURES if name in WISHES[style]}
    for _ in range(MOST_SCENES):
        visual, ask, listed = VISUALS[style](split, rng, **known)
        questions = [q for _ in range(rounds) for q in ask(rng) if _is_wanted(q, answers)]
        if questions:
            return visual(), questions, listed
    raise ValueError(
        f"found {wanted!r}, and about {MOST_SCENES} such {style} no question with answers={answers!r}; "
        "add an answer, a kind or more things"
    )


def _pair(split, rng, max_things):
    """Two pictures, drawn when called, what asks about both, and the questions for everything."""
    scenes = tuple(scene_of(split, rng, max_things, kind="shapes") for _ in range(2))
    return (
        lambda: {"image": [draw(scene) for scene in scenes]},
        partial(pairs.pair_questions, *scenes),
        pairs.pair_lists(*scenes),
    )


def _clip(split, rng):
    """A clip, drawn when called, what asks about it, and the questions for everything."""
    clip = clips.make_clip(rng)
    while clips.clip_split(clip) != split:
        clip = clips.make_clip(rng)
    return lambda: {"video": clips.draw_clip(clip)}, partial(clips.clip_questions, clip), clips.clip_lists(clip)


def _reasoning(split, rng, max_things, kinds):
    """A picture, drawn when called, and what asks for thoughts about it, half of them not to be told; no list."""
    scene = scene_of(split, rng, max_things, rng.choice(kinds or ("shapes", "chart")))

    def ask(rng):
        return _told_or_not(rng, reasons.reasoned_questions(scene, rng))

    return lambda: {"image": draw(scene)}, ask, []


def _numbers(split, rng):
    """No picture, and what asks for a sum, half of them not to be told; no list. Both splits ask for all sums."""
    return dict, lambda rng: _told_or_not(rng, [reasons.number_question(rng)]), []


def _told_or_not(rng, questions):
    """The questions in random order, the thought of every other one, by chance, left out."""
    rng.shuffle(questions)
    return [q if rng.random() < 0.5 else reasons.without_thought(q) for q in questions]


VISUALS = {"pairs": _pair, "clips": _clip, "reasoning": _reasoning, "numbers": _numbers}
"""What makes the pictures and asks the questions of the styles beyond one picture at a glance."""


def scene_of(split, rng, max_things=None, kind=None):
    """The next scene of `rng` in the split and, if given, of the `kind` and with at most `max_things` shapes."""
    while True:
        scene = make_scene(rng, kind)
        is_simple = max_things is None or len(scene.things) <= max_things
        if is_simple and split_of(scene) == split:
            return scene


def _record(id, visual, turns):
    """A record in the LLaVA format from its visual ({"image": one or several}, {"video": frames}, {}) and texts."""
    conversations = []
    for human, gpt in turns:
        conversations += [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    if visual:
        images = visual.get("image")
        places = " ".join([IMAGE_TOKEN] * (len(images) if isinstance(images, list) else 1))
        first = conversations[0]["value"]
        conversations[0]["value"] = f"{places}\n{first}" if first else places
    return {"id": id, **visual, "conversations": conversations}


def _check(good, name, found, expected):
    """Raise the ValueError of a bad argument."""
    if not good:
        raise ValueError(f"found {name}={found!r}, expected {expected}; change {name}")
