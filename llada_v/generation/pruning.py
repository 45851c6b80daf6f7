"""Which features of the pictures an answer goes on with: those that its masks attended to most (RedVTP).

The first call of an answer is run with a `Gaze` in place of a cache. It notes a row of attention for each position of
the canvas, G x P a layer and a head, never L x L.

Letters: G canvas positions of the call, P columns of the prompt, L of the sequence, H heads, K width of one head.
"""

import torch

from .cache import KeyValueLayer


class Gaze:
    """How much each position of the canvas attends to the prompt, in a call of one row without padding.

    It stands where the trunk expects a cache, in front of the one there is. total: (G, P), the sum over layers of the
    mean over heads.
    """

    gives_all = False

    def __init__(self, trunk, cache, prompt_length: int, canvas_length: int):
        """cache: a `Cache` that is told what the call leaves, or None."""
        kept = [None] * len(trunk.layers) if cache is None else cache.layers
        self.prompt_length, self.canvas_length = prompt_length, canvas_length
        self.total = torch.zeros(canvas_length, prompt_length, device=trunk.device)
        self.layers = [GazeLayer(self, layer, number == len(kept) - 1) for number, layer in enumerate(kept)]

    def note(self, attention, query: torch.Tensor, key: torch.Tensor) -> None:
        """Add a layer's weights, given the canvas's queries (1, H, G, K) and all keys."""
        weights = attention.weights_of(query, key)[0, :, :, : self.prompt_length].mean(0)
        self.total += weights.to(self.total.device)

    def importance(self, is_masked: torch.Tensor) -> torch.Tensor:
        """RedVTP's importance of every column v (arXiv 2511.12428), (P,) on the CPU: the mean over layers, heads and
        sources s of a_sv, how much s attends to v.

        is_masked: (G or more,) bool, the sources: what is masked by now. If none of them was looked at, all that was.
        """
        total, is_source = self.total.cpu(), is_masked[: self.canvas_length]
        return total[is_source if is_source.any() else slice(None)].mean(0) / len(self.layers)


class GazeLayer(KeyValueLayer):
    """A layer of a `Gaze`, which keeps nothing itself. behind: the cache's own layer, or None."""

    def __init__(self, gaze: Gaze, behind: KeyValueLayer | None, is_last: bool):
        super().__init__()
        self.gaze, self.behind, self.is_last = gaze, behind, is_last

    def store(self, key, value, fresh):
        return (key, value) if self.behind is None else self.behind.store(key, value, fresh)

    def mix(self, attention, query, key, value):
        """(1, Q or L, H, K) of the back end. The last layer is asked for the canvas and filler behind it."""
        first = 0 if self.is_last else self.gaze.prompt_length
        self.gaze.note(attention, query[:, :, first : first + self.gaze.canvas_length], key)
        return attention.attend(query, key, value)[0]


def most_important(importance: torch.Tensor, is_picture: torch.Tensor, share: float) -> torch.Tensor:
    """(P,) bool: what stays, the text and that share of the pictures' features, rounded down, but one at least."""
    number = max(1, int(int(is_picture.sum()) * share))
    kept = ~is_picture
    kept[importance.masked_fill(~is_picture, -torch.inf).topk(number).indices] = True
    return kept
