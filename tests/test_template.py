"""Forms with gaps: their text stands from the first step, and their gaps take no more than what is said."""

import re
from enum import Enum

import pytest
import torch
from pydantic import BaseModel, Field
from shapes import END, FILLER, MASK, PIECES, answers, encoded, shape
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llada_v import SamplerConfig, answer, load
from llada_v.answering import DEMO_IMAGE
from llada_v.conversation import user_message
from llada_v.generation.patterns import schema_parts
from llada_v.generation.shape import shape_of
from llada_v.generation.template import Template, shared

FORM = "Name: {text:1-4}, {{{integer}}} {choice:yes|no}!"


@pytest.fixture(scope="module")
def shipped_model():
    return load()


def test_text_stands_at_once_and_every_gap_has_its_stretch():
    made = shape({"template": FORM}, 60)
    fixed = encoded("Name:") + [MASK] * 5 + encoded(", {") + [MASK] * 16 + encoded("}") + [MASK] * 4 + encoded("!")
    assert made.initial.tolist() == [*fixed, END, *[FILLER] * (59 - len(fixed))]
    assert [(start, end) for start, end, _ in made.gaps] == [(5, 10), (13, 29), (30, 34)]


def test_behind_a_last_gap_the_turn_ends():
    made = shape({"template": "is {choice:yes|no}"}, 12)
    assert made.initial.tolist() == [*encoded("is"), *[MASK] * 5, *[FILLER] * 5]
    logits = torch.zeros(5, len(PIECES))
    logits[:, FILLER] = -torch.inf
    canvas = made.initial[None]
    let = made.restrict(logits, canvas, canvas == MASK).isfinite()
    assert let[3, END] and let[4, END] and not let[:, FILLER].any()  # " no" and " yes" end there


def test_what_a_gap_does_not_need_vanishes_and_costs_no_forward():
    made = shape({"template": "{text:1-6}!"}, 12)
    canvas = made.initial[None].clone()
    canvas[0, 0], canvas[0, 1] = encoded("a")[0], FILLER
    closed = made.closed(canvas)
    assert closed[0].tolist() == [*encoded("a"), *[FILLER] * 5, *encoded("!"), END, *[FILLER] * 4]
    assert made.is_said(closed)[0].nonzero()[:, 0].tolist() == [0, 6, 7]


def test_inside_the_form_the_end_of_the_turn_is_filler():
    made = shape({"template": "{text:1-3}!"}, 5)
    canvas = made.initial[None]
    logits = torch.zeros(3, len(PIECES))
    logits[:, FILLER] = -torch.inf
    logits[:, END] = 3.0
    let = made.restrict(logits, canvas, canvas == MASK)
    assert let[1, FILLER] == 3.0 and let[1, END] == -torch.inf  # the first position needs a letter
    assert let[0, FILLER] == -torch.inf


@pytest.mark.parametrize(
    "template", [FORM, "{integer}{choice:yes|no}", "a {text:0-3}", "no gap", "{text:1-2} {text:1-2}"]
)
@pytest.mark.parametrize(
    "settings",
    [{}, {"block_length": 12}, {"steps": 4}, {"rule": "threshold", "threshold": 0.2, "lookahead": 2}],
    ids=str,
)
def test_forms_are_filled_under_other_settings(template, settings):
    gaps = {"{text:1-4}": ".{1,4}", "{text:0-3}": ".{0,3}", "{text:1-2}": ".{1,2}", "{integer}": r"-?\d+"}
    gaps |= {"{choice:yes|no}": "(yes|no)", "{{": r"\{", "}}": r"\}"}
    pattern = "".join(gaps.get(part, re.escape(part)) for part in re.findall(r"\{\{|\}\}|\{[^{}]*\}|[^{}]+", template))
    for text in answers({"template": template}, gen_length=48, **settings):
        assert re.fullmatch(pattern, text), text


def test_a_tokenizer_that_lacks_a_byte_is_said_and_no_text_is_lost(tiny_model):
    unused = [f"<{number}>" for number in range(100)]
    made = Tokenizer(models.BPE({token: number for number, token in enumerate([*unused, *"abno:yes"])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    fits = SamplerConfig(gen_length=8, constraint={"template": "a:{choice:yes|no}"})
    assert isinstance(shape_of(fits, tokenizer, tiny_model.config)[0], Template)
    lacks = SamplerConfig(gen_length=8, constraint={"template": "a: q{choice:yes|no}"})
    with pytest.raises(ValueError, match="the tokenizer has no tokens that spell 'a: q'; choose other words"):
        shape_of(lacks, tokenizer, tiny_model.config)
    lacks = SamplerConfig(gen_length=8, constraint={"regex": "q+"})
    with pytest.raises(ValueError, match="no tokens of this vocabulary spell an answer"):
        shape_of(lacks, tokenizer, tiny_model.config)


def test_room_is_shared_evenly():
    assert shared(10, [(1, 4), (2, 9)]) == [4, 6]
    assert shared(7, [(1, 9), (1, 9), (3, 3)]) == [2, 2, 3]
    assert shared(100, [(1, 4), (0, 0)]) == [4, 0]


def test_a_form_that_does_not_fit_says_what_would_do():
    with pytest.raises(ValueError, match="does not fit into 4 tokens; it needs gen_length 9 or more"):
        shape({"template": "total {choice:yes|no}"}, 4)
    assert len(set(answers({"template": "total {choice:yes|no}"}, gen_length=9))) >= 1


@pytest.mark.parametrize("settings", [{"gen_length": 48}, {"gen_length": "auto", "max_gen_length": 96}], ids=str)
def test_the_model_that_ships_fills_a_form(shipped_model, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("llada_v.generation.shape.CACHE", str(tmp_path))
    model, processor = shipped_model
    inputs = processor.apply_chat_template(
        [user_message("How many objects are there?", [DEMO_IMAGE])],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    seen = []
    output = model.generate(
        **inputs,
        sampler=SamplerConfig(constraint={"template": "{integer} <|eot_id|> objects"}, **settings),
        tokenizer=processor.tokenizer,
        callback=lambda state: seen.append(processor.decode(state.canvas[0])),
        return_dict_in_generate=True,
    )
    assert output.texts == ["3 <|eot_id|> objects"]  # text that spells a special token is text
    assert all("> objects" in text for text in seen) and len(seen) < 5
    assert len(output.answers[0]) == len(output.confidence[0])
    assert processor.decode(output.answers[0], skip_special_tokens=True) == output.texts[0]


def test_an_open_message_is_continued_in_a_shape(shipped_model, tmp_path, monkeypatch):
    monkeypatch.setattr("llada_v.generation.shape.CACHE", str(tmp_path))
    model, processor = shipped_model
    chat = [user_message("What colour is the circle?", [DEMO_IMAGE]), {"role": "assistant", "content": "It is "}]
    inputs = processor.apply_chat_template(
        chat, continue_final_message=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    for constraint in ({"choices": ["red.", "green."]}, {"template": "{choice:red|green}."}):
        sampler = SamplerConfig(gen_length=8, constraint=constraint)
        output = model.generate(**inputs, sampler=sampler, tokenizer=processor.tokenizer, return_dict_in_generate=True)
        assert output.texts[0] in ("red.", "green.")


class Colour(Enum):
    red, blue = "red", "bl\u00fce"


class Thing(BaseModel):
    colour: Colour
    count: int = Field(ge=0, le=20)
    seen: bool
    word: str = Field(max_length=3)


def test_a_schema_whose_values_are_bounded_is_a_form():
    schema = Thing.model_json_schema()
    parts = schema_parts(Thing)
    fixed = ['{"colour": "', '", "count": ', ', "seen": ', ', "word": "', '"}']
    assert [part.text for part in parts if part.text is not None] == fixed
    assert [part.text is None for part in parts] == [False, True] * 4 + [False]
    nested = {"type": "object", "properties": {"a": schema, "b": {"const": 3}}, "required": ["a", "b"]}
    nested["$defs"] = schema["$defs"]
    assert [part.text for part in schema_parts(nested)][-1] == '"}, "b": 3}'
    text = "".join(part.pattern for part in parts)
    assert re.fullmatch(text, '{"colour": "red", "count": 12, "seen": true, "word": "a\\""}')
    for other in (
        schema | {"required": ["count"]},
        {"type": "array", "items": {"type": "null"}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": ["null", "boolean"]}}, "required": ["a"]},
    ):
        assert schema_parts(other) is None


@pytest.mark.parametrize("settings", [{"gen_length": 64}, {"gen_length": 46}, {"gen_length": "auto"}], ids=str)
def test_a_pydantic_model_is_filled_as_a_form_or_where_it_is_too_short_as_a_whole(
    shipped_model, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr("llada_v.generation.shape.CACHE", str(tmp_path))
    model, processor = shipped_model
    sampler = SamplerConfig(rule="threshold", threshold=0.2, constraint={"json_schema": Thing}, **settings)
    held, _ = shape_of(sampler, processor.tokenizer, model.config)
    assert isinstance(held, Template) == (settings["gen_length"] != 46)
    found = answer(model, processor, "Describe the picture.", [DEMO_IMAGE], sampler=sampler)
    Thing.model_validate_json(found.text)
    assert found.fields.keys() == {"colour", "count", "seen", "word"}
