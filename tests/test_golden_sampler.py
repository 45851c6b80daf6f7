"""Answers equal those recorded from the original: every token, and the order in which they are revealed.

Nothing random takes part (temperature 0), so there is no tolerance.

The figures of dLLM-Cache need the original's own arithmetic, attention written out ("eager"): that cache fills its
share of changed positions with some that did not change, whose similarity is 1 but for rounding, and so rounding picks
them.
"""

import pytest
import torch
from published import fill_in, golden, pictures_of

from llada_v import SamplerConfig

RECORDS = {record["name"]: record for record in golden("generate")}
PLAIN = [name for name, record in RECORDS.items() if "cache" not in record]
CACHED = [name for name, record in RECORDS.items() if "cache" in record]
TEXT = [name for name in PLAIN if not RECORDS[name]["images"]]


def sampler_of(record: dict, **settings) -> SamplerConfig:
    """The record's settings in our words; the figures know no stop unless one is given."""
    params, ids = dict(record["params"]), record["token_table"]
    stops = [ids[stop] for stop in params.pop("stopping_criteria", [])]
    suffix = params.pop("generation_suffix", None)
    cache = {name.removesuffix("_steps"): value for name, value in record.get("cache", {}).items()}
    if cache:
        cache["cache"] = "dllm"
    return SamplerConfig(
        **params, **cache, **settings, stop_token_ids=stops, suffix_token_ids=ids[suffix] if suffix else None
    )


def check(model, record, **settings):
    """Answer the record's prompt and compare; returns the output."""
    pictures, counts = pictures_of(record, model.config)
    prompt = fill_in([record["input_ids"]], counts, model.config.image_token_id)
    assert prompt.shape[1] == record["prompt_len"]
    output = model.generate(prompt, sampler=sampler_of(record, **settings), return_dict_in_generate=True, **pictures)
    assert output.answers[0].tolist() == record["tokens"]
    assert [step[0] for step in output.order] == record["order"]
    assert torch.equal(output.sequences[:, : prompt.shape[1]], prompt)
    return output


@pytest.mark.parametrize("name", PLAIN)
def test_tokens_and_their_order_are_those_of_the_original(small_model, name):
    output = check(small_model, RECORDS[name])
    assert output.num_forwards == len(RECORDS[name]["order"])


@pytest.fixture
def eager_model(small_model):
    """The same model with attention written out."""
    before = small_model.config.text_config._attn_implementation
    small_model.set_attn_implementation("eager")
    yield small_model
    small_model.set_attn_implementation(before)


@pytest.mark.parametrize("name", CACHED)
def test_the_feature_cache_finds_the_tokens_of_the_original(eager_model, name):
    output = check(eager_model, RECORDS[name])
    assert output.num_forwards == len(RECORDS[name]["order"])


@pytest.mark.parametrize("name", TEXT)
def test_lookahead_finds_the_same_in_no_more_calls(small_model, name):
    output = check(small_model, RECORDS[name], lookahead=2)
    assert output.num_forwards <= len(RECORDS[name]["order"])


@pytest.mark.parametrize("name", [name for name in TEXT if "cfg_scale" not in RECORDS[name]["params"]])
def test_a_prompt_cache_renewed_at_every_step_finds_the_same(small_model, name):
    check(small_model, RECORDS[name], cache="prompt", refresh_interval=1)
