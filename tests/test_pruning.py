"""Answers that go on without the features which hardly anything looks at, beside the plain way to compute the same."""

import pytest
import torch
from test_cache import alone, answer, batch_of, model, name_of, prompts, steps_of  # noqa: F401  # the fixture

from llada_v import SamplerConfig
from llada_v.generation.pruning import Gaze, most_important
from llada_v.generation.readers import PruningReader
from llada_v.generation.sampler import sample

CACHES = [{}, {"cache": "prompt", "refresh_interval": 2}]
LENGTHS = [
    {"steps": 6},
    {"block_length": 4, "steps": 6},
    {"gen_length": "auto", "block_length": 4, "max_gen_length": 16, "stop_token_ids": [[50]]},
]
LENGTHS += [{"suffix_token_ids": [20, 21]}]


def row_of(model, seed=0, num_features=9):  # noqa: F811
    generator, config = torch.Generator().manual_seed(seed), model.config
    ids = torch.randint(8, 200, (1, num_features + 6), generator=generator)
    ids[0, 2 : 2 + num_features] = config.image_token_id
    return ids, torch.randn(num_features, config.text_config.hidden_size, generator=generator)


def rows_of(model, sizes=(9, 4, 14)):  # noqa: F811
    return [row_of(model, number, size) for number, size in enumerate(sizes)]


def plain_answer(model, row, share, **settings):  # noqa: F811
    """The same from full matrices of attention, with the features that are left out hidden by a mask."""
    trunk, (ids, features), hidden = model.model.language_model, row, []
    prompt, is_picture = model.model.embed(ids, features), ids[0] == model.config.image_token_id
    seen = torch.ones(ids.shape[1], dtype=torch.bool)
    attentions = []

    def logits_of(call):
        if len(attentions) == 1:  # the second call: what is masked now asks
            masked = (call.canvas[0] == model.config.mask_token_id).nonzero()[:, 0] + ids.shape[1]
            importance = attentions[0][masked][:, is_picture.nonzero()[:, 0]].mean(0)
            least = importance.argsort()[: len(features) - int(share * len(features))]
            seen[is_picture.nonzero()[least, 0]] = False
            hidden.append(int((~seen).sum()))
        embeds = torch.cat((prompt, trunk.embed_tokens(call.canvas)), dim=1)
        mask = torch.cat((seen, torch.ones(call.canvas.shape[1], dtype=torch.bool)))[None]
        positions = torch.arange(embeds.shape[1])[None]
        found = trunk(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, output_attentions=True)
        attentions.append(torch.stack(found.attentions).mean((0, 1, 2)))
        logits = model.lm_head(found.last_hidden_state[0, ids.shape[1] :][call.is_open[0]]).float()
        logits[:, model.config.never_generated_ids()] = -torch.inf
        return logits

    kept = trunk.config._attn_implementation
    trunk.set_attn_implementation("eager")
    try:
        found = sample(logits_of, 1, SamplerConfig(**settings), model.config.mask_token_id, [])
    finally:
        trunk.set_attn_implementation(kept)
    return found, hidden


@torch.no_grad()
@pytest.mark.parametrize("blocks", [{"steps": 6}, {"block_length": 4, "steps": 6}], ids=name_of)
@pytest.mark.parametrize("share", [0.34, 0.5])
def test_tokens_are_those_of_full_attention_with_the_least_looked_at_hidden(model, share, blocks):  # noqa: F811
    for row in rows_of(model):
        expected, hidden = plain_answer(model, row, share, gen_length=12, **blocks)
        found = alone(model, row, keep_features=share, **blocks)
        assert hidden == [len(row[1]) - int(share * len(row[1]))]
        assert found.answers[0].tolist() == expected.canvas[0].tolist() and found.order == expected.order
        torch.testing.assert_close(found.confidence[0], expected.confidence[0], atol=1e-4, rtol=1e-3)


def hide(reader, kept):
    """`leave_out` by a mask: nothing gets shorter."""
    reader.real = reader.real & kept
    reader.skipped, reader.num_skipped = (~kept).cumsum(0), int((~kept).sum())
    reader.place = None


@pytest.mark.parametrize("settings", LENGTHS, ids=name_of)
@pytest.mark.parametrize("cache", CACHES, ids=name_of)
def test_what_is_left_out_is_as_if_it_were_hidden(model, cache, settings, monkeypatch):  # noqa: F811
    rows, settings = rows_of(model), {"keep_features": 0.34} | cache | settings
    found = [alone(model, row, **settings) for row in rows]
    without = [alone(model, row, **settings | {"keep_features": None}) for row in rows]
    assert any(one.answers[0].tolist() != other.answers[0].tolist() for one, other in zip(found, without, strict=True))
    monkeypatch.setattr(PruningReader, "leave_out", hide)
    for row, one in zip(rows, found, strict=True):
        expected = alone(model, row, **settings)
        assert one.answers[0].tolist() == expected.answers[0].tolist() and one.order == expected.order


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("settings", LENGTHS, ids=name_of)
@pytest.mark.parametrize("cache", CACHES, ids=name_of)
def test_rows_of_a_batch_are_answered_as_alone(model, cache, settings, side):  # noqa: F811
    rows = [*rows_of(model), (torch.tensor([[9, 10, 11]]), torch.zeros(0, 48))]  # the last without a picture
    settings = {"keep_features": 0.5} | cache | settings
    together = answer(model, batch_of(model, rows, side), **settings)
    for number, row in enumerate(rows):
        expected = alone(model, row, **settings)
        assert together.answers[number].tolist() == expected.answers[0].tolist()
        assert torch.equal(together.confidence[number], expected.confidence[0])
        assert steps_of(together, number) == steps_of(expected, 0)


@pytest.mark.parametrize("cache", CACHES, ids=name_of)
def test_all_features_give_the_plain_tokens(model, cache):  # noqa: F811
    batch = batch_of(model, rows_of(model), "left")
    plain, found = answer(model, batch, **cache), answer(model, batch, keep_features=1.0, **cache)
    assert torch.equal(found.sequences, plain.sequences) and found.order == plain.order


def test_later_calls_are_shorter_and_no_step_makes_length_times_length(model, monkeypatch):  # noqa: F811
    row, widths, made = row_of(model, num_features=100), [], []
    run, note = model.model.language_model.forward, Gaze.note

    def noting(gaze, attention, query, key):
        made.append(query.shape[2])
        note(gaze, attention, query, key)

    monkeypatch.setattr(Gaze, "note", noting)
    monkeypatch.setattr(
        model.model.language_model,
        "forward",
        lambda **inputs: widths.append(inputs["inputs_embeds"].shape[1]) or run(**inputs),
    )
    alone(model, row, keep_features=0.25, steps=4)
    assert widths == [118, 43, 43, 43]
    assert made == [12] * 3  # the canvas in each of three layers, once


def test_text_stays_and_one_feature_at_least():
    is_picture = torch.tensor([False, True, True, True, False])
    importance = torch.tensor([9.0, 0.1, 0.3, 0.2, 9.0])
    assert most_important(importance, is_picture, 0.7).tolist() == [True, False, True, True, True]
    assert most_important(importance, is_picture, 0.01).tolist() == [True, False, True, False, True]
