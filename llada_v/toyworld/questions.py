"""Questions about a scene with their exact answers, and its dense caption.

A question is asked only where a person looking at the picture would not hesitate: "the star" needs exactly one
star, "left of" a clear distance. Answers are lower case, numbers are digits, and a sign's word stands as printed.
This file never looks at pixels.
"""

from dataclasses import dataclass

from ..errors import WrongValue
from .alphabet import WORDS
from .found import FOUND, ICONS
from .scenes import ALL_KINDS, COLORS, SHAPES, make_scene

FAMILIES = ("colour", "shape", "count", "relation", "yes_no", "word", "chart", "caption")

DONT_KNOW = "I do not know."
"""The answer to every question about a picture from outside the small world."""

CLEAR_DISTANCE = 12
"""Least distance, in px along the asked direction, at which two centres are clearly apart: one patch."""

DIRECTIONS = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
"""Each direction as the axis it goes along and its sign on that axis."""

EXTREMES = {"leftmost": "left of", "rightmost": "right of", "highest": "above", "lowest": "below"}
"""Each superlative as the direction in which nothing else lies."""


@dataclass(frozen=True)
class Question:
    """One question and its only right answer."""

    family: str
    """One of FAMILIES, or of FOUND about what was found."""
    text: str
    answer: str


def questions_about(scene, rng):
    """A list of different questions about `scene`, family by family, drawn from `rng`, a random.Random.

    Yes and no are equally likely for every yes/no question. Raises ValueError for a scene of unknown kind.
    """
    if scene.kind not in ALL_KINDS:
        raise WrongValue(f"found a scene of kind {scene.kind!r}, expected one of {ALL_KINDS}; make it with make_scene")
    makers = {
        "shapes": (_colours, _shapes, _counts, _relations, _existence, _caption),
        "sign": (_sign_colours, _sign_yes_no, _sign_word, _caption),
        "chart": (_chart_colours, _chart_counts, _chart_relations, _chart_yes_no, _chart_values, _caption),
        "digit": (_digits,),
        "print": (_print,),
        "icon": (_icons,),
        "outside": (_unanswerable,),
    }[scene.kind]
    return [question for make in makers for question in make(scene, rng)]


def dense_caption(scene):
    """Everything in the picture in reading order, each with a coarse place.

    "red circle top left, blue square middle" for shapes; "yellow sign top left, black letters C A T" for signs,
    spelled so that letters are learned; "red bar 3, blue bar 7" for charts. A sign without a plate is "plain".
    What was found is named from left to right: "digit 3, digit 5", "print C A T", "cat, bell"; about a picture from
    outside there is nothing to say. Raises ValueError for a scene of unknown kind.
    """
    if scene.kind not in ALL_KINDS:
        raise WrongValue(f"found a scene of kind {scene.kind!r}, expected one of {ALL_KINDS}; make it with make_scene")
    if scene.kind == "outside":
        return DONT_KNOW
    if scene.kind in FOUND:
        called = {"digit": "digit {}", "print": "print {}", "icon": "{}"}[scene.kind]
        spelled = (" ".join(item.name) if scene.kind == "print" else item.name for item in scene.found)
        return ", ".join(called.format(name) for name in spelled)
    if scene.kind == "chart":
        return ", ".join(f"{bar.color} bar {bar.value}" for bar in scene.bars)
    if scene.kind == "sign":
        sign = scene.sign
        letters = " ".join(sign.word)
        return f"{sign.plate or 'plain'} sign {_place(scene, sign)}, {sign.color} letters {letters}"
    return ", ".join(f"{name_of(thing)} {_place(scene, thing)}" for thing in in_reading_order(scene))


def in_reading_order(scene):
    """The things of a scene by thirds of its height, and from left to right within one."""
    return sorted(scene.things, key=lambda thing: (3 * thing.y // scene.height, thing.x, thing.y))


# Shapes


def _colours(scene, rng):
    """The colour of up to two things that are the only ones of their shape."""
    single = [thing for thing in scene.things if count_of(scene, shape=thing.shape) == 1]
    questions = []
    for thing in rng.sample(single, min(2, len(single))):
        text = rng.choice((f"What colour is the {thing.shape}?", f"Which colour does the {thing.shape} have?"))
        questions.append(Question("colour", text, thing.color))
    return questions


def _shapes(scene, rng):
    """The shape of up to two things that are the only ones of their colour."""
    single = [thing for thing in scene.things if count_of(scene, color=thing.color) == 1]
    questions = []
    for thing in rng.sample(single, min(2, len(single))):
        name = f"{thing.color} object"
        text = rng.choice((f"What shape is the {name}?", f"Which shape does the {name} have?"))
        questions.append(Question("shape", text, thing.shape))
    return questions


def _counts(scene, rng):
    """How many things there are, how many of one shape and how many of one colour."""
    text = rng.choice(("How many objects are there?", "How many objects can you see?"))
    by_shape = {shape: count_of(scene, shape=shape) for shape in SHAPES}
    by_color = {color: count_of(scene, color=color) for color in COLORS}
    shape, color = _pick_counted(by_shape, rng), _pick_counted(by_color, rng)
    return [
        Question("count", text, str(len(scene.things))),
        Question("count", f"How many {plural(shape)} are there?", str(by_shape[shape])),
        Question("count", f"How many {color} objects are there?", str(by_color[color])),
    ]


def _pick_counted(counts, rng):
    """A key of `counts`, larger values preferred and zero rare: otherwise nearly every answer would be 0 or 1."""
    values = sorted(set(counts.values()))
    value = rng.choices(values, [(1, 3, 6)[min(value, 2)] for value in values])[0]
    return rng.choice([key for key, count in counts.items() if count == value])


def _relations(scene, rng):
    """Two yes/no questions about where two things lie, one "which object is left of", one "which is leftmost"."""
    clear = [
        (thing, other, direction)
        for thing in scene.things
        for other in scene.things
        for direction in ("left of", "above")
        if thing is not other and _clearly(direction, thing, other)
    ]
    questions = []
    for thing, other, direction in rng.sample(clear, min(2, len(clear))):
        opposite = {"left of": "right of", "above": "below"}[direction]
        if rng.random() < 0.5:
            # Both things in the other order: "is B right of A" is as often asked as "is A left of B".
            thing, other, direction, opposite = other, thing, opposite, direction
        asked, answer = (direction, "yes") if rng.random() < 0.5 else (opposite, "no")
        questions.append(Question("relation", f"Is the {name_of(thing)} {asked} the {name_of(other)}?", answer))
    which = [(d, thing, found) for d in DIRECTIONS for thing in scene.things for found in _only(scene, d, thing)]
    if which:
        direction, thing, found = rng.choice(which)
        questions.append(Question("relation", f"Which object is {direction} the {name_of(thing)}?", name_of(found)))
    extremes = [(word, found) for word in EXTREMES for found in _extreme(scene, word)]
    if extremes:
        word, found = rng.choice(extremes)
        questions.append(Question("relation", f"Which object is {word}?", name_of(found)))
    return questions


def _existence(scene, rng):
    """Whether there is a thing of a shape and a colour; a "no" shares its shape or its colour with a thing."""
    asked = min(2, len(scene.things))
    num_yes = sum(rng.random() < 0.5 for _ in range(asked))
    looks = [(thing.color, thing.shape) for thing in rng.sample(scene.things, num_yes)]
    questions = [(look, "yes") for look in looks]
    present = {(thing.color, thing.shape) for thing in scene.things}
    while len(questions) < asked:
        thing = rng.choice(scene.things)
        if rng.random() < 0.5:
            look = (rng.choice(tuple(COLORS)), thing.shape)
        else:
            look = (thing.color, rng.choice(SHAPES))
        if look not in present:
            present.add(look)  # asked once
            questions.append((look, "no"))
    rng.shuffle(questions)
    start = rng.choice(("Is there", "Can you see"))
    return [Question("yes_no", f"{start} {a(' '.join(look))}?", answer) for look, answer in questions]


# Signs


def _sign_colours(scene, rng):
    """The colour of the letters and, where there is a plate, of the sign."""
    questions = [Question("colour", "What colour are the letters?", scene.sign.color)]
    if scene.sign.plate is not None:
        questions.append(Question("colour", "What colour is the sign?", scene.sign.plate))
    return questions


def _sign_yes_no(scene, rng):
    """Whether the sign says a word: its own, or another of the same length."""
    word = scene.sign.word
    if rng.random() < 0.5:
        return [Question("yes_no", f"Does the sign say {word}?", "yes")]
    other = rng.choice([other for other in WORDS if len(other) == len(word) and other != word])
    return [Question("yes_no", f"Does the sign say {other}?", "no")]


def _sign_word(scene, rng):
    """The word on the sign."""
    text = rng.choice(("What does the sign say?", "Which word is on the sign?"))
    return [Question("word", text, scene.sign.word)]


# Charts


def _chart_colours(scene, rng):
    """The colour of the first or the last bar."""
    word, bar = rng.choice((("leftmost", scene.bars[0]), ("rightmost", scene.bars[-1])))
    return [Question("colour", f"What colour is the {word} bar?", bar.color)]


def _chart_counts(scene, rng):
    """How many bars there are."""
    return [Question("count", "How many bars are there?", str(len(scene.bars)))]


def _chart_relations(scene, rng):
    """Which of two bars of different value is the taller."""
    pairs = [(a, b) for a in scene.bars for b in scene.bars if a.value != b.value]
    if not pairs:
        return []
    a, b = rng.choice(pairs)
    asked = rng.choice(("taller", "shorter"))
    answer = "yes" if (a.value > b.value) == (asked == "taller") else "no"
    return [Question("relation", f"Is the {a.color} bar {asked} than the {b.color} bar?", answer)]


def _chart_yes_no(scene, rng):
    """Whether there is a bar of a colour."""
    present = [bar.color for bar in scene.bars]
    absent = [color for color in COLORS if color not in present]
    colors, answer = (present, "yes") if rng.random() < 0.5 else (absent, "no")
    return [Question("yes_no", f"Is there {a(rng.choice(colors))} bar?", answer)]


def _chart_values(scene, rng):
    """The values of two bars, and the tallest and the shortest bar where there is only one."""
    questions = []
    for bar in rng.sample(scene.bars, 2):
        text = rng.choice((f"What is the value of the {bar.color} bar?", f"How tall is the {bar.color} bar?"))
        questions.append(Question("chart", text, str(bar.value)))
    for word, extreme in (("tallest", max), ("shortest", min)):
        value = extreme(bar.value for bar in scene.bars)
        found = [bar for bar in scene.bars if bar.value == value]
        if len(found) == 1:
            questions.append(Question("chart", f"Which bar is the {word}?", found[0].color))
    return questions


# What was found


def _digits(scene, rng):
    """The only digit; or the sum of two, and which stands where."""
    digits = [item.name for item in scene.found]
    if len(digits) == 1:
        return [Question("digit", rng.choice(("Which digit is this?", "Which digit is shown?")), digits[0])]
    side, digit = rng.choice((("left", digits[0]), ("right", digits[1])))
    return [
        Question("digit", "What is the sum of the two digits?", str(sum(map(int, digits)))),
        Question("digit", f"Which digit is on the {side}?", digit),
    ]


def _print(scene, rng):
    """The word or the number."""
    text = rng.choice(("What is printed here?", "Which word or number is printed?"))
    return [Question("print", text, scene.found[0].name)]


def _icons(scene, rng):
    """The only icon, or the one on either side; how many there are; whether one is there."""
    names = [item.name for item in scene.found]
    asked, name = rng.choice((("on the left", names[0]), ("on the right", names[-1])))
    text = f"Which icon is {asked}?" if names[1:] else rng.choice(("What is this?", "Which icon is this?"))
    questions = [Question("icon", text, name), Question("icon", "How many icons are there?", str(len(names)))]
    absent = [icon for icon in ICONS if icon not in names]
    candidates, answer = rng.choice(((names, "yes"), (absent, "no")))
    return [*questions, Question("icon", f"Is there {a(rng.choice(candidates))}?", answer)]


def _unanswerable(scene, rng):
    """What would be asked about another picture, of any kind that can be asked about."""
    kind = rng.choice([kind for kind in ALL_KINDS if kind != scene.kind])
    return [Question(scene.kind, question.text, DONT_KNOW) for question in questions_about(make_scene(rng, kind), rng)]


# Captions


def _caption(scene, rng):
    """A sentence about the picture; none where the order from left to right is unclear or more than three things."""
    if scene.kind == "sign":
        answer = f"a sign that says {scene.sign.word}"
    elif scene.kind == "chart":
        answer = "a chart with " + _listed([f"{a(bar.color)} bar of {bar.value}" for bar in scene.bars])
    else:
        things = sorted(scene.things, key=lambda thing: thing.x)
        unclear = any(right.x - left.x < CLEAR_DISTANCE for left, right in zip(things, things[1:], strict=False))
        if unclear or len(things) > 3:
            return []
        answer = _listed([a(name_of(thing)) for thing in things])
    text = rng.choice(("Describe the picture.", "What is in the picture?"))
    return [Question("caption", text, answer)]


# Where things lie


def _clear_distance(a, b):
    """The distance from which two things are clearly apart along an axis: a patch, more for larger things."""
    return max(CLEAR_DISTANCE, 0.75 * (a.size + b.size) / 2)


def _clearly(direction, thing, other):
    """Whether `thing` lies so far `direction` `other`, and so little aside, that nobody would hesitate."""
    axis, sign = DIRECTIONS[direction]
    dx, dy = thing.x - other.x, thing.y - other.y
    along, aside = (sign * dx, abs(dy)) if axis == "x" else (sign * dy, abs(dx))
    return along >= _clear_distance(thing, other) and 2 * along >= aside


def _only(scene, direction, thing):
    """[other] if exactly one other thing is clearly `direction` the thing and the rest are clearly not, else []."""
    axis, sign = DIRECTIONS[direction]
    others = [other for other in scene.things if other is not thing]
    found = [other for other in others if sign * (getattr(other, axis) - getattr(thing, axis)) > 0]
    return found if len(found) == 1 and _clearly(direction, found[0], thing) else []


def _extreme(scene, word):
    """[thing] if one of several things is clearly the leftmost (rightmost, highest, lowest), else []."""
    axis, sign = DIRECTIONS[EXTREMES[word]]
    first, *rest = sorted(scene.things, key=lambda thing: -sign * getattr(thing, axis))
    gaps = [(abs(getattr(first, axis) - getattr(other, axis)), _clear_distance(first, other)) for other in rest]
    return [first] if rest and all(gap >= clear for gap, clear in gaps) else []


def _place(scene, item):
    """The place of an item's centre in a 3x3 split of the picture: "top left" ... "middle" ... "bottom right"."""
    row = ("top", "middle", "bottom")[3 * item.y // scene.height]
    column = ("left", "middle", "right")[3 * item.x // scene.width]
    return row if row == column else f"{row} {column}"


# Words


def count_of(scene, shape=None, color=None):
    """How many things have the shape, the colour, or both; None stands for any."""
    return sum(shape in (None, thing.shape) and color in (None, thing.color) for thing in scene.things)


def name_of(thing):
    """A thing as it is called in questions and answers: "red circle"."""
    return f"{thing.color} {thing.shape}"


def plural(shape):
    """A shape's name for several."""
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def a(noun):
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _listed(parts):
    """The parts as one phrase: "one, two and three"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
