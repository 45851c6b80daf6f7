"""What a free answer says, found by rules: the chosen option, the number, the list; and whether it is right.

    "So it is three fifths.\nAnswer: (C) 3/5"  ->  stated "(C) 3/5"  ->  option "C"  ->  right if C is expected

For benchmarks that are otherwise judged by a paid model: MathVista, MathVerse, MMBench. A rule that cannot tell says
None, which counts as wrong; nothing is drawn at random. Strings in, strings out: no model, no lmms-eval.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product

from .numbers import LONGEST_ANSWER, is_close, number_in, numbers, value

RULES_VERSION = 2  # raised by hand when a verdict can change: finished tasks are then scored again from their answers
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Words that say "what follows is the answer", the surest first; of one kind the last counts.
BOXED = re.compile(r"\\f?boxed\s?\{")
MARKERS = (
    re.compile(r"\banswer\s?(?:is|:|=|would be|should be)\s?:?", re.IGNORECASE),
    re.compile(
        r"\b(?:the (?:correct|best|right) (?:option|choice)|i (?:would )?(?:choose|pick|select))\s?(?:is|:)?\s?:?",
        re.IGNORECASE,
    ),
)
SENTENCE = re.compile(r"(?:\.\s|\.$|\n)")


def stated(text: str) -> str:
    """The part of a response that states its answer: what is marked as it, else the last line that is not empty."""
    found = marked(text)
    if found is not None:
        return found
    lines = undecorated(text).splitlines()
    return lines[-1].strip() if lines else ""


def marked(text: str) -> str | None:
    """What stands in the last \\boxed{} of a response, else behind its last "answer is" or "Answer:", up to the end of
    that sentence or line; None where nothing is marked as the answer."""
    text = undecorated(text)
    boxes = list(BOXED.finditer(text))
    if boxes:
        return in_braces(text, boxes[-1].end())
    for marker in MARKERS:
        ends = [match.end() for match in marker.finditer(text)]
        rest = next((rest for rest in (text[end:].strip() for end in ends[-2:][::-1]) if rest), None)
        if rest is not None:
            return first_sentence(rest)
    return None


def in_braces(text: str, start: int) -> str:
    """The text from `start`, behind an open brace, to the one that closes it, or to the end."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end].strip()
    return text[start:].strip()


def undecorated(text: str) -> str:
    """The text without the signs that Markdown makes it bold or code with; white space is single, blank lines go."""
    text = str(text)[-LONGEST_ANSWER:].replace("**", "").replace("__", "").replace("`", "")
    text = re.sub(r"(?<![\w)*])\*(?=[^\s*])([^*\n]*)(?<=[^\s*])\*(?![\w(*])", r"\1", text)
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def first_sentence(text: str) -> str:
    """The text up to its first full stop or line break, the dot of "A." and of "e.g." aside."""
    text = text.strip()
    for match in SENTENCE.finditer(text):
        head = text[: match.start()]
        if match.group() == "\n" or not re.fullmatch(r"\(?[A-Za-z]\)?|.*\b(?:e\.g|i\.e|sq|cu|approx)", head):
            return head.strip()
    return text


# Options


def option(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that a response chooses, or None.

    options: letter -> text. Tried in this order: a letter alone or in front ("B", "(b)", "B. cat"), the text of an
    option, "option B", a letter in brackets, an option's text within the answer (the longest that is unique), its
    value, a capital standing alone. First in what is marked as the answer; else, after a letter in front, in the last
    line; at last in the whole response. A list of all options, repeated from the question, is not looked at.
    """
    text = without_options(undecorated(text), options)
    found = marked(text)
    if found is None:
        letter = leading_letter(text, options)
        if letter is not None:
            return letter
        found = stated(text)
    for part in dict.fromkeys((found, text)):
        for rule in (leading_letter, whole_text, named_letter, text_within, value_within, lone_capital):
            letter = rule(part, options)
            if letter is not None:
                return letter
    return None


def without_options(text: str, options: Mapping[str, str]) -> str:
    """The text without the list of all options: "(A) cat (B) dog", "A. cat, B. dog", a line each."""
    if len(options) < 2 or not all(map(plain, options.values())):
        return text
    listed = r"[\s,;|/]*(?:(?:and|or)\s)?".join(
        rf"[(\[]?\b{letter}\s?[)\].:]{{1,2}}\s?{re.escape(choice.strip())}\.?" for letter, choice in options.items()
    )
    return re.sub(listed, " ", text, flags=re.IGNORECASE).strip()


def leading_letter(part: str, options: Mapping[str, str]) -> str | None:
    """ "B", "b.", "(B)", "[B]", "B) cat", "B: cat", "B - cat", "B\\n...": a letter alone, or in front and set apart."""
    part = part.strip().strip("\"'$")
    match = re.match(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.,;:!]?\s*$", part)  # alone
    match = match or re.match(r"[(\[]\s*([A-Za-z])\s*[)\]]", part)
    match = match or re.match(r"([A-Za-z])\s*(?:[.):](?=\s|$)|\s[-–—]\s|\n|,\s)", part)
    return known(match.group(1), options) if match else None


def named_letter(part: str, options: Mapping[str, str]) -> str | None:
    """ "option B", "choice (B)", or the only letter in brackets; the last option named counts."""
    found = re.findall(r"\b(?:options?|choices?|letter)\s*[:(\"']*\s*([A-Za-z])\b(?!')", part, re.IGNORECASE)
    named = [letter for letter in (known(letter, options) for letter in found) if letter]
    if named:
        return named[-1]
    bracketed = {known(letter, options) for letter in re.findall(r"[(\[]([A-Z])[)\]]", part)} - {None}
    return bracketed.pop() if len(bracketed) == 1 else None


def whole_text(part: str, options: Mapping[str, str]) -> str | None:
    """The option whose text, or value, is the whole answer."""
    same = [letter for letter, choice in options.items() if plain(choice) and plain(choice) == plain(part)]
    if not same and value(part) is not None:
        same = [letter for letter, choice in options.items() if is_close(value(choice), value(part))]
    return same[0] if len(same) == 1 else None


def text_within(part: str, options: Mapping[str, str]) -> str | None:
    """The option whose text is among the words of the answer; one that is part of a longer one found gives way."""
    words = f" {plain(part)} "
    found = {letter: plain(choice) for letter, choice in options.items() if f" {plain(choice)} " in words}
    found = {letter: choice for letter, choice in found.items() if choice}
    longest = [
        letter
        for letter, choice in found.items()
        if not any(choice != other and f" {choice} " in f" {other} " for other in found.values())
    ]
    return longest[0] if len(longest) == 1 else None


def value_within(part: str, options: Mapping[str, str]) -> str | None:
    """The option whose value is the number of the answer: "4cm" in "It is 4 cm long"."""
    found = number_in(part)
    same = [letter for letter, choice in options.items() if is_close(value(choice), found)]
    return same[0] if len(same) == 1 else None


def lone_capital(part: str, options: Mapping[str, str]) -> str | None:
    """The only capital that stands alone as a word; "A" and "I" before most words are words of English."""
    found = set()
    for match in re.finditer(r"(?<![\w'])([A-Z])(?![\w'])", part):
        is_word = match.group(1) in "AI" and re.match(r"\s+(?!(?:or|nor|and|is)\b)[a-z]", part[match.end() :])
        if not is_word and known(match.group(1), options):
            found.add(match.group(1))
    return found.pop() if len(found) == 1 else None


def known(letter: str, options: Mapping[str, str]) -> str | None:
    """The letter as a capital, if there is such an option."""
    return letter.upper() if letter.upper() in options else None


def plain(text: str) -> str:
    """A text for comparison: small letters, one space between words, no articles, quotes or punctuation at the ends."""
    text = str(text).casefold().replace("’", "'")
    text = re.sub(r"[\"“”]", "", text)
    words = [word.strip(".,;:!?()[]'") for word in text.split()]
    return " ".join(word for word in words if word and word not in ("a", "an", "the"))


# Numbers


def number(text: str) -> float | None:
    """The number a response gives: that of its stated answer, else that of the whole response."""
    parts = dict.fromkeys((stated(text), undecorated(text)))
    return next((found for found in map(number_in, parts) if found is not None), None)


# Exact match


@dataclass(frozen=True)
class Verdict:
    """One judged question."""

    id: str
    family: str
    question: str
    expected: str
    found: str

    @property
    def is_right(self) -> bool:
        """Whether the final answers are equal but for white space and case; a thought before them does not count."""
        expected, found = (final_answer(text).casefold().split() for text in (self.expected, self.found))
        return expected == found


def final_answer(text: str) -> str:
    """What stands behind the mark, or all of a text without one."""
    return text.rsplit("Answer:", 1)[-1].strip()


# Benchmarks


def lettered(choices: Sequence[str]) -> dict[str, str]:
    """Choices under the letters A, B, C, ...; behind Z stand AA, AB, ..."""
    letters = ("".join(letter) for length in count(1) for letter in product(LETTERS, repeat=length))
    return dict(zip(letters, map(str, choices), strict=False))


def mathvista_answer(text: str, doc: Mapping) -> str | None:
    """What a response to a MathVista document answers, in the form of the document's own `answer`.

    The text of the option chosen; a whole number; a number rounded to `precision` places; a list of numbers; or the
    stated text.
    """
    if doc["question_type"] == "multi_choice":
        options = lettered(doc["choices"])
        letter = option(text, options)
        return None if letter is None else options[letter]
    kind = doc["answer_type"]
    if kind in ("integer", "float"):
        found = number(text)
        if found is None:
            return None
        if kind == "integer":
            return str(int(found))
        return str(round(found, int(doc["precision"] or 0)))
    if kind == "list":
        part = stated(text)
        bracketed = re.findall(r"\[([^\[\]]*)\]", part) or re.findall(r"\[([^\[\]]*)\]", text)
        return str([int(n) if n == int(n) else n for n in numbers(bracketed[-1] if bracketed else part)])
    return stated(text)


def is_right_mathvista(text: str, doc: Mapping) -> bool:
    """Whether a response to a MathVista document is right."""
    found, expected = mathvista_answer(text, doc), str(doc["answer"])
    if found is None:
        return False
    if doc["question_type"] == "free_form" and doc["answer_type"] == "list":
        return numbers(found) == numbers(expected) and bool(numbers(found))
    if doc["question_type"] == "free_form" and doc["answer_type"] in ("integer", "float"):
        return is_close(float(found), value(expected))
    return plain(found) == plain(expected)


def is_right_mathverse(text: str, doc: Mapping) -> bool:
    """Whether a response to a MathVerse document is right: the letter of the option, or an equal value or formula."""
    expected = str(doc["answer"]).strip()
    if doc["question_type"] == "multi-choice":
        expected = expected.strip("()").upper()
        # The split with everything in the picture has an empty question, but for the one that judges are shown.
        options = options_in(doc["question"]) or options_in(doc["question_for_eval"])
        return option(text, options or unread_options(expected)) == expected
    part = stated(text)
    if formula(part) == formula(expected) or formula(text) == formula(expected):
        return True
    wanted = value(expected)
    if wanted is None:
        return bool(plain(expected)) and plain(part) == plain(expected)
    found = number(text)
    if found is None:
        return False
    decimals = len(expected.split(".")[1].rstrip("°$ ")) if re.fullmatch(r"\$?-?\d+\.\d+\D*", expected) else None
    return is_close(found, wanted) or (decimals is not None and is_close(round(found, decimals), wanted))


def options_in(question: str) -> dict[str, str]:
    """The options written into a question, the longest run of letters from A on: "A:4cm", "(B) 5", "C. 6", in lines of
    their own or in one."""
    runs: list[list[re.Match]] = []
    for match in re.finditer(r"(?<![\w\\])\(?([A-Z])\s?[:.)]", question):
        if match[1] == "A":
            runs.append([match])
        elif runs and match[1] == LETTERS[len(runs[-1])]:
            runs[-1].append(match)
    best: list[re.Match] = max(reversed(runs), key=len, default=[])
    ends = [*(match.start() for match in best[1:]), len(question)]
    return {match[1]: question[match.end() : end].strip() for match, end in zip(best, ends, strict=False)}


def choices_in(question: str) -> dict[str, list[str]]:
    """What a question that lists its answers may be answered with: each letter with its option's text, or yes and no;
    nothing where it lists none."""
    options = options_in(question)
    if len(options) > 1:
        return {letter: [letter, text.partition("\n")[0].rstrip(" ,;")] for letter, text in options.items()}
    return {"Yes": ["Yes", "yes"], "No": ["No", "no"]} if re.search(r"\byes or no\b", question, re.I) else {}


def unread_options(expected: str) -> dict[str, str]:
    """Letters, for options that stand in the picture alone: A to D, or as far as the right one."""
    return {letter: "" for letter in LETTERS if letter <= max("D", expected)}


def formula(text: str) -> str:
    """A formula for comparison: no spaces, dollar signs, sizes of brackets, or "x=" in front of a plain value."""
    text = re.sub(r"\\(?:left|right|mathrm|text|,|;|!|quad)", "", str(text)).replace("\\dfrac", "\\frac")
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", text).replace("−", "-")
    text = re.sub(r"[\s$~]", "", text).rstrip(".").casefold()
    return re.sub(r"^[a-z]=(?=-?[\d\\√(]+$)", "", text)


def is_right_mmbench(text: str, doc: Mapping) -> bool:
    """Whether a response to an MMBench document chooses the right option; options that a document lacks are "nan"."""
    options = {letter: str(doc[letter]) for letter in LETTERS if letter in doc and is_given(doc[letter])}
    return option(text, options) == str(doc["answer"]).strip().upper()


def is_given(choice) -> bool:
    """Whether a table's cell holds an option."""
    return choice is not None and choice == choice and str(choice) not in ("", "nan")


def reasoned_answer(text: str) -> str:
    """What stands behind the last "Answer:" of a response, asterisks and closing punctuation gone; "None" without it.

    The original's rule for DocVQA and InfoVQA, where the model is told to reason first.
    """
    if "Answer:" not in text:
        return "None"
    return text.rsplit("Answer:", 1)[1].replace("*", "").strip().rstrip(".,;:!?").strip()
