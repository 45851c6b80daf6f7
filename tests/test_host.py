"""The sampling loop's own cost: operations a step, whatever the batch and the canvas."""

import pytest

from llada_v.benchmark.host import host_cost

MOST = 85  # operations a step; 341 at batch 1 and 1,423 at batch 16 before they were counted


@pytest.mark.parametrize("settings", [{}, {"cache": "prompt"}], ids=str)
@pytest.mark.parametrize("batch, gen_length", [(1, 128), (16, 128), (1, 2048)])
def test_a_step_takes_few_operations_whatever_the_batch_and_the_canvas(batch, gen_length, settings):
    assert host_cost(batch, gen_length, rounds=1, **settings).operations <= MOST


def test_nothing_is_drafted_where_nothing_is_looked_ahead():
    assert host_cost(1, 128, rounds=1).operations < host_cost(1, 128, rounds=1, lookahead=1).operations
