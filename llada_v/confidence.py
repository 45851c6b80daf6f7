"""How sure an answer is, token by token and field by field.

A token's probability is that of the step which revealed it; a field's is the product over the tokens that spell its
value. Under a constraint both are among what was let through, so what could only be one thing counts 1.
"""

import json
import math
import re
from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate

from .generation.patterns import template_parts

DECODER = json.JSONDecoder()
BLANK = re.compile(r"[ \t\r\n]*")


def has_fields(constraint: dict | None) -> bool:
    """Whether answers of a shape have fields: JSON and templates do."""
    return constraint is not None and bool(constraint.keys() & {"json_schema", "template"})


def fields_of(
    text: str, spelled: Sequence[bytes], probabilities: Sequence[float], constraint: dict
) -> dict[str, float]:
    """The probability of each field's value by its name.

    text: of the whole answer. spelled, probabilities: what each token adds to it in UTF-8, and how sure it was.
    Fields of JSON are called by their path, "people[0].name", and gaps of a template by their number from 1.
    """
    spans = json_spans(text) if "json_schema" in constraint else gap_spans(text, constraint["template"])
    ends = list(accumulate(map(len, spelled)))
    found = {}
    for name, first, last in spans:
        start, end = (len(text[:place].encode()) for place in (first, last))
        found[name] = math.prod(
            probability
            for part, until, probability in zip(spelled, ends, probabilities, strict=True)
            if part and until > start and until - len(part) < end
        )
    return found


def json_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """(path, start, end) of every value of a JSON text that holds no others, in order."""

    def blank(at: int) -> int:
        return BLANK.match(text, at).end()

    def value(at: int, path: str) -> Generator[tuple[str, int, int], None, int]:
        """The spans of the value at a place; returns where it ends."""
        at = blank(at)
        if text[at] not in "{[":
            end = DECODER.raw_decode(text, at)[1]
            yield path, at, end
            return end
        is_object, at, number = text[at] == "{", blank(at + 1), 0
        while text[at] not in "]}":
            name = f"{path}[{number}]"
            if is_object:
                key, at = DECODER.raw_decode(text, at)
                name = f"{path}.{key}" if path else key
                at = blank(at) + 1  # the colon
            at = blank((yield from value(at, name)))
            at = blank(at + 1) if text[at] == "," else at
            number += 1
        return at + 1

    yield from value(0, "")


def gap_spans(text: str, template: str) -> Iterator[tuple[str, int, int]]:
    """(number, start, end) of every gap of a filled template, in order."""
    parts = template_parts(template)
    pattern = "".join(part.pattern if part.text is not None else f"({part.pattern})" for part in parts)
    found = re.fullmatch(pattern, text)
    assert found is not None, "the answer has the shape"
    for number in range(1, len(found.groups()) + 1):
        yield str(number), found.start(number), found.end(number)
