"""Rows of different lengths in one, one behind the other, that do not see each other: no filler in any layer.

Only attention takes them apart. Flash attention knows such rows; any other back end gets them side by side, filled up
to the longest for that one operation.
Letters: n rows, T tokens of all together, W tokens of the longest, H heads, K width of one head.
"""

from collections.abc import Sequence

import torch


class PackedRows:
    """In place of an attention mask; lengths: tokens of each row, in their order."""

    def __init__(self, lengths: Sequence[int], device: torch.device):
        sizes = torch.tensor(lengths)
        self.longest = int(sizes.max())
        column = torch.arange(self.longest)
        ends = sizes.cumsum(0)
        is_real = column < sizes[:, None]  # (n, W)
        self.bounds = torch.cat((torch.zeros(1, dtype=torch.long), ends)).int().to(device)  # (n + 1,)
        self.index = torch.where(is_real, (ends - sizes)[:, None] + column, 0).flatten().to(device)
        self.places = is_real.flatten().nonzero()[:, 0].to(device)  # of the T tokens among the n x W
        self.mask = None if bool(is_real.all()) else is_real[:, None, None].to(device)

    def positions(self) -> torch.Tensor:
        """(1, T), each row from 0."""
        return (self.places % self.longest)[None]

    def attend(self, attend, module, query, key, value, scaling: float):
        """Heads (1, H, T, K) -> (1, T, H, K), each token over its own row."""
        if "flash" in module.config._attn_implementation:
            bounds = dict(cu_seq_lens_q=self.bounds, cu_seq_lens_k=self.bounds)
            most = dict(max_length_q=self.longest, max_length_k=self.longest)
            return attend(module, query, key, value, None, scaling=scaling, **bounds, **most)[0]
        apart = (self.side_by_side(heads) for heads in (query, key, value))
        mixed, _ = attend(module, *apart, self.mask, scaling=scaling)  # (n, W, H, K)
        return mixed.flatten(0, 1).index_select(0, self.places)[None]

    def side_by_side(self, heads: torch.Tensor) -> torch.Tensor:
        """(1, H, T, K) -> (n, H, W, K); filler is a copy of the first token, which nothing sees or asks for."""
        rows = heads[0].transpose(0, 1).index_select(0, self.index)
        return rows.unflatten(0, (-1, self.longest)).transpose(1, 2)
