"""Questions that ask for a thought before the answer: sums and comparisons over what a picture shows.

The question ends with ` /think` or ` /no_think`, as in the reasoning stage's data; the thought names what is seen,
reckons with it, and the answer comes last, behind "Answer:".
"""

from ..conversation import NO_THINK, THINK
from ..evaluation.extraction import final_answer
from .questions import Question, count_of, plural
from .scenes import SHAPES

FAMILY = "reasoning"
MARK = "Answer:"
"""What the answer stands behind."""


def reasoned_questions(scene, rng):
    """Different questions about a scene of shapes or a chart, each with its thought; none about a sign.

    Their text ends with ` /think` and their answer with MARK and the final answer.
    """
    if scene.kind == "chart":
        return _sums(scene, rng) + _differences(scene, rng)
    return _shape_sums(scene, rng) if scene.kind == "shapes" else []


def number_question(rng):
    """A question about two numbers as bars have them, without any picture: their sum, or how much more one is."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if a > b and rng.random() < 0.5:
        return _question(f"What is {a} - {b}?", f"{a} - {b}.", a - b)
    return _question(f"What is {a} + {b}?", f"{a} + {b}.", a + b)


def without_thought(question):
    """The same question, to be answered at once: ` /no_think`, the final answer alone."""
    return Question(FAMILY, question.text.removesuffix(THINK) + NO_THINK, final_answer(question.answer))


def _sums(scene, rng):
    """The sum of two bars."""
    a, b = rng.sample(scene.bars, 2)
    text = f"What is the sum of the {a.color} and the {b.color} bar?"
    return [_question(text, _thought(a, "+", b), a.value + b.value)]


def _differences(scene, rng):
    """How much taller one bar is than another of less value."""
    a, b = sorted(rng.sample(scene.bars, 2), key=lambda bar: -bar.value)
    if a.value == b.value:
        return []
    text = f"How much taller is the {a.color} bar than the {b.color} bar?"
    return [_question(text, _thought(a, "-", b), a.value - b.value)]


def _shape_sums(scene, rng):
    """How many things of two shapes there are together, and whether there are more of one than of the other."""
    counts = {shape: count_of(scene, shape=shape) for shape in SHAPES}
    present = [shape for shape in SHAPES if counts[shape]]
    one = rng.choice(present)
    other = rng.choice([shape for shape in SHAPES if shape != one])
    both = f"{one} {counts[one]}, {other} {counts[other]}."
    total = counts[one] + counts[other]
    text = f"How many {plural(one)} and {plural(other)} are there together?"
    questions = [_question(text, f"{both} {counts[one]} + {counts[other]}.", total)]
    if counts[one] != counts[other]:
        more, less = sorted((one, other), key=counts.get, reverse=True)
        a, b, answer = rng.choice(((more, less, "yes"), (less, more, "no")))
        thought = f"{a} {counts[a]}, {b} {counts[b]}. {counts[a]} {'>' if answer == 'yes' else '<'} {counts[b]}."
        questions.append(_question(f"Are there more {plural(a)} than {plural(b)}?", thought, answer))
    return questions


def _thought(a, sign, b):
    return f"{a.color} {a.value}, {b.color} {b.value}. {a.value} {sign} {b.value}."


def _question(text, thought, answer):
    return Question(FAMILY, text + THINK, f"{thought} {MARK} {answer}")
