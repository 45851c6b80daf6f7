"""The table of docs/shapes.md says what is held and what is refused: every cell of our column is tried."""

import re
from pathlib import Path

import pytest

from llada_v import SamplerConfig

PAGE = Path(__file__).parents[1] / "docs" / "shapes.md"
ONE = {"type": "null"}
OBJECT = {"type": "object", "properties": {"a": ONE}}
ARRAY = {"type": "array", "items": ONE}
RECURSIVE = {"type": "object", "properties": {"a": {"$ref": "#"}}}


def schemas(*found):
    return [{"json_schema": schema} for schema in found]


# A feature: what is held of it, and what is refused.
FEATURES = {
    "`type`, also several": (schemas({"type": "number"}, {"type": ["null", "boolean"]}), []),
    "`enum`, `const`": (schemas({"enum": [1, "a", None]}, {"const": 2.5}), []),
    "`properties`, `required`": (schemas(OBJECT | {"required": ["a"]}), []),
    "properties that may be left out": (schemas(OBJECT, OBJECT | {"additionalProperties": False}), []),
    "further properties": (schemas(OBJECT | {"additionalProperties": True}), schemas({"type": "object"})),
    "`patternProperties`": ([], schemas(OBJECT | {"patternProperties": {"^b": ONE}})),
    "`minProperties`, `maxProperties`": ([], schemas(OBJECT | {"minProperties": 1}, OBJECT | {"maxProperties": 1})),
    "`items`, `minItems`, `maxItems`": (schemas(ARRAY, ARRAY | {"minItems": 1, "maxItems": 2}), []),
    "`prefixItems`": ([], schemas(ARRAY | {"prefixItems": [ONE]})),
    "`uniqueItems`": ([], schemas(ARRAY | {"uniqueItems": True})),
    "`minLength`, `maxLength`": (schemas({"type": "string", "minLength": 1, "maxLength": 2}), []),
    "`pattern`": (
        schemas({"type": "string", "pattern": "^[a-z]+$"}),
        schemas({"type": "string", "pattern": "[a-z]+"}, {"type": "string", "pattern": "^.$"}),
    ),
    "`format`": ([], schemas({"type": "string", "format": "date"})),
    "limits of whole numbers": (
        schemas({"type": "integer", "minimum": -3, "maximum": 9}, {"type": "integer", "exclusiveMinimum": 2}),
        [],
    ),
    "limits of other numbers": ([], schemas({"type": "number", "minimum": 0}, {"type": "number", "maximum": 1})),
    "`multipleOf`": ([], schemas({"type": "integer", "multipleOf": 3})),
    "`anyOf`": (schemas({"anyOf": [ONE, OBJECT]}), []),
    "`oneOf`": ([], schemas({"oneOf": [ONE, OBJECT]})),
    "`allOf`": (schemas({"allOf": [ONE]}), schemas({"allOf": [ONE, ONE]})),
    "`$ref` into the schema": (schemas({"$ref": "#/$defs/one", "$defs": {"one": ONE}}), []),
    "recursive `$ref`": ([], schemas(RECURSIVE)),
    "regular expression": ([{"regex": "(a|b)+"}], []),
    "one of some texts": ([{"choices": ["a", "b c"]}], []),
    "form whose gaps are filled in any order": ([{"template": "a {integer} b"}], []),
    "context-free grammar": ([], [{"grammar": "root ::= 'a'"}]),
}


def table():
    """feature -> our cell."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("| feature | here | Outlines | Guidance | vLLM |") + 2
    rows = []
    while lines[start].startswith("|"):
        rows.append([cell.strip() for cell in lines[start].strip("|").split("|")])
        start += 1
    return {row[0]: row[1] for row in rows}


def test_the_blocks_of_the_page_run_and_say_what_it_says(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(PAGE.parents[1])
    monkeypatch.setattr("llada_v.generation.shape.CACHE", str(tmp_path))
    known: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(block, "docs/shapes.md", "exec"), known)
    first, second = capsys.readouterr().out.splitlines()
    assert first == '{"count": 3, "star": false}' and second.startswith("False 0.9")


def test_every_feature_of_the_table_is_tried():
    assert table().keys() == FEATURES.keys()


@pytest.mark.parametrize("feature", FEATURES)
def test_our_column_says_what_is_held(feature):
    held, refused = FEATURES[feature]
    assert (
        table()[feature]
        == {(True, False): "yes", (True, True): "part", (False, True): "refused"}[bool(held), bool(refused)]
    )
    for constraint in held:
        SamplerConfig(constraint=constraint)
    for constraint in refused:
        with pytest.raises(ValueError):
            SamplerConfig(constraint=constraint)
