"""What a free answer says, found by rules: the chosen option, the number, the list; and whether it is right.

    "So it is three fifths.\nAnswer: (C) 3/5"  ->  stated "(C) 3/5"  ->  option "C"  ->  right if C is expected

For benchmarks that are otherwise judged by a paid model: MathVista, MathVerse, MMBench. A rule that cannot tell says
None, which counts as wrong; nothing is drawn at random. Strings in, strings out: no model, no lmms-eval.
"""

import ast
import math
import re
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RELATIVE_TOLERANCE = 1e-3  # of two numbers that are the same but for rounding along the way
LARGEST_EXPONENT = 64  # of a power that is worked out

# Words that say "what follows is the answer", the surest first; of one kind the last counts.
MARKERS = (
    re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"),
    re.compile(
        r"(?:final|correct|extracted)?\s*\banswer\s*(?:is|:|=|would be|should be)\s*:?\s*(.+)",
        re.IGNORECASE | re.DOTALL,
    ),
    re.compile(
        r"\b(?:the (?:correct|best|right) (?:option|choice)|i (?:would )?(?:choose|pick|select))"
        r"\s*(?:is|:)?\s*:?\s*(.+)",
        re.IGNORECASE | re.DOTALL,
    ),
)
SENTENCE = re.compile(r"(?:\.\s|\.$|\n)")


def stated(text: str) -> str:
    """The part of a response that states its answer: what is marked as it, else the last line that is not empty."""
    found = marked(text)
    if found is not None:
        return found
    lines = [line.strip() for line in undecorated(text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def marked(text: str) -> str | None:
    """What stands in the last \\boxed{} of a response, else behind its last "answer is" or "Answer:", up to the end of
    that sentence or line; None where nothing is marked as the answer."""
    text = undecorated(text)
    for number, marker in enumerate(MARKERS):
        found = None
        start = 0
        while match := marker.search(text, start):
            found, start = match.group(1), match.start(1)
        if found is not None:
            return found.strip() if number == 0 else first_sentence(found)
    return None


def undecorated(text: str) -> str:
    """The text without the signs that Markdown makes it bold or code with."""
    return text.replace("**", "").replace("__", "").replace("`", "").strip()


def first_sentence(text: str) -> str:
    """The text up to its first full stop or line break, the dot of "A." and of "e.g." aside."""
    text = text.strip()
    for match in SENTENCE.finditer(text):
        head = text[: match.start()]
        if match.group() == "\n" or not re.fullmatch(r"\(?[A-Za-z]\)?", head):
            return head.strip()
    return text


# Options


def option(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that a response chooses, or None.

    options: letter -> text. Tried in this order: a letter alone or in front ("B", "(b)", "B. cat"), the text of an
    option, "option B", a letter in brackets, an option's text within the answer (the longest that is unique), a capital
    standing alone. First in what is marked as the answer; else, after a letter in front, in the last line; at last in
    the whole response.
    """
    whole, found = undecorated(text), marked(text)
    if found is None:
        letter = leading_letter(whole, options)
        if letter is not None:
            return letter
        found = stated(text)
    for part in dict.fromkeys((found, whole)):
        for rule in (leading_letter, whole_text, named_letter, text_within, lone_capital):
            letter = rule(part, options)
            if letter is not None:
                return letter
    return None


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


def lone_capital(part: str, options: Mapping[str, str]) -> str | None:
    """The only capital that stands alone as a word; "A" and "I" before most words are words of English."""
    found = set()
    for match in re.finditer(r"(?<![\w'])([A-Z])(?![\w'])", part):
        is_word = match.group(1) in "AI" and re.match(r"\s+(?!(?:or|and|is)\b)[a-z]", part[match.end() :])
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
    """The number a response gives: the whole stated answer if it is one, else what stands behind its last "=", else the
    last number in it, else that of the whole response."""
    for part in dict.fromkeys((stated(text), text.strip())):
        whole = value(part)
        if whole is None and "=" in part:
            whole = value(part.rsplit("=", 1)[1])
        if whole is not None:
            return whole
        found = numbers(part)
        if found:
            return found[-1]
    return None


def numbers(text: str) -> list[float]:
    """Every number written in a text, left to right: 1,234.5, -3, 2/5, 40%, .5, 1e3, zero to twelve."""
    text = text.replace("−", "-").replace("\\frac", " frac")
    pattern = (
        r"frac\s*\{\s*(?P<over>-?\d+(?:\.\d+)?)\s*\}\s*\{\s*(?P<under>\d+(?:\.\d+)?)\s*\}"
        r"|(?<![\w.])(?P<n>-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+)(?:\s*/\s*(?P<d>\d+(?:\.\d+)?))?"
        r"|\b(?P<word>" + "|".join(WORDS) + r")\b"
    )
    found = []
    for match in re.finditer(pattern, text, re.IGNORECASE):
        if match["word"]:
            found.append(float(WORDS[match["word"].lower()]))
            continue
        over, under = (match["over"], match["under"]) if match["over"] else (match["n"], match["d"])
        if under is None or float(under):
            found.append(float(over.replace(",", "")) / (1.0 if under is None else float(under)))
    return found


WORDS = {
    word: index
    for index, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
}


def value(text: str) -> float | None:
    """The value of a text that is one number or formula and perhaps a unit; None for anything else.

    "3\\sqrt{2} cm", "$1,200", "\\frac{1}{2}\\pi", "x = 45°".
    """
    text = re.sub(r"\\(?:mathrm|text|operatorname|mathbf)\s*\{[^{}]*\}", " ", str(text))  # units, written in LaTeX
    text = re.sub(r"\\(?:left|right|,|;|!|quad|displaystyle)|[$`]", "", text)
    text = text.replace("−", "-").replace("×", "*").replace("·", "*").replace("÷", "/")
    text = re.sub(r"\\(?:times|cdot)\b", "*", text)
    text = re.sub(
        r"\\d?frac\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r"((\1)/(\2))", text
    )
    text = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", text)
    text = re.sub(r"(?:\\sqrt|√)\s*\(?(\d+(?:\.\d+)?)\)?", r"sqrt(\1)", text)
    text = re.sub(r"\^\s*\{?\s*\\?(?:circ|degree)\s*\}?|°|\bdegrees?\b|\\degree|\\%|%", "", text)
    text = text.replace("\\pi", "pi").replace("π", "pi").replace("^", "**").replace("{", "(").replace("}", ")")
    text = re.sub(r"^\s*\(?[A-Za-z∠△\\ ]{1,12}?\)?\s*=\s*", "", text)  # "x =", "angle ABC ="
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).strip().rstrip(".")
    if text.lower() in WORDS:
        return float(WORDS[text.lower()])
    text = re.sub(
        r"\s+(?:square |cubic )?(?!pi|sqrt)(?:[a-zA-Z]{1,12})(?:\*\*[23]|[²³])?\.?$", "", text
    )  # "5 cm", "12 square units"
    text = re.sub(r"(?<=\d)\s*(?:cm|mm|km|m|ft|in|kg|g|s|h)(?:\*\*[23]|[²³])?$", "", text)
    text = re.sub(r"(?<=[\d)])\s*(?=pi|sqrt|\()", "*", text)  # 2pi, 3sqrt(2)
    text = re.sub(r"(?<=pi)\s*(?=\d|sqrt|\()|(?<=\))\s*(?=\d|pi|sqrt|\()", "*", text)
    if not re.fullmatch(r"[\d\s.+\-*/()a-z]+", text):
        return None
    try:
        result = worked_out(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def worked_out(node: ast.AST) -> float:
    """The value of a formula's tree. Raises ValueError for anything but numbers, pi, sqrt and + - * / **."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id == "pi":
        return math.pi
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = worked_out(node.operand)
        return -inner if isinstance(node.op, ast.USub) else inner
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "sqrt"
        and len(node.args) == 1
    ):
        return math.sqrt(worked_out(node.args[0]))
    if isinstance(node, ast.BinOp):
        left, right = worked_out(node.left), worked_out(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
        if isinstance(node.op, ast.Pow) and abs(right) <= LARGEST_EXPONENT and left >= 0:
            return left**right
    raise ValueError(f"{ast.dump(node)} is no number")


def is_close(a: float | None, b: float | None) -> bool:
    """Whether two numbers are the same but for rounding along the way."""
    return a is not None and b is not None and math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-9)


# Benchmarks


def lettered(choices: Sequence[str]) -> dict[str, str]:
    """Choices under the letters A, B, C, ..."""
    return dict(zip(LETTERS, map(str, choices), strict=False))


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
        return option(text, options_in(doc["question"])) == expected.strip("()").upper()
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
    """The options written into a question, a line each: "A:4cm", "(B) 5", "C. 6"."""
    found = re.findall(r"^\s*\(?([A-Z])\s*[:.)]\s*(.*?)\s*$", question, re.MULTILINE)
    return {letter: text for letter, text in found} or lettered(("", "", "", ""))


def formula(text: str) -> str:
    """A formula for comparison: no spaces, dollar signs, sizes of brackets, or "x=" in front of a plain value."""
    text = re.sub(r"\\(?:left|right|mathrm|text|,|;|!|quad)", "", str(text)).replace("\\dfrac", "\\frac")
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", text).replace("−", "-")
    text = re.sub(r"[\s$~]", "", text).rstrip(".").casefold()
    return re.sub(r"^[a-z]=(?=-?[\d\\√(]+$)", "", text)


def is_right_mmbench(text: str, doc: Mapping) -> bool:
    """Whether a response to an MMBench document chooses the right option; options that a document lacks are "nan"."""
    options = {letter: str(doc[letter]) for letter in "ABCDE" if letter in doc and is_given(doc[letter])}
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
