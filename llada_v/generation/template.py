"""A form with gaps: its fixed text stands from the first step, its gaps are filled in any order and shrink.

Each gap has a stretch of the canvas to itself, and is a constraint of its own there. What a gap does not need it fills
with filler, the token that fills canvases behind answers, which vanishes from the answer. Behind the last gap, where no
text follows, the turn ends instead. Spaces in front of a gap belong to it, since tokens begin with them.
Knows ids and automata, no tokenizer. Letters: R canvases, G positions, M open positions, V vocabulary.
"""

from dataclasses import dataclass

import torch

from ..errors import WrongValue
from .automaton import Automaton
from .constraint import Constraint


@dataclass(frozen=True)
class Gap:
    """What stands in a gap: its automaton, and the least and the most tokens it is given."""

    automaton: Automaton
    least: int
    most: int


class Template:
    """The shape of answers that are a filled form; see `Constraint`, whose part in the sampling loop it has."""

    def __init__(self, parts: list[list[int] | Gap], end_id: int, filler_id: int, mask_id: int, length: int):
        """parts: in order, ids of fixed text and gaps. length: of the canvas.

        Raises ValueError where the form does not fit.
        """
        self.end_id, self.filler_id, self.length = end_id, filler_id, length
        gaps = [part for part in parts if isinstance(part, Gap)]
        fixed = sum(len(part) for part in parts if not isinstance(part, Gap))
        needed = fixed + sum(part.least for part in gaps)
        if needed > length:
            raise WrongValue(f"this template does not fit into {length} tokens; it needs gen_length {needed} or more")
        widths = iter(shared(length - fixed, [(part.least, part.most) for part in gaps]))
        initial: list[int] = []
        self.gaps: list[tuple[int, int, Constraint]] = []  # from where to where, and what is held there
        for number, part in enumerate(parts):
            if not isinstance(part, Gap):
                initial += part
                continue
            start, width = len(initial), next(widths)
            is_last = number == len(parts) - 1
            if is_last:
                width = min(width + 1, length - start)  # with the end of the turn
            made = Constraint(part.automaton, end_id if is_last else filler_id, mask_id, width)
            self.gaps.append((start, start + width, made))
            initial += [mask_id] * width
        if isinstance(parts[-1], list) and len(initial) < length:
            initial.append(end_id)
        initial += [filler_id] * (length - len(initial))
        self.initial = torch.tensor(initial)
        self.fills = torch.zeros(length, dtype=torch.bool)  # where filler stands for the end of a gap
        for start, end, _ in self.gaps[: len(self.gaps) - isinstance(parts[-1], Gap)]:
            self.fills[start:end] = True

    def of(self, rows: list[int]) -> "Template":
        """The shape of some rows of the batch: all have this one."""
        return self

    def closed(self, canvas: torch.Tensor) -> torch.Tensor:
        """Canvases (R, G) with filler behind filler, to the end of its gap: that takes no forward."""
        canvas = canvas.clone()
        for start, end, _ in self.gaps:
            part = canvas[:, start:end]
            canvas[:, start:end] = torch.where((part == self.filler_id).cummax(1).values, self.filler_id, part)
        return canvas

    def is_said(self, canvas: torch.Tensor) -> torch.Tensor:
        """(R, G) bool: what of finished canvases (R, G) belongs to the answer: all but filler."""
        return canvas != self.filler_id

    def restrict(self, logits: torch.Tensor, canvas: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
        """As `Constraint.restrict`, in place.

        Inside the form the end of the turn says what filler says: nothing more comes. The likelier of them counts.
        """
        places = is_open.nonzero()[:, 1]
        fills = self.fills[places].to(logits.device)
        filler = torch.maximum(logits[:, self.filler_id], logits[:, self.end_id])
        logits[:, self.filler_id] = torch.where(fills, filler, logits[:, self.filler_id])
        which, parts, count = torch.zeros_like(places), [], 0
        for start, end, gap in self.gaps:
            inside = (places >= start) & (places < end)
            if inside.any():
                blocked, own = gap.blocked(canvas[:, start:end], is_open[:, start:end], logits.device)
                which[inside] = own + count
                parts.append(blocked)
                count += len(blocked)
        return logits.masked_fill_(torch.cat(parts)[which.to(logits.device, non_blocking=True)], -torch.inf)

    def together(self, canvas, tokens, scores, chosen: torch.Tensor) -> torch.Tensor:
        """(R, G) bool: of the `chosen` positions those whose tokens go together, gap by gap."""
        chosen = chosen.clone()
        for start, end, gap in self.gaps:
            part = slice(start, end)
            chosen[:, part] = gap.together(canvas[:, part], tokens[:, part], scores[:, part], chosen[:, part])
        return chosen


class EachRow:
    """A shape of its own for each row of a batch; R canvases are those of the rows in order."""

    def __init__(self, shapes: list["Constraint | Template"]):
        self.shapes = shapes
        self.initial = torch.stack([shape.initial for shape in shapes])  # (R, G)

    def of(self, rows: list[int]) -> "EachRow":
        """The shapes of some rows, of which the same may come several times."""
        return EachRow([self.shapes[row] for row in rows])

    def each(self, what: str, *parts: torch.Tensor) -> torch.Tensor:
        """What a method of every shape makes of its own canvas's parts (R, G) each, together again."""
        rows = zip(self.shapes, *(part.split(1) for part in parts), strict=True)
        return torch.cat([getattr(shape, what)(*own) for shape, *own in rows])

    def closed(self, canvas: torch.Tensor) -> torch.Tensor:
        """See `Template.closed`."""
        return self.each("closed", canvas)

    def is_said(self, canvas: torch.Tensor) -> torch.Tensor:
        """See `Template.is_said`."""
        return self.each("is_said", canvas)

    def together(self, canvas, tokens, scores, chosen: torch.Tensor) -> torch.Tensor:
        """See `Constraint.together`."""
        return self.each("together", canvas, tokens, scores, chosen)

    def restrict(self, logits: torch.Tensor, canvas: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
        """See `Constraint.restrict`."""
        parts = zip(self.shapes, logits.split(is_open.sum(1).tolist()), canvas.split(1), is_open.split(1), strict=True)
        for shape, *part in parts:
            shape.restrict(*part)
        return logits


def shared(room: int, limits: list[tuple[int, int]]) -> list[int]:
    """How much of `room` each gets, of (least, most): as even as these allow."""
    widths = [least for least, _ in limits]
    room -= sum(widths)
    while room > 0:
        growing = [n for n, (_, most) in enumerate(limits) if widths[n] < most]
        if not growing:
            break
        smallest = min(growing, key=lambda n: widths[n])
        widths[smallest] += 1
        room -= 1
    return widths
