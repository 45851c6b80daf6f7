"""Answers as no benchmark has them: every rule gives a verdict, none raises, none takes long.

pytest -m slow tests/fuzz/test_scoring.py
"""

import time

import pytest

from llada_v.evaluation.extraction import (
    is_right_mathverse,
    is_right_mathvista,
    is_right_mmbench,
    mathvista_answer,
    number,
    option,
    options_in,
    reasoned_answer,
)
from llada_v.evaluation.numbers import numbers, value

pytestmark = pytest.mark.slow

ANSWERS = 5_000  # a rule
SECONDS = 10.0  # of CPU, an answer

WORDS = r"""
Answer: the_answer_is \boxed{ \boxed } { ( ) [ ] \frac{ \frac }{ \sqrt{ \sqrt[3]{ \text{ cm} \mathrm{ \, {,}
\times \cdot \pi ^\circ ^ ** ^{ cm^2 m^3 , . $ $$ ` *B* **B** (A) (B)_dog A._cat B) C: option or and out_of_10
(out_of because since_3 not_4 so = x_= - − + * / × ×_10^ x_10^5 e e400 1e400 12e4567 0 00 1 12 1,234 1{,}234 9
99999999999999999999 .5 1/0 ½ ² ⁻¹ √ π ° % five twenty-one hundred nan inf None Yes no think. ٣ 𝟙 ﬁ
"""
CHOICES = ["cat", "dog", "12 cm^2", "1{,}234", "\\frac{1}{2}"]
OPTIONS = dict(zip("ABCDE", CHOICES, strict=True))
QUESTION = "Which?\nChoices:\nA:3cm\nB:4cm\nC:5cm"


def vista(kind, answer, choices=None):
    question_type = "multi_choice" if choices else "free_form"
    return dict(question_type=question_type, answer_type=kind, answer=answer, choices=choices, precision=1.0)


def verse(answer, question=""):
    question_type = "multi-choice" if question else "free-form"
    return dict(answer=answer, question="", question_for_eval=question, question_type=question_type)


VISTA = [vista("integer", "12"), vista("float", "1.5"), vista("list", "[1, 2]"), vista("text", "12 cm^2", CHOICES)]
VERSE = [verse("12"), verse("2\\sqrt{3}"), verse("y=3x-2"), verse("B", QUESTION)]
RULES = {
    "mathvista": lambda text: [is_right_mathvista(text, doc) for doc in VISTA],
    "mathvista_answer": lambda text: [mathvista_answer(text, doc) for doc in VISTA],
    "mathverse": lambda text: [is_right_mathverse(text, doc) for doc in VERSE],
    "mmbench": lambda text: [is_right_mmbench(text, OPTIONS | {"answer": "B"})],
    "option": lambda text: [option(text, OPTIONS)],
    "options in a question": lambda text: [option("B", options_in(text))],
    "expected": lambda text: [
        is_right_mathverse("12 cm", verse(text)),
        is_right_mathvista("B", vista("text", text, [text])),
    ],
    "number": lambda text: [number(text), value(text), *numbers(text)],
    "reasons": lambda text: [reasoned_answer(text)],
}


def answers():
    """Answers put together from what the rules look for, some of it very often, and from any letters."""
    from hypothesis import strategies as st

    fragments = st.sampled_from(
        [word.replace("_", " ") for word in WORDS.split()] + ["\u200b", "\u2028", "\x00", "\ud800"]
    )
    spaces = st.sampled_from(["", " ", "\n", "   ", "\t"])
    words = st.tuples(fragments | st.text(max_size=8) | st.integers().map(str), spaces).map("".join)
    talk = st.lists(words, max_size=40).map("".join)
    repeated = st.tuples(fragments | st.text(max_size=3), st.integers(1, 300), talk)
    return talk | repeated.map(lambda parts: parts[0] * parts[1] + parts[2]) | st.text(max_size=300)


@pytest.mark.parametrize("rule", RULES)
def test_every_answer_gets_a_verdict_in_time(rule):
    from hypothesis import HealthCheck, given, settings

    tried = []

    @settings(max_examples=ANSWERS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(answers())
    def try_one(text):
        start = time.process_time()
        for found in RULES[rule](text):
            assert found is None or isinstance(found, (bool, str)) or abs(found) < float("inf")
        tried.append(time.process_time() - start)
        assert tried[-1] < SECONDS

    try_one()
    assert len(tried) >= ANSWERS


LONG = (
    "answer is |1|1,|(|2^|A:|B, |(A) |\n| |\\boxed{|"
    + "\\frac{|sqrt(|one hundred |5 (|cm^|because 5 |5 of |**a|[|-|1 1/2 |*B*|{,}1"
)


@pytest.mark.parametrize("rule", RULES)
def test_a_long_answer_is_read_in_time(rule):
    for part in LONG.split("|"):
        start = time.process_time()
        RULES[rule](part * 200_000)
        assert time.process_time() - start < SECONDS, part
