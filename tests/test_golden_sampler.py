"""Answers equal those recorded from the original: every token, and the order in which they are revealed.

Nothing random takes part (temperature 0), so there is no tolerance.
"""

import pytest
import torch
from published import fill_in, golden, pictures_of

from llada_v import SamplerConfig

RECORDS = {record["name"]: record for record in golden("generate") if "cache" not in record}


def sampler_of(record: dict) -> SamplerConfig:
    """The record's settings in our words; the figures know no stop unless one is given."""
    params, ids = dict(record["params"]), record["token_table"]
    stops = [ids[stop] for stop in params.pop("stopping_criteria", [])]
    suffix = params.pop("generation_suffix", None)
    return SamplerConfig(**params, stop_token_ids=stops, suffix_token_ids=ids[suffix] if suffix else None)


@pytest.mark.parametrize("name", RECORDS)
def test_tokens_and_their_order_are_those_of_the_original(small_model, name):
    record, config = RECORDS[name], small_model.config
    pictures, counts = pictures_of(record, config)
    prompt = fill_in([record["input_ids"]], counts, config.image_token_id)
    assert prompt.shape[1] == record["prompt_len"]
    output = small_model.generate(prompt, sampler=sampler_of(record), return_dict_in_generate=True, **pictures)
    assert output.answers[0].tolist() == record["tokens"]
    assert [step[0] for step in output.order] == record["order"]
    assert output.num_forwards == len(record["order"])
    assert torch.equal(output.sequences[:, : prompt.shape[1]], prompt)
