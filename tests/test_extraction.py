"""The rules that find an answer, on answers as benchmarks produce them: letters, texts, reasons, numbers, formulas."""

import pytest

from llada_v.evaluation.extraction import (
    is_right_mathverse,
    is_right_mathvista,
    is_right_mmbench,
    lettered,
    mathvista_answer,
    number,
    option,
    options_in,
    reasoned_answer,
    stated,
    value,
)

ANIMALS = {"A": "cat", "B": "dog", "C": "a red bird", "D": "bird"}
OPTIONS = [
    # a letter
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("b)", "B"),
    ("(B)", "B"),
    ("[B]", "B"),
    ("(b).", "B"),
    (" B \n", "B"),
    ("B\n", "B"),
    ("**B**", "B"),
    ("`C`", "C"),
    ("B,", "B"),
    ("B. dog", "B"),
    ("B) dog", "B"),
    ("B: dog", "B"),
    ("(B) dog", "B"),
    ("B - dog", "B"),
    ("B\nIt barks, and a cat does not.", "B"),
    ("A, since it meows.", "A"),
    # the text of an option
    ("dog", "B"),
    ("Dog.", "B"),
    ("The dog", "B"),
    ("A dog", "B"),
    ("A cat", "A"),
    ("a red bird", "C"),
    ("It is a red bird.", "C"),
    ("I think it's a bird", "D"),
    ("This is a dog sitting on a sofa.", "B"),
    # a sentence that states it
    ("The answer is B", "B"),
    ("The answer is B.", "B"),
    ("the answer is (b).", "B"),
    ("The correct answer is: (C) a red bird.", "C"),
    ("The answer is a dog.", "B"),
    ("The answer would be D.", "D"),
    ("The best option is B because it barks. A cat does not.", "B"),
    ("The correct choice is C.", "C"),
    ("I choose (D).", "D"),
    ("I would pick A.", "A"),
    ("Option C is right.", "C"),
    ("It should be option (B).", "B"),
    ("Therefore, the answer is option A: cat", "A"),
    ("So the final answer is **C**.", "C"),
    # reasons first
    ("It has fur and barks.\nAnswer: B", "B"),
    ("A cat would be smaller and a bird would fly.\nAnswer: (B) dog", "B"),
    ("**Answer:** C", "C"),
    ("Answer: D\n", "D"),
    ("answer: cat", "A"),
    ("Answer: B. dog", "B"),
    ("First I thought the answer is A. Looking closer, the answer is B.", "B"),
    ("\\boxed{C}", "C"),
    ("The answer is $\\boxed{\\text{B}}$.", "B"),
    ("Reason: the wings.\nAnswer: a red bird.", "C"),
    # nothing to be found
    ("None of these", None),
    ("The cat and the dog", None),
    ("E", None),
    ("", None),
    ("I cannot tell.", None),
    ("A or B", None),
    ("A animal", None),
    ("neither A nor B", None),
]
BEASTS = {"A": "cat", "B": "dog", "C": "horse", "D": "cow"}
LENGTHS = {letter: f"{length} cm" for length, letter in enumerate("ABCDEFG", 3)}
MORE_OPTIONS = [
    # the list of options repeated from the question chooses none
    (BEASTS, "(A) cat (B) dog (C) horse (D) cow. **B**", "B"),
    (BEASTS, "A. cat\nB. dog\nC. horse\nD. cow\n\nB", "B"),
    (BEASTS, "Options: (A) cat, (B) dog, (C) horse, (D) cow. The picture shows a dog.", "B"),
    (BEASTS, "The options are A. cat, B. dog, C. horse and D. cow. It is option C", "C"),
    (BEASTS, "(A) cat\n(B) dog\n(C) horse\n(D) cow\nAnswer: (D)", "D"),
    (BEASTS, "A: cat B: dog C: horse D: cow", None),
    (BEASTS, "A) cat is wrong. B) dog is right. Answer: B", "B"),
    # a marker with something else behind it
    (BEASTS, "Answer: **D**", "D"),
    (BEASTS, "The correct answer is d.", "D"),
    (BEASTS, "Answer: Let's think step by step. The animal is a dog.", "B"),
    (BEASTS, "$\\boxed{\\text{(B)}}$", "B"),
    (BEASTS, "\\boxed{B", "B"),
    (BEASTS, "Answer: \\text{B}", "B"),
    (BEASTS, "*B*", "B"),
    (BEASTS, "<answer>B</answer>", "B"),
    (BEASTS, "So the answer must be B", "B"),
    # more than four options, and those with a value
    (LENGTHS, "Answer: G", "G"),
    (LENGTHS, "(E) 7 cm", "E"),
    (LENGTHS, "7cm", "E"),
    (LENGTHS, "It is 8cm long", "F"),
    (LENGTHS, "The length is 9\\text{ cm}", "G"),
    (LENGTHS, "H", None),
    (lettered([f"thing {n}" for n in range(30)]), "It is thing 29", "AD"),
]


@pytest.mark.parametrize(("options", "text", "letter"), MORE_OPTIONS)
def test_the_option_an_answer_chooses_of_others(options, text, letter):
    assert option(text, options) == letter


@pytest.mark.parametrize(("text", "letter"), OPTIONS)
def test_the_option_an_answer_chooses(text, letter):
    assert option(text, ANIMALS) == letter


NUMBERS = [
    ("14", 14),
    ("14.", 14),
    ("-2", -2),
    ("−2", -2),
    ("+3", 3),
    ("1,234", 1234),
    ("1,234,567.5", 1234567.5),
    (".5", 0.5),
    ("1.5e3", 1500),
    ("$12.50", 12.5),
    ("40%", 40),
    ("3/4", 0.75),
    ("\\frac{1}{2}", 0.5),
    ("$\\frac{3}{5}$", 0.6),
    ("seven", 7),
    ("Seven.", 7),
    ("7 apples", 7),
    ("5 cm", 5),
    ("5cm", 5),
    ("12 square units", 12),
    ("x = 45°", 45),
    ("45^\\circ", 45),
    ("2\\sqrt{2} cm", 2.8284271),
    ("√3", 1.7320508),
    ("3\\pi", 9.4247780),
    ("2^10", 1024),
    ("The answer is 3.5.", 3.5),
    ("The answer is 3/4.", 0.75),
    ("There are 3 red and 4 blue, so 3 + 4 = 7", 7),
    ("The perimeter is 12 + 8 = 20 cm.", 20),
    ("So the area is 6.\nAnswer: 6.0", 6),
    ("Answer: 1.45", 1.45),
    ("In 2007 it rose by 5.", 5),
    ("There are five of them", 5),
    ("\\boxed{21}", 21),
    ("No idea.", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_the_number_an_answer_gives(text, expected):
    assert number(text) == (None if expected is None else pytest.approx(expected, rel=1e-6))


def vista(kind, answer, choices=None, precision=None):
    return {
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": kind,
        "answer": answer,
        "choices": choices,
        "precision": precision,
    }


SHARES = ["3/11", "8/11", "6/11", "3/5"]
VISTA = [
    ("B", vista("text", "8/11", SHARES), True),
    ("(B) 8/11", vista("text", "8/11", SHARES), True),
    ("8/11", vista("text", "8/11", SHARES), True),
    ("Eleven parts, eight are blue.\nAnswer: B", vista("text", "8/11", SHARES), True),
    ("Eleven parts, eight are blue.\nAnswer: 8/11", vista("text", "8/11", SHARES), True),
    ("Answer: (C)", vista("text", "8/11", SHARES), False),
    ("The correct answer is (B) 8/11.", vista("text", "8/11", SHARES), True),
    ("Yes", vista("text", "Yes", ["Yes", "No"]), True),
    ("yes.", vista("text", "Yes", ["Yes", "No"]), True),
    ("No, it is not.", vista("text", "No", ["Yes", "No"]), True),
    ("Is it larger? The bar is longer.\nAnswer: No", vista("text", "Yes", ["Yes", "No"]), False),
    ("larger than", vista("text", "smaller than", ["larger than", "smaller than", "equal to"]), False),
    ("The first is smaller than the second.", vista("text", "smaller than", ["larger than", "smaller than"]), True),
    ("", vista("text", "Yes", ["Yes", "No"]), False),
    ("14", vista("integer", "14"), True),
    ("The missing number is 14.", vista("integer", "14"), True),
    ("14.0", vista("integer", "14"), True),
    ("2 + 5 = 7, 7 x 2 = 14\nAnswer: 14", vista("integer", "14"), True),
    ("Answer: fourteen", vista("integer", "14"), True),
    ("Answer: nine", vista("integer", "9"), True),
    ("15", vista("integer", "14"), False),
    ("$14", vista("integer", "14"), True),
    ("It cannot be known", vista("integer", "14"), False),
    ("1,400", vista("integer", "1400"), True),
    ("0.6", vista("float", "0.6", precision=1.0), True),
    ("The fraction is 0.6, that is six of ten.\nAnswer: 0.6", vista("float", "0.6", precision=1.0), True),
    ("0.62", vista("float", "0.6", precision=1.0), True),
    ("0.66", vista("float", "0.6", precision=1.0), False),
    ("3/5", vista("float", "0.6", precision=1.0), True),
    ("Luca needs $1.45.", vista("float", "1.45", precision=2.0), True),
    ("1.5", vista("float", "1.45", precision=2.0), False),
    ("[2007, 2008]", vista("list", "[2007, 2008]"), True),
    ("The peak lies between 2007 and 2008.", vista("list", "[2007, 2008]"), True),
    ("Answer: [2008, 2007]", vista("list", "[2007, 2008]"), False),
    ("Answer: [1.2, 1.3, 1.4]", vista("list", "[1.2, 1.3, 1.4]"), True),
    ("none", vista("list", "[2007, 2008]"), False),
    ("The area is 12 cm^2", vista("integer", "12"), True),
    ("\\boxed{12\\,\\mathrm{cm}^2}", vista("integer", "12"), True),
    ("The answer is 5 (out of 10).", vista("integer", "5"), True),
    ("Answer: 20 years (1980 to 2000)", vista("integer", "20"), True),
    ("It holds 1{,}234 litres", vista("integer", "1234"), True),
    ("Answer: 1e400", vista("integer", "1"), False),
    ("Answer: 1e400", vista("float", "1.5", precision=1.0), False),
    ("Answer: 1e400", vista("list", "[1, 2]"), False),
    ("9" * 400, vista("list", "[1, 2]"), False),
    ("The hash is 12e4567", vista("list", "[1, 2]"), False),
    ("It is 6cm", vista("text", "6 cm", ["2 cm", "3 cm", "4 cm", "5 cm", "6 cm"]), True),
    ("Answer: E", vista("text", "6 cm", ["2 cm", "3 cm", "4 cm", "5 cm", "6 cm"]), True),
]


@pytest.mark.parametrize(("text", "doc", "is_right"), VISTA)
def test_whether_a_mathvista_answer_is_right(text, doc, is_right):
    assert is_right_mathvista(text, doc) is is_right


def test_a_mathvista_answer_has_the_form_of_the_document():
    assert mathvista_answer("(B)", vista("text", "8/11", SHARES)) == "8/11"
    assert mathvista_answer("about 0.617", vista("float", "0.6", precision=1.0)) == "0.6"
    assert mathvista_answer("12.0 in all", vista("integer", "12")) == "12"
    assert mathvista_answer("between 1 and 2.5", vista("list", "[1, 2.5]")) == "[1, 2.5]"


def verse(answer, question="Find x.", kind="free-form"):
    return {"answer": answer, "question": question, "question_type": kind}


CHOICES = "As shown, find the length of AB.\nChoices:\nA:4cm\nB:5cm\nC:6cm\nD:8cm"
VISION_ONLY = {"question_for_eval": CHOICES, "problem_version": "Vision Only"}
IN_THE_PICTURE = {"question_for_eval": "", "problem_version": "Vision Only"}
VERSE = [
    ("The length of AB is 5cm", verse("B", "", "multi-choice") | VISION_ONLY, True),
    ("Answer: 5 cm", verse("B", "", "multi-choice") | VISION_ONLY, True),
    ("So AB = 5 cm.", verse("B", "", "multi-choice") | VISION_ONLY, True),
    ("So AB = 6 cm.", verse("B", "", "multi-choice") | VISION_ONLY, False),
    ("Answer: E", verse("E", "", "multi-choice") | IN_THE_PICTURE, True),
    ("Answer: E", verse("B", "", "multi-choice") | IN_THE_PICTURE, False),
    ("The area is 12 \\text{ cm}^2", verse("12"), True),
    ("9^9^9^9", verse("12"), False),
    ("-" * 5000 + "1", verse("12"), False),
    ("B", verse("B", CHOICES, "multi-choice"), True),
    ("Answer: B", verse("B", CHOICES, "multi-choice"), True),
    ("By Pythagoras AB = 5cm.\nTherefore the answer is B: 5cm.", verse("B", CHOICES, "multi-choice"), True),
    ("5cm", verse("B", CHOICES, "multi-choice"), True),
    ("C", verse("B", CHOICES, "multi-choice"), False),
    ("The length of AB is 5cm", verse("B", CHOICES, "multi-choice"), True),
    ("Since AB = 3 and BC = 4, option D fits.", verse("D", CHOICES, "multi-choice"), True),
    ("(A)", verse("A", CHOICES, "multi-choice"), True),
    ("14", verse("14"), True),
    ("x = 14", verse("14"), True),
    ("The value of x is 14.", verse("14"), True),
    ("Answer: 14.0", verse("14"), True),
    ("13", verse("14"), False),
    ("145°", verse("145"), True),
    ("145", verse("145°"), True),
    ("$145^{\\circ}$", verse("$145^\\circ$"), True),
    ("The angle is 35 degrees.", verse("35"), True),
    ("2\\sqrt{221}", verse("2 \\sqrt { 221 }"), True),
    ("Answer: 29.73", verse("2 \\sqrt { 221 }"), True),
    ("\\frac{3\\sqrt{2}}{2}", verse("\\frac{3\\sqrt{2}}{2}"), True),
    ("2.12", verse("\\frac{3\\sqrt{2}}{2}"), True),
    ("2.2", verse("\\frac{3\\sqrt{2}}{2}"), False),
    ("5.83", verse("5.83"), True),
    ("\\sqrt{34}", verse("5.83"), True),
    ("5.8", verse("5.83"), False),
    ("y = 3x - 2", verse("y=3x-2"), True),
    ("Answer: y=3x-2", verse("y=3x-2"), True),
    ("y = 3x + 2", verse("y=3x-2"), False),
    ("(-2, 6)", verse("(-2,6)"), True),
    ("The point is (6, -2)", verse("(-2,6)"), False),
    ("12 square units", verse("12"), True),
    ("Answer: $9\\pi$", verse("9 \\pi"), True),
    ("28.27", verse("9 \\pi"), True),
    ("Yes", verse("Yes"), True),
    ("no", verse("Yes"), False),
    ("", verse("14"), False),
]


@pytest.mark.parametrize(("text", "doc", "is_right"), VERSE)
def test_whether_a_mathverse_answer_is_right(text, doc, is_right):
    assert is_right_mathverse(text, doc) is is_right


@pytest.mark.parametrize(
    "written", ["A:4cm\nB:5cm", "(A) 4cm\n(B) 5cm", "A. 4cm\nB. 5cm", "A) 4cm \n B) 5cm", "(A) 4cm (B) 5cm"]
)
def test_options_are_read_from_a_question(written):
    assert options_in("Find it.\nChoices:\n" + written) == {"A": "4cm", "B": "5cm"}


@pytest.mark.parametrize(
    ("text", "is_right"),
    [("B", True), ("a dog", True), ("The answer is B.", True), ("A", False), ("C", False), ("nan", False)],
)
def test_whether_an_mmbench_answer_is_right(text, is_right):
    doc = {"A": "cat", "B": "dog", "C": "nan", "D": float("nan"), "answer": "B"}
    assert is_right_mmbench(text, doc) is is_right


def test_enough_answers_are_tried():
    assert len(OPTIONS) + len(NUMBERS) + len(VISTA) + len(VERSE) >= 160


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Because it is so.\nAnswer: 5 cm.\nI hope this helps!", "5 cm"),
        ("The answer is B. cat", "B. cat"),
        ("one\n\ntwo\n", "two"),
        ("\\boxed{\\frac{1}{2}} is the answer", "\\frac{1}{2}"),
        ("", ""),
    ],
)
def test_the_part_that_states_the_answer(text, part):
    assert stated(text) == part


@pytest.mark.parametrize(
    "text", ["__import__('os')", "9**9**9", "1/0", "sqrt(-1)", "x + 1", "(1).real", "2**99999", "nan"]
)
def test_what_is_no_number_has_no_value(text):
    assert value(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The sign says so. Answer: 12 May.", "12 May"),
        ("Answer: no. **Answer: Coca Cola**", "Coca Cola"),
        ("**Answer:** $5.00!", "$5.00"),
        ("12 May", "None"),
        ("answer: 12", "None"),
        ("Answer:", ""),
    ],
)
def test_the_answer_behind_reasons(text, answer):
    assert reasoned_answer(text) == answer
