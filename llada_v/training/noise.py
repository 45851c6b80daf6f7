"""The objective: hide answer tokens at random, predict them from everything else (arXiv 2502.09992, eq. 3).

    t ~ U(0, 1)     p(t) = (1 - eps) t + eps     each labelled token becomes the mask with probability p(t)

    loss = 1/B  sum_b  1/n_b  sum_i [i masked] CE(logits_i, token_i) / p_b

with n_b the number of labelled tokens of row b. Plain functions: ids and a generator in, tensors out.
Letters: B rows, L positions, M masked positions of the batch, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

IGNORE = -100
EPSILON = 1e-3


class Noised(NamedTuple):
    """A noised batch: ids with masks (B, L), which positions are masked (B, L) bool, and p(t) of each row (B,)."""

    input_ids: torch.Tensor
    is_masked: torch.Tensor
    p_mask: torch.Tensor


def add_noise(
    input_ids: torch.Tensor, labels: torch.Tensor, mask_token_id: int, generator: torch.Generator | None = None
) -> Noised:
    """Mask each labelled position of a batch (B, L) with its row's probability p(t).

    labels: (B, L), -100 where a position is never masked: pictures, questions, padding.
    generator: source of all random numbers; the same state gives the same noise.
    """
    t = torch.rand(input_ids.shape[0], generator=generator, device=input_ids.device)
    p_mask = (1 - EPSILON) * t + EPSILON
    draw = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
    is_masked = (draw < p_mask[:, None]) & (labels != IGNORE)
    return Noised(input_ids.masked_fill(is_masked, mask_token_id), is_masked, p_mask)


def diffusion_loss(
    logits: torch.Tensor, labels: torch.Tensor, is_masked: torch.Tensor, p_mask: torch.Tensor
) -> torch.Tensor:
    """The loss above, a scalar in nats, from logits (M, V) at the masked positions in order.

    labels: (B, L), the clean ids. The cross entropy is float32 whatever the logits are. No masked position: 0.
    """
    num_rows = labels.shape[0]
    rows = is_masked.nonzero()[:, 0]
    answer_lengths = (labels != IGNORE).sum(1).clamp_min(1)
    weights = 1 / (p_mask * answer_lengths)
    losses = cross_entropy(logits.float(), labels[is_masked], reduction="none")
    return (losses * weights[rows]).sum() / num_rows
