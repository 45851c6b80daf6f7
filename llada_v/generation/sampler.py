"""The sampling loop: a canvas of masks behind each prompt, revealed in steps, the surest first.

The state is one integer tensor, the canvas (B, G): what is masked, where an answer ends and what may be revealed next
all follow from it. Every row lives its own life - its blocks, its steps, its renewals of the cache - and the loop only
brings together in one model call the rows that need the same kind of call: a row's tokens do not depend on the others.

The loop runs on the CPU. A call's candidates come back from the device in one transfer, the only wait of a step.
Letters: B rows, R canvases of a call, G canvas positions, M open positions, V vocabulary.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from ..errors import WrongValue
from .cache import Scope, scope_of
from .config import AUTO, SamplerConfig
from .constraint import Constraint
from .lookahead import drafts_of, num_verified
from .reveal import choose, propose, reveal_counts
from .stops import Stops
from .template import Template

Shape = Constraint | Template
# Raised by hand when the same weights, prompt and settings can give another answer than before: evaluations then start
# again, beside the finished ones. A recorded set of answers (tests/test_answers_version.py) tells when it is due.
ANSWERS_VERSION = 1

Proposals = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # tokens, probabilities, scores, (M,) each


@dataclass
class SamplerState:
    """What a callback sees after each step. Tensors are the loop's own, on the CPU: read them, do not write.

    canvas: (B, G) ids of the answers; masks where nothing is revealed yet. G: length of the longest canvas so far.
    is_masked: (B, G) bool.
    confidence: (B, G) probability of each revealed token when it was revealed; 0 elsewhere.
    revealed: per row, the positions revealed in this step, sorted.
    stop_positions: (B,) where each answer ends so far (G: no stop yet).
    step, num_steps: steps taken by the row that took most, and the most that can be taken.
    """

    canvas: torch.Tensor
    is_masked: torch.Tensor
    confidence: torch.Tensor
    revealed: list[list[int]]
    stop_positions: torch.Tensor
    step: int
    num_steps: int


@dataclass
class SamplerOutput(ModelOutput):
    """The answers of a batch.

    sequences: (B, L + G + suffix) prompt and answer, the answer cut at its stop and padded with EOS. G: the length of
        the longest canvas.
    answers: per row the answer's ids (n,), up to the stop, any suffix appended.
    confidence: per row the probability (n,) of each of these ids when it was revealed, float64 on the CPU; 1 for what
        was given: a suffix, the fixed text of a template. Under a constraint, among the tokens that were let through.
    texts: per row the answer's text, special tokens left out, cut exactly in front of a stop that begins inside a
        token; None where `generate` got no tokenizer.
    order: `order[step][row]` is the sorted list of answer positions that the row revealed in its step of that number.
    num_forwards: model calls of the batch. A call that verifies several drafted steps is one, and so are the guided and
        unguided copies of guidance, and the rows that "dllm" runs one by one.
    """

    sequences: torch.Tensor | None = None
    answers: list[torch.Tensor] | None = None
    confidence: list[torch.Tensor] | None = None
    texts: list[str] | None = None
    order: list[list[list[int]]] | None = None
    num_forwards: int | None = None


@dataclass
class Call:
    """One model call: logits are asked for at the open positions of R canvases. Tensors are on the CPU.

    scope: what is computed.
    rows: (R,) the prompt of each canvas; with lookahead a prompt has several canvases, one after the other.
    copies: how many, where each has as many; they share what is kept of their prompt.
    canvas: (R, G) ids.
    is_open: (R, G) bool.
    lengths: (R,) how much of each canvas is there; the rest is to be hidden.
    columns: (R, C) the canvas positions that a call of scope BLOCK runs.
    is_filler: (R, C) bool: columns that repeat others, where blocks differ in length.
    """

    scope: Scope
    rows: torch.Tensor
    copies: int
    canvas: torch.Tensor
    is_open: torch.Tensor
    lengths: torch.Tensor
    columns: torch.Tensor
    is_filler: torch.Tensor

    def only(self, place: int) -> "Call":
        """The call for the canvas at that place alone, whose prompt is then number 0."""
        at = slice(place, place + 1)
        parts = (self.canvas, self.is_open, self.lengths, self.columns, self.is_filler)
        return Call(self.scope, torch.zeros(1, dtype=torch.long), self.copies, *(part[at] for part in parts))


@dataclass
class Sampled:
    """What the loop found.

    canvas, confidence: (B, G); see `SamplerState`.
    ends: (B,) where each answer ends. lengths: (B,) how long each canvas is.
    texts, order, num_forwards: see `SamplerOutput`.
    """

    canvas: torch.Tensor
    confidence: torch.Tensor
    ends: torch.Tensor
    lengths: torch.Tensor
    texts: list[str] | None
    order: list[list[list[int]]]
    num_forwards: int


def sample(
    logits_of: Callable[[Call], torch.Tensor],
    num_rows: int,
    config: SamplerConfig,
    mask_id: int,
    stops: list[list[int]],
    generator: torch.Generator | None = None,
    callback: Callable[[SamplerState], None] | None = None,
    decode: Callable[[list[int]], str] | None = None,
    constraint: Shape | None = None,
) -> Sampled:
    """Reveal the answers of `num_rows` prompts.

    logits_of: a `Call` -> logits (M, V) float32 at its open positions, canvas by canvas, on any device; the mask's id
        must be -inf.
    The other arguments are those of `steps_of` and `proposals`.
    """
    steps, found = steps_of(num_rows, config, mask_id, stops, callback, decode, constraint), None
    while True:
        try:
            call = steps.send(found)
        except StopIteration as finished:
            return finished.value
        found = proposals(logits_of(call), call, config, generator, constraint)


def steps_of(
    num_rows: int,
    config: SamplerConfig,
    mask_id: int,
    stops: list[list[int]],
    callback: Callable[[SamplerState], None] | None = None,
    decode: Callable[[list[int]], str] | None = None,
    constraint: Shape | None = None,
) -> Generator[Call, Proposals, Sampled]:
    """The loop by itself: it yields a `Call`, is sent the `proposals` at its open positions, and returns what it found.

    Whoever drives it decides what runs the calls, and when: several loops can take turns or share a model call.
    stops: id sequences that end an answer, beside the config's stop_strings, which need `decode`: ids -> text.
    constraint: the shape of the answers; its tokens alone are let through.
    A row takes part in no further call once its answer is complete.
    """
    rows = Rows(num_rows, config, Stops(stops, mask_id, config.stop_strings or (), decode), constraint)
    num_forwards = 0
    while len(unfinished := rows.unfinished()):
        group, scope = rows.next_group(unfinished)
        drafts, is_open, counted = rows.look_ahead(group, scope)
        call = call_of(config, scope, group, drafts, is_open, rows.start[group], rows.end[group], counted)
        found = found_at(is_open, (yield call))
        num_forwards += 1
        for revealed in rows.take(group, drafts, is_open, counted, *found):
            if callback is not None:
                callback(rows.state(revealed))
    ends = rows.answer_ends()
    texts = None
    if decode is not None:
        texts = [rows.stops.text_of(ids, end) for ids, end in zip(rows.canvas.tolist(), ends.tolist(), strict=True)]
    return Sampled(rows.canvas, rows.confidence, ends, rows.lengths(), texts, rows.order_by_step(), num_forwards)


def proposals(
    logits: torch.Tensor,
    call: Call,
    config: SamplerConfig,
    generator: torch.Generator | None = None,
    constraint: Shape | None = None,
) -> Proposals:
    """Tokens, probabilities and scores (M,) at a call's open positions, from its logits (M, V), on their device.

    generator: source of random numbers; on that device too. constraint: see `steps_of`.
    """
    if constraint is not None:
        logits = constraint.restrict(logits, call.canvas, call.is_open)
    return propose(logits, config, generator)


class Rows:
    """Where every row of a batch stands.

    canvas, confidence: (B, G); see `SamplerState`.
    start, end: (B,) the canvas positions of the block that each row is in.
    step, block_step: (B,) steps taken in all, and in that block.
    candidates, scores: (B, G) what the last call proposed for each open position; lookahead drafts from it.
    order: per row, the positions that each of its steps revealed.
    """

    def __init__(self, num_rows: int, config: SamplerConfig, stops: Stops, constraint: Shape | None = None):
        self.constraint = constraint
        self.config, self.stops, self.mask_id, self.limit = config, stops, stops.mask_id, config.canvas_length
        self.grows = config.gen_length == AUTO
        counts = reveal_counts(config.resolved.block_length, config.steps_per_block, config.schedule)
        self.counts = torch.ones(self.limit, dtype=torch.long) if self.grows else torch.tensor(counts)
        self.canvas = torch.full((num_rows, self.limit), self.mask_id)
        if constraint is not None:
            self.canvas[:] = constraint.initial
        self.confidence = (self.canvas != self.mask_id).double()
        self.start = torch.zeros(num_rows, dtype=torch.long)
        self.end = torch.full_like(self.start, config.resolved.block_length)
        self.step, self.block_step = torch.zeros_like(self.start), torch.zeros_like(self.start)
        self.candidates = torch.zeros_like(self.canvas)
        self.scores = torch.full(self.canvas.shape, -torch.inf, dtype=torch.float64)
        self.order: list[list[list[int]]] = [[] for _ in range(num_rows)]

    def open_in(self, canvas: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """(..., G) bool: masked positions of canvases (..., G) in front of the block's end (...) and of the stop."""
        index = torch.arange(self.limit)
        return (canvas == self.mask_id) & (index < torch.minimum(self.stops.ends(canvas), end)[..., None])

    def reveal(self, canvas, end, block_step, candidates, scores) -> tuple[torch.Tensor, torch.Tensor]:
        """Canvases (R, G) after one step, and what it reveals (R, G) bool."""
        seen = torch.where(self.open_in(canvas, end), scores, -torch.inf)
        quota = self.counts[block_step.clamp(max=len(self.counts) - 1)]
        chosen = choose(seen, quota, self.config)
        if self.constraint is not None:
            chosen = self.constraint.together(canvas, candidates, scores, chosen)
            return self.constraint.closed(torch.where(chosen, candidates, canvas)), chosen
        return torch.where(chosen, candidates, canvas), chosen

    def longer(self, end: torch.Tensor) -> torch.Tensor:
        """Where a canvas ends that grows."""
        return (2 * end).clamp(max=self.limit)

    def unfinished(self) -> torch.Tensor:
        """(R,) rows with something to reveal, after those whose block is complete have entered the next one."""
        is_open = self.open_in(self.canvas, self.end)
        while True:
            moves_on = ~is_open.any(1) & (self.end < self.limit) & (self.stops.ends(self.canvas) > self.end)
            if not moves_on.any():
                return is_open.any(1).nonzero()[:, 0]
            after = self.longer(self.end) if self.grows else self.end + self.config.resolved.block_length
            self.start = torch.where(moves_on, self.end, self.start)
            self.end = torch.where(moves_on, after, self.end)
            self.block_step[moves_on] = 0
            self.scores[moves_on] = -torch.inf
            is_open = self.open_in(self.canvas, self.end)

    def next_group(self, rows: torch.Tensor) -> tuple[torch.Tensor, Scope]:
        """Which of the rows are run next, and how.

        Rows that can go on with what is kept go first; the others wait, so that whole sequences are run together.
        """
        scopes = scope_of(self.config, self.step[rows], self.block_step[rows])
        scope = scopes.max()
        return rows[scopes == scope], Scope(int(scope))

    def look_ahead(self, rows: torch.Tensor, scope: Scope) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The canvases of a call: the true one of each row, and those that the next steps are expected to leave.

        Returns them (R, copies, G), what is open in them, and (R, copies) bool: which count. A draft counts if it
        differs from the one before and its step would be computed in the same way.
        """
        # A whole call renews what is kept, and drafts read what it will leave: they wait for the next.
        copies = 1 if self.config.cache == "prompt" and scope is Scope.WHOLE else 1 + self.config.lookahead
        end, ahead = self.end[rows], torch.arange(copies)
        step, block_step = self.step[rows], self.block_step[rows]
        proposed = self.candidates[rows], self.scores[rows]
        drafts = drafts_of(self.canvas[rows], copies, self.reveal, end, block_step, *proposed)
        is_open = self.open_in(drafts, end[:, None].expand(-1, copies))
        counted = scope_of(self.config, step[:, None] + ahead, block_step[:, None] + ahead) == scope
        counted[:, 1:] &= (drafts[:, 1:] != drafts[:, :-1]).any(2)
        counted = counted.cumprod(1).bool() & is_open.any(2)
        return drafts, is_open & counted[..., None], counted

    def take(self, rows, drafts, is_open, counted, tokens, probability, scores) -> Iterator[list[list[int]]]:
        """Take the steps that a call allows, one from each true canvas and one for each draft that was met.

        tokens, probability, scores: (R, copies, G) what the call proposes. Yields, step by step, what each row of the
        batch reveals. Each step of a row reveals at least one of its G positions, so a row takes at most G steps, and
        the loop at most the sum of these and of the calls that only let canvases grow.
        Raises ValueError where the logits of a true canvas are broken.
        """
        copies = drafts.shape[1]
        end = self.end[rows]
        is_broken = is_open & ~scores.isfinite()
        if is_broken.any():
            self.refuse_broken(rows, scores[:, 0], is_broken[:, 0])
            counted = counted & ~is_broken.any(2)
        after, chosen = self.reveal(
            drafts.flatten(0, 1),
            end.repeat_interleave(copies),
            (self.block_step[rows, None] + torch.arange(copies)).flatten(),
            tokens.flatten(0, 1),
            scores.flatten(0, 1),
        )
        after, chosen = after.view_as(drafts), chosen.view_as(is_open)
        taken = num_verified(drafts, after, counted)
        if self.grows:
            in_sight = self.stops.are_in_sight(tokens[:, 0], is_open[:, 0], drafts[:, 0])
            grown = (self.block_step[rows] == 0) & (end < self.limit) & ~in_sight
            self.end[rows] = torch.where(grown, self.longer(end), end)
            taken = torch.where(grown, 0, taken)
        each, last = torch.arange(len(rows)), (taken - 1).clamp(min=0)
        self.candidates[rows], self.scores[rows] = tokens[each, last], scores[each, last]
        for number in range(int(taken.max())):
            moving = taken > number
            who, new = rows[moving], chosen[moving, number]
            assert new.any(1).all(), "a step that reveals nothing would repeat for ever"
            self.canvas[who] = after[moving, number]
            self.confidence[who] = torch.where(new, probability[moving, number], self.confidence[who])
            self.step[who] += 1
            self.block_step[who] += 1
            revealed = positions_by_row(torch.zeros_like(self.canvas, dtype=torch.bool).index_copy(0, who, new))
            for row in who.tolist():
                self.order[row].append(revealed[row])
            yield revealed

    def refuse_broken(self, rows: torch.Tensor, scores: torch.Tensor, is_broken: torch.Tensor) -> None:
        """Raise ValueError if any of the scores (R, G) is broken, naming what the logits hold, where and since when."""
        hit = is_broken.any(1)
        if hit.any():
            where = f"in {int(hit.sum())} of {len(self.canvas)} rows, after {int(self.step[rows[hit]].max())} steps"
            raise WrongValue(broken_model(scores[is_broken], where))

    def state(self, revealed: list[list[int]]) -> SamplerState:
        """What a callback sees after a step that revealed these positions."""
        length = int(self.lengths().max())
        canvas, step = self.canvas[:, :length], int(self.step.max())
        stop = self.stops.ends(canvas)
        confidence = self.confidence[:, :length]
        most = self.config.resolved.steps
        return SamplerState(canvas, canvas == self.mask_id, confidence, revealed, stop, step, most)

    def lengths(self) -> torch.Tensor:
        """(B,) how long each canvas is so far."""
        return self.end if self.grows else torch.full_like(self.end, self.limit)

    def answer_ends(self) -> torch.Tensor:
        """(B,) where each answer ends."""
        return torch.minimum(self.stops.ends(self.canvas), self.lengths())

    def order_by_step(self) -> list[list[list[int]]]:
        """The order of `SamplerOutput`."""
        steps = range(max(map(len, self.order), default=0))
        return [[row[step] if step < len(row) else [] for row in self.order] for step in steps]


def call_of(config, scope, rows, drafts, is_open, start, end, counted) -> Call:
    """The model call for drafts (R, copies, G) of `rows` (R,), whose blocks reach from `start` to `end`.

    Without a cache the drafts that do not count are left out; with one every row keeps its number of copies.
    """
    copies = drafts.shape[1]
    lengths = end if config.gen_length == AUTO else torch.full_like(end, drafts.shape[2])
    width = int(lengths.max())
    offsets = torch.arange(int((end - start).max()))
    columns = torch.minimum(start[:, None] + offsets, end[:, None] - 1)
    is_filler = offsets >= (end - start)[:, None]
    keep = counted.flatten() if config.cache == "none" else torch.ones_like(counted.flatten())
    rows, lengths, columns, is_filler = (
        part.repeat_interleave(copies, 0)[keep] for part in (rows, lengths, columns, is_filler)
    )
    canvas, is_open = drafts.flatten(0, 1)[keep, :width], is_open.flatten(0, 1)[keep, :width]
    return Call(scope, rows, copies, canvas, is_open, lengths, columns, is_filler)


def found_at(is_open: torch.Tensor, found: Proposals) -> Proposals:
    """Tokens, probabilities and scores (M,) each, from any device, as tensors of the shape of `is_open` on the CPU.

    Closed positions hold 0, 0 and -inf. One transfer: float64 holds every id exactly.
    """
    tokens, probability, score = torch.stack([part.double() for part in found]).cpu()
    dense = [torch.full(is_open.shape, filler, dtype=torch.float64) for filler in (0.0, 0.0, -torch.inf)]
    for whole, part in zip(dense, (tokens, probability, score), strict=True):
        whole[is_open] = part
    return dense[0].long(), dense[1], dense[2]


def broken_model(found: torch.Tensor, where: str) -> str:
    """The message for a model whose numbers `found` are not finite."""
    kind = "NaN" if found.isnan().any() else "inf" if (found == torch.inf).any() else "-inf for every token"
    return (
        f"the model gives {kind} {where}; its weights are damaged (a run that diverged, a bad merge), or float16 is "
        "too narrow for its activations: try --dtype bfloat16 or float32, or another checkpoint"
    )


def positions_by_row(chosen: torch.Tensor) -> list[list[int]]:
    """The true positions of each row of a bool tensor (B, G), sorted."""
    found: list[list[int]] = [[] for _ in range(chosen.shape[0])]
    for row, position in chosen.nonzero().tolist():
        found[row].append(position)
    return found
