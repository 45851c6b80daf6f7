"""What ends an answer: a sequence of ids, or a text, found wherever in a token it begins.

A text is looked for in what the revealed tokens spell: each stretch of the canvas without a mask is decoded as a whole,
so a stop may begin or end inside a token and span several. Nothing is decoded where no text ends an answer.
Letters: R rows, G canvas positions.
"""

from collections.abc import Callable
from functools import lru_cache

import torch

KEPT = 4096  # canvases whose text was read; a step looks at the same ones several times


class Stops:
    """The stops of one batch.

    ids: sequences that end an answer where they start. texts: strings that do.
    decode: a list of ids -> text, needed for texts.
    """

    def __init__(self, ids: list[list[int]], mask_id: int, texts=(), decode: Callable[[list[int]], str] | None = None):
        self.ids = [torch.tensor(stop) for stop in ids]
        self.starts = torch.tensor([int(stop[0]) for stop in ids], dtype=torch.long)
        self.mask_id, self.texts, self.decode = mask_id, tuple(texts), decode
        self.read = lru_cache(KEPT)(self.read_stretches)

    def ends(self, canvas: torch.Tensor) -> torch.Tensor:
        """(...,) how many tokens of canvases (..., G) the answer keeps; G where nothing ends it yet.

        A token that begins in front of a stop's text and holds some of it is kept: `text_of` cuts inside it.
        """
        rows = canvas.reshape(-1, canvas.shape[-1])
        ends = first_stop(rows, self.ids)
        if self.texts:
            kept = [self.read(tuple(row[:end]))[0] for row, end in zip(rows.tolist(), ends.tolist(), strict=True)]
            read = torch.tensor(kept, dtype=ends.dtype)
            ends = torch.where(read < 0, ends, read)
        return ends.view(canvas.shape[:-1])

    def are_in_sight(self, tokens: torch.Tensor, is_open: torch.Tensor, canvas: torch.Tensor) -> torch.Tensor:
        """(R,) whether a stop begins, or its text stands, among tokens (R, G) proposed for open positions (R, G)."""
        in_sight = (torch.isin(tokens, self.starts) & is_open).any(1)
        if self.texts:
            filled = torch.where(is_open, tokens, canvas).tolist()
            in_sight |= torch.tensor([self.read(tuple(row))[0] >= 0 for row in filled])
        return in_sight

    def text_of(self, ids: list[int], end: int) -> str:
        """The text of a finished canvas of which `ends` keeps `end` tokens, cut exactly in front of the stop."""
        if self.texts:
            end_of_ids = int(first_stop(torch.tensor([ids]), self.ids))
            kept, text = self.read(tuple(ids[:end_of_ids]))
            if kept == end:
                return text
        return self.decode(ids[:end])

    def read_stretches(self, ids: tuple[int, ...]) -> tuple[int, str]:
        """(tokens kept, text in front of the stop in its stretch) for the first stop text; (-1, "") where none is."""
        start = 0
        for position, token in enumerate((*ids, self.mask_id)):
            if token != self.mask_id:
                continue
            stretch = list(ids[start:position])
            text = self.decode(stretch) if stretch else ""
            places = [place for place in map(text.find, self.texts) if place >= 0]
            if places:
                before = text[: min(places)]
                # The most tokens that spell nothing of the stop; a text cut inside a character is no beginning of it.
                whole, spelled = next(
                    (count, spelled)
                    for count in range(len(stretch), -1, -1)
                    if before.startswith(spelled := self.decode(stretch[:count]) if count else "")
                )
                return start + whole + (len(spelled) < len(before)), before
            start = position + 1
        return -1, ""


def first_stop(canvas: torch.Tensor, stops: list[torch.Tensor]) -> torch.Tensor:
    """(R,) where the earliest stop sequence starts in each row of the canvas (R, G); G where there is none."""
    length = canvas.shape[1]
    index = torch.arange(length, device=canvas.device)
    first = None
    for stop in stops:
        found = canvas == stop if len(stop) == 1 else (canvas.unfold(1, len(stop), 1) == stop).all(-1)
        starts = torch.where(found, index[: found.shape[1]], length).amin(1)  # (R, G - len + 1) -> (R,)
        first = starts if first is None else torch.minimum(first, starts)
    return torch.full((canvas.shape[0],), length, device=canvas.device) if first is None else first


def by_kind(stops: list[str], tokenizer) -> tuple[list[list[int]], list[str]]:
    """Id sequences and texts that stop strings stand for: a special token, which is no text, ends by its id."""
    special = tokenizer.get_added_vocab()
    return [[special[stop]] for stop in stops if stop in special], [stop for stop in stops if stop not in special]
