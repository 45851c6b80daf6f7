"""Random weights so large that no two tokens are nearly as likely, and every word counts."""

import torch


def sharpened(model):
    """The model with such weights, the same in every run, ready to answer."""
    model.requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            gain = 3 if name.endswith(("q_proj.weight", "k_proj.weight", "lm_head.weight")) else 1
            scale = 1 if "embed" in name else gain / weight.shape[1] ** 0.5
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model
