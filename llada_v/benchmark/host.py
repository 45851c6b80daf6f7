"""What the sampling loop itself costs the host: operations and microseconds a step, the model left out.

    python -m llada_v.benchmark.host

The logits are a table of few tokens, so that what is timed is the handling of the step and not its arithmetic.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..generation.config import SamplerConfig
from ..generation.sampler import Call, sample

VOCABULARY, MASK, STOP = 32, 0, 1
BATCHES, LENGTHS = (1, 16), (128, 2048)
STEPS = 64  # of the timed answers


class Count(TorchDispatchMode):
    """Counts the operations that torch runs while it is active."""

    def __init__(self):
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num_operations += 1
        return func(*args, **kwargs or {})


@dataclass(frozen=True)
class HostCost:
    """Operations and microseconds of the host a step."""

    operations: float
    microseconds: float


def host_cost(batch: int, gen_length: int, rounds: int = 5, **settings) -> HostCost:
    """The loop's own cost a step, for `batch` answers of `gen_length` tokens that no stop ends, in STEPS steps.

    settings: of `SamplerConfig`. The microseconds are the least of some rounds of the thread's own time.
    """
    config = SamplerConfig(gen_length=gen_length, **{"steps": STEPS} | settings)
    num_positions = batch * gen_length * (1 + config.lookahead)
    table = torch.randn(num_positions, VOCABULARY, generator=torch.Generator().manual_seed(0))
    table[:, [MASK, STOP]] = -torch.inf
    in_model = 0

    def logits_of(call: Call) -> torch.Tensor:
        nonlocal in_model
        start = time.thread_time_ns()
        logits = table[: int(call.is_open.sum())]
        in_model += time.thread_time_ns() - start
        return logits

    def answer():
        return sample(logits_of, batch, config, MASK, [[STOP]])

    answer()
    with Count() as count:
        num_forwards = answer().num_forwards
    spent = []
    for _ in range(rounds):
        in_model, start = 0, time.thread_time_ns()
        answer()
        spent.append(time.thread_time_ns() - start - in_model)
    # Two operations of the count are the table's own.
    return HostCost(count.num_operations / num_forwards - 2, min(spent) / 1000 / num_forwards)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| batch | canvas | cache | operations a step | microseconds a step |\n|---|---|---|---|---|")
    every: tuple[dict[str, Any], ...] = ({}, {"cache": "prompt"})
    for settings in every:
        for batch in BATCHES:
            for length in LENGTHS:
                cost, cache = host_cost(batch, length, **settings), settings.get("cache", "none")
                print(f"| {batch} | {length} | {cache} | {cost.operations:.0f} | {cost.microseconds:.0f} |")


if __name__ == "__main__":
    main()
