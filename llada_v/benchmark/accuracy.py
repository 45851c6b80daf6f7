"""Shares of right answers, differences between two settings on the same questions, and what is known of both.

All intervals are at 95 %. A share has Wilson's interval (1927), a difference of two settings that answered the same
questions that of Agresti and Min (2005): both have closed forms and hold their 95 % for few questions too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import WrongValue

Z = 1.959963984540054  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True)
class Estimate:
    """A number and the interval it lies in."""

    value: float
    low: float
    high: float


def share(is_right: Sequence[bool]) -> Estimate:
    """The share of right answers, in 0..1, with Wilson's interval.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p the share of n. Raises ValueError for no answers.
    """
    n = len(is_right)
    if not n:
        raise WrongValue("no answers were judged; give at least one question")
    p = sum(is_right) / n
    middle = p + Z**2 / (2 * n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    # A share of exactly 0 or 1 is an end of its interval; the formula misses it by a rounding.
    return Estimate(p, min(p, (middle - half) / scale), max(p, (middle + half) / scale))


def difference(is_right: Sequence[bool], reference: Sequence[bool]) -> Estimate:
    """How much larger the share of right answers is than the reference's, both to the same questions in order.

    Only the questions on which they disagree count: b of n are right here alone, c right in the reference alone, and
    half a question is added to each of the four cells, so N = n + 2, d = (b - c) / N and the interval is
    d +- z sqrt((b + c + 1)/N - d^2) / sqrt(N). Raises ValueError for different numbers of answers, or none.
    """
    if len(is_right) != len(reference):
        raise WrongValue(f"{len(is_right)} answers against {len(reference)}; both must be to the same questions")
    n = len(is_right)
    if not n:
        raise WrongValue("no answers were judged; give at least one question")
    gained = sum(here and not there for here, there in zip(is_right, reference, strict=True))
    lost = sum(there and not here for here, there in zip(is_right, reference, strict=True))
    d = (gained - lost) / (n + 2)
    half = Z * math.sqrt(((gained + lost + 1) / (n + 2) - d**2) / (n + 2))
    return Estimate((gained - lost) / n, max(-1.0, d - half), min(1.0, d + half))


def loses_nothing(change: Estimate) -> bool:
    """Whether a difference is not significantly below 0: its interval reaches 0.

    What it does not say: that nothing is lost. `change.low` is the loss that so many questions cannot exclude.
    """
    return change.high >= 0


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (speed, accuracy) that no other beats: none is better in one and as good in the other.

    Of equal points the first stands for all. Sorted by speed, slowest first.
    """
    best, kept = -math.inf, []
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept[::-1]
