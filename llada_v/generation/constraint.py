"""Answers of a given shape: at every step only tokens are let through with which the canvas can still be completed.

For the canvas c of G tokens, masks among them, and the automaton's states q (after arXiv 2505.23061):

    F_0 = {start},    F_(i+1) = {d(q, v) : q in F_i, v = c_i, or any v where c_i is masked}
    B_G = accepting,  B_i     = {q : some such v leads from q into B_(i+1)}
    v may be revealed at i  if  some q in F_i has d(q, v) in B_(i+1)

So one token that is let through never makes the canvas impossible, and nothing is taken back. Several together may: of
those that a rule reveals at once, the surest first, each is kept that goes with those before it. The end of the turn
follows an accepting state, and only it follows itself. Knows ids and an automaton, no tokenizer. Letters: R canvases,
G positions, S states, C classes of tokens, M open positions.
"""

from functools import lru_cache

import numpy as np
import torch

from ..errors import WrongValue
from .automaton import Automaton

KEPT = 4096  # pairs of states before and behind a position whose classes are known


class Constraint:
    """The shape that the answers of one batch have."""

    def __init__(self, automaton: Automaton, end_id: int, mask_id: int, length: int):
        """end_id: the token that ends a turn. length: of the canvas.

        Raises ValueError where no answer of the shape fits the canvas.
        """
        num_classes, num_states = automaton.table.shape
        # One more state, for what follows the end, and one more class: that of the end's token.
        end, dead = num_states, num_states - 1
        table = np.concatenate((automaton.table, np.full((num_classes, 1), dead)), axis=1)
        last = np.full((1, num_states + 1), dead)
        last[0, :-1][automaton.accepting] = end
        last[0, end] = end
        self.table = torch.from_numpy(np.concatenate((table, last)))  # (C, S)
        self.class_of = torch.from_numpy(automaton.class_of).clone()
        self.class_of[end_id] = num_classes
        self.initial = torch.full((length,), mask_id)  # what a canvas holds before the first step
        self.mask_id, self.length, self.start, self.dead = mask_id, length, automaton.start, dead
        self.accepting = torch.from_numpy(np.append(automaton.accepting, True))
        self.leads = torch.zeros(num_states + 1, num_states + 1)  # (S, S): whether any token leads from one to another
        self.leads.scatter_(1, self.table.T, 1.0)
        self.leads[:, dead] = 0
        self.tails = [self.accepting]  # tails[n]: the states from which n masks lead to the end
        for _ in range(length):
            self.tails.append(self.leads @ self.tails[-1].float() > 0)
        states = torch.zeros(num_states + 1, dtype=torch.bool)
        states[self.start] = True
        heads = [states]  # heads[n]: the states to which n masks may have led
        for _ in range(length):
            heads.append(heads[-1].float() @ self.leads > 0)
        self.heads = torch.stack(heads)
        if not self.tails[length][self.start]:
            raise WrongValue(self.too_short(length))
        self.classes = lru_cache(KEPT)(self.find_classes)

    def too_short(self, length: int) -> str:
        """What to say of a canvas that is too short; counts on to the length that would do."""
        ahead = self.tails[-1]
        for more in range(1, len(self.accepting) + 1):
            ahead = self.leads @ ahead.float() > 0
            if ahead[self.start]:
                needed = length + more
                return f"no answer of this shape fits into {length} tokens; it needs gen_length {needed} or more"
        return "no tokens of this vocabulary spell an answer of this shape; choose another pattern"

    def before(self, canvas: torch.Tensor) -> torch.Tensor:
        """(R, G, S) bool: the states that may have been reached in front of each position of canvases (R, G)."""
        found = torch.zeros(*canvas.shape, len(self.accepting), dtype=torch.bool)
        classes, is_masked = self.class_of[canvas], canvas == self.mask_id
        first = next(iter((~is_masked).any(0).nonzero()[:, 0].tolist()), canvas.shape[1])
        found[:, :first] = self.heads[:first]
        states = self.heads[first].expand(len(canvas), -1)
        for place in range(first, canvas.shape[1]):
            found[:, place] = states
            by_any = states.float() @ self.leads > 0
            by_one = torch.zeros_like(states).scatter_reduce_(1, self.table[classes[:, place]], states, "amax")
            by_one[:, self.dead] = False
            states = torch.where(is_masked[:, place, None], by_any, by_one)
        return found

    def behind(self, canvas: torch.Tensor) -> torch.Tensor:
        """(R, G + 1, S) bool: the states from which canvases (R, G), from a position on, can be filled."""
        found = torch.zeros(len(canvas), canvas.shape[1] + 1, len(self.accepting), dtype=torch.bool)
        classes, is_masked = self.class_of[canvas], canvas == self.mask_id
        revealed = (~is_masked).any(0).nonzero()[:, 0]
        last = int(revealed[-1]) + 1 if len(revealed) else 0
        for place in range(last, canvas.shape[1] + 1):
            found[:, place] = self.tails[canvas.shape[1] - place]
        for place in range(last - 1, -1, -1):
            states = found[:, place + 1]
            by_any = states.float() @ self.leads.T > 0
            by_one = states.gather(1, self.table[classes[:, place]])
            found[:, place] = torch.where(is_masked[:, place, None], by_any, by_one)
        return found

    def can_end(self, canvas: torch.Tensor) -> torch.Tensor:
        """(R,) whether canvases (R, G) can be completed."""
        return self.behind(canvas)[:, 0, self.start]

    def closed(self, canvas: torch.Tensor) -> torch.Tensor:
        """Canvases (R, G) with what can only be one thing: nothing here, as several tokens may spell the same text."""
        return canvas

    def is_said(self, canvas: torch.Tensor) -> torch.Tensor:
        """(R, G) bool: what of finished canvases (R, G) belongs to the answer: all of it."""
        return torch.ones_like(canvas, dtype=torch.bool)

    def of(self, rows: list[int]) -> "Constraint":
        """The shape of some rows of the batch: all have this one."""
        return self

    def restrict(self, logits: torch.Tensor, canvas: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
        """Logits (M, V) at the open positions (R, G) of canvases (R, G), where tokens that are not let through become
        -inf: in place, as a copy takes longer than all else here."""
        blocked, which = self.blocked(canvas, is_open, logits.device)
        return logits.masked_fill_(blocked[which.to(logits.device, non_blocking=True)], -torch.inf)

    def blocked(self, canvas, is_open, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(K, V) bool on the device: tokens not let through; (M,) which of these holds at each open position."""
        short = self.length - canvas.shape[1]
        canvas = torch.nn.functional.pad(canvas, (0, short), value=self.mask_id)
        rows, places = is_open.nonzero(as_tuple=True)
        before, behind = self.before(canvas)[rows, places], self.behind(canvas)[rows, places + 1]
        pairs, which = torch.cat((before, behind), dim=1).unique(dim=0, return_inverse=True)
        let = torch.stack([self.classes(pair.numpy().tobytes()) for pair in pairs])  # (K, C)
        let = let.to(device, non_blocking=True)
        return (~let).index_select(1, self.class_of.to(device, non_blocking=True)), which

    def find_classes(self, pair: bytes) -> torch.Tensor:
        """(C,) bool: the classes that lead from the states in front of a position to those behind it."""
        states = torch.frombuffer(bytearray(pair), dtype=torch.bool)
        before, behind = states.chunk(2)
        behind = behind.clone()
        behind[self.dead] = False
        return behind[self.table[:, before]].any(1)

    def together(self, canvas, tokens, scores, chosen: torch.Tensor) -> torch.Tensor:
        """(R, G) bool: of the `chosen` positions, the surest first, each whose token goes with those already taken."""
        chosen = chosen.clone()
        for row in (~self.can_end(torch.where(chosen, tokens, canvas))).nonzero()[:, 0].tolist():
            rest = chosen[row].nonzero()[:, 0]
            rest = rest[scores[row, rest].argsort(descending=True, stable=True)]
            taken, chosen[row] = canvas[row], False
            while len(rest):
                # What no longer goes with those taken never will; of the rest the longest run is found by halving.
                before, behind = self.before(taken[None])[0, rest], self.behind(taken[None])[0, rest + 1]
                leads = self.table[self.class_of[tokens[row, rest]]]  # (rest, S)
                rest = rest[(before & behind.gather(1, leads)).any(1)]
                good, bad = min(1, len(rest)), len(rest) + 1
                while bad - good > 1:
                    middle = (good + bad) // 2
                    filled = taken.scatter(0, rest[:middle], tokens[row, rest[:middle]])
                    good, bad = (middle, bad) if self.can_end(filled[None]) else (good, middle)
                taken = taken.scatter(0, rest[:good], tokens[row, rest[:good]])
                chosen[row, rest[:good]] = True
                rest = rest[good + 1 :]  # the next does not go with these
        return chosen
