"""The number that a text gives, in words, digits or LaTeX: "3\\sqrt{2} cm", "12 cm^2", "1{,}234", "5 (out of 10)".

Texts are answers of models, so anything can stand in them: nothing here raises, what is no finite number is none, and
neither a formula longer than `LONGEST` nor what stands before the last `LONGEST_ANSWER` characters is looked at.
The package math-verify is not used: of the 118 answers in the test of this file version 0.9.0 reads 66, it does not
come back from 9^9^9^9, and its time limit works in the main thread alone, where lmms-eval scores in four others.
"""

import ast
import math
import re

from ..errors import WrongValue

RELATIVE_TOLERANCE = 1e-3  # of two numbers that are the same but for rounding along the way
LARGEST_EXPONENT = 64  # of a power that is worked out
LONGEST = 200  # characters of a formula
LONGEST_ANSWER = 20_000  # characters; of a longer one the end is read

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
WORDS = {word: value for value, word in enumerate(f"{SMALL} eighteen nineteen".split())}
WORDS |= {
    word: 10 * tens for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
FRACTIONS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")

# A number in digits: 1,234.5, .5, 1e3, a power such as 2^10; and what is made of several with fractions, roots and pi.
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+"
POWER = rf"(?:{DIGITS})(?:\^\(?-?\d+\)?)?"
ROOT = r"sqrt\([^()]*\)"
QUOTIENT = rf"\(\((?:-?(?:{DIGITS})|-?{POWER}{ROOT}|-?{ROOT}|-?(?:{DIGITS})?pi)\)/\((?:{POWER}|{ROOT})\)\)"
FACTOR = rf"(?:{QUOTIENT}|{ROOT}|{POWER}|pi\b)"
TERM = rf"(?<![\w.^])-?{FACTOR}(?:\s?[*/]\s?{FACTOR}|\s?(?:{QUOTIENT}|{ROOT}|pi\b))*(?![\d^])"
WORD = rf"(?:{'|'.join(sorted(WORDS, key=len, reverse=True))})"
SCALE = rf"(?:[\s-](?:{'|'.join(SCALES)})\b)*"
FOUND = re.compile(rf"(?P<term>{TERM})|\b(?P<words>{WORD}(?:-{WORD})?{SCALE})\b", re.IGNORECASE)

UNIT = r"[A-Za-zµΩ]+"
ASIDE = re.compile(r"(?<=[^\s(\[])\s\(([^()]*)\)|(?<=[^\s(\[])\s\[([^\[\]]*)\]|(?<=[\w%])\(([^()]*[A-Za-z]{2}[^()]*)\)")
OUT_OF = re.compile(r"(?<=[\d.)])\s(?:out\sof|of)(?:\s(?:the|these|those|all))?\s[\d.,]*\d")
REASON = re.compile(r"(?<=[\w%)°])[,;]?\s(?:because|since|which|where|rather than|instead of|not)\s.*", re.DOTALL)
CONCLUSION = re.compile(r"\b(?:so|thus|therefore|hence|then)\b", re.IGNORECASE)


def readable(text: str) -> str:
    """A text with its formulas in plain letters: \\frac{1}{2} is ((1)/(2)), \\sqrt{3} is sqrt(3), cm^2 is cm.

    Signs of currency and of LaTeX are gone, digits are grouped with commas or not at all, white space is single.
    """
    text = re.sub(r"\d", lambda found: str(int(found[0])), text[-LONGEST_ANSWER:])  # digits of every script
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda found: "^" + found[0].translate(RAISED), text)
    for sign, fraction in FRACTIONS.items():
        text = text.replace(sign, f" {fraction}")
    text = re.sub(r"(?<=\d)(?:\\[,;:!]|\{,\}|['’\u00a0\u2009\u202f])(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"\^\s?\{?\s?\\?(?:circ|degree)\s?\}?|[°º]|\\degree", " degrees", text)
    text = re.sub(r"\\(?:mathrm|text|textbf|textrm|mathbf|operatorname|mbox|rm)\s?\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(
        r"\\[,;:! ()\[\]]|\\(?:left|right|quad|qquad|displaystyle|big|Big)(?![A-Za-z])|[$€£¥`~]|\\%", " ", text
    )
    text = text.replace("−", "-").replace("–", "-").replace("÷", "/").replace("**", "^").replace("≈", "=")
    text = re.sub(r"\\(?:approx|simeq)\b", "=", text)
    text = re.sub(r"\\(?:times|cdot|ast)(?![A-Za-z])|[×·]|(?<=\d)\s?x\s?(?=10\s?\^)", "*", text)
    text = re.sub(r"\\pi(?![A-Za-z])|π", "pi", text)
    text = re.sub(r"\^\s?\{([^{}]*)\}", r"^(\1)", text)
    for _ in range(2):  # a root in a fraction, a fraction in a root
        text = re.sub(r"\\sqrt\s?\[(\d+)\]\s?\{([^{}]*)\}", r"((\2)^(1/\1))", text)
        text = re.sub(r"\\sqrt\s?\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\\[dtc]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}", r"((\1)/(\2))", text)
    text = re.sub(r"(?:\\sqrt|√)\s?\(?(\d+(?:\.\d+)?)\)?", r"sqrt(\1)", text)
    text = re.sub(r"\\[dtc]?frac\s?(\d)\s?(\d)", r"((\1)/(\2))", text)
    text = text.replace("{", "(").replace("}", ")")
    text = re.sub(r"\s?\^\s?", "^", re.sub(r"\s+", " ", text))
    text = re.sub(rf"(?<!\w)(?!pi\^|sqrt)({UNIT}|\(\s?{UNIT}\s?\))\^\(?-?\d+\)?", r"\1", text)  # cm^2, m s^-2
    # One and a half: 1((1)/(2)), 1 1/2.
    text = re.sub(r"(?<![\w.,])(\d+)\s?\(\((\d+)\)/\((\d+)\)\)", mixed, text)
    text = re.sub(r"(?<![\w.,/*^])(\d+)\s(\d+)/(\d+)(?![\d.])", mixed, text)
    return text.strip()


def mixed(found: re.Match) -> str:
    """A whole number and a fraction behind it, as one decimal; what is no such pair stays as it is."""
    whole, over, under = (int(number[:18]) for number in found.groups())
    return repr(whole + over / under) if over < under else found[0]


def number_in(part: str) -> float | None:
    """The number a part of an answer gives: all of it if it is one, else what stands behind its last "=", else the last
    number in it. Remarks in brackets, "out of 10" and reasons behind the number do not count where one is left."""
    text = readable(part)
    for whole in dict.fromkeys((without_remarks(text), text)):
        found = formula_value(whole)
        if found is None and "=" in whole:
            found = formula_value(whole.rsplit("=", 1)[1])
        if found is None:
            found = next(iter(numbers_in(whole)[::-1]), None)
        if found is not None:
            return found
    return None


def numbers(text: str) -> list[float]:
    """Every number written in a text, left to right: 1,234.5, -3, 2/5, 40%, .5, 1e3, 2\\sqrt{3}, seventeen."""
    return numbers_in(readable(text))


def value(text: str) -> float | None:
    """The value of a text that is one number or formula and perhaps a unit; None for anything else.

    "3\\sqrt{2} cm", "$1,200", "\\frac{1}{2}\\pi", "x = 45°".
    """
    return formula_value(readable(str(text)))


def without_remarks(text: str) -> str:
    """The text without what only comments on a number in it."""
    text = OUT_OF.sub("", ASIDE.sub("", text))
    behind = REASON.search(text)
    if behind and numbers_in(text[: behind.start()]) and not CONCLUSION.search(behind[0]):
        text = text[: behind.start()]
    return text


def numbers_in(text: str) -> list[float]:
    """The finite numbers of a readable text, left to right."""
    found = []
    for match in FOUND.finditer(text):
        value = value_of_words(match["words"]) if match["words"] else evaluated(match["term"])
        if value is not None:
            found.append(value)
    return found


def value_of_words(words: str) -> float:
    """ "twenty-one" is 21, "two hundred" 200."""
    total = 0.0
    for word in re.split(r"[\s-]", words.lower()):
        total = total * SCALES[word] if word in SCALES else total + WORDS[word]
    return total


def formula_value(text: str) -> float | None:
    """The value of a readable text that is one formula and perhaps a unit."""
    text = re.sub(r"^\(?[A-Za-z∠△\\ ]{1,20}\)?\s?=", "", text).strip().rstrip(".")  # "x =", "angle ABC ="
    if text.lower() in WORDS:
        return float(WORDS[text.lower()])
    text = re.sub(r"^(\d{1,3})((?: \d{3})+)$", lambda found: found[0].replace(" ", ""), text)  # 1 234 567
    # Up to three words of a unit: "square inches", "m/s", "degrees", "%".
    unit = re.search(rf"(?<=[\d)i\s])\s?(?!pi|sqrt)(?:(?:{UNIT}|%)\.?[\s/*]?){{1,3}}$", text[-LONGEST:])
    if unit:
        text = text[: len(text) - (len(text[-LONGEST:]) - unit.start())]
    return evaluated(text)


def evaluated(text: str) -> float | None:
    """The value of a formula of digits, pi, sqrt, brackets and + - * / ^; None for anything else."""
    if len(text) > LONGEST:
        return None
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).strip().replace("%", "")
    text = re.sub(r"(?<=[\d)])\s?(?=pi|sqrt|\()", "*", text)  # 2pi, 3sqrt(2)
    text = re.sub(r"(?<=pi)\s?(?=\d|sqrt|\()|(?<=\))\s?(?=\d|pi|sqrt|\()", "*", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text).replace("^", "**")
    if not re.fullmatch(r"(?:[\d\s.+\-*/()]|pi|sqrt|(?<=[\d.])[eE](?=[+-]?\d))+", text):
        return None
    try:
        result = worked_out(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
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
    raise WrongValue("no number")


def is_close(a: float | None, b: float | None) -> bool:
    """Whether two numbers are the same but for rounding along the way."""
    return a is not None and b is not None and math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-9)
