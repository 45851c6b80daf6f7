"""The shape of an answer, as a regular expression: a pattern, choices, a template, or a JSON schema.

JSON is written in one form: keys in the order of the schema, ", " and ": " between, nothing escaped that need not be.
What an expression cannot hold is refused by its name, never dropped.
"""

import json
import re
import warnings
from dataclasses import dataclass
from re import _parser  # type: ignore[attr-defined]  # typeshed leaves it out

from ..errors import WrongValue
from ..json_text import shown

KINDS = ("regex", "choices", "template", "json_schema")
MOST_LETTERS = 100_000  # of an expression
MOST_CHOICES = 10_000
MOST_LEVELS = 20  # of a schema's objects and lists inside each other
ANNOTATIONS = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "$schema", "$id", "$comment", "$defs", "definitions",
}  # fmt: skip
# Keywords that are held, by type, beside the annotations.
HELD = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"pattern", "minLength", "maxLength"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": set(),
    "boolean": set(),
    "null": set(),
}
INSTEAD = {
    "oneOf": "in place of oneOf write anyOf, which lets through what several options allow, too",
    "not": "say what may be, in place of what may not",
    "format": "in place of format write a pattern",
    "multipleOf": "in place of multipleOf list the values in enum",
    "patternProperties": "name the properties",
    "prefixItems": "in place of a list of different items write an object",
}
WITHOUT_TYPE = {"type", "$ref", "anyOf", "allOf", "enum", "const"}.union(*HELD.values())
LETTER = r'(?:[^"\\\x00-\x1f\x7f]|\\["\\nrt])'
INTEGER = r"(?:0|-?[1-9][0-9]{0,14})"
PLAIN = {
    "integer": INTEGER,
    "number": r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?",
    "boolean": "(?:true|false)",
    "null": "null",
}
TYPES = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}
ASCII = {"\\d": "0-9", "\\w": "0-9A-Za-z_", "\\s": r" \t\n\r\f\v"}
NOT_PLAIN = (*range(32), 34, 92, 127)  # letters that JSON does not write as they are
TEMPLATE = re.compile(r"\{\{|\}\}|\{(?P<gap>text|number|integer|choice)(?::(?P<argument>[^{}]*))?\}|[{}]|[^{}]+")


def pattern_of(constraint: dict) -> str:
    """The regular expression that a whole answer must match.

    constraint: one of {"regex": text}, {"choices": [text, ...]}, {"template": text}, {"json_schema": object or a
        pydantic model}. In a template {text:1-12} stands for that many letters on one line, {number}, {integer} for
        those, {choice:yes|no} for one of these; {{ and }} are braces.
    Raises ValueError for anything else, and for keywords of a schema that no expression holds, by name.
    """
    if not isinstance(constraint, dict) or len(constraint) != 1 or next(iter(constraint)) not in KINDS:
        raise WrongValue(
            f"constraint is {shown(constraint)}; give one of {', '.join(KINDS)}, for example {{'regex': ...}}"
        )
    ((kind, value),) = constraint.items()
    made = {"regex": of_regex, "choices": of_choices, "template": of_template, "json_schema": of_schema}[kind](value)
    if len(made) > MOST_LETTERS:
        raise WrongValue(f"the {kind} makes an expression of {len(made)} letters; there may be {MOST_LETTERS}")
    return made


def of_regex(value) -> str:
    """A pattern that a whole answer must match: anchors at its ends say nothing new and are left out.

    \\d, \\w and \\s stand for letters of ASCII alone, as in JSON Schema and with Python's re.ASCII.
    """
    if not isinstance(value, str) or not value:
        raise WrongValue(f"regex is {shown(value)}; give a pattern")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python and outlines-core read as different sets of letters
            re.compile(value)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise WrongValue(f"regex {shown(value)} is no regular expression: {error}") from error
    pattern, value = value, value.removeprefix("^")
    body = value[:-1]
    if value.endswith("$") and (len(body) - len(body.rstrip("\\"))) % 2 == 0:
        value = body
    if has_anchor(_parser.parse(value)):
        raise WrongValue(
            f"regex {shown(pattern)} has an anchor or a border inside, which cannot be held: the whole answer is what "
            "matches; leave it out"
        )
    return f"(?:{in_ascii(value)})"


def has_anchor(tree) -> bool:
    """Whether a parsed pattern says what stands beside it: ^, $, \\b."""
    return any(str(kind) == "AT" or any(map(has_anchor, parts_of(value))) for kind, value in tree)


def in_ascii(pattern: str) -> str:
    """A pattern with its classes of letters written out."""
    found, in_class, letters = [], False, iter(pattern)
    for letter in letters:
        if letter == "\\":
            letter += next(letters)
            inside = ASCII.get(letter.lower())
            if inside is not None:
                if in_class and letter[1].isupper():
                    raise WrongValue(f"regex {shown(pattern)} has {letter} inside a class; write the letters out")
                letter = inside if in_class else f"[{'^' if letter[1].isupper() else ''}{inside}]"
        elif letter == "[" and in_class:
            letter = "\\["
        else:
            in_class = letter == "[" or in_class and letter != "]"
        found.append(letter)
    return "".join(found)


def of_choices(value) -> str:
    """One of several texts."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MOST_CHOICES:
        raise WrongValue(f"choices is {shown(value)}; give a list of 1 to {MOST_CHOICES} texts")
    odd = [choice for choice in value if not isinstance(choice, str) or not choice]
    if odd:
        raise WrongValue(f"choices has {shown(odd[0])}; each is a text that is not empty")
    return one_of([escaped(choice) for choice in value])


def of_template(value) -> str:
    """Fixed text with gaps."""
    return "".join(part.pattern for part in template_parts(value))


@dataclass(frozen=True)
class Part:
    """A part of a template: fixed text, or a gap.

    text: of fixed text; None for a gap. pattern: the expression of either. choices: of a gap, the only texts.
    most: the most letters of any other gap.
    """

    text: str | None
    pattern: str
    choices: tuple[str, ...] = ()
    most: int = 0


def template_parts(value) -> list[Part]:
    """The parts of a template in order, no two fixed texts side by side. Raises ValueError for what is no template."""
    if not isinstance(value, str) or not value:
        raise WrongValue(f"template is {shown(value)}; give a text with gaps such as {{text:1-12}}")
    parts: list[Part] = []
    for found in TEMPLATE.finditer(value):
        if found["gap"]:
            parts.append(gap(found["gap"], found["argument"]))
        elif found[0] in ("{", "}"):
            raise WrongValue(
                f"template has {shown(value[found.start() :])}; a gap is {{text:1-12}}, {{number}}, {{integer}} or "
                "{choice:yes|no}, and a brace is written twice"
            )
        else:
            text = {"{{": "{", "}}": "}"}.get(found[0], found[0])
            text = (parts.pop().text or "") + text if parts and parts[-1].text is not None else text
            parts.append(fixed(text))
    return parts


def gap(kind: str, argument: str | None) -> Part:
    """One gap."""
    if kind == "choice":
        choices = (argument or "").split("|")
        return Part(None, of_choices(choices), tuple(choices))
    if kind == "text":
        found = re.fullmatch(r"(\d{1,4})-(\d{1,4})", argument or "1-100")
        if not found or not 1 <= int(found[2]) or not int(found[1]) <= int(found[2]):
            raise WrongValue(
                f"template has {{text:{argument}}}; give the least and the most letters, as in {{text:1-12}}"
            )
        return Part(None, rf"[^\x00-\x1f\x7f]{{{found[1]},{found[2]}}}", most=int(found[2]))
    if argument is not None:
        raise WrongValue(f"template has {{{kind}:{argument}}}; {{{kind}}} takes nothing behind it")
    if kind == "integer":
        return Part(None, INTEGER, most=16)
    return Part(None, r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?", most=32)


def of_schema(value) -> str:
    """The JSON texts that a schema allows, in the one form of this module."""
    schema = schema_of(value)
    return schema_pattern(schema, schema, (), "the schema")


def schema_of(value) -> dict:
    """The schema, of itself or of a pydantic model."""
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if not isinstance(value, dict):
        raise WrongValue(f"json_schema is {shown(value)}; give an object or a pydantic model")
    return value


def schema_parts(value) -> list[Part] | None:
    """A schema whose texts differ in their values alone, as a template; None for any other.

    That is an object, of objects perhaps, all of whose properties are required and whose values are of bounded length.
    """
    schema = schema_of(value)
    parts = value_parts(schema, schema, (), "the schema")
    if parts is None or "properties" not in schema:
        return None
    found: list[Part] = []
    for part in parts:
        if part.text is not None and found and found[-1].text is not None:
            found[-1] = fixed(found[-1].text + part.text)
        else:
            found.append(part)
    return found


def value_parts(schema: dict, root: dict, refs: tuple[str, ...], where: str) -> list[Part] | None:
    """`schema_parts` of one value, texts side by side."""
    pattern = schema_pattern(schema, root, refs, where)  # which checks it
    if "$ref" in schema:
        inner, root, refs = followed(schema["$ref"], root, refs, where)
        return value_parts(inner, root, refs, where)
    if "enum" in schema or "const" in schema:
        values = listed_values(schema, where)
        if all(isinstance(value, str) for value in values):
            return quoted(choice([json.dumps(value, ensure_ascii=False)[1:-1] for value in values]))
        return [choice([json.dumps(value, ensure_ascii=False) for value in values])]
    kind = schema.get("type")
    if kind == "object":
        properties = schema["properties"]
        if set(schema.get("required", [])) != set(properties):
            return None
        parts = []
        for number, (name, inner) in enumerate(properties.items()):
            value = value_parts(inner, root, refs, f"{where}.{name}")
            if value is None:
                return None
            before = ("{" if number == 0 else ", ") + json.dumps(name, ensure_ascii=False) + ": "
            parts += [fixed(before), *value]
        return [*parts, fixed("}")]
    if kind == "string" and "maxLength" in schema:
        return quoted(Part(None, pattern[1:-1], most=schema["maxLength"]))
    if kind == "boolean":
        return [choice(["true", "false"])]
    if kind == "null":
        return [fixed("null")]
    if kind in ("integer", "number"):
        limits = [abs(schema[name]) for name in HELD["integer"] if name in schema]
        digits = max(map(len, map(str, limits))) if len(limits) == 2 else 15
        return [Part(None, pattern, most=1 + digits if kind == "integer" else 32)]
    return None


def fixed(text: str) -> Part:
    """Text that stands."""
    return Part(text, escaped(text))


def choice(texts: list[str]) -> Part:
    """A gap for one of some texts; text that stands where there is one."""
    return Part(None, of_choices(texts), tuple(texts)) if len(texts) > 1 else fixed(texts[0])


def quoted(part: Part) -> list[Part]:
    """A part between quotes."""
    return [fixed('"'), part, fixed('"')]


def schema_pattern(schema, root: dict, refs: tuple[str, ...], where: str) -> str:
    """The expression of one schema. refs: the references that led to it."""
    if not isinstance(schema, dict):
        raise WrongValue(f"{where} is {shown(schema)}; an object with a type is expected")
    if where.count(".") + where.count("[") > MOST_LEVELS:
        raise WrongValue(f"{where} is nested deeper than {MOST_LEVELS} levels")
    for word in ("$ref", "anyOf", "allOf"):
        if word in schema:
            only(schema, {word}, where)
    if "$ref" in schema:
        return schema_pattern(*followed(schema["$ref"], root, refs, where), where)
    if "anyOf" in schema or "allOf" in schema:
        word = "anyOf" if "anyOf" in schema else "allOf"
        options = schema[word]
        if not isinstance(options, list) or not options or word == "allOf" and len(options) > 1:
            raise WrongValue(
                f"{where} has {word} {shown(options)}; a list of {'one' if word == 'allOf' else 'some'} is held"
            )
        return one_of([schema_pattern(option, root, refs, where) for option in options])
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "enum" in schema or "const" in schema:
        only(schema, {"enum", "const", "type"}, where)
        return listed(schema, where)
    if kinds == [None]:
        only(schema, WITHOUT_TYPE, where)
    for kind in kinds:
        if kind not in HELD:
            raise WrongValue(f"{where} has type {shown(kind)}; it must be one of {', '.join(HELD)}")
    only(schema, {"type"}.union(*(HELD[kind] for kind in kinds)), where)
    return one_of([type_pattern(kind, schema, root, refs, where) for kind in kinds])


def only(schema: dict, held: set[str], where: str) -> None:
    """Raise ValueError naming the keywords of a schema that are not held."""
    odd = sorted(map(str, schema.keys() - held - ANNOTATIONS))
    if odd:
        told = "".join(f"; {INSTEAD[word]}" for word in odd if word in INSTEAD)
        raise WrongValue(
            f"{where} has {', '.join(odd)}, which is not held here; there may be {', '.join(sorted(held))}{told}"
        )


def followed(ref, root: dict, refs: tuple[str, ...], where: str) -> tuple[dict, dict, tuple[str, ...]]:
    """What a reference names, for `schema_pattern`."""
    if not isinstance(ref, str) or not ref.startswith("#/"):
        raise WrongValue(
            f"{where} has $ref {shown(ref)}; only references into the schema itself, #/$defs/..., are followed"
        )
    if ref in refs:
        raise WrongValue(f"{where} has $ref {shown(ref)}, which leads back to itself: recursive schemas are not held")
    inside = root
    for name in ref[2:].split("/"):
        name = name.replace("~1", "/").replace("~0", "~")
        if not isinstance(inside, dict) or name not in inside:
            raise WrongValue(f"{where} has $ref {shown(ref)}, which names nothing in the schema")
        inside = inside[name]
    return inside, root, (*refs, ref)


def listed(schema: dict, where: str) -> str:
    """The values of enum or const."""
    values = listed_values(schema, where)
    try:
        return one_of([escaped(json.dumps(value, ensure_ascii=False, allow_nan=False)) for value in values])
    except (TypeError, ValueError) as error:
        raise WrongValue(f"{where} has enum {shown(values)}, which is no JSON") from error


def listed_values(schema: dict, where: str) -> list:
    """The values of enum or const that are of the schema's type."""
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if "enum" in schema and "const" in schema or not isinstance(values, list) or not 1 <= len(values) <= MOST_CHOICES:
        raise WrongValue(
            f"{where} has enum {shown(values)}; a list of 1 to {MOST_CHOICES} values, without const, is held"
        )
    kept = [value for value in values if kinds == [None] or any(is_of(value, kind) for kind in kinds)]
    if not kept:
        raise WrongValue(f"{where} has enum {shown(values)}, of which none is of type {shown(schema.get('type'))}")
    return kept


def is_of(value, kind: str) -> bool:
    """Whether a JSON value is of a schema's type."""
    if kind in ("integer", "number"):
        kinds = (int, float) if kind == "number" else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, TYPES.get(kind, ()))


def type_pattern(kind: str, schema: dict, root: dict, refs, where: str) -> str:
    """The expression of a schema of one type."""
    if kind == "object":
        return object_pattern(schema, root, refs, where)
    if kind == "array":
        return array_pattern(schema, root, refs, where)
    if kind == "string":
        return string_pattern(schema, where)
    if kind == "integer" and schema.keys() & HELD["integer"]:
        return bounded_integer(schema, where)
    return PLAIN[kind]


def object_pattern(schema: dict, root: dict, refs, where: str) -> str:
    """Its properties in order; those that are not required may be left out."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not properties:
        raise WrongValue(f"{where} is an object without properties; name them: any object is more than is held")
    if not isinstance(required, list) or not all(name in properties for name in required):
        raise WrongValue(f"{where} has required {shown(required)}; a list of names in its properties is expected")
    members = []
    for name, inner in properties.items():
        value = schema_pattern(inner, root, refs, f"{where}.{name}")
        members.append((escaped(json.dumps(name, ensure_ascii=False)) + ": " + value, name in required))
    # The first that must be there decides where the commas stand.
    first = next((place for place, (_, must) in enumerate(members) if must), None)
    if first is not None:
        return r"\{" + sequence(members, first) + r"\}"
    options = [sequence([(member, place == begin) for place, (member, _) in enumerate(members)][begin:], 0)
               for begin in range(len(members))]  # fmt: skip
    return r"\{(?:" + "|".join(options) + r")?\}"


def sequence(members: list[tuple[str, bool]], first: int) -> str:
    """Members with commas between: of (expression, is required) the one at `first` is always there."""
    before = "".join(f"(?:{member}, )?" for member, _ in members[:first])
    after = "".join(f", {member}" if must else f"(?:, {member})?" for member, must in members[first + 1 :])
    return before + members[first][0] + after


def array_pattern(schema: dict, root: dict, refs, where: str) -> str:
    """A list of one kind of items."""
    if "items" not in schema:
        raise WrongValue(f"{where} is an array without items; say what it holds")
    item = schema_pattern(schema["items"], root, refs, f"{where}[]")
    least, most = bounds(schema, "minItems", "maxItems", where)
    if most == 0:
        return r"\[\]"
    more = f"(?:, {item}){{{max(0, least - 1)},{'' if most is None else most - 1}}}"
    return rf"\[{item}{more}\]" if least else rf"\[(?:{item}{more})?\]"


def string_pattern(schema: dict, where: str) -> str:
    """A string, of some lengths or of a pattern."""
    if "pattern" not in schema:
        least, most = bounds(schema, "minLength", "maxLength", where)
        return f'"{LETTER}{{{least},{"" if most is None else most}}}"'
    if schema.keys() & {"minLength", "maxLength"}:
        raise WrongValue(f"{where} has pattern beside a length; say the length in the pattern, as in ^[a-z]{{1,9}}$")
    pattern = schema["pattern"]
    if (
        not isinstance(pattern, str)
        or not pattern.startswith("^")
        or not pattern.endswith("$")
        or pattern.endswith("\\$")
    ):
        raise WrongValue(
            f"{where} has pattern {shown(pattern)}; begin it with ^ and end it with $: it is the whole string"
        )
    inside = of_regex(pattern)
    check_letters(_parser.parse(inside), pattern, where)
    return f'"{inside}"'


def check_letters(tree, pattern: str, where: str) -> None:
    """Raise ValueError where a parsed pattern can match a letter that JSON writes in another way, or looks around."""
    for kind, value in tree:
        name = str(kind)
        if name in ("ANY", "NOT_LITERAL") or name == "LITERAL" and value in NOT_PLAIN:
            told = "can match a quote, a backslash or a control letter"
        elif name == "IN" and any(re.fullmatch(class_of(value), chr(letter)) for letter in NOT_PLAIN):
            told = "can match a quote, a backslash or a control letter"
        elif name in ("AT", "ASSERT", "ASSERT_NOT", "GROUPREF", "GROUPREF_EXISTS"):
            told = "looks around or back"
        else:
            for inner in parts_of(value):
                check_letters(inner, pattern, where)
            continue
        raise WrongValue(f"{where} has pattern {shown(pattern)}, which {told}; write classes such as [a-z0-9 ]")


def class_of(items: list) -> str:
    """A class of letters as it was written, from its parsed items."""
    text = ""
    for kind, value in items:
        name = str(kind)
        if name == "LITERAL":
            text += f"\\U{value:08x}"
        elif name == "RANGE":
            text += f"\\U{value[0]:08x}-\\U{value[1]:08x}"
        elif name == "CATEGORY":
            letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[str(value).split("_")[-1]]
            text += "\\" + (letter.upper() if "_NOT_" in str(value) else letter)
    return f"[{'^' if str(items[0][0]) == 'NEGATE' else ''}{text}]"


def parts_of(value) -> list:
    """The parsed patterns inside a parsed part."""
    if isinstance(value, _parser.SubPattern):
        return [value]
    return [part for item in value for part in parts_of(item)] if isinstance(value, (list, tuple)) else []


def bounds(schema: dict, least_name: str, most_name: str, where: str) -> tuple[int, int | None]:
    """Least and most, as whole numbers that fit each other."""
    least, most = schema.get(least_name, 0), schema.get(most_name)
    for name, value in ((least_name, least), (most_name, most)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000):
            raise WrongValue(f"{where} has {name} {shown(value)}; a whole number from 0 to 1000 is held")
    if most is not None and most < least:
        raise WrongValue(f"{where} has {least_name} {least} and {most_name} {most}; nothing fits both")
    return least, most


def bounded_integer(schema: dict, where: str) -> str:
    """Whole numbers within limits."""
    limit = 10**15 - 1
    values = {name: schema[name] for name in HELD["integer"] if name in schema}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > limit:
            raise WrongValue(f"{where} has {name} {shown(value)}; a whole number of at most 15 digits is held")
    least = max(values.get("minimum", -limit), values.get("exclusiveMinimum", -limit - 1) + 1)
    most = min(values.get("maximum", limit), values.get("exclusiveMaximum", limit + 1) - 1)
    if most < least:
        raise WrongValue(f"{where} allows no whole number: none is at least {least} and at most {most}")
    options = []
    if least < 0:
        options.append("-" + one_of(numbers_between(max(1, -most), -least)))
    if most >= 0:
        options += numbers_between(max(0, least), most)
    return one_of(options)


def numbers_between(least: int, most: int) -> list[str]:
    """Expressions that together match the numbers from `least` to `most`, neither negative, without leading zeros."""
    found = []
    while least <= most:
        # The longest run that begins here and is one prefix followed by any digits.
        free = 0
        while True:
            step = 10 ** (free + 1)
            if least % step or least + step - 1 > most or least < step and free + 1 >= 1 and least == 0:
                break
            free += 1
        step = 10**free
        head, low = divmod(least // step, 10)
        high = min(9, (most - least + 1) // step + low - 1)
        digits = f"[{low}-{high}]" if high > low else str(low)
        found.append((str(head) if head else "") + digits + (f"[0-9]{{{free}}}" if free else ""))
        least += (high - low + 1) * step
    return found


def one_of(options: list[str]) -> str:
    """Any of the expressions."""
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def escaped(text: str) -> str:
    """An expression that matches just this text."""
    return "".join(f"\\{letter}" if letter in r"\.+*?()|[]{}^$#&-~/" else letter for letter in text)
