"""What a record shows and asks: a picture, two, a clip or nothing, and questions about it, as they are wanted.

This file chooses; scenes, questions, pairs, clips and reasons make up what there is to choose from.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NamedTuple

from ..errors import WrongValue
from ..fields import check as check_fields
from ..fields import documented, setting
from . import clips, pairs, reasons
from .found import FOUND
from .questions import FAMILIES, Question, dense_caption, questions_about
from .scenes import ALL_KINDS, draw, make_scene, split_of

FURTHER = {"pairs": pairs.FAMILY, "clips": clips.FAMILY, "reasoning": reasons.FAMILY}
"""Styles beyond one picture at a glance, and the family of their questions."""

ALL_FAMILIES = (*FAMILIES, *FURTHER.values(), *FOUND)
ASKED = (*FAMILIES, *FOUND)
"""The families of questions about one picture."""

WISHES = {
    "caption": ("max_things", "kinds"),
    "instruct": ("max_things", "kinds", "families", "says", "told", "rounds"),
    "pairs": ("max_things", "says", "told", "rounds"),
    "clips": ("says", "told", "rounds"),
    "reasoning": ("max_things", "kinds", "says", "told", "rounds"),
    "numbers": ("says", "rounds"),
}
"""What can be wanted of the records of each style, besides `max_turns`."""

STYLES = tuple(WISHES)

LIST = "List everything."
"""The question whose answer is the dense caption."""

MOST_SCENES = 1000
"""Scenes drawn for one record before it is clear that none of them can be asked what is wanted."""


@documented
@dataclass(frozen=True)
class Wanted:
    """What is wanted of the records of a style; the defaults leave it open. Raises ValueError for what cannot be."""

    max_turns: int = setting(10, "most questions about one picture", least=1, most=100)
    max_things: int | None = setting(None, "most shapes in a picture of shapes", none="any number", least=1, most=5)
    kinds: list[str] | None = setting(
        None, "only pictures of these kinds, equally often", none="what the style shows", least=1, choices=ALL_KINDS
    )
    families: list[str] | None = setting(
        None, "only questions of these families", none="all, and those for everything", least=1, choices=ASKED
    )
    says: str | None = setting(
        None, "only questions in which this regular expression is found", none="whatever they say"
    )
    rounds: int = setting(
        1, "how often questions are drawn about one picture, so that more are asked, some twice", least=1, most=100
    )
    told: bool = setting(False, "whether each question tells in words what is to be seen, and nothing is shown")

    def __post_init__(self):
        check_fields(self)
        try:
            re.compile(self.says or "")
        except re.error as error:
            raise WrongValue(f"says is {self.says!r}, no regular expression: {error}; mend it") from None

    def check(self, style: str) -> None:
        """Raise ValueError for a style that is none, or a wish that it does not know (WISHES)."""
        check(style in STYLES, "style", style, f"one of {STYLES}")
        for field in fields(self):
            found = getattr(self, field.name)
            is_known = field.name in ("max_turns", *WISHES[style])
            check(is_known or found == field.default, field.name, found, f"none: the style {style!r} has no such wish")


class Story(NamedTuple):
    """Something to ask about."""

    draw: Callable[[], dict]
    """Makes what is shown: {"image": a picture or a list of two}, {"video": frames} or {}."""
    ask: Callable[[], list[Question]]
    """Draws questions, others at each call."""
    lists: list[Question]
    """Those for everything in the picture, in both pictures, or at both ends of a clip."""


def story_of(style: str, split: str, rng, wanted: Wanted) -> tuple[dict, list[Question]]:
    """(what is shown, at most `max_turns` questions about it), the next that `rng` draws.

    Raises ValueError where what is wanted can never be asked.
    """
    story, questions = askable(style, split, rng, wanted)
    if wanted.families is None:
        questions += asked(story.lists, wanted)
    for _ in range(1, wanted.rounds):
        questions += asked(story.ask(), wanted)
    rng.shuffle(questions)
    questions = questions[: wanted.max_turns]
    if wanted.told:
        seen = "; ".join(question.answer for question in story.lists)
        return {}, [replace(question, text=f"{seen}.\n{question.text}") for question in questions]
    return story.draw(), questions


def askable(style: str, split: str, rng, wanted: Wanted) -> tuple[Story, list[Question]]:
    """The next story with questions that are wanted, and some of these. Raises ValueError where there is none."""
    for _ in range(MOST_SCENES):
        story = MAKERS[style](split, rng, wanted)
        questions = asked(story.ask(), wanted)
        if questions:
            return story, questions
    raise WrongValue(
        f"found {wanted}, and in {MOST_SCENES} records of style={style!r} no such question; "
        "add a kind, a family or more things"
    )


def asked(questions: list[Question], wanted: Wanted) -> list[Question]:
    """Those that say what is wanted."""
    return [question for question in questions if wanted.says is None or re.search(wanted.says, question.text)]


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
        questions = questions_about(scene, rng)
        return [q for q in questions if wanted.families is None or q.family in wanted.families]

    return Story(partial(_shown, scene), ask, _list(scene))


def _pairs(split, rng, wanted):
    """Two pictures and questions about both."""
    first, second = (scene_of(split, rng, wanted.max_things, kind="shapes") for _ in range(2))
    ask = partial(pairs.pair_questions, first, second, rng)
    return Story(partial(_shown, first, second), ask, pairs.pair_lists(first, second))


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

    def ask():
        return _thought_or_not(rng, reasons.reasoned_questions(scene, rng))

    return Story(partial(_shown, scene), ask, _list(scene))


def _numbers(split, rng, wanted):
    """Nothing to see, and a sum; both splits ask for all of them."""
    return Story(dict, lambda: _thought_or_not(rng, [reasons.number_question(rng)]), [])


MAKERS = dict(zip(STYLES, (_caption, _instruct, _pairs, _clips, _reasoning, _numbers), strict=True))
"""What draws the next story of a style from (split, rng, wanted)."""


def _list(scene):
    """The question for everything in a picture."""
    return [Question("list", LIST, dense_caption(scene))]


def _shown(*scenes):
    """One picture, or a list of several."""
    images = [draw(scene) for scene in scenes]
    return {"image": images if len(images) > 1 else images[0]}


def _thought_or_not(rng, questions):
    """The questions in random order, each with or without its thought by a coin's toss."""
    rng.shuffle(questions)
    return [q if rng.random() < 0.5 else reasons.without_thought(q) for q in questions]


def check(good, name, found, expected):
    """Raise the ValueError of a bad argument."""
    if not good:
        raise WrongValue(f"found {name}={found!r}, expected {expected}; change {name}")
