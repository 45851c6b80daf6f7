"""The learning rate over a run: transformers' cosine, begun anew where a recipe says so."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from llada_v.training.schedule import rate_share


def test_one_cycle_is_the_cosine_of_transformers():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 3, 100).lr_lambdas[0]
    assert [rate_share(step, 100, 0.03, {}) for step in range(101)] == [theirs(step) for step in range(101)]


def test_each_cycle_goes_as_a_run_of_its_own():
    alone = [rate_share(step, 40, 0.1, {}) for step in range(40)]
    restarts = {60: 1, 100: 0.5}
    assert [rate_share(step, 300, 0.1, restarts) for step in range(60, 100)] == alone
    assert [rate_share(step, 140, 0.1, restarts) for step in range(100, 140)] == [share / 2 for share in alone]
    assert rate_share(300, 300, 0.1, restarts) == pytest.approx(0)
    assert rate_share(0, 1, 0.0, {}) == 1
