"""The sampler's answers when `ANSWERS_VERSION` was last raised; finished evaluations count while they are equal.

Where the sampler is meant to answer otherwise: raise the number, and record the new answers under it here.
"""

import pytest
import torch

from llada_v import SamplerConfig
from llada_v.generation.sampler import ANSWERS_VERSION, sample

MASK, STOP, VOCABULARY = 0, 1, 32
TOKENS = [5, 9, 7, 1, 8, 6, 4, 3]
SURENESS = [3.0, 9.0, 5.0, 4.0, 8.0, 2.0, 7.0, 6.0]
SETTINGS = {
    "one a step": {},
    "two a step": {"steps": 4},
    "convex": {"steps": 4, "schedule": "convex"},
    "blocks": {"block_length": 4},
    "threshold": {"rule": "threshold"},
    "factor": {"rule": "factor"},
    "frechet": {"rule": "frechet"},
    "entropy": {"rule": "entropy_bound"},
    "margin": {"rule": "margin"},
    "klass": {"rule": "klass"},
}
RECORDED = {
    1: {
        "one a step": [[5, 9, 7], [[1], [4], [6], [7], [2], [3], [0]]],
        "two a step": [[5, 9, 7], [[1, 4], [6, 7], [2, 3], [0]]],
        "convex": [[5, 9, 7], [[1], [4], [6, 7], [0, 2, 3, 5]]],
        "blocks": [[5, 9, 7], [[1], [2], [3], [0]]],
        "threshold": [[5, 9, 7], [[1, 4, 6, 7], [2], [3], [0]]],
        "factor": [[5, 9, 7], [[1, 4, 6, 7], [2], [3], [0]]],
        "frechet": [[5, 9, 7], [[1, 2, 4, 6, 7], [3], [0]]],
        "entropy": [[5, 9, 7], [[1, 4], [6], [7], [2], [3], [0]]],
        "margin": [[5, 9, 7], [[1, 2, 4, 6, 7], [3], [0]]],
        "klass": [[5, 9, 7], [[1], [4, 6, 7], [2], [3], [0]]],
    }
}


def logits_of(call):
    """The same token at each position, the surer the higher."""
    positions = call.is_open.nonzero()[:, 1]
    logits = torch.zeros(len(positions), VOCABULARY)
    logits[torch.arange(len(positions)), torch.tensor(TOKENS)[positions]] = torch.tensor(SURENESS)[positions]
    return logits


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_those_of_the_recorded_version(name):
    found = sample(logits_of, 1, SamplerConfig(gen_length=8, **SETTINGS[name]), MASK, ((STOP,),))
    answer = found.canvas[0, : found.ends[0]].tolist(), [step[0] for step in found.order]
    assert list(answer) == RECORDED[ANSWERS_VERSION][name]
