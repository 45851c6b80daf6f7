"""JSON whose fields are asked apart: each is answered as its question alone is, and together they are valid JSON."""

import json
import math
from enum import Enum
from typing import Literal

import pytest
import torch
from pydantic import BaseModel, Field
from server import ask, serving
from shapes import END, MASK, PIECES, shape

from llada_v import SamplerConfig, answer, cli, load
from llada_v.answering import DEMO_IMAGE
from llada_v.conversation import user_message
from llada_v.generation.apart import fields_apart, put_together
from llada_v.generation.template import EachRow
from llada_v.images import load_image


class Colour(Enum):
    red, green = "red", "green"


class Place(BaseModel):
    above: bool = Field(description="Is the blue square above the green circle?")
    unit: Literal["px"]


class Picture(BaseModel):
    count: int = Field(description="How many objects are there?")
    colour: Colour = Field(description="What colour is the circle?")
    name: str = Field(description="What shape is the purple object?", max_length=20)
    place: Place


SCHEMA = Picture.model_json_schema()
TEXTS = ["How many objects are there?", "What colour is the circle?", "What shape is the purple object?"]
TEXTS += ["Is the blue square above the green circle?"]


@pytest.fixture(scope="module")
def shipped_model():
    return load()


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("llada_v.generation.shape.CACHE", str(tmp_path))


def test_a_schema_is_its_questions_and_their_answers_are_its_json():
    asked = fields_apart(Picture)
    assert [field.text for field in asked] == TEXTS
    assert [field.name for field in asked] == ["count", "colour", "name", "place.above"]
    assert asked[1].constraint == {"choices": ["red", "green"]} and asked[3].constraint == {"choices": ["yes", "no"]}
    text = put_together(Picture, ["3", "red", 'a "b"', "no"])
    assert text == '{"count": 3, "colour": "red", "name": "a \\"b\\"", "place": {"above": false, "unit": "px"}}'
    assert Picture.model_validate_json(text).place.above is False


def test_what_is_no_word_is_answered_as_json():
    inner = {"type": ["integer", "null"], "description": "Which year?"}
    schema = {
        "type": "object",
        "properties": {
            "years": {"type": "array", "items": {"$ref": "#/$defs/year"}, "description": "Which years?"},
            "mixed": {"enum": [1, "two", None], "description": "Which?"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}$", "description": "Which code?"},
            "year": {"$ref": "#/$defs/year"},
        },
        "$defs": {"year": inner},
    }
    years, mixed, code, year = fields_apart(schema)
    assert years.constraint["json_schema"]["items"] == {"$ref": "#/$defs/year"}
    SamplerConfig(constraint=years.constraint)
    assert mixed.constraint == {"choices": ["1", "two", "null"]} and mixed.value_of("two") == '"two"'
    assert code.constraint == {"regex": "^[A-Z]{2}$"} and year.text == "Which year?"
    found = put_together(schema, ["[1990, null]", "null", "NL", "1990"])
    assert json.loads(found) == {"years": [1990, None], "mixed": None, "code": "NL", "year": 1990}


@pytest.mark.parametrize(
    "constraint, told",
    [
        (None, "fields 'apart' are those of a json_schema"),
        ({"regex": "a"}, "fields 'apart' are those of a json_schema"),
        ({"json_schema": {"type": "integer", "description": "How many?"}}, "the schema is no object"),
        ({"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}, "a has no description"),
        ({"json_schema": {"type": "object", "properties": {"a": {"const": 3}}}}, "asks for 0 fields"),
        (
            {"json_schema": {"type": "object", "properties": {"a": {"enum": ["3", 3], "description": "How many?"}}}},
            "of which two are said alike",
        ),
        ({"json_schema": {"type": "object", "properties": {"a": {"oneOf": []}}}}, "oneOf"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_apart_is_refused(constraint, told):
    with pytest.raises(ValueError, match=told):
        SamplerConfig(fields="apart", constraint=constraint)
    with pytest.raises(ValueError, match="fields is 'alone'; choose one of together, apart"):
        SamplerConfig(fields="alone")


SETTINGS = [
    {},
    {"rule": "threshold", "threshold": 0.9, "lookahead": 2},
    {"cache": "prompt", "rule": "factor", "block_length": 4},
    {"cache": "dllm"},
    {"gen_length": "auto", "rule": "threshold"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_field_is_answered_as_its_question_alone(shipped_model, settings):
    settings = {"gen_length": 16} | settings
    sampler = SamplerConfig(fields="apart", constraint={"json_schema": Picture}, **settings)
    seen = []
    found = answer(*shipped_model, "", [DEMO_IMAGE], sampler=sampler, callback=seen.append)
    alone = [
        answer(*shipped_model, field.text, [DEMO_IMAGE], sampler=SamplerConfig(constraint=field.constraint, **settings))
        for field in fields_apart(Picture)
    ]
    assert found.text == put_together(Picture, [one.text for one in alone])
    assert found.token_ids == [token for one in alone for token in one.token_ids]
    assert found.probabilities == pytest.approx([p for one in alone for p in one.probabilities], abs=1e-4)
    assert list(found.fields.values()) == pytest.approx([math.prod(one.probabilities) for one in alone], abs=1e-4)
    assert found.steps == len(seen) == max(one.steps for one in alone)
    value = Picture.model_validate_json(found.text)
    assert (value.count, value.colour, value.name, value.place.above) == (3, Colour.green, "triangle", True)


def test_a_question_stands_in_front_of_the_descriptions(shipped_model, monkeypatch):
    model, processor = shipped_model
    seen = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: seen.append(inputs) or generate(**inputs))
    sampler = SamplerConfig(gen_length=8, steps=1, fields="apart", constraint={"json_schema": Picture})
    answer(model, processor, "Look.", [DEMO_IMAGE], sampler=sampler, history=[user_message("Hi")])
    for ids, text in zip(seen[0]["input_ids"], TEXTS, strict=True):
        said = processor.decode(ids, skip_special_tokens=True)
        assert f"Look.\n{text}" in said and "Hi" in said


def test_each_row_has_its_own_shape():
    each = EachRow([shape({"template": "a{choice:b|c}"}, 5), shape({"regex": "[xy]+"}, 5)])
    canvas = each.initial
    logits = torch.zeros(int((canvas == MASK).sum()), len(PIECES))
    let = each.restrict(logits, canvas, canvas == MASK).isfinite()
    first, second = PIECES.index(b"b"), PIECES.index(b"x")
    rows = (canvas == MASK).nonzero()[:, 0]
    assert let[rows == 0][0, first] and not let[rows == 0][:, second].any()
    assert let[rows == 1][0, second] and not let[rows == 1][:, first].any()
    turned = each.of([1, 0, 1])
    assert torch.equal(turned.initial, canvas[[1, 0, 1]])
    ended = torch.where(canvas == MASK, END, canvas)
    own = [one.is_said(row) for one, row in zip(each.shapes, ended.split(1), strict=True)]
    assert torch.equal(each.is_said(ended), torch.cat(own))


def test_generate_wants_a_prompt_for_each_field(shipped_model):
    model, processor = shipped_model
    sampler = SamplerConfig(gen_length=8, fields="apart", constraint={"json_schema": Picture})
    with pytest.raises(ValueError, match="asks for 4 fields apart, and there are 1 prompts"):
        model.generate(torch.tensor([[40]]), sampler=sampler, tokenizer=processor)


def test_the_shell_and_the_server_ask_apart_too(shipped_model, tmp_path, capsys):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    words = ["generate", "--image", str(DEMO_IMAGE), "--json-schema", str(file), "--fields", "apart"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out.strip()
    assert json.loads(said)["place"] == {"above": True, "unit": "px"}
    assert cli.main([*words, "--gif", str(tmp_path / "a.gif")]) == 2
    with serving(*shipped_model) as live:
        body = {
            "messages": ask("", load_image(DEMO_IMAGE)),
            "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
            "diffusion": {"fields": "apart"},
        }
        status, found = live.chat(**body)
        assert status == 200 and found["choices"][0]["message"]["content"] == said
        assert found["usage"]["completion_tokens"] >= 4
        chunks = live.stream(**body)
        choices = [chunk["choices"][0] for chunk in chunks]
        assert "".join(each["delta"].get("content", "") for each in choices) == said
        assert choices[-1]["finish_reason"] == "stop"
        for change, told in (
            ({"logprobs": True}, "logprobs is of one row of tokens"),
            ({"diffusing": True, "stream": True}, "diffusing is of one row"),
            ({"n": 2, "temperature": 1.0}, "n is of one row"),
            ({"messages": [{"role": "assistant", "content": "x"}]}, "the last is another's"),
            ({"response_format": None}, "fields 'apart' are those of a json_schema"),
        ):
            status, error = live.chat(**body | change)
            assert status == 400 and told in error["error"]["message"], error
