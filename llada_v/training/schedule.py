"""The share of its peak that a learning rate has at a step."""

import math


def rate_share(step: int, ends: list[int], warmup_ratio: float) -> float:
    """A share from 0 to 1: warmed up linearly, then a cosine to 0, anew after each of the `ends` but the last.

    ends: the steps that such cycles end with, rising; the last is that of the run.
    warmup_ratio: the share of each cycle that warms up.
    Source: arXiv 1608.03983; one cycle is transformers' schedule "cosine".
    """
    start = max([0, *(end for end in ends[:-1] if end <= step)])
    length = min(end for end in ends if end > start) - start
    warmup = math.ceil(length * warmup_ratio)
    if step - start < warmup:
        return (step - start) / warmup
    return 0.5 * (1 + math.cos(math.pi * ((step - start - warmup) / max(1, length - warmup))))
