"""The objective: hide answer tokens at random, predict them from everything else (arXiv 2502.09992, eq. 3).

    t ~ U(0, 1)     p(t) = (1 - eps) t + eps     each labelled token becomes the mask with probability p(t)

    loss = 1/B  sum_b  1/n_b  sum_i [i masked] CE(logits_i, token_i) / p_b

with n_b the number of labelled tokens of row b. Plain functions: numbers and ids in, tensors out.
Letters: B rows, L positions, M masked positions of the batch, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ..configuration_llada_v import IGNORE

EPSILON = 1e-3
SHARED = 2**63  # in place of a row's number: what all rows of a step share
HELD_OUT = 2**63  # in place of a step's number: noise that is the same at every step


class Draw(NamedTuple):
    """Random numbers of a batch: the noise level t of each row (B,) and one number in [0, 1] a position (B, L)."""

    t: torch.Tensor
    uniform: torch.Tensor


class Noised(NamedTuple):
    """A noised batch: ids with masks (B, L), which positions are masked (B, L) bool, and p(t) of each row (B,)."""

    input_ids: torch.Tensor
    is_masked: torch.Tensor
    p_mask: torch.Tensor


def draw_noise(
    seed: int,
    step: int,
    rows: Sequence[int],
    num_rows: int,
    length: int,
    t_min: float = 0.0,
    antithetic_t: bool = False,
) -> Draw:
    """The random numbers of some rows of a step's global batch.

    They are a function of seed, step and a row's number in the global batch, and a longer row begins with those of a
    shorter one. So neither the number of devices, nor the micro-batches, nor an interruption changes them.

    rows: numbers of the rows, out of `num_rows` in the global batch.
    t_min: t ~ U(t_min, 1) instead of U(0, 1), the clipped schedule of arXiv 2503.09573: no row with almost nothing
        masked, whose few tokens would weigh 1/p.
    antithetic_t: the rows' t are one uniform number shifted by row / num_rows and wrapped (arXiv 2107.00630, appendix
        I.1): each is uniform, together they cover the range evenly.
    """
    sources = [numbers(seed, step, row) for row in rows]
    t = np.array([source.random() for source in sources])
    if antithetic_t:
        t = (numbers(seed, step, SHARED).random() + np.array(rows) / num_rows) % 1
    uniform = np.stack([source.random(length, dtype=np.float32) for source in sources])
    return Draw(torch.from_numpy(t_min + (1 - t_min) * t).float(), torch.from_numpy(uniform))


def numbers(seed: int, step: int, row: int) -> np.random.Generator:
    """The stream of random numbers of one row of one step; Philox streams with different counters are independent."""
    return np.random.Generator(np.random.Philox(key=seed, counter=(0, 0, row, step)))


def complement(draw: Draw, t_min: float = 0.0) -> Draw:
    """The opposite draw (arXiv 2505.16839): every labelled token is masked under the one or under the other."""
    return Draw(1 + t_min - draw.t, 1 - draw.uniform)


def add_noise(input_ids: torch.Tensor, labels: torch.Tensor, mask_token_id: int, draw: Draw) -> Noised:
    """Mask each labelled position of a batch (B, L) with its row's probability p(t).

    labels: (B, L), -100 where a position is never masked: pictures, questions, padding.
    """
    p_mask = (1 - EPSILON) * draw.t.to(input_ids.device) + EPSILON
    is_masked = (draw.uniform.to(input_ids.device) < p_mask[:, None]) & (labels != IGNORE)
    return Noised(input_ids.masked_fill(is_masked, mask_token_id), is_masked, p_mask)


def token_weights(labels: torch.Tensor, is_masked: torch.Tensor, p_mask: torch.Tensor) -> torch.Tensor:
    """What each masked token's cross entropy counts for in the loss above, (M,) row by row: 1 / (B n_b p_b)."""
    answer_lengths = (labels != IGNORE).sum(1).clamp_min(1)
    return (1 / (p_mask * answer_lengths * labels.shape[0]))[is_masked.nonzero()[:, 0]]


def diffusion_loss(
    logits: torch.Tensor, labels: torch.Tensor, is_masked: torch.Tensor, p_mask: torch.Tensor
) -> torch.Tensor:
    """The loss above, a scalar in nats, from logits (M, V) at the masked positions in order.

    The plain form, for what holds the logits; training's chunked one (`head`) is tested against it.
    labels: (B, L), the clean ids. The cross entropy is float32 whatever the logits are. No masked position: 0.
    """
    losses = cross_entropy(logits.float(), labels[is_masked], reduction="none")
    return (losses * token_weights(labels, is_masked, p_mask)).sum()
