"""Clips: short silent films of shapes of which one moves, their frames, and questions about the movement.

All lengths are pixels, as in `scenes`.
"""

from dataclasses import dataclass, replace

from .questions import Question, dense_caption, name_of
from .scenes import BACKGROUNDS, COLORS, SHAPES, SHORT_SIDE, Scene, Thing, draw, scene_key, split_of_key

FAMILY = "motion"
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Each direction as the sign of its movement in x and y."""

NUM_FRAMES = 8
"""Frames of a clip; at the two a second of frame folders, four seconds."""

MIN_SIZE, MAX_SIZE = 16, 24
MIN_PATH = 20
"""Least length of the way a thing moves over the whole clip."""


@dataclass(frozen=True)
class Clip:
    """The exact content of a clip."""

    start: Scene
    """The first frame. The thing that moves is the first of its things."""
    direction: str
    """A key of STEPS."""
    path: int
    """How far the thing has moved in the last frame."""


def make_clip(rng):
    """A new clip drawn from `rng`: one thing moves, in half of the clips beside another that rests."""
    height, width = rng.randint(*SHORT_SIDE), rng.randint(*SHORT_SIDE)
    direction = rng.choice(tuple(STEPS))
    size, is_along_x = rng.randint(MIN_SIZE, MAX_SIZE), STEPS[direction][0] != 0
    margin = size // 2 + 2
    length = width if is_along_x else height
    path = rng.randint(MIN_PATH, length - 2 * margin)
    low = rng.randint(margin, length - margin - path)  # the end of the way nearer to the origin
    along = low if sum(STEPS[direction]) > 0 else low + path
    # The way lies in one half of the picture, the resting thing in the other.
    across_length = height if is_along_x else width
    across, other_across = rng.sample((margin, across_length - margin), 2)
    shapes, colors = rng.sample(SHAPES, 2), rng.sample(tuple(COLORS), 2)

    def thing(index, along, across):
        x, y = (along, across) if is_along_x else (across, along)
        return Thing(shapes[index], colors[index], x, y, size if index == 0 else MIN_SIZE)

    things = [thing(0, along, across)]
    if rng.random() < 0.5:
        things.append(thing(1, rng.randint(margin, length - margin), other_across))
    start = Scene("shapes", height, width, rng.choice(tuple(BACKGROUNDS)), things=tuple(things))
    return Clip(start, direction, path)


def clip_split(clip):
    """The split of a clip, "heldout" for about a tenth of all, by its content alone."""
    return split_of_key(f"{scene_key(clip.start)}; {clip.direction} {clip.path}")


def draw_clip(clip):
    """The frames, NUM_FRAMES RGB pictures of the same size."""
    return [draw(scene_at(clip, index)) for index in range(NUM_FRAMES)]


def scene_at(clip, index):
    """The content of a frame."""
    moving, *resting = clip.start.things
    dx, dy = STEPS[clip.direction]
    way = round(clip.path * index / (NUM_FRAMES - 1))
    moved = replace(moving, x=moving.x + dx * way, y=moving.y + dy * way)
    return replace(clip.start, things=(moved, *resting))


def clip_questions(clip, rng):
    """Different questions about a clip, in a random order: where the thing goes, what moves, whether it moves."""
    moving, *resting = clip.start.things
    named = f"Which way does the {name_of(moving)} move?"
    text = rng.choice(("Which way does the object move?", named))
    questions = [Question(FAMILY, named if resting else text, clip.direction)]
    if resting:
        questions.append(Question(FAMILY, "Which object moves?", name_of(moving)))
        asked, answer = rng.choice(((moving, "yes"), (resting[0], "no")))
        questions.append(Question(FAMILY, f"Does the {asked.shape} move?", answer))
    else:
        questions.append(Question(FAMILY, "What colour is the moving object?", moving.color))
    rng.shuffle(questions)
    return questions


def clip_lists(clip):
    """Questions for everything in the first and in the last frame, answered by its dense caption."""
    return [
        Question("list", f"List everything at the {end}.", dense_caption(frame))
        for end, frame in (("start", clip.start), ("end", scene_at(clip, NUM_FRAMES - 1)))
    ]
