"""The share of its peak that a learning rate has at a step."""

import math


def rate_share(step: int, end: int, warmup_ratio: float, restarts: dict[int, float]) -> float:
    """A share from 0 to 1: warmed up linearly, then a cosine to 0, anew after each restart.

    end: the steps of the run.
    warmup_ratio: the share of each cycle that warms up.
    restarts: the steps, rising, that a cycle ends with and another begins, and the share that this one warms up to.
    Source: arXiv 1608.03983; one cycle is transformers' schedule "cosine".
    """
    start, peak = max((item for item in restarts.items() if item[0] <= step), default=(0, 1))
    length = min([end, *(at for at in restarts if at > start)]) - start
    warmup = math.ceil(length * warmup_ratio)
    if step - start < warmup:
        return peak * ((step - start) / warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * ((step - start - warmup) / max(1, length - warmup)))))
