"""JSON whose fields are asked apart: each property's description is a question of its own, its type the answer's shape.

A model that was never shown JSON knows well what it is asked in words. So every field becomes a row of a batch, asked
by its description about the same pictures and held to texts that say a value, and the values are put into the JSON:

    {"count": {"type": "integer", "description": "How many objects are there?"}}  ->  "3"  ->  {"count": 3}

Knows texts, no tokenizer and no model.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import WrongValue
from ..json_text import shown
from .patterns import bounds, followed, listed_values, schema_of, schema_pattern

MOST_FIELDS = 64
YES_NO = {True: "yes", False: "no"}


@dataclass(frozen=True)
class Field:
    """A question.

    path: names that lead to the field. text: the question, the field's description. constraint: the shape of its
    answer, as `SamplerConfig` takes it. value_of: from an answer to the JSON text of the value.
    """

    path: tuple[str, ...]
    text: str
    constraint: dict
    value_of: Callable[[str], str]

    @property
    def name(self) -> str:
        """As `Answer.fields` calls it: "person.name"."""
        return ".".join(self.path)


def fields_apart(schema) -> list[Field]:
    """The questions of a schema, an object's or a pydantic model's, in order; what can only be one value asks none.

    Raises ValueError for a schema that is no object, whose fields are not described, or that cannot be held.
    """
    root = schema_of(schema)
    schema_pattern(root, root, (), "the schema")  # which checks all of it
    found = [field for field in parts_of(root, root, (), ()) if isinstance(field, Field)]
    if not 1 <= len(found) <= MOST_FIELDS:
        raise WrongValue(f"the schema asks for {len(found)} fields; asked apart there may be 1 to {MOST_FIELDS}")
    return found


def put_together(schema, answers: list[str]) -> str:
    """The JSON text of a schema's fields, from the answers to its questions in their order."""
    root, rest = schema_of(schema), iter(answers)
    parts = parts_of(root, root, (), ())
    return "".join(part if isinstance(part, str) else part.value_of(next(rest)) for part in parts)


def parts_of(schema: dict, root: dict, refs: tuple[str, ...], path: tuple[str, ...], told="") -> Iterator[str | Field]:
    """The JSON of a schema: text that is always there, and a `Field` for each value. told: how it was described."""
    told = schema.get("description", told)
    if "$ref" in schema or len(schema.get("allOf", ())) == 1:
        inner = schema.get("allOf", [None])[0]
        if "$ref" in schema:
            inner, root, refs = followed(schema["$ref"], root, refs, ".".join(path))
        # What describes the use says more than what describes the type.
        yield from parts_of({**inner, "description": told} if told else inner, root, refs, path)
    elif schema.get("type") == "object":
        for number, (name, inner) in enumerate(schema["properties"].items()):
            yield ("{" if number == 0 else ", ") + json.dumps(name, ensure_ascii=False) + ": "
            yield from parts_of(inner, root, refs, (*path, name))
        yield "}"
    elif not path:
        raise WrongValue("the schema is no object; only an object's fields can be asked apart: set fields='together'")
    else:
        yield field_of(schema, root, path, told)


def field_of(schema: dict, root: dict, path: tuple[str, ...], told) -> str | Field:
    """One field, or its text where it can only be one."""
    of_type: dict[str, list] = {"boolean": [True, False], "null": [None]}
    is_listed = "enum" in schema or "const" in schema
    values = listed_values(schema, ".".join(path)) if is_listed else of_type.get(str(schema.get("type")), [])
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    if len(texts) == 1:
        return texts[0]
    if not isinstance(told, str) or not told.strip():
        raise WrongValue(
            f"{'.'.join(path)} has no description, by which it is asked apart; write the question there, or set "
            "fields='together'"
        )
    if texts:
        words = [said(value) for value in values]
        if len(set(words)) < len(words):
            raise WrongValue(f"{'.'.join(path)} has enum {shown(values)}, of which two are said alike; leave one out")
        return Field(path, told, {"choices": words}, dict(zip(words, texts, strict=True)).__getitem__)
    if schema.get("type") == "string":
        least, most = bounds(schema, "minLength", "maxLength", ".".join(path))
        pattern = schema.get("pattern", rf"[^\x00-\x1f\x7f]{{{least},{'' if most is None else most}}}")
        return Field(path, told, {"regex": pattern}, lambda text: json.dumps(text, ensure_ascii=False))
    definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
    return Field(path, told, {"json_schema": schema | definitions}, str)


def said(value) -> str:
    """A value as an answer says it."""
    return value if isinstance(value, str) else YES_NO[value] if isinstance(value, bool) else json.dumps(value)
