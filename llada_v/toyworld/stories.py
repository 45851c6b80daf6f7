"""What a record shows and asks: a picture, two, a clip or nothing, and questions about it, as they are wanted.

This file chooses; scenes, questions, pairs, clips and reasons make up what there is to choose from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

from . import clips, pairs, reasons
from .questions import FAMILIES, Question, dense_caption, questions_about
from .scenes import KINDS, draw, make_scene, split_of

FURTHER = {"pairs": pairs.FAMILY, "clips": clips.FAMILY, "reasoning": reasons.FAMILY}
"""Styles beyond one picture at a glance, and the family of their questions."""

ALL_FAMILIES = (*FAMILIES, *FURTHER.values())

WISHES = {
    "caption": ("max_things", "kinds"),
    "instruct": ("max_things", "kinds", "families", "answers", "asking", "rounds"),
    "pairs": ("max_things", "answers", "asking", "rounds", "lists"),
    "clips": ("answers", "asking", "rounds", "lists"),
    "reasoning": ("max_things", "kinds", "answers", "asking", "rounds"),
    "numbers": ("answers", "asking", "rounds"),
    "thoughts": ("answers", "asking", "rounds"),
    "unseen": ("max_things", "kinds", "answers", "asking", "rounds"),
}
"""What can be wanted of the records of each style, besides `max_turns`."""

STYLES = tuple(WISHES)

LIST = "List everything."
"""The question whose answer is the dense caption."""

MOST_SCENES = 1000
"""Scenes drawn for one record before it is clear that none of them can be asked what is wanted."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of the records of a style. The defaults leave it open."""

    max_turns: int = 10
    """Most questions about one picture, at least 1."""
    max_things: int | None = None
    """Most shapes in a picture of shapes, at least 1."""
    kinds: Sequence[str] | None = None
    """Only pictures of these kinds, some of KINDS, equally often."""
    families: Sequence[str] | None = None
    """Only questions of these families, some of FAMILIES; None: all, and the dense caption."""
    answers: Sequence[str] | None = None
    """Only questions with one of these final answers."""
    asking: Sequence[str] | None = None
    """Only questions whose text has one of these in it. As with `answers`, the dense caption of `families` stays."""
    rounds: int = 1
    """How often questions are drawn about one picture, so that more can be asked, and some twice."""
    lists: bool = False
    """Whether the dense captions of both pictures, or of the first and the last frame, are asked for too."""

    def check(self, style: str) -> None:
        """Raise ValueError for a value that cannot be, or a wish that the style does not know (WISHES)."""
        check(style in STYLES, "style", style, f"one of {STYLES}")
        check(self.max_turns >= 1, "max_turns", self.max_turns, "1 or more turns")
        check(self.max_things is None or self.max_things >= 1, "max_things", self.max_things, "1 or more, or None")
        check(self.rounds >= 1, "rounds", self.rounds, "1 or more rounds")
        for name, known in (("kinds", KINDS), ("families", FAMILIES)):
            found = getattr(self, name)
            check(found is None or found and set(found) <= set(known), name, found, f"some of {known}, or None")
        for field in fields(self):
            found = getattr(self, field.name)
            is_known = field.name in ("max_turns", *WISHES[style])
            check(is_known or found == field.default, field.name, found, f"none: the style {style!r} has no such wish")

    def has(self, question: Question) -> bool:
        """Whether a question is one of those that are wanted, by its text and its final answer."""
        is_asked = self.asking is None or any(text in question.text for text in self.asking)
        return is_asked and (self.answers is None or reasons.final_answer(question.answer) in self.answers)


class Story(NamedTuple):
    """Something to ask about."""

    draw: Callable[[], dict]
    """Makes what is shown: {"image": a picture or a list of two}, {"video": frames} or {}."""
    ask: Callable[[], list[Question]]
    """Draws questions, others at each call."""
    lists: list[Question]
    """Those for everything in both pictures, or at both ends of a clip."""


def story_of(style: str, split: str, rng, wanted: Wanted) -> tuple[dict, list[Question]]:
    """(what is shown, at most `max_turns` questions about it), the next that `rng` draws.

    Raises ValueError where what is wanted can never be asked.
    """
    # The shipped model's data were drawn so: which stories are passed over takes random numbers too.
    rounds_at_first = 1 if style == "instruct" else wanted.rounds
    story, questions = askable(style, split, rng, wanted, rounds_at_first)
    if style == "instruct":
        if wanted.families is None:
            questions += story.lists
        questions += drawn(story, wanted, wanted.rounds - 1)
        rng.shuffle(questions)
    elif wanted.lists:
        # None is cut off, and none is known by its place, which would spare reading what it asks for.
        questions = (story.lists + questions)[: wanted.max_turns]
        rng.shuffle(questions)
    return story.draw(), questions[: wanted.max_turns]


def askable(style: str, split: str, rng, wanted: Wanted, rounds: int = 1) -> tuple[Story, list[Question]]:
    """The next story with questions that are wanted, and these. Raises ValueError where there is none."""
    for _ in range(MOST_SCENES):
        story = MAKERS[style](split, rng, wanted)
        questions = drawn(story, wanted, rounds)
        if questions:
            return story, questions
    raise ValueError(
        f"found {wanted}, and in {MOST_SCENES} records of style={style!r} no such question; "
        "add a kind, a family, an answer, a text to ask or more things"
    )


def drawn(story: Story, wanted: Wanted, rounds: int) -> list[Question]:
    """The wanted ones among the questions of so many rounds."""
    return [question for _ in range(rounds) for question in story.ask() if wanted.has(question)]


def scene_of(split, rng, max_things=None, kind=None):
    """The next scene of `rng` in the split and, if given, of the `kind` and with at most `max_things` shapes."""
    while True:
        scene = make_scene(rng, kind)
        is_simple = max_things is None or len(scene.things) <= max_things
        if is_simple and split_of(scene) == split:
            return scene


def _caption(split, rng, wanted):
    """A picture and its dense caption, which nothing asks for."""
    scene = scene_of(split, rng, wanted.max_things, wanted.kinds and rng.choice(wanted.kinds))
    return Story(partial(_shown, scene), lambda: [Question("list", "", dense_caption(scene))], [])


def _instruct(split, rng, wanted):
    """A picture, and questions of the families that are wanted."""
    scene = scene_of(split, rng, wanted.max_things, wanted.kinds and rng.choice(wanted.kinds))

    def ask():
        return [q for q in questions_about(scene, rng) if wanted.families is None or q.family in wanted.families]

    return Story(partial(_shown, scene), ask, [Question("list", LIST, dense_caption(scene))])


def _pairs(split, rng, wanted):
    """Two pictures and questions about both."""
    scenes = [scene_of(split, rng, wanted.max_things, kind="shapes") for _ in range(2)]
    return Story(partial(_shown, *scenes), partial(pairs.pair_questions, *scenes, rng), pairs.pair_lists(*scenes))


def _clips(split, rng, wanted):
    """A clip and questions about it."""
    clip = clips.make_clip(rng)
    while clips.clip_split(clip) != split:
        clip = clips.make_clip(rng)
    ask = partial(clips.clip_questions, clip, rng)
    return Story(lambda: {"video": clips.draw_clip(clip)}, ask, clips.clip_lists(clip))


def _reasoning(split, rng, wanted):
    """A picture and what is to be reckoned from it."""
    scene = scene_of(split, rng, wanted.max_things, rng.choice(wanted.kinds or ("shapes", "chart")))
    return Story(partial(_shown, scene), lambda: _told_or_not(rng, reasons.reasoned_questions(scene, rng)), [])


def _numbers(split, rng, wanted):
    """Nothing to see, and a sum; both splits ask for all of them."""
    return Story(dict, lambda: _told_or_not(rng, [reasons.number_question(rng)]), [])


def _thoughts(split, rng, wanted):
    """Nothing to see, and a sum to make up; both splits ask for all of them."""
    return Story(dict, lambda: [reasons.made_up_question(rng)], [])


def _unseen(split, rng, wanted):
    """The questions of `_reasoning` with their thoughts, but without the picture: only the thought tells the answer."""
    scene = scene_of(split, rng, wanted.max_things, rng.choice(wanted.kinds or ("shapes", "chart")))
    return Story(dict, lambda: reasons.reasoned_questions(scene, rng), [])


MAKERS = dict(zip(STYLES, (_caption, _instruct, _pairs, _clips, _reasoning, _numbers, _thoughts, _unseen), strict=True))
"""What draws the next story of a style from (split, rng, wanted)."""


def _shown(*scenes):
    """One picture, or a list of several."""
    images = [draw(scene) for scene in scenes]
    return {"image": images if len(images) > 1 else images[0]}


def _told_or_not(rng, questions):
    """The questions in random order, each with or without its thought by a coin's toss."""
    rng.shuffle(questions)
    return [q if rng.random() < 0.5 else reasons.without_thought(q) for q in questions]


def check(good, name, found, expected):
    """Raise the ValueError of a bad argument."""
    if not good:
        raise ValueError(f"found {name}={found!r}, expected {expected}; change {name}")
