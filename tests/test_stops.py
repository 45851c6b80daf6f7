"""Stops are text, found wherever in a token they begin; the canvas behaves as it does after a stop by id."""

import pytest
import torch
from make_tokenizer import hf_tokenizer

from llada_v import SamplerConfig
from llada_v.answering import DEMO_IMAGE, answer, load
from llada_v.generation.sampler import sample
from llada_v.generation.stops import Stops, by_kind

MASK, EOT, VOCABULARY = 0, 1, 64
# Pieces of a small vocabulary; each id spells one.
PIECES = ["<mask>", "<eot>", "a", " circle", "circle", "The c", "irc", "le", "s and", "\n\n", ".", " ", "b"]
PIECES += ["\u00e9".encode()[:1], "\u00e9".encode()[1:]]  # one letter in two tokens
ID = {piece: number for number, piece in enumerate(PIECES)}


def decode(ids):
    pieces = [PIECES[token] if isinstance(PIECES[token], bytes) else PIECES[token].encode() for token in ids]
    return b"".join(piece for piece in pieces if not piece.startswith(b"<")).decode("utf-8", "replace")


def revealing(pieces, order):
    """Logits that propose these pieces, the positions in this order."""

    def logits_of(call):
        positions = call.is_open.nonzero()[:, 1]
        logits = torch.zeros(len(positions), VOCABULARY)
        tokens = torch.tensor([ID[piece] for piece in pieces])
        sureness = torch.tensor([20.0 - order.index(position) for position in range(len(pieces))])
        logits[torch.arange(len(positions)), tokens[positions]] = sureness[positions]
        return logits

    return logits_of


def written(pieces, texts, order=None, **settings):
    """(text, tokens kept, order of reveal) of one answer."""
    order = order or list(range(len(pieces)))
    config = SamplerConfig(**{"gen_length": len(pieces), "stop_strings": texts} | settings)
    found = sample(revealing(pieces, order), 1, config, MASK, [[EOT]], decode=decode)
    return found.texts[0], int(found.ends[0]), [step[0] for step in found.order]


@pytest.mark.parametrize(
    "pieces, stop, text, kept",
    [
        (["a", " circle", "b"], "circle", "a ", 2),  # begins inside a token
        (["a", " circle", "b"], " circle", "a", 1),  # is one
        (["The c", "irc", "le", "b"], "circle", "The ", 1),  # spans three
        (["The c", "irc", "le", "b"], "c", "The ", 1),
        (["a", "circle", "s and", "b"], "circles", "a", 1),  # ends inside a token
        (["a", "\n\n", "b"], "\n", "a", 1),  # is half a token
        (["circle", "b"], "circle", "", 0),
        (["a", *PIECES[13:15], "b"], "\u00e9", "a", 1),  # a letter in two tokens
        (["a", "b", ".", "a"], ".", "ab", 2),
    ],
)
def test_a_stop_is_found_wherever_it_begins_and_the_text_is_cut_there(pieces, stop, text, kept):
    assert written(pieces, [stop])[:2] == (text, kept)


def test_nothing_behind_a_stop_is_revealed_and_everything_before_it_is():
    text, kept, order = written(["a", "b", " circle", "b", "b"], ["circle"], order=[2, 4, 3, 1, 0])
    assert (text, kept, order) == ("ab ", 3, [[2], [1], [0]])


def test_a_stop_appears_when_its_last_token_does():
    text, kept, order = written(["a", "The c", "irc", "le", "b"], ["circle"], order=[1, 3, 2, 4, 0])
    assert (text, kept, order) == ("aThe ", 2, [[1], [3], [2], [0]])


def test_a_stop_is_not_read_across_a_mask():
    text, kept, order = written(["The c", "a", "irc", "le"], ["circle"], order=[0, 2, 3, 1])
    assert (text, kept, len(order)) == ("The cairc" + "le", 4, 4)


def test_blocks_behind_a_text_stop_are_skipped():
    text, _, order = written(["a", " circle", "b", "b"], ["circle"], block_length=2)
    assert text == "a " and order == [[0], [1]]


def test_of_ids_and_texts_the_one_further_left_ends_the_answer():
    assert written(["a", "<eot>", "circle", "b"], ["circle"])[0] == "a"
    assert written(["a", "circle", "<eot>", "b"], ["circle"])[0] == "a"
    assert written(["irc", "<eot>", "le", "b"], ["ircle"])[0] == "irc"


@pytest.mark.parametrize("settings", [{"rule": "threshold"}, {"lookahead": 3}, {"rule": "factor", "lookahead": 2}])
def test_every_rule_and_lookahead_stop_at_the_same_text(settings):
    pieces, order = ["a", "The c", "irc", "le", "b", "b"], [4, 1, 3, 2, 0, 5]
    assert written(pieces, ["circle"], order, **settings)[:2] == written(pieces, ["circle"], order)[:2]


def test_a_canvas_stops_growing_when_a_text_stop_is_in_sight():
    pieces = ["a", "The c", "irc", "le"] + ["b"] * 12
    growing = {"gen_length": "auto", "max_gen_length": 16, "block_length": 4}
    assert written(pieces, ["circle"], **growing)[:2] == ("aThe ", 2)
    config = SamplerConfig(**growing, stop_strings=["circle"])
    found = sample(revealing(pieces, list(range(16))), 1, config, MASK, [[EOT]], decode=decode)
    assert found.lengths.tolist() == [4]


def test_nothing_is_decoded_while_no_text_ends_an_answer(monkeypatch):
    calls = []
    config = SamplerConfig(gen_length=4)
    pieces = ["a", "b", "a", "b"]
    sample(revealing(pieces, [0, 1, 2, 3]), 1, config, MASK, [[EOT]], decode=lambda ids: calls.append(ids) or "")
    assert len(calls) == 1  # the finished answer


def test_a_canvas_is_read_once_however_often_it_is_looked_at():
    calls = []
    config = SamplerConfig(gen_length=4, stop_strings=["zzz"])
    count = lambda ids: calls.append(1) or decode(ids)  # noqa: E731
    sample(revealing(["a", "b", "a", "b"], [0, 1, 2, 3]), 1, config, MASK, [], decode=count)
    assert len(calls) <= 5


def test_special_tokens_end_an_answer_by_their_id():
    tokenizer = hf_tokenizer()
    ids, texts = by_kind(["<|eot_id|>", "circle"], tokenizer)
    assert (ids, texts) == ([[tokenizer.get_added_vocab()["<|eot_id|>"]]], ["circle"])


def test_a_random_text_is_cut_where_its_letters_say():
    """Against the plain text, for every stop and every way to cut it into tokens."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        ids = torch.randint(2, len(PIECES), (8,), generator=generator).tolist()
        text = decode(ids)
        for stop in ("circle", "c", "le", "a", "\n", "\u00e9", " "):
            ends = Stops([], MASK, [stop], decode)
            kept = int(ends.ends(torch.tensor([ids]))[0])
            assert ends.text_of(ids, kept) == text.split(stop)[0]
            assert decode(ids[:kept]).startswith(text.split(stop)[0])


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"stop_strings": "circle"}, "stop_strings is 'circle'; it must be a list of texts"),
        ({"stop_strings": [""]}, "stop_strings has ''; each is a text of 1 to 1000 letters"),
        ({"stop_strings": [5]}, "stop_strings is .5.; it must be a list of texts"),
        ({"stop_strings": ["x" * 1001]}, "each is a text of 1 to 1000 letters"),
        ({"stop_strings": ["x"] * 101}, "101 stops are given; there may be 100"),
        ({"suffix_token_ids": 5}, "suffix_token_ids is 5; it must be a list of whole numbers"),
        ({"suffix_token_ids": [1.5]}, "suffix_token_ids is .1.5.; it must be a list of ids"),
        ({"suffix_token_ids": [-1]}, "it must be a list of ids"),
    ],
)
def test_stops_that_are_none_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        SamplerConfig(**settings)


def test_a_text_stop_needs_the_tokenizer(tiny_model):
    with pytest.raises(ValueError, match="give tokenizer=processor.tokenizer"):
        tiny_model.generate(torch.tensor([[40]]), sampler=SamplerConfig(stop_strings=["."]))


def test_the_model_that_ships_stops_at_a_word_in_the_middle_of_its_answer():
    model, processor = load()
    question, settings = "Describe the picture.", {"gen_length": 32}
    whole = answer(model, processor, question, [DEMO_IMAGE], sampler=SamplerConfig(**settings)).text
    word = whole.split()[2].strip(",.")
    found = answer(model, processor, question, [DEMO_IMAGE], sampler=SamplerConfig(**settings, stop_strings=[word]))
    assert found.text == whole[: whole.index(word)].strip() and word not in found.text
