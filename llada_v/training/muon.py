"""Muon for the matrices of the blocks and AdamW for all else, as one optimizer.

Muon (Jordan, 2024) makes the momentum of a matrix orthogonal before each step, so that all its directions learn alike.
Steps are scaled to the size of AdamW's (arXiv 2502.16982), so both take the same learning rates.
"""

from itertools import islice
from typing import Any

import torch
from torch.optim import AdamW, Optimizer


class MuonAndAdamW(Optimizer):
    """torch's Muon for the groups with `muon` true, whose members are matrices, and torch's AdamW for the others.

    groups: as for every optimizer of torch; each has params, lr, weight_decay and `muon`. Those with it come first in
        `param_groups`.
    """

    def __init__(self, groups: list[dict[str, Any]]):
        matrices, others = ([group for group in groups if group["muon"] is is_muon] for is_muon in (True, False))
        self.parts: list[Optimizer] = []
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw"))
        if others:
            self.parts.append(AdamW(others))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self.share()

    def share(self) -> None:
        """Let the parts work on the groups and the state that this optimizer shows, saves and loads."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups, part.state = list(islice(groups, len(part.param_groups))), self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.share()

    @torch.no_grad()
    def step(self, closure=None):
        """One step of both. Returns what the closure, if there is one, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def takes_muon(name: str, parameter: torch.Tensor) -> bool:
    """Whether a weight, by its name in the model, is a matrix between hidden states: of a block or of the projector."""
    return parameter.ndim == 2 and (".layers." in name or ".multi_modal_projector." in name)
