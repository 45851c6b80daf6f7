"""How sure an answer is: per token what the step said, per field the product over the tokens of its value."""

import math

import pytest
import torch

from llada_v import SamplerConfig, answer, load
from llada_v.answering import DEMO_IMAGE
from llada_v.confidence import fields_of, has_fields, json_spans

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "seen": {"type": "boolean"}},
    "required": ["colour", "seen"],
}


@pytest.fixture(scope="module")
def shipped_model():
    return load()


def test_every_value_of_json_has_its_place():
    text = '{"a": [1, {"b c": "x\\"}"}], "d": null, "e": [], "f": true}'
    found = {path: text[start:end] for path, start, end in json_spans(text)}
    assert found == {"a[0]": "1", "a[1].b c": '"x\\"}"', "d": "null", "f": "true"}
    assert list(json_spans(' "red" ')) == [("", 1, 6)]


def test_a_field_is_as_sure_as_the_tokens_that_spell_it():
    spelled = [b'{"', b"a", b'": "', "é".encode()[:1], "é".encode()[1:], b'x", "', b'b": ', b"12", b"", b"}"]
    sure = [0.9, 0.9, 0.5, 0.4, 0.3, 0.2, 0.9, 0.7, 0.01, 0.9]
    found = fields_of('{"a": "éx", "b": 12}', spelled, sure, {"json_schema": {}})
    assert found == {"a": pytest.approx(0.5 * 0.4 * 0.3 * 0.2), "b": pytest.approx(0.7)}
    assert not has_fields({"choices": ["red"]}) and not has_fields(None)


def test_gaps_are_called_by_their_number():
    parts, sure = [b"I:", b" 1", b"2", b", ", b"no"], [1, 0.5, 0.4, 1, 0.3]
    found = fields_of("I: 12, no", parts, sure, {"template": "I: {integer}, {choice:yes|no}"})
    assert found == {"1": pytest.approx(0.2), "2": pytest.approx(0.3)}


def test_probabilities_are_those_that_a_callback_saw(shipped_model):
    model, processor = shipped_model
    seen = []
    found = answer(
        model,
        processor,
        "Describe the picture.",
        [DEMO_IMAGE],
        callback=lambda state: seen.append(state.confidence.clone()),
    )
    assert len(found.probabilities) == len(found.token_ids) > 3
    assert found.probabilities == seen[-1][0, : len(found.token_ids)].tolist()
    assert all(0 < probability <= 1 for probability in found.probabilities) and found.fields is None


def test_a_filled_form_says_how_sure_each_field_is(shipped_model, tmp_path, monkeypatch):
    monkeypatch.setattr("llada_v.generation.shape.CACHE", str(tmp_path))
    model, processor = shipped_model
    sampler = SamplerConfig(gen_length=32, rule="threshold", threshold=0.5, constraint={"json_schema": SCHEMA})
    found = answer(model, processor, "What colour is the circle?", [DEMO_IMAGE], sampler=sampler)
    assert found.fields.keys() == {"colour", "seen"}
    assert math.prod(found.probabilities) <= min(found.fields.values()) <= 1
    sampler = SamplerConfig(gen_length=24, suffix_token_ids=processor.encode("!"))
    found = answer(model, processor, "What colour is the circle?", [DEMO_IMAGE], sampler=sampler)
    assert found.text == "green!" and found.probabilities[-1] == 1
    assert torch.tensor(found.probabilities).min() > 0.5
