"""Two pictures side by side in a conversation, and questions that only both together answer.

This file knows scenes and questions about them; it never looks at pixels.
"""

from ..errors import WrongValue
from .questions import Question, a, dense_caption, name_of
from .scenes import COLORS, SHAPES

FAMILY = "compare"
ORDINALS = ("first", "second")


def pair_questions(first, second, rng):
    """Different questions about two scenes of shapes, in a random order; each has exactly one answer.

    Which picture shows a thing that only one of them shows, which one has more things, whether both show a shape or
    a colour. Yes and no are equally likely. Raises ValueError for a scene without shapes.
    """
    scenes = (first, second)
    if any(scene.kind != "shapes" for scene in scenes):
        raise WrongValue(f"found scenes of kinds {[s.kind for s in scenes]}, expected two of kind 'shapes'")
    questions = [*_which_shows(scenes, rng), *_which_has_more(scenes, rng), *_both_show(scenes, rng)]
    rng.shuffle(questions)
    return questions


def pair_lists(first, second):
    """Questions for everything in either of two scenes of shapes, answered by its dense caption."""
    return [
        Question("list", f"List everything in the {ordinal} picture.", dense_caption(scene))
        for ordinal, scene in zip(ORDINALS, (first, second), strict=True)
    ]


def _which_shows(scenes, rng):
    """Which picture shows a coloured shape, a shape and a colour that only one of the two shows."""
    questions = []
    for looks in ([_names(s) for s in scenes], [_shapes(s) for s in scenes]):
        only = [(look, 0) for look in looks[0] - looks[1]] + [(look, 1) for look in looks[1] - looks[0]]
        if only:
            look, index = rng.choice(sorted(only))
            questions.append(Question(FAMILY, f"Which picture shows {a(look)}?", ORDINALS[index]))
    return questions


def _which_has_more(scenes, rng):
    """Which picture has more, or fewer, things; none where they have as many."""
    counts = [len(scene.things) for scene in scenes]
    if counts[0] == counts[1]:
        return []
    asked, chosen = rng.choice((("more", max), ("fewer", min)))
    return [Question(FAMILY, f"Which picture has {asked} objects?", ORDINALS[counts.index(chosen(counts))])]


def _both_show(scenes, rng):
    """Whether both pictures show a shape, and whether both show something of a colour."""
    questions = []
    for looks, everything, noun in (
        ([_shapes(s) for s in scenes], SHAPES, "{}"),
        ([{thing.color for thing in s.things} for s in scenes], tuple(COLORS), "{} object"),
    ):
        # A "no" asks for what one picture shows: what neither shows would be too easy.
        shared, single = looks[0] & looks[1], looks[0] ^ looks[1]
        if shared and single:
            candidates, answer = rng.choice(((shared, "yes"), (single, "no")))
            look = rng.choice([word for word in everything if word in candidates])
            questions.append(Question(FAMILY, f"Do both pictures show {a(noun.format(look))}?", answer))
    return questions


def _names(scene):
    return {name_of(thing) for thing in scene.things}


def _shapes(scene):
    return {thing.shape for thing in scene.things}
