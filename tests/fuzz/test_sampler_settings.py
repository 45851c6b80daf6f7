"""Any settings of the sampler give a complete answer or one clear error.

pytest -m slow tests/fuzz/test_sampler_settings.py
"""

import dataclasses
from collections import Counter

import pytest
import torch
from endings import ends_well
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llada_v import SamplerConfig
from llada_v.generation.config import CACHES, REMASKING, RULES, SCHEDULES
from llada_v.generation.sampler import sample

pytestmark = pytest.mark.slow

INPUTS = 4000
MASK, VOCABULARY = 0, 64
ODD = st.sampled_from(
    [None, True, False, -1, 0, 1, 2, 7, 0.5, 1.5, 1e308, 1e-320, float("nan"), float("inf"), 10**12, 10**30, 10**5000]
    + ["", "auto", "x", [], [[]], [[1]], [1], [[1, 2], [1]], {}, [None], b"x", "x" * 5000, [[10**30]], [["a"]], ["a"]]
)
SOUND = {
    "gen_length": st.integers(1, 24) | st.just("auto"),
    "steps": st.integers(1, 24) | st.none(),
    "block_length": st.integers(1, 24) | st.none(),
    "temperature": st.sampled_from([0, 0.0, 0.7, 10.0]),
    "remasking": st.sampled_from(REMASKING),
    "stop_token_ids": st.none() | st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), max_size=3),
    "stop_strings": st.none() | st.lists(st.text("abcdefgh", min_size=1, max_size=3), max_size=3),
    "cache": st.sampled_from(CACHES),
    "rule": st.sampled_from(RULES),
    "schedule": st.sampled_from(SCHEDULES),
    "lookahead": st.integers(0, 4),
    "max_gen_length": st.integers(1, 24) | st.none(),
}
NAMES = [field.name for field in dataclasses.fields(SamplerConfig) if field.name != "compile"]
COUNTS = Counter()


def logits_of(call):
    """Logits that follow from the canvas alone."""
    rows = call.is_open.nonzero()
    seeds = (call.canvas * torch.arange(1, call.canvas.shape[1] + 1)).sum(1)[rows[:, 0]] * 31 + rows[:, 1]
    logits = torch.sin(seeds[:, None] * 12.9898 + torch.arange(VOCABULARY) * 78.233) * 9
    logits[:, MASK] = -torch.inf
    return logits


def letters(ids):
    return "".join(chr(96 + token % 9) for token in ids)


@settings(
    max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
)
@given(st.data())
def test_any_settings_end(data):
    names = data.draw(st.lists(st.sampled_from(NAMES), max_size=6, unique=True))
    given = {name: data.draw(SOUND.get(name, ODD) if data.draw(st.integers(0, 3)) else ODD) for name in names}
    given = {"gen_length": 12} | given
    with ends_well(COUNTS):
        config = SamplerConfig(**given)
        assert config.canvas_length <= 1_000_000
        if config.canvas_length > 200:
            return
        stops = config.stop_token_ids or []
        found = sample(logits_of, 2, config, MASK, stops, torch.Generator().manual_seed(0), decode=letters)
        for row, end in enumerate(found.ends.tolist()):
            assert MASK not in found.canvas[row, :end]
            assert all(stop not in found.texts[row] for stop in config.stop_strings or [])


def test_both_endings_were_seen():
    print(COUNTS)
    assert COUNTS["right"] > INPUTS // 20 and COUNTS["refused"] > INPUTS // 20
