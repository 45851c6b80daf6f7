"""Fewer features of the pictures from the first step on: those most alike become their mean (ToMe, arXiv 2210.09461).

Within each picture every other feature looks for the most similar one (cosine) among the rest; the pairs most alike
anywhere in the prompt are merged, in as many rounds as it takes. A mean stands where its second feature stood, and what
is behind moves up. Newlines between rows of features stay.

Letters: B rows, P columns of the prompts, N features of one prompt, D width.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import normalize, pad


class Prompts(NamedTuple):
    """Embedded prompts (B, P, D), their mask (B, P) or None, and where features of pictures stand (B, P) bool."""

    embeds: torch.Tensor
    attention_mask: torch.Tensor | None
    is_picture: torch.Tensor


def shortened(model, prompts: Prompts, share: float | None) -> Prompts:
    """The prompts as a sampler's `merge_features` asks for them: None is all of them.

    model: a `LladaVModel`, whose newline stays.
    """
    return prompts if share is None else with_fewer_features(prompts, model.newline_like(prompts.embeds), share)


def with_fewer_features(prompts: Prompts, newline: torch.Tensor, share: float) -> Prompts:
    """The prompts with that share of their pictures' features, rounded down, one a picture at least.

    newline: (D,), what ends a row of features; it is not merged, and not counted. A row that is now shorter than the
    longest has hidden padding in front.
    """
    embeds, mask, is_picture = prompts
    real = torch.ones_like(is_picture) if mask is None else mask.bool()
    rows, marks = [], []
    for row in range(len(embeds)):
        own, pictures = embeds[row, real[row]], is_picture[row, real[row]]
        can_merge = pictures & (own != newline.to(own)).any(-1)
        columns = can_merge.nonzero()[:, 0]
        means, stays = merge(own[columns].float(), picture_of(pictures)[columns], share)
        own, is_left = own.clone(), torch.ones_like(pictures)
        own[columns], is_left[columns] = means.to(own), stays
        rows.append(own[is_left])
        marks.append(pictures[is_left])
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    embeds = torch.stack([pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    is_picture = torch.stack([pad(mark, (longest - len(mark), 0)) for mark in marks])
    filler = longest - torch.tensor(lengths, device=embeds.device)
    mask = torch.arange(longest, device=embeds.device) >= filler[:, None]
    return Prompts(embeds, None if mask.all() else mask.long(), is_picture)


def picture_of(is_picture: torch.Tensor) -> torch.Tensor:
    """(P,) for each column the number of the picture, an unbroken run of features, that it belongs to or follows."""
    is_first = is_picture & ~pad(is_picture, (1, 0))[:-1]
    return is_first.cumsum(0)


def merge(features: torch.Tensor, picture: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, D) features, the merged ones in place of one that was merged into, and (N,) bool which are left.

    picture: (N,) the picture that each belongs to. A mean counts each of the features that were put into it once.
    """
    features, weights = features.clone(), torch.ones(len(features), device=features.device)
    left = torch.ones_like(picture, dtype=torch.bool)
    surplus = len(features) - max(int(len(features) * share), len(picture.unique()))
    while surplus > 0:
        source, target, likeness = pairs_of(features, picture, left)
        best = likeness.topk(min(surplus, len(likeness))).indices
        source, target = source[best], target[best]
        features *= weights[:, None]
        features.index_add_(0, target, features[source])
        weights.index_add_(0, target, weights[source])
        features /= weights[:, None]
        left[source] = False
        surplus -= len(best)
    return features, left


def pairs_of(features: torch.Tensor, picture: torch.Tensor, left: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """For every other feature of each picture that is left, the most similar of the rest: source, target, likeness."""
    found = []
    for number in picture.unique().tolist():
        own = (left & (picture == number)).nonzero()[:, 0]
        unit = normalize(features[own], dim=-1)
        source = own[::2] if len(own) % 2 == 0 else own[:-1:2]
        if len(source):
            best = (unit[: 2 * len(source) : 2] @ unit[1::2].T).max(1)
            found.append((source, own[1::2][best.indices], best.values))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
