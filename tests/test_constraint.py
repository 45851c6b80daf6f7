"""Answers of a given shape: always of the shape, whatever the model would rather say, and refused where none fits."""

import itertools
import json
import re

import pytest
import torch
from shapes import END, MASK, PIECES, answers, encoded, shape, spelled

from llada_v import SamplerConfig
from llada_v.answering import DEMO_IMAGE, answer, load
from llada_v.generation import automaton as automata
from llada_v.generation.automaton import automaton_of
from llada_v.generation.config import RULES
from llada_v.generation.patterns import pattern_of

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "blue", 3]}, "maxItems": 2},
        "ok": {"type": ["boolean", "null"]},
    },
    "required": ["name", "age"],
}
KINDS = {
    "regex": ({"regex": r"^(\d{1,3}|the [a-c]+)!$"}, lambda text: re.fullmatch(r"(\d{1,3}|the [a-c]+)!", text)),
    "choices": ({"choices": ["red", "a.b", "bl\u00e9"]}, lambda text: text in ("red", "a.b", "bl\u00e9")),
    "template": (
        {"template": "Name: {text:1-4}, {{{integer}}} {choice:yes|no}"},
        lambda text: re.fullmatch(r"Name: .{1,4}, \{-?\d+\} (yes|no)", text),
    ),
    "json_schema": ({"json_schema": PERSON}, lambda text: fits_person(json.loads(text))),
}


def fits_person(found) -> bool:
    assert found.keys() <= PERSON["properties"].keys() and {"name", "age"} <= found.keys()
    assert len(found["name"]) <= 5 and found["age"] in range(121)
    assert all(tag in ("red", "blue", 3) for tag in found.get("tags", [])) and len(found.get("tags", [])) <= 2
    return found.get("ok") in (True, False, None)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_of_the_shape_under_every_rule(kind, rule):
    constraint, is_right = KINDS[kind]
    for text in answers(constraint, rule=rule, gen_length=48):
        assert is_right(text), text


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 4},
        {"block_length": 12},
        {"block_length": 12, "steps": 8},
        {"temperature": 1.0},
        {"remasking": "random", "steps": 6},
        {"gen_length": "auto", "max_gen_length": 48, "block_length": 4},
        {"rule": "threshold", "threshold": 0.1, "block_length": 16},
        {"rule": "factor", "factor": 100.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_and_however_else_it_is_revealed(kind, settings):
    constraint, is_right = KINDS[kind]
    for text in answers(constraint, **{"gen_length": 48} | settings):
        assert is_right(text), text


@pytest.mark.parametrize("settings", [{}, {"rule": "threshold", "threshold": 0.2}, {"rule": "margin"}], ids=str)
def test_lookahead_gives_the_same_answers(settings):
    for constraint, _ in KINDS.values():
        plain, ahead = (answers(constraint, gen_length=48, lookahead=n, **settings) for n in (0, 3))
        assert plain == ahead


def test_a_row_of_a_batch_answers_as_it_does_alone():
    for constraint, _ in KINDS.values():
        batch = answers(constraint, num_rows=4, gen_length=48, rule="threshold", threshold=0.3)
        assert len(set(batch)) > 1
        assert batch == [answers(constraint, rows=[row], gen_length=48, rule="threshold", threshold=0.3)[0]
                         for row in range(4)]  # fmt: skip


def test_what_is_let_through_is_just_what_can_be_completed():
    """Against every completion of a small canvas, one by one."""
    made, length = shape({"regex": "a(bc|b|cc)*a?"}, 4), 4
    letters = [token for token in range(len(PIECES)) if PIECES[token] in (b"a", b"b", b"c", b"ab")] + [END]

    def is_answer(ids):
        ids = list(ids)
        body = ids[: ids.index(END)] if END in ids else ids
        is_ended = all(token == END for token in ids[len(body) :])
        return is_ended and re.fullmatch("a(bc|b|cc)*a?", spelled(body)) is not None

    whole = [ids for ids in itertools.product(letters, repeat=length) if is_answer(ids)]
    for number in range(150):
        generator = torch.Generator().manual_seed(number)
        known = whole[int(torch.randint(len(whole), (1,), generator=generator))]
        is_open = torch.rand(length, generator=generator) < 0.6
        is_open[number % length] = True
        canvas = torch.where(is_open, MASK, torch.tensor(known))[None]
        logits = made.restrict(torch.zeros(int(is_open.sum()), len(PIECES)), canvas, is_open[None])
        fitting = [ids for ids in whole if all(known[i] == ids[i] for i in range(length) if not is_open[i])]
        for row, place in enumerate(is_open.nonzero()[:, 0].tolist()):
            assert {int(t) for t in logits[row].isfinite().nonzero()[:, 0]} == {ids[place] for ids in fitting}
        assert made.can_end(canvas).tolist() == [True]


@pytest.mark.parametrize("pattern", ["(ab|cd|ef)*", "a*b*c*", "[ab]{2}(x|yz){2,4}", "(a|bc){3}d?"])
def test_of_tokens_at_once_each_is_kept_that_goes_with_the_surer_ones(pattern):
    made, random = shape({"regex": pattern}, 12), torch.Generator().manual_seed(len(pattern))
    ids = torch.tensor([*encoded("abcdefxyz"), END])
    tokens = ids[torch.randint(0, len(ids), (40, 12), generator=random)]
    scores = torch.rand(40, 12, generator=random)
    canvas, chosen = made.initial.expand(40, 12), torch.rand(40, 12, generator=random) < 0.6
    kept = made.together(canvas, tokens, scores, chosen)
    for row in range(40):
        taken, wanted = canvas[row].clone(), torch.zeros(12, dtype=torch.bool)
        for place in scores[row].argsort(descending=True).tolist():
            tried = taken.clone()
            tried[place] = tokens[row, place]
            if chosen[row, place] and made.can_end(tried[None]):
                taken, wanted[place] = tried, True
        assert torch.equal(kept[row], wanted)
    assert (kept != chosen).any() and kept.any()


@pytest.mark.parametrize("pattern", ["a*", "x?", "(a|ab)(c|bcd)?", "[^x]*", "a|ab|abc"])
def test_patterns_that_match_nothing_or_begin_alike_are_held(pattern):
    assert all(re.fullmatch(pattern, text) for text in answers({"regex": pattern}, num_rows=4, gen_length=8))


def test_a_canvas_that_is_too_short_is_refused_with_the_length_that_would_do():
    with pytest.raises(ValueError, match="no answer of this shape fits into 3 tokens; it needs gen_length 7 or more"):
        shape({"regex": "[x-z]{7}"}, 3)
    assert answers({"regex": "[x-z]{7}"}, gen_length=7)
    with pytest.raises(ValueError, match="no tokens of this vocabulary spell an answer of this shape"):
        automaton = automaton_of(pattern_of({"regex": "q"}), (b"", b"", b"a"))
        from llada_v.generation.constraint import Constraint

        Constraint(automaton, END, MASK, 5)


@pytest.mark.parametrize(
    "constraint, told",
    [
        ("red", "constraint is 'red'; it must be an object"),
        ({}, "give one of regex, choices, template, json_schema"),
        ({"regex": "a", "choices": ["b"]}, "give one of regex"),
        ({"grammar": "x"}, "give one of regex"),
        ({"regex": ""}, "regex is ''; give a pattern"),
        ({"regex": "["}, "is no regular expression"),
        ({"regex": "[a&&b]"}, "is no regular expression: Possible set intersection"),
        ({"regex": r"[\W]"}, r"has \\W inside a class"),
        ({"regex": "(a$|b)c"}, "has an anchor or a border inside, which cannot be held"),
        ({"regex": r"\bfoo\b"}, "has an anchor or a border inside"),
        ({"choices": []}, "give a list of 1 to 10000 texts"),
        ({"choices": ["a", ""]}, "each is a text that is not empty"),
        ({"template": "a {b}"}, "a gap is .text:1-12., .number."),
        ({"template": "{text:9-1}"}, "give the least and the most letters"),
        ({"template": "{number:3}"}, "takes nothing behind it"),
        ({"json_schema": []}, "give an object or a pydantic model"),
        ({"json_schema": {}}, "the schema has type None; it must be one of object, array"),
        ({"json_schema": {"type": "object"}}, "is an object without properties"),
        ({"json_schema": {"type": "number", "minimum": 3}}, "the schema has minimum, which is not held here"),
        ({"json_schema": {"type": "string", "format": "date"}}, "has format, which is not held"),
        ({"json_schema": {"type": "array"}}, "is an array without items"),
        ({"json_schema": {"type": "array", "items": {"type": "null"}, "uniqueItems": True}}, "has uniqueItems"),
        ({"json_schema": {"oneOf": [{"type": "null"}]}}, "has oneOf, which is not held here; .* write anyOf"),
        ({"json_schema": {"not": {"type": "null"}}}, "has not, which is not held here; .* say what may be"),
        ({"json_schema": {"if": {}, "then": {}}}, "has if, then, which is not held here"),
        ({"json_schema": {"type": "integer", "multipleOf": 3}}, "has multipleOf, .* list the values in enum"),
        ({"json_schema": {"type": "object", "patternProperties": {}}}, "has patternProperties, .* name the properties"),
        ({"json_schema": {"type": "array", "prefixItems": []}}, "has prefixItems, .* write an object"),
        ({"json_schema": {"allOf": [{"type": "null"}, {"type": "null"}]}}, "a list of one is held"),
        ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "allows no whole number"),
        ({"json_schema": {"type": "string", "minLength": 3, "maxLength": 2}}, "nothing fits both"),
        ({"json_schema": {"type": "string", "pattern": "a+"}}, "begin it with"),
        ({"json_schema": {"type": "string", "pattern": "^.+$"}}, "can match a quote, a backslash"),
        ({"json_schema": {"type": "string", "pattern": '^[^a]"$'}}, "can match a quote"),
        ({"json_schema": {"type": "string", "pattern": r"^\s$"}}, "can match a quote, a backslash or a control letter"),
        ({"json_schema": {"enum": ["a"], "type": "integer"}}, "of which none is of type 'integer'"),
        (
            {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}},
            "recursive schemas are not held",
        ),
        ({"json_schema": {"$ref": "#/$defs/b"}}, "names nothing in the schema"),
        ({"json_schema": {"$ref": "http://x/y"}}, "only references into the schema itself"),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_held_is_refused_by_name(constraint, told):
    with pytest.raises(ValueError, match=told):
        SamplerConfig(constraint=constraint)


@pytest.mark.parametrize(
    "pattern, told",
    [
        ("(?=a)b", "cannot be held .nothing may look around or back"),
        (r"(a)\1", "cannot be held"),
        ("(a|b)*a(a|b){12}", "has [0-9]+ states, more than 2000; make it simpler"),
    ],
)
def test_a_pattern_that_is_too_much_for_an_automaton_is_refused(pattern, told):
    with pytest.raises(ValueError, match=told):
        shape({"regex": pattern}, 32)


def test_a_pattern_that_explodes_is_ended_in_time(monkeypatch):
    monkeypatch.setattr(automata, "SECONDS", 2)
    with pytest.raises(ValueError, match="takes more than 2 seconds to read|could not be read|states"):
        shape({"regex": "((a|b)*a(a|b){18}){9}"}, 32)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"stop_strings": ["a"]}, "leave stop_token_ids and stop_strings out, or constraint"),
        ({"stop_token_ids": [[1]]}, "leave stop_token_ids and stop_strings out, or constraint"),
        ({"suffix_token_ids": [5]}, "leave suffix_token_ids out, or constraint"),
    ],
)
def test_settings_that_would_cut_or_lengthen_the_shape_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        SamplerConfig(constraint={"regex": "a+"}, **settings)


def test_an_automaton_is_kept_on_disk_and_made_anew_where_it_is_damaged(tmp_path, monkeypatch):
    pattern = pattern_of({"regex": "[a-f]{3}"})
    first = automaton_of(pattern, PIECES, str(tmp_path))
    (file,) = tmp_path.iterdir()
    automaton_of.cache_clear()
    made = automata.over_bytes
    monkeypatch.setattr(automata, "over_bytes", lambda pattern: pytest.fail("it was there"))
    assert (automaton_of(pattern, PIECES, str(tmp_path)).table == first.table).all()
    monkeypatch.setattr(automata, "over_bytes", made)
    automaton_of.cache_clear()
    file.write_bytes(b"half")
    assert (automaton_of(pattern, PIECES, str(tmp_path)).table == first.table).all()


def test_without_outlines_core_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(automata.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install outlines-core"):
        automata.over_bytes("a")


def test_a_shape_needs_the_tokenizer(tiny_model):
    with pytest.raises(ValueError, match="give tokenizer=processor.tokenizer"):
        tiny_model.generate(torch.tensor([[40]]), sampler=SamplerConfig(constraint={"regex": "a"}))


@pytest.mark.parametrize("cache", ["none", "prompt", "dllm"])
def test_the_model_that_ships_fills_a_form_about_a_picture(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("llada_v.generation.shape.CACHE", str(tmp_path))
    model, processor = load()
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}, "seen": {"type": "boolean"}}}
    sampler = SamplerConfig(
        gen_length=48, cache=cache, rule="threshold", threshold=0.5, constraint={"json_schema": schema}
    )
    found = json.loads(answer(model, processor, "Describe the picture.", [DEMO_IMAGE], sampler=sampler).text)
    assert found.keys() <= {"colour", "seen"}
