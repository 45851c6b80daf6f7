"""Any shape of an answer is held by every answer, on every canvas that can hold it, alone and in a batch.

pytest -m slow tests/fuzz/test_shapes.py -s
"""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from endings import ends_well
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import answers  # noqa: E402

from llada_v import SamplerConfig, answer, load  # noqa: E402
from llada_v.conversation import user_message  # noqa: E402

pytestmark = pytest.mark.slow

SHAPES = int(os.environ.get("LLADA_V_SHAPES", 8000))  # on logits that follow from the canvas
ON_MODELS = SHAPES // 4  # on the tiny model, with random weights and trained
COUNTS = Counter()
NAMES = st.sampled_from(["a", "name", "\u00e9", "x y", 'q"r'])
LEAVES = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["boolean", "null", "integer", "number"])}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-200, 200),
        st.integers(0, 400),
    ),  # fmt: skip
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 3),
        st.integers(0, 4),
    ),  # fmt: skip
    st.just({"type": "string", "pattern": "^[a-c]{1,3}(x|yz)?$"}),
    st.lists(st.sampled_from(["red", "bl\u00fce", 3, None, True, "a.b*"]), min_size=1, max_size=3, unique_by=str).map(
        lambda values: {"enum": values}
    ),
)


def objects(inner):
    """Objects of some properties, of which any may be required."""
    return st.dictionaries(NAMES, inner, min_size=1, max_size=3).flatmap(
        lambda properties: st.lists(st.sampled_from(list(properties)), unique=True).map(
            lambda required: {"type": "object", "properties": properties, "required": required}
        )
    )


def arrays(inner):
    """Lists of few items."""
    sizes = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return st.tuples(inner, sizes).map(
        lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1][0], "maxItems": sum(pair[1])}
    )


def nested(inner):
    """Schemas of schemas."""
    either = st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options})
    return objects(inner) | arrays(inner) | either


SCHEMA = st.recursive(LEAVES, nested, max_leaves=4)
PATTERN = st.recursive(
    st.sampled_from(["a", "b", "ab", "[a-e]", r"\d", r"\w", "\u00e9", "the ", r"\.", "[^x]"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "?", "+", "{2}", "{1,3}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)
TEMPLATE = st.lists(
    st.sampled_from(["Name: ", "{text:1-3}", "{integer}", "{choice:yes|no}", ", ", "{{", "}}"]), min_size=1, max_size=5
).map("".join)
CHOICES = st.lists(st.text(min_size=1, max_size=4).filter(str.isprintable), min_size=1, max_size=4)
CONSTRAINT = st.one_of(
    SCHEMA.map(lambda value: {"json_schema": value}),
    PATTERN.map(lambda value: {"regex": value}),
    TEMPLATE.map(lambda value: {"template": value}),
    CHOICES.map(lambda value: {"choices": value}),
)
SETTINGS = st.sampled_from(
    [{}, {"steps": 4}, {"block_length": 8}, {"rule": "threshold", "threshold": 0.2}, {"rule": "factor", "factor": 30.0}]
    + [{"rule": "entropy_bound", "entropy_bound": 9.0}, {"rule": "margin", "margin": 0.1}, {"temperature": 2.0}]
    + [{"lookahead": 2}, {"rule": "threshold", "threshold": 0.2, "lookahead": 3}, {"remasking": "random", "steps": 8}]
)


def fits(value, schema) -> bool:
    """Whether a JSON value is what the schema allows, read by rules of its own."""
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "enum" in schema:
        return any(value == option and type(value) is type(option) for option in schema["enum"])
    kind = schema["type"]
    if kind == "object":
        known = isinstance(value, dict) and value.keys() <= schema["properties"].keys()
        return known and set(schema["required"]) <= value.keys() and all(
            fits(part, schema["properties"][name]) for name, part in value.items()
        )  # fmt: skip
    if kind == "array":
        right = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
        return right and all(fits(part, schema["items"]) for part in value)
    if kind == "string":
        if "pattern" in schema:
            return isinstance(value, str) and re.search(schema["pattern"], value) is not None
        return isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
    if kind == "integer":
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, bool) if kind == "boolean" else value is None


def is_right(constraint, text) -> bool:
    """Whether an answer is of the shape."""
    ((kind, value),) = constraint.items()
    if kind == "json_schema":
        return fits(json.loads(text), value)
    if kind == "choices":
        return text in value
    if kind == "regex":
        return re.fullmatch(value, text, re.ASCII) is not None
    gaps = {"{text:1-3}": ".{1,3}", "{integer}": r"-?\d+", "{choice:yes|no}": "(yes|no)", "{{": r"\{", "}}": r"\}"}
    parts = re.findall(r"\{\{|\}\}|\{[^{}]*\}|[^{}]+", value)
    return re.fullmatch("".join(gaps.get(part, re.escape(part)) for part in parts), text) is not None


@settings(max_examples=SHAPES, deadline=None, suppress_health_check=list(HealthCheck), database=None,
          phases=[Phase.generate])  # fmt: skip
@given(CONSTRAINT, SETTINGS, st.sampled_from([8, 16, 32, 48]), st.integers(0, 10**6))
def test_every_answer_is_of_its_shape(constraint, chosen, length, seed):
    with ends_well(COUNTS):
        batch = answers(constraint, num_rows=2, seed=seed, gen_length=length, **chosen)
        assert all(is_right(constraint, text) for text in batch), batch
        if not {"temperature", "remasking"} & chosen.keys():
            assert batch[1] == answers(constraint, rows=[1], seed=seed, gen_length=length, **chosen)[0]


MODEL_SETTINGS = st.sampled_from(
    [
        {"rule": "threshold", "threshold": 0.3},
        {"rule": "factor", "factor": 30.0, "cache": "prompt", "refresh_interval": 0},
        {"rule": "threshold", "threshold": 0.3, "cache": "prompt", "refresh_interval": 3, "block_length": 8},
        {"rule": "threshold", "threshold": 0.3, "cache": "dllm"},
        {"rule": "threshold", "threshold": 0.3, "lookahead": 2},
        {"rule": "threshold", "threshold": 0.3, "cfg_scale": 1.0},
        {"steps": 8},
        {"steps": 8, "cache": "prompt", "refresh_interval": 2},
    ]
)


@pytest.fixture(scope="session")
def models(tiny_model, tiny_processor):
    """The tiny model with random weights and trained, each with its processor."""
    trained, processor = load()
    return [(tiny_model, tiny_processor), (trained, processor)]


def asked(processor, texts):
    """Prompts of text alone, as a batch."""
    chats = [[user_message(text)] for text in texts]
    return processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@settings(max_examples=ON_MODELS, deadline=None, suppress_health_check=list(HealthCheck), database=None,
          phases=[Phase.generate])  # fmt: skip
@given(CONSTRAINT, MODEL_SETTINGS, st.sampled_from([16, 32, 48]), st.booleans())
def test_every_answer_of_a_model_is_of_its_shape(models, constraint, chosen, length, is_trained):
    model, processor = models[is_trained]
    with ends_well(COUNTS):
        sampler = SamplerConfig(gen_length=length, constraint=constraint, **chosen)

        def texts(questions):
            inputs = asked(processor, questions)
            told = {"tokenizer": processor.tokenizer, "return_dict_in_generate": True}
            return model.generate(**inputs, sampler=sampler, **told).texts

        batch = texts(["Describe the picture.", "Why?"])
        assert all(is_right(constraint, text) for text in batch), batch
        assert batch[1] == texts(["Why?"])[0]


def described(schema, name="a"):
    """A schema whose properties say what they are."""
    found = schema | {"description": f"What is {name}?"}
    if "properties" in schema:
        found["properties"] = {inner: described(part, inner) for inner, part in schema["properties"].items()}
    return found


@settings(max_examples=ON_MODELS // 4, deadline=None, suppress_health_check=list(HealthCheck), database=None,
          phases=[Phase.generate])  # fmt: skip
@given(objects(SCHEMA).map(described), MODEL_SETTINGS, st.sampled_from([16, 32, 48]), st.booleans())
def test_fields_asked_apart_are_json_of_the_schema(models, schema, chosen, length, is_trained):
    with ends_well(COUNTS):
        sampler = SamplerConfig(gen_length=length, constraint={"json_schema": schema}, fields="apart", **chosen)
        text = answer(*models[is_trained], "", sampler=sampler).text
        assert fits(json.loads(text), schema), text


def test_both_endings_were_seen():
    print(COUNTS)
    assert COUNTS["right"] > SHAPES // 4
