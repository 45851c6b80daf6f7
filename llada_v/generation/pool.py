"""Keys and values of all requests, in one place of a stated size. A request gets its stretch when it is let in, and
gives it back when it leaves: nothing grows, nothing is ever taken away from a request.

Letters: S positions of the pool, H heads, K width of one head.
"""

import torch


class Pool:
    """`size` positions of keys and values for every layer of a trunk.

    layers: a pair (keys, values) a layer, each (S, H, K).
    """

    def __init__(self, sizes, size: int, dtype: torch.dtype, device: torch.device):
        """sizes: the trunk's config."""
        shape = (size, sizes.num_key_value_heads, sizes.head_dim)
        self.size, self.used = size, 0
        self.layers = [
            (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
            for _ in range(sizes.num_hidden_layers)
        ]
        self.gaps = [(0, size)] if size else []  # free stretches (start, length) in order

    @property
    def num_bytes(self) -> int:
        """What keys and values take in memory."""
        return sum(part.nbytes for pair in self.layers for part in pair)

    def take(self, length: int) -> int | None:
        """Where a free stretch of that length starts, which is then taken; None where there is none."""
        if not length:
            return 0
        for place, (start, free) in enumerate(self.gaps):
            if free >= length:
                self.gaps[place : place + 1] = [(start + length, free - length)] if free > length else []
                self.used += length
                return start
        return None

    def give_back(self, start: int, length: int) -> None:
        """Free a stretch that was taken."""
        if not length:
            return
        self.used -= length
        merged: list[tuple[int, int]] = []
        for begin, free in sorted([*self.gaps, (start, length)]):
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + free)
            else:
                merged.append((begin, free))
        self.gaps = merged
