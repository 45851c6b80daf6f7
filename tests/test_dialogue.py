"""Which turns see each other: the original's figures, and what they mean."""

import pytest
import torch
from make_tokenizer import ASSISTANT_ID
from published import golden

from llada_v import LladaVConfig
from llada_v.configuration_llada_v import IGNORE
from llada_v.training.dialogue import (
    conversation_ids,
    dialogue_causal_mask,
    fill_answers,
    turn_positions,
    turns_apart_mask,
)

FIGURES = {record["name"]: record for record in golden("conversation_ids")}
CONFIG = LladaVConfig()
STRUCTURE = (CONFIG.start_header_id, CONFIG.eot_token_id, ASSISTANT_ID)
START, END = STRUCTURE[:2]


def ids_of(*rows) -> list:
    return conversation_ids(torch.tensor(rows), *STRUCTURE).tolist()


@pytest.mark.parametrize("name", FIGURES)
def test_turns_are_those_of_the_original(name):
    assert ids_of(FIGURES[name]["labels"]) == [FIGURES[name]["conversation_ids"]]


def test_rows_of_a_batch_are_told_apart():
    first, second = FIGURES["multi_turn"], FIGURES["starts_with_gpt"]
    length = max(len(record["labels"]) for record in (first, second))
    rows = [record["labels"] + [IGNORE] * (length - len(record["labels"])) for record in (first, second)]
    expected = [record["conversation_ids"] for record in (first, second)]
    expected = [ids + [ids[-1]] * (length - len(ids)) for ids in expected]
    assert ids_of(*rows) == expected


QUESTION, ANSWER = [START, IGNORE, END], [START, ASSISTANT_ID, 5, END]


@pytest.mark.parametrize(
    "labels, turns",
    [
        (QUESTION + ANSWER + QUESTION + QUESTION + ANSWER, [0] * 7 + [1] * 10),  # two questions in a row are one turn
        (QUESTION + ANSWER + ANSWER + QUESTION, [0] * 11 + [1] * 3),
        (ANSWER + QUESTION, [0] * 4 + [1] * 3),
        ([START, START, ASSISTANT_ID, END, START, IGNORE, END], [0] * 7),  # a header inside a message opens none
        ([IGNORE, IGNORE], [0, 0]),
    ],
)
def test_a_turn_begins_where_a_question_follows_an_answer(labels, turns):
    assert ids_of(labels) == [turns]


def test_a_position_sees_its_own_turn_and_those_before():
    mask = dialogue_causal_mask(torch.tensor([[0, 0, 1, 2]]))
    assert mask.shape == (1, 1, 4, 4) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_filler_is_seen_by_nobody():
    mask = dialogue_causal_mask(torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 0]]))
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]


def test_turns_apart_see_themselves_and_what_stands_up_to_the_last_picture():
    turns, is_picture = torch.tensor([[0, 0, 0, 1, 2]]), torch.tensor([[False, True, False, False, False]])
    mask = turns_apart_mask(turns, is_picture)
    assert mask.shape == (1, 1, 5, 5) and mask.dtype == torch.bool
    rows = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 0, 1]]
    assert mask[0, 0].int().tolist() == rows
    hidden = turns_apart_mask(turns, is_picture, torch.tensor([[1, 1, 1, 1, 0]]))
    assert hidden[0, 0].int().tolist() == [row[:4] + [0] for row in rows]


def test_turns_apart_without_a_picture_see_themselves_alone():
    mask = turns_apart_mask(torch.tensor([[0, 0, 1]]), torch.zeros(1, 3, dtype=torch.bool))
    assert mask[0, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_answers_are_filled_to_one_length_and_questions_stay_as_they_are():
    pad = CONFIG.pad_token_id
    ids = [START, 7, END, START, ASSISTANT_ID, 5, END, START, 8, 9, END, START, ASSISTANT_ID, 5, 6, 5, END, pad]
    labels = [START, IGNORE, END, START, ASSISTANT_ID, 5, END, START, IGNORE, IGNORE, END, *ids[11:]]
    record = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "pixel_values": "kept"}
    filled = fill_answers(record, 5, END, pad)
    first, second = [START, ASSISTANT_ID, 5, END, pad], [START, ASSISTANT_ID, 5, 6, 5, END, *[pad] * 4]
    assert filled["input_ids"].tolist() == [*ids[:3], *first, *ids[7:11], *second, pad]
    assert filled["labels"].tolist() == [*labels[:3], *first, *labels[7:11], *second, pad]
    assert filled["pixel_values"] == "kept"
    # The filler belongs to its answer, so that it is hidden where the answer is.
    assert ids_of(filled["labels"].tolist()) == [[0] * 8 + [1] * 15]
    assert fill_answers(record, 1, END, pad)["input_ids"].tolist() == ids


def test_each_turn_apart_stands_where_the_first_behind_the_pictures_would():
    turns = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1, 1, 2, 2]])
    is_picture = torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0, 0], [0] * 9, [1, 0, 0, 1, 0, 0, 0, 0, 0]]).bool()
    assert turn_positions(turns, is_picture).tolist() == [
        [0, 1, 2, 3, 2, 3, 2, 3, 4],
        [0, 1, 2, 0, 1, 2, 0, 1, 2],
        [0, 1, 2, 3, 4, 5, 6, 4, 5],  # a picture in the second turn: what stands before it keeps its place
    ]
