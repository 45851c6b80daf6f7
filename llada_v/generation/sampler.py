"""The sampling loop: a canvas of masks behind each prompt, revealed in steps, the surest first.

The state is one integer tensor, the canvas (B, G): what is masked, where an answer ends and what may be revealed next
all follow from it. Every row lives its own life - its blocks, its steps, its renewals of the cache - and the loop only
brings together in one model call the rows that need the same kind of call: a row's tokens do not depend on the others.

The loop runs on the CPU. A call's candidates come back from the device in one transfer, the only wait of a step.
Letters: B rows, R canvases of a call, G canvas positions, M open positions, V vocabulary.
"""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from ..errors import WrongValue
from .cache import Scope, scope_of
from .config import AUTO, SamplerConfig
from .constraint import Constraint
from .lookahead import drafts_of, num_verified
from .reveal import Before, choose, propose, reveal_counts, steady_score
from .stops import Stops
from .template import EachRow, Template

Shape = Constraint | Template | EachRow
# Raised by hand when the same weights, prompt and settings can give another answer than before: evaluations then start
# again, beside the finished ones. A recorded set of answers (tests/test_answers_version.py) tells when it is due.
ANSWERS_VERSION = 1

EMPTY = torch.tensor([0.0, 0.0, -torch.inf], dtype=torch.float64)  # token, probability and score of a closed position

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
        unguided copies of guidance, and the rows that "dllm" and keep_features run one by one.
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

    def only(self, places: slice) -> "Call":
        """The call for the canvases at those places alone, which are of one prompt: then number 0, and no filler."""
        first = places.start
        width, is_own = int(self.lengths[first]), ~self.is_filler[first]
        return Call(
            self.scope,
            torch.zeros_like(self.rows[places]),
            self.copies,
            self.canvas[places, :width],
            self.is_open[places, :width],
            self.lengths[places],
            self.columns[places][:, is_own],
            self.is_filler[places][:, is_own],
        )


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
    before = Before() if config.rule == "klass" else None
    while True:
        try:
            call = steps.send(found)
        except StopIteration as finished:
            return finished.value
        found = proposals(logits_of(call), call, config, generator, constraint, before)


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
    while unfinished := rows.unfinished():
        group, scope = rows.next_group(unfinished)
        drafts, is_open, counted = rows.look_ahead(group, scope)
        call = call_of(config, scope, group, drafts, is_open, rows.start, rows.end, counted)
        found, is_whole = found_at(is_open, (yield call))
        if not is_whole:
            counted = rows.refuse_broken(group, is_open, found[2], counted)
        num_forwards += 1
        for revealed in rows.take(group, drafts, counted, *found):
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
    before: Before | None = None,
) -> Proposals:
    """Tokens, probabilities and scores (M,) at a call's open positions, from its logits (M, V), on their device.

    generator: source of random numbers; on that device too. constraint: see `steps_of`.
    before: of the loop whose call it is, for rule "klass".
    """
    if constraint is not None:
        logits = constraint.of(call.rows.tolist()).restrict(logits, call.canvas, call.is_open)
    tokens, probability, score = propose(logits, config, generator)
    if before is not None:
        steady = steady_score(probability, before.divergence(logits, call.rows, call.is_open), config)
        score = torch.where(score.isfinite(), steady, score)  # broken logits stay so
    return tokens, probability, score


class Rows:
    """Where every row of a batch stands.

    canvas, confidence: (B, G); see `SamplerState`.
    start, end: by row, the canvas positions of the block that it is in.
    step, block_step: by row, steps taken in all, and in that block.
    stop_ends, is_open, has_open: (B,), (B, G) and by row: where each answer ends so far, what may be revealed now, and
        whether anything may. Looked up once a step.
    candidates, scores: (B, G) what the last call proposed for each open position; lookahead drafts from it.
    order: per row, the positions that each of its steps revealed.
    """

    stop_ends: torch.Tensor
    is_open: torch.Tensor
    has_open: list[bool]

    def __init__(self, num_rows: int, config: SamplerConfig, stops: Stops, constraint: Shape | None = None):
        self.constraint = constraint
        self.config, self.stops, self.mask_id, self.limit = config, stops, stops.mask_id, config.canvas_length
        self.grows = config.gen_length == AUTO
        counts = reveal_counts(config.resolved.block_length, config.steps_per_block, config.schedule)
        self.counts = [1] if self.grows else counts
        self.canvas = torch.full((num_rows, self.limit), self.mask_id)
        if constraint is not None:
            self.canvas[:] = constraint.initial
        self.confidence = (self.canvas != self.mask_id).double()
        self.start, self.end = [0] * num_rows, [config.resolved.block_length] * num_rows
        self.step, self.block_step = [0] * num_rows, [0] * num_rows
        self.candidates = torch.zeros_like(self.canvas)
        self.scores = torch.full(self.canvas.shape, -torch.inf, dtype=torch.float64)
        self.order: list[list[list[int]]] = [[] for _ in range(num_rows)]
        self.index = torch.arange(self.limit)
        self.look()

    def look(self) -> None:
        """Note where answers end and what is open, after the canvas or a block has changed."""
        self.stop_ends = self.stops.ends(self.canvas)
        self.is_open = self.open_in(self.canvas, torch.minimum(self.stop_ends, torch.tensor(self.end)))
        self.has_open = self.is_open.any(1).tolist()

    def open_in(self, canvas: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
        """(..., G) bool: masked positions of canvases (..., G) in front of a bound (...)."""
        return (canvas == self.mask_id) & (self.index < bound[..., None])

    def reveal(self, rows: list[int], canvas, block_steps: list[int], candidates, seen):
        """Canvases (R, G) after one step, and what it reveals (R, G) bool.

        rows: R, whose canvases they are. block_steps: R numbers of the step in its block. seen: (R, G) scores, -inf
            where nothing may be revealed.
        """
        last = len(self.counts) - 1
        chosen = choose(seen, [self.counts[min(step, last)] for step in block_steps], self.config)
        if self.constraint is not None:
            shape = self.constraint.of(rows)
            chosen = shape.together(canvas, candidates, seen, chosen)
            return shape.closed(torch.where(chosen, candidates, canvas)), chosen
        return torch.where(chosen, candidates, canvas), chosen

    def longer(self, end: int) -> int:
        """Where a canvas ends that grows."""
        return min(2 * end, self.limit)

    def unfinished(self) -> list[int]:
        """Rows with something to reveal, after those whose block is complete have entered the next one."""
        while not all(self.has_open):
            stop_ends = self.stop_ends.tolist()
            moving = [
                row
                for row, has_open in enumerate(self.has_open)
                if not has_open and self.end[row] < self.limit and stop_ends[row] > self.end[row]
            ]
            if not moving:
                break
            for row in moving:
                self.start[row], self.block_step[row] = self.end[row], 0
                self.end[row] = self.longer(self.end[row]) if self.grows else self.end[row] + self.block_length
            if self.config.lookahead:
                self.scores[moving] = -torch.inf
            self.look()
        return [row for row, has_open in enumerate(self.has_open) if has_open]

    @property
    def block_length(self) -> int:
        """Of a canvas that does not grow."""
        return self.config.resolved.block_length

    def next_group(self, rows: list[int]) -> tuple[list[int], Scope]:
        """Which of the rows are run next, and how.

        Rows that can go on with what is kept go first; the others wait, so that whole sequences are run together.
        """
        scopes = [scope_of(self.config, self.step[row], self.block_step[row]) for row in rows]
        scope = max(scopes)
        return [row for row, own in zip(rows, scopes, strict=True) if own == scope], scope

    def of(self, rows: list[int], whole: torch.Tensor) -> torch.Tensor:
        """(R, ...) of (B, ...): those rows, without a copy where they are all."""
        return whole if len(rows) == len(whole) else whole[rows]

    def look_ahead(self, rows: list[int], scope: Scope) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The canvases of a call: the true one of each row, and those that the next steps are expected to leave.

        Returns them (R, copies, G), what is open in them, and (R, copies) bool: which count. A draft counts if it
        differs from the one before and its step would be computed in the same way.
        """
        canvas, is_open = self.of(rows, self.canvas), self.of(rows, self.is_open)
        # A whole call renews what is kept, and drafts read what it will leave: they wait for the next.
        if not self.config.lookahead or self.config.cache == "prompt" and scope is Scope.WHOLE:
            return canvas[:, None], is_open[:, None], torch.ones(len(rows), 1, dtype=torch.bool)
        copies, end = 1 + self.config.lookahead, torch.tensor([self.end[row] for row in rows])
        candidates, scores = self.of(rows, self.candidates), self.of(rows, self.scores)

        def step_of(draft: torch.Tensor, ahead: int) -> torch.Tensor:
            seen = torch.where(self.open_in(draft, torch.minimum(self.stops.ends(draft), end)), scores, -torch.inf)
            return self.reveal(rows, draft, [self.block_step[row] + ahead for row in rows], candidates, seen)[0]

        drafts = drafts_of(canvas, copies, step_of)
        is_open = self.open_in(drafts, torch.minimum(self.stops.ends(drafts), end[:, None]))
        numbers = [[(self.step[row] + ahead, self.block_step[row] + ahead) for ahead in range(copies)] for row in rows]
        counted = torch.tensor([[scope_of(self.config, *number) == scope for number in row] for row in numbers])
        counted[:, 1:] &= (drafts[:, 1:] != drafts[:, :-1]).any(2)
        counted = counted.cumprod(1).bool() & is_open.any(2)
        return drafts, is_open & counted[..., None], counted

    def take(self, rows: list[int], drafts, counted, tokens, probability, scores) -> Iterator[list[list[int]]]:
        """Take the steps that a call allows, one from each true canvas and one for each draft that was met.

        tokens, probability, scores: (R, copies, G) what the call proposes, scores -inf where it was not asked. Yields,
        step by step, what each row of the batch reveals. Each step of a row reveals at least one of its G positions, so
        a row takes at most G steps, and the loop at most the sum of these and of the calls that only let canvases grow.
        """
        copies = drafts.shape[1]
        after, chosen = self.reveal(
            [row for row in rows for _ in range(copies)],
            drafts.flatten(0, 1),
            [self.block_step[row] + ahead for row in rows for ahead in range(copies)],
            tokens.flatten(0, 1),
            scores.flatten(0, 1),
        )
        after, chosen = after.view_as(drafts), chosen.view_as(drafts)
        taken = [1] * len(rows) if copies == 1 else num_verified(drafts, after, counted).tolist()
        if self.grows:
            taken = self.grow(rows, drafts[:, 0], tokens[:, 0], scores[:, 0], taken)
        if self.config.lookahead:
            each, last = torch.arange(len(rows)), torch.tensor([max(number - 1, 0) for number in taken])
            self.candidates[rows], self.scores[rows] = tokens[each, last], scores[each, last]
        for number in range(max(taken)):
            places = [place for place, count in enumerate(taken) if count > number]
            yield self.put(
                [rows[place] for place in places],
                *(self.of(places, whole)[:, number] for whole in (after, chosen, probability)),
            )
        if not any(taken):
            self.look()

    def put(self, rows: list[int], after, chosen, probability) -> list[list[int]]:
        """Let rows be what a step leaves of them, all (R, G); the positions that each row of the batch reveals."""
        confidence = torch.where(chosen, probability, self.of(rows, self.confidence))
        if len(rows) == len(self.order):
            self.canvas, self.confidence = after, confidence
        else:
            self.canvas[rows], self.confidence[rows] = after, confidence
        revealed: list[list[int]] = [[] for _ in self.order]
        for place, position in chosen.nonzero().tolist():
            revealed[rows[place]].append(position)
        for row in rows:
            assert revealed[row], "a step that reveals nothing would repeat for ever"
            self.step[row] += 1
            self.block_step[row] += 1
            self.order[row].append(revealed[row])
        self.look()
        return revealed

    def grow(self, rows: list[int], canvas, tokens, scores, taken: list[int]) -> list[int]:
        """Let canvases grow that saw no stop in their first call; `taken` with no step for these."""
        in_sight = self.stops.are_in_sight(tokens, scores > -torch.inf, canvas).tolist()
        for place, row in enumerate(rows):
            if self.block_step[row] == 0 and self.end[row] < self.limit and not in_sight[place]:
                self.end[row], taken[place] = self.longer(self.end[row]), 0
        return taken

    def refuse_broken(self, rows: list[int], is_open, scores, counted) -> torch.Tensor:
        """Raise ValueError where scores (R, copies, G) of a true canvas are broken, naming what the logits hold, where
        and since when; without the drafts whose scores are, what is `counted`."""
        is_broken = is_open & ~scores.isfinite()
        hit = is_broken[:, 0].any(1).tolist()
        if any(hit):
            steps = max(self.step[row] for row, is_hit in zip(rows, hit, strict=True) if is_hit)
            where = f"in {sum(hit)} of {len(self.canvas)} rows, after {steps} steps"
            raise WrongValue(broken_model(scores[:, 0][is_broken[:, 0]], where))
        return counted & ~is_broken.any(2)

    def state(self, revealed: list[list[int]]) -> SamplerState:
        """What a callback sees after a step that revealed these positions."""
        length = max(self.end) if self.grows else self.limit
        canvas, step = self.canvas[:, :length], max(self.step)
        confidence, stop = self.confidence[:, :length], self.stop_ends.clamp(max=length)
        most = self.config.resolved.steps
        return SamplerState(canvas, canvas == self.mask_id, confidence, revealed, stop, step, most)

    def lengths(self) -> torch.Tensor:
        """(B,) how long each canvas is so far."""
        return torch.tensor(self.end if self.grows else [self.limit] * len(self.end), dtype=torch.long)

    def answer_ends(self) -> torch.Tensor:
        """(B,) where each answer ends."""
        return torch.minimum(self.stop_ends, self.lengths())

    def order_by_step(self) -> list[list[list[int]]]:
        """The order of `SamplerOutput`."""
        steps = range(max(map(len, self.order), default=0))
        return [[row[step] if step < len(row) else [] for row in self.order] for step in steps]


def call_of(config, scope, rows: list[int], drafts, is_open, start: list[int], end: list[int], counted) -> Call:
    """The model call for drafts (R, copies, G) of `rows` (R), whose blocks reach from `start` to `end`, by row.

    Without a cache the drafts that do not count are left out; with one every row keeps its number of copies.
    """
    num_rows, copies, limit = drafts.shape
    spans = [(start[row], end[row]) for row in rows]
    lengths = [last for _, last in spans] if config.gen_length == AUTO else [limit] * num_rows
    canvas, is_open = drafts.flatten(0, 1)[:, : max(lengths)], is_open.flatten(0, 1)[:, : max(lengths)]
    columns, is_filler = columns_of(spans if scope is Scope.BLOCK else [(0, 0)] * num_rows)
    parts = [torch.tensor(rows), canvas, is_open, torch.tensor(lengths), columns, is_filler]
    if copies > 1:
        for number in (0, 3, 4, 5):
            parts[number] = parts[number].repeat_interleave(copies, 0)
        if config.cache == "none":
            keep = counted.flatten()
            parts = [part[keep] for part in parts]
    rows_, canvas, is_open, lengths_, columns, is_filler = parts
    return Call(scope, rows_, copies, canvas, is_open, lengths_, columns, is_filler)


def columns_of(spans: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (R, C) of spans (first, behind the last), and which of them are filler: shorter spans repeat."""
    first, last = spans[0]
    if all(span == spans[0] for span in spans):
        columns = torch.arange(first, last).expand(len(spans), -1)
        return columns, torch.zeros((), dtype=torch.bool).expand(columns.shape)
    start, end = torch.tensor(spans).unbind(1)
    offsets = torch.arange(max(last - first for first, last in spans))
    columns = torch.minimum(start[:, None] + offsets, end[:, None] - 1)
    return columns, offsets >= (end - start)[:, None]


def found_at(is_open: torch.Tensor, found: Proposals) -> tuple[Proposals, bool]:
    """Tokens, probabilities and scores (M,) each, from any device, as tensors of the shape of `is_open` on the CPU.

    Closed positions hold 0, 0 and -inf. With it whether all scores are finite. One transfer: float64 holds every id.
    """
    together = torch.stack([part.double() for part in found]).cpu()
    empty = EMPTY.view(3, *[1] * is_open.dim()).expand(3, *is_open.shape)
    tokens, probability, scores = empty.masked_scatter(is_open, together)
    return (tokens.long(), probability, scores), math.isfinite(together[2].sum())


def broken_model(found: torch.Tensor, where: str) -> str:
    """The message for a model whose numbers `found` are not finite."""
    kind = "NaN" if found.isnan().any() else "inf" if (found == torch.inf).any() else "-inf for every token"
    return (
        f"the model gives {kind} {where}; its weights are damaged (a run that diverged, a bad merge), or float16 is "
        "too narrow for its activations: try --dtype bfloat16 or float32, or another checkpoint"
    )
