"""Typed decisions: probabilities of labels that are the model's own, whatever else is asked in the same forward."""

import json
import math

import pytest
import torch

from llada_v import Decision, answer, charts, cli, decide, fit_temperature, load
from llada_v.answering import DEMO_IMAGE, DEMO_QUESTIONS, PictureMemory
from llada_v.conversation import user_message
from llada_v.decisions import prompts_of, shared_length
from llada_v.generation import choices
from llada_v.generation.choices import Asked, read_apart, read_choices, reads_of
from llada_v.toyworld.scenes import COLORS, SHAPES

END = 9
CLOSED = dict(zip(DEMO_QUESTIONS, (range(13), list(COLORS), list(SHAPES), bool, bool), strict=True))


@pytest.fixture(scope="module")
def shipped_model():
    return load()


def test_only_places_where_labels_part_are_read():
    reads = reads_of([[1, 2], [1, 3], [4], [4, 5, 6]], END)
    assert reads.places == [(), (1,), (4,)]
    assert reads.tokens == [[1, 4], [2, 3], [END, 5]]
    assert reads.ways == [[(0, 0), (1, 0)], [(0, 0), (1, 1)], [(0, 1), (2, 0)], [(0, 1), (2, 1)]]
    found = reads.log_probabilities([torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.log(3)]), torch.zeros(2)]).exp()
    assert torch.allclose(found, torch.tensor([0.125, 0.375, 0.25, 0.25], dtype=torch.float64))


@pytest.mark.parametrize(
    "labels, told",
    [
        ([[1]], "there are 1 labels to choose from; give 2 to 1000"),
        ([[1], [1]], "two labels have the same tokens"),
        ([[1], []], "a label has no tokens"),
        ([[1], [2, END]], "holds the end of the turn"),
    ],
)
def test_labels_that_are_none_are_refused(labels, told):
    with pytest.raises(ValueError, match=told):
        reads_of(labels, END)


def chain(model, prompt: list[int], label: list[int], others: list[list[int]], length: int) -> float:
    """P(label) by the formula, one forward a token."""
    end, total = model.config.eot_token_id, 0.0
    ended = [[*other, end] for other in others]
    for place, token in enumerate([*label, end]):
        canvas = label[:place] + [model.config.mask_token_id] * (length - place)
        if place == length:
            break
        logits = model(torch.tensor([prompt + canvas])).logits[0, len(prompt) + place].double()
        goes_on = sorted({other[place] for other in ended if other[:place] == label[:place] and len(other) > place})
        total += float(logits[goes_on].log_softmax(0)[goes_on.index(token)])
    return math.exp(total)


def test_a_prompt_is_read_as_generate_reads_it(tiny_model):
    prompts, labels = [[40, 41, 42], [50, 51, 52]], [[[60], [61, 62], [61, 63, 64]], [[60], [70], [70, 71]]]
    inputs = {"input_ids": torch.tensor(prompts)}
    found = [logs.exp() for logs in read_choices(tiny_model, inputs, labels, 4)]
    for prompt, given, logs in zip(prompts, labels, found, strict=True):
        assert logs.sum() == pytest.approx(1)
        assert logs.tolist() == pytest.approx([chain(tiny_model, prompt, label, given, 4) for label in given], rel=1e-4)


def test_padding_and_neighbours_change_nothing(tiny_model):
    labels = [[60], [61, 62], [61, 63]]
    alone = read_choices(tiny_model, {"input_ids": torch.tensor([[40, 41]])}, [labels], 4)[0]
    inputs = {
        "input_ids": torch.tensor([[2, 2, 40, 41], [50, 51, 52, 53]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
    }
    assert torch.allclose(read_choices(tiny_model, inputs, [labels, labels], 4)[0], alone, atol=1e-5)


def test_a_question_does_not_depend_on_the_others_nor_on_how_many_forwards_there_are(shipped_model, monkeypatch):
    model, processor = shipped_model
    together = decide(model, processor, CLOSED, [DEMO_IMAGE])
    turned = decide(model, processor, dict(reversed(CLOSED.items())), [DEMO_IMAGE])
    monkeypatch.setattr(choices, "MOST_KEYS", 1)
    apart = decide(model, processor, CLOSED, [DEMO_IMAGE])
    for name, one in together.items():
        for other in (turned, apart):
            assert other[name].probabilities == pytest.approx(one.probabilities, abs=1e-5)


def test_questions_in_one_forward_are_read_behind_a_prompt_that_sees_none(tiny_model):
    """Against forwards with a mask, one a question."""
    prompt, questions = [40, 41, 42], [Asked([50, 51], [[60], [61]]), Asked([52], [[62], [63, 64], [63, 65]])]
    found = read_apart(tiny_model, prompt, questions, 4)
    for question, logs in zip(questions, found, strict=True):
        ids = prompt + question.ids + [tiny_model.config.mask_token_id] * 4
        mask = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool)
        mask[:, :, :3, 3:] = False
        logits = tiny_model(torch.tensor([ids]), attention_mask=mask).logits[0, len(ids) - 4]
        first = sorted({label[0] for label in question.labels})
        expected = logits[first].double().log_softmax(0).exp()
        by_first = [sum(p for p, label in zip(logs.exp(), question.labels, strict=True) if label[0] == token)
                    for token in first]  # fmt: skip
        assert torch.allclose(torch.stack(by_first), expected, atol=1e-5)


@pytest.mark.parametrize("alone", [False, True])
def test_the_model_that_ships_decides_as_it_answers(shipped_model, alone):
    model, processor = shipped_model
    found = decide(model, processor, CLOSED, [DEMO_IMAGE], alone=alone, memory=PictureMemory(model))
    for question, one in found.items():
        text = {True: "yes", False: "no"}.get(one.value, str(one.value))
        assert text == answer(model, processor, question, [DEMO_IMAGE]).text
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.probability == max(one.probabilities.values())
        assert not one.is_close


def test_the_model_decides_by_itself(shipped_model):
    model, processor = shipped_model
    found = model.decide(DEMO_IMAGE, CLOSED, processor)
    assert found == decide(model, processor, CLOSED, [DEMO_IMAGE])
    assert model.decide([DEMO_IMAGE], CLOSED, processor, close=1.1)["Is there a red star?"].is_close
    with pytest.raises(ValueError, match="give processor=processor"):
        model.decide([DEMO_IMAGE], CLOSED)
    with pytest.raises(ValueError, match="give a dictionary from questions"):
        model.decide([DEMO_IMAGE], processor=processor)


def test_names_values_spellings_and_temperature(shipped_model):
    model, processor = shipped_model
    asked = "Is there a red star?"
    found = decide(
        model,
        processor,
        {
            "star": (asked, {"there": ["yes", "yes, there is"], "none": "no"}),
            "how many": ("How many objects are there?", [2, 3]),
        },
        [DEMO_IMAGE],
        temperature=1e6,
        close=0.5,
    )
    assert found["star"].probabilities == pytest.approx({"there": 2 / 3, "none": 1 / 3}, abs=1e-3)
    assert found["how many"].value in (2, 3) and found["how many"].is_close


def test_questions_without_a_picture_share_what_stands_in_front_of_the_users_turn(shipped_model):
    model, processor = shipped_model
    (one, other), pictures = prompts_of(processor, [[user_message(text)] for text in ("What is this?", "Why?")])
    shared = shared_length(one, model.config)
    assert not pictures and one[:shared] == other[:shared] and one[shared] == model.config.start_header_id
    assert decide(model, processor, {"Is 3 more than 2?": bool})["Is 3 more than 2?"].value in (True, False)


@pytest.mark.parametrize(
    "questions, settings, told",
    [
        ({}, {}, "give a dictionary from questions"),
        (["Is it red?"], {}, "give a dictionary from questions"),
        ({"a": str}, {}, "give bool, a range, a list"),
        ({"a": ["red"]}, {}, "at least two texts"),
        ({"a": ["red", "red"]}, {}, "give different texts or numbers"),
        ({"a": ["red", None]}, {}, "give different texts or numbers"),
        ({"a": {1: "one", 2: ""}}, {}, "each value needs a text"),
        ({"a": ("", bool)}, {}, "write what you want to know"),
        ({"a": {1: "one", 2: "one"}}, {}, "two labels have the same tokens"),
        ({"a": bool}, {"temperature": 0}, "temperature is 0; it must be above 0"),
        ({"a": ["aaaa", "aaab"]}, {"gen_length": 1}, "raise gen_length"),
        ({"a": bool}, {"gen_length": 0}, "gen_length is 0"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(shipped_model, questions, settings, told):
    with pytest.raises(ValueError, match=told):
        decide(*shipped_model, questions, [DEMO_IMAGE], **settings)


def test_a_back_end_without_masks_is_refused_with_the_remedy(tiny_model, monkeypatch):
    monkeypatch.setattr(tiny_model.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        read_apart(tiny_model, [40], [Asked([41], [[60], [61]])], 4)


def test_a_temperature_that_was_laid_on_is_found_again():
    generator = torch.Generator().manual_seed(0)
    found, right = [], []
    for _ in range(4000):
        logits = torch.randn(4, generator=generator, dtype=torch.float64) * 2
        right.append(int(torch.multinomial(logits.softmax(0), 1, generator=generator)))
        sure = (logits * 1.7).softmax(0).tolist()  # too sure by 1.7
        found.append(Decision(None, max(sure), dict(enumerate(sure)), False))
    assert fit_temperature(found, right) == pytest.approx(1.7, rel=0.1)
    with pytest.raises(ValueError, match="give as many"):
        fit_temperature(found, right[1:])
    with pytest.raises(ValueError, match="7 is right, but the question may be"):
        fit_temperature(found[:1], [7])


def test_the_verb_reads_questions_with_their_values_and_prints_them(shipped_model, capsys):
    asked = ["Is there a red star?", "What colour is the circle?=red, green", "How many objects are there?=0..4"]
    words = ["decide", "--image", str(DEMO_IMAGE), *(word for text in asked for word in ("--ask", text))]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" 0.")[0].split(" 1.")[0] for line in lines] == [
        "Is there a red star? -> no",
        "What colour is the circle? -> green",
        "How many objects are there? -> 3",
    ]
    assert cli.main([*words, "--json", "--close", "1.1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    questions = {"Is there a red star?": bool, "What colour is the circle?": ["red", "green"]}
    questions |= {"How many objects are there?": range(5)}
    for row, one in zip(rows, decide(*shipped_model, questions, [DEMO_IMAGE]).values(), strict=True):
        assert (row["value"], row["probability"]) == (one.value, pytest.approx(one.probability))
        assert row["is_close"] and len(row["probabilities"]) == len(one.probabilities)


@pytest.mark.parametrize(
    "asked, told",
    [
        (["Pages?=3..1"], "goes from 3 to 1; give 2 to 1000 numbers"),
        (["Pages?=0..5000"], "give 2 to 1000 numbers"),
        (["Red?", "Red?"], "is given twice; ask it once"),
        (["Colour?=red"], "at least two texts"),
        (["Colour?=red,"], "each value needs a text"),
        (["=red,blue"], "write what you want to know"),
    ],
    ids=str,
)
def test_the_verb_says_in_one_line_what_cannot_be_asked(asked, told, capsys):
    assert cli.main(["decide", *(word for text in asked for word in ("--ask", text))]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_reliability_diagram_shows_the_share_that_is_right_by_how_sure_it_was():
    sure, is_right = [0.95] * 4 + [0.15] * 4, [True, True, True, False, False, False, False, True]
    image = charts.reliability({"a": sure, "b": sure}, is_right, "title")
    left, bottom = charts.MARGIN + 44, 112 + charts.PANEL
    heights = []
    for tenth in (9, 1, 5):
        x = round(left + charts.PANEL * (tenth + 0.25) / 10)
        heights.append(sum(image.getpixel((x, bottom - y)) == charts.PALE for y in range(charts.PANEL)))
    assert heights == [pytest.approx(0.75 * charts.PANEL, abs=12), pytest.approx(0.25 * charts.PANEL, abs=12), 0]
