"""Prompts of different lengths, one behind the other in one run of the trunk: what they find side by side."""

import pytest
import torch
from test_cache import ENDS, answer, batch_of, model, name_of, prompts  # noqa: F401  # the fixture

from llada_v.generation import readers
from llada_v.generation.readers import EachAlone, Reader, Together, reader_of
from llada_v.generation.sampler import SamplerConfig
from llada_v.generation.token_merging import Prompts

LENGTHS = [40, 13, 71, 13, 28]
SETTINGS = [
    {},
    {"block_length": 4, "cfg_scale": 0.5},
    {"rule": "klass", "cache": "prompt"},
    {"cache": "prompt", "refresh_interval": 0, "block_length": 4},
    {"cache": "prompt", "refresh_interval": 3, "lookahead": 2},
    {"lookahead": 3, "rule": "margin"},
    {
        "gen_length": "auto",
        "max_gen_length": 32,
        "stop_token_ids": ENDS,
        "cache": "prompt",
        "refresh_interval": 2,
        "lookahead": 1,
    },
    {"gen_length": "auto", "max_gen_length": 32, "stop_token_ids": ENDS, "rule": "threshold"},
    {"merge_features": 0.5, "temperature": 0.7},
    {"suffix_token_ids": [40, 41], "cache": "prompt"},
]


def found_by(model, batch, settings):  # noqa: F811
    """What is answered, and the number of positions that each run of the trunk's first layer had, filler and all."""
    shapes, first = [], model.model.language_model.layers[0]
    handle = first.register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape[:2])))
    try:
        generator = torch.Generator().manual_seed(3)
        sampler = SamplerConfig(**{"gen_length": 12, "stop_token_ids": []} | settings)
        asked = dict(sampler=sampler, generator=generator, return_dict_in_generate=True)
        return model.generate(**batch, **asked), [rows * columns for rows, columns in shapes]
    finally:
        handle.remove()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("settings", SETTINGS, ids=name_of)
def test_rows_one_behind_the_other_find_what_they_find_side_by_side(model, settings, side, monkeypatch):  # noqa: F811
    batch = batch_of(model, prompts(model, LENGTHS), side)
    packed, positions = found_by(model, batch, settings)
    monkeypatch.setattr(readers, "Together", lambda model, prompts, *rest: Reader(model, *prompts[:2], *rest))
    padded, padded_positions = found_by(model, batch, settings)
    assert torch.equal(packed.sequences, padded.sequences) and packed.order == padded.order
    for ours, theirs in zip(packed.confidence, padded.confidence, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert len(positions) == len(padded_positions) and sum(positions) < sum(padded_positions)


def test_no_position_of_a_prompt_is_filler(model):  # noqa: F811
    rows = prompts(model, LENGTHS)
    _, positions = found_by(
        model, batch_of(model, rows, "left"), {"steps": 2, "cache": "prompt", "refresh_interval": 0}
    )
    assert positions == [sum(LENGTHS) + 12 * len(rows), 12 * len(rows)]


def test_padding_that_all_rows_share_is_left_out_too(model):  # noqa: F811
    batch = batch_of(model, prompts(model, [20, 20]), "left")
    plain, _ = found_by(model, batch, {})
    wide = batch | {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (5, 0), value=model.config.eos_token_id),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (5, 0)),
    }
    found, positions = found_by(model, wide, {})
    assert torch.equal(found.answers[0], plain.answers[0]) and set(positions) == {2 * (20 + 12)}


@pytest.mark.parametrize(
    "lengths, settings, kind",
    [
        ([20, 30], {}, Together),
        ([20, 20], {}, Reader),
        ([20, 30], {"compile": True}, Reader),
        ([20, 30], {"cache": "dllm"}, EachAlone),
        ([20, 30], {"keep_features": 0.5}, EachAlone),
    ],
    ids=str,
)
def test_who_reads_a_batch(model, lengths, settings, kind):  # noqa: F811
    batch = batch_of(model, prompts(model, lengths), "left")
    embeds = model.get_input_embeddings()(batch["input_ids"])
    shown = Prompts(embeds, batch["attention_mask"], batch["input_ids"] == model.config.image_token_id)
    suffix = torch.zeros(0, dtype=torch.long)
    assert type(reader_of(model, shown, suffix, SamplerConfig(**settings))) is kind


def test_a_model_that_is_spread_over_devices_is_run_through_the_trunks_own_door(model, monkeypatch):  # noqa: F811
    batch = batch_of(model, prompts(model, [20, 30]), "left")
    plain = answer(model, batch)
    monkeypatch.setattr(model, "hf_device_map", {"model.language_model": "cpu", "lm_head": "disk"}, raising=False)
    monkeypatch.delattr(readers, "Together")
    assert torch.equal(answer(model, batch).sequences, plain.sequences)
