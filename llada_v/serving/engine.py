"""The engine: one thread owns the model and steps many requests at once; each lives as if it were alone.

LLaDA is not told the time, so requests at different steps share a forward pass. Every request is a sampling loop of its
own (`generation.sampler.steps_of`) that waits with a `Call`. A tick takes the calls that fit its budget, the longest
waiting first, runs them packed (`packing`), and hands each loop what was proposed for it: a whole call costs its whole
sequence, a call that reuses the cache its block, so renewals that fall together are spread over ticks.

A request is let in once the pool (`pool`) has room for all it will ever keep; what could never have room is refused
when it is handed in. It knows ids and settings, and neither messages nor the network.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from ..answering import PictureMemory
from ..errors import UserError, WrongValue
from ..generation.cache import Scope
from ..generation.config import SamplerConfig
from ..generation.generate import Plan, plan_of
from ..generation.packing import Part, run_packed
from ..generation.pool import Pool
from ..generation.readers import Reader
from ..generation.sampler import Call, Proposals, Sampled, SamplerState, proposals, steps_of
from ..generation.token_merging import Prompts, shortened
from ..sequence import picture_inputs
from .limits import EngineConfig

log = logging.getLogger(__name__)

KEPT_TIMES = 1000  # requests whose times are remembered, for an estimate of the wait


class Full(UserError):
    """The queue is full. retry_after: seconds after which it may not be."""

    def __init__(self, told: str, retry_after: int):
        super().__init__(told)
        self.retry_after = retry_after


class TooLarge(WrongValue):
    """A request that could never be let in."""


class Stopping(UserError):
    """The engine takes nothing new."""


class OutOfTime(UserError):
    """A request that took longer than it may."""


@dataclass(frozen=True)
class Step:
    """What a step of one request left.

    number, total: steps taken, and the most that can be taken. canvas: (G,) ids. confidence: (G,) the probability of
    each revealed token. revealed: positions of this step. end: where the answer ends so far.
    runners_up: by revealed position, the most probable tokens there as (id, log probability), if asked for.
    """

    number: int
    total: int
    canvas: list[int]
    confidence: list[float]
    revealed: list[int]
    end: int
    runners_up: dict[int, list[tuple[int, float]]]


@dataclass(frozen=True)
class Finished:
    """An answer and what it took.

    token_ids: up to the stop, any suffix at the end. positions: where on the canvas they stand, the suffix left out.
    text: see `SamplerOutput.texts`. stopped: whether it ended before
    its canvas did. order: per step, the positions revealed. seconds: since it was handed in; waited_seconds of them in
    the queue. ticks_waited: ticks in which its call stood back.
    """

    token_ids: list[int]
    positions: list[int]
    text: str
    stopped: bool
    order: list[list[int]]
    num_forwards: int
    seconds: float
    waited_seconds: float
    ticks_waited: int


@dataclass(frozen=True)
class Failed:
    """A request that ends without an answer."""

    error: BaseException


Event = Step | Finished | Failed


@dataclass
class Request:
    """What is asked of the engine.

    inputs: what the processor makes of one conversation: input_ids (1, L), and of its pictures.
    listener: called with each `Event` in the engine's thread, which waits for it; a `Step` only if `watches`.
    runners_up: how many of the most probable tokens a `Step` tells for each that it revealed.
    seconds: after which it fails with `OutOfTime`; None: never.
    """

    inputs: dict[str, torch.Tensor]
    sampler: SamplerConfig
    listener: Callable[[Event], None]
    seed: int = 0
    watches: bool = False
    runners_up: int = 0
    seconds: float | None = None


@dataclass(eq=False)
class Job:
    """A request on its way. start: where its stretch of the pool begins; room: of one of its `copies` canvases."""

    request: Request
    plan: Plan
    room: int
    copies: int
    begun: float = field(default_factory=time.monotonic)
    let_in: float = 0.0
    is_cancelled: bool = False
    start: int = 0
    reader: Any = None
    loop: Any = None
    generator: torch.Generator | None = None
    call: Call | None = None
    since: int = 0
    ticks_waited: int = 0
    seen: list | None = None
    num_seen: int = 0

    @property
    def stretch(self) -> int:
        """Positions of the pool that it takes."""
        return self.room * self.copies

    @property
    def is_alone(self) -> bool:
        """Whether its calls cannot be packed."""
        return self.plan.sampler.cache == "dllm"


class Engine:
    """Steps requests. `start` it, `submit` from any thread, `close` it at the end.

    waits: how many ticks each call stood back that was run lately, for measurements.
    """

    def __init__(self, model, processor, config: EngineConfig | None = None):
        """The model is the engine's alone from here on."""
        self.model, self.processor, self.config = model, processor, config or EngineConfig()
        self.device = model.device
        self.sizes = model.config.text_config
        self.vocabulary = self.sizes.vocab_size
        self.pool = Pool(self.sizes, self.config.pool_tokens, model.dtype, self.device)
        self.memory = PictureMemory(model, max_bytes=self.config.picture_mib * 2**20, is_frozen=True)
        self.queue: deque[Job] = deque()
        self.errands: deque[tuple[Callable[[], Any], Future]] = deque()
        self.running: list[Job] = []
        self.changed = threading.Condition()
        self.is_open, self.is_ending = True, False
        self.tick_number = 0
        self.counts = dict.fromkeys(
            ("requests", "finished", "failed", "cancelled", "refused", "ticks", "forwards", "tokens", "positions"), 0
        )
        self.waits: deque[int] = deque(maxlen=100_000)
        self.times: deque[float] = deque(maxlen=KEPT_TIMES)
        self.thread = threading.Thread(target=self.live, name="engine", daemon=True)

    # From any thread

    def start(self) -> "Engine":
        """Begin to step."""
        self.thread.start()
        return self

    @property
    def is_alive(self) -> bool:
        """Whether it steps and takes requests."""
        return self.thread.is_alive() and self.is_open

    def submit(self, request: Request) -> Job:
        """Hand in a request; its listener hears of it.

        Raises TooLarge with both numbers for what could never be let in, other ValueErrors for settings that do not fit
        the model, Full where the queue is, and Stopping once the engine is closing.
        """
        job = self.job_of(request)
        with self.changed:
            if not self.is_open:
                raise Stopping("the engine is stopping and takes no new requests")
            if len(self.queue) >= self.config.queue_length + self.config.max_running - len(self.running):
                self.counts["refused"] += 1
                raise Full(
                    f"{len(self.running)} requests are running and {len(self.queue)} wait, as many as may "
                    f"(queue_length {self.config.queue_length}); try again later",
                    self.retry_after(),
                )
            self.counts["requests"] += 1
            self.queue.append(job)
            self.changed.notify()
        return job

    def run(self, errand: Callable[[], Any]) -> Future:
        """Have the engine's thread call a function between two ticks; the future gets what it returns or raises.

        Raises Stopping once the engine is closing.
        """
        done: Future = Future()
        with self.changed:
            if not self.is_open:
                raise Stopping("the engine is stopping and takes no new requests")
            self.errands.append((errand, done))
            self.changed.notify()
        return done

    def retry_after(self) -> int:
        """Seconds after which the queue should have moved on."""
        mean = sum(self.times) / len(self.times) if self.times else 1.0
        return min(60, max(1, round(mean * (1 + len(self.queue) / self.config.max_running))))

    def cancel(self, job: Job) -> None:
        """Let a request go: within one tick nothing of it is left, and its listener hears no more."""
        with self.changed:
            job.is_cancelled = True
            self.changed.notify()

    def close(self, seconds: float = 0.0) -> bool:
        """Take nothing new, finish what runs and waits within that time, fail the rest. Whether nothing failed."""
        deadline = time.monotonic() + seconds
        with self.changed:
            self.is_open = False
            self.changed.notify()
            while (self.running or self.queue) and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(min(left, 0.1))
            is_clean = not (self.running or self.queue)
            self.is_ending = True
            self.changed.notify()
        if self.thread.ident is not None:
            self.thread.join()
        return is_clean

    def job_of(self, request: Request) -> Job:
        """A request checked against what the engine has."""
        sampler, config = request.sampler, self.config
        if why := refusal(sampler):
            raise WrongValue(why)
        prompt_length = request.inputs["input_ids"].shape[1]
        plan = plan_of(self.model.config, sampler, prompt_length, self.processor.tokenizer)
        stretch, cost, logits = needs_of(plan, self.vocabulary)
        for needed, there, told in (
            (stretch, config.pool_tokens, "positions in the pool, which has {} (pool_tokens)"),
            (cost, config.tick_tokens, "positions in one call, and a tick computes {} (tick_tokens)"),
            (logits, config.tick_logits, "logits in one call, and a tick makes {} (tick_logits)"),
        ):
            if needed > there:
                with self.changed:
                    self.counts["refused"] += 1
                raise TooLarge(
                    f"the request needs {needed:,} {told.format(f'{there:,}')}; shorten the prompt, the pictures or "
                    "gen_length"
                )
        copies = 1 + sampler.lookahead
        return Job(request, plan, stretch // copies, copies)

    # In the engine's thread

    def live(self) -> None:
        """Tick while there is something to do, until the end."""
        while True:
            with self.changed:
                while not self.is_ending and not self.queue and not self.running and not self.errands:
                    self.changed.wait()
                if self.is_ending:
                    break
            if self.errands:
                self.do(*self.errands.popleft())
            try:
                self.tick()
            except Exception as error:  # a fault of ours must not take the server with it
                log.exception("a tick failed")
                for job in list(self.running):
                    self.fail(job, error)
            with self.changed:
                self.changed.notify_all()
        stopped = Stopping("the engine stopped before the answer was finished")
        for job in [*self.running, *self.queue]:
            self.fail(job, stopped)
        for _, done in self.errands:
            done.set_exception(stopped)

    def do(self, errand: Callable[[], Any], done: Future) -> None:
        """One errand, unless nobody waits for it any more."""
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(errand())
        except Exception as error:
            done.set_exception(error)

    @torch.no_grad()
    def tick(self) -> None:
        """Let go, let in, and take one step of every request that fits."""
        self.tick_number += 1
        self.let_go()
        self.let_in()
        chosen = self.choose()
        if not chosen:
            return
        self.counts["ticks"] += 1
        logits = self.logits_of(chosen)
        found: list[tuple[Job, Proposals]] = []
        for job in chosen:
            try:
                found.append((job, self.proposed(job, logits.pop(job))))
            except UserError as error:
                self.fail(job, error)
        for job, proposed in on_cpu(found):
            self.advance(job, proposed)

    def let_go(self) -> None:
        """Drop what was cancelled or is out of time."""
        now = time.monotonic()
        with self.changed:
            jobs = [*self.running, *self.queue]
        for job in jobs:
            seconds = job.request.seconds
            if job.is_cancelled:
                self.counts["cancelled"] += 1
                self.leave(job)
            elif seconds is not None and now - job.begun > seconds:
                self.fail(job, OutOfTime(f"the answer took more than {seconds:g} seconds"))

    def let_in(self) -> None:
        """Begin requests from the front of the queue, while they have room. Pictures are encoded for a few a tick."""
        num_encoded = 0
        while len(self.running) < self.config.max_running:
            with self.changed:
                if not self.queue:
                    return
                job = self.queue[0]
                shows = "pixel_values" in job.request.inputs
                if shows and num_encoded == self.config.encode_at_once:
                    return
                start = self.pool.take(job.stretch)
                if start is None:
                    return
                self.queue.popleft()
                self.running.append(job)
            job.start, job.let_in = start, time.monotonic()
            num_encoded += shows
            try:
                self.begin(job)
            except UserError as error:
                self.fail(job, error)
            except Exception as error:
                log.exception("a request could not begin")
                self.fail(job, error)

    def begin(self, job: Job) -> None:
        """Embed the prompt, and take the loop to its first call."""
        request, plan = job.request, job.plan
        inputs = request.inputs
        pictures = picture_inputs(inputs)
        features = self.memory(**pictures) if pictures else None
        ids = inputs["input_ids"].to(self.device)
        whole = Prompts(self.model.model.embed(ids, features), None, ids == self.model.config.image_token_id)
        prompt = shortened(self.model.model, whole, plan.sampler.merge_features).embeds
        suffix = torch.tensor(plan.suffix, dtype=torch.long, device=self.device)
        job.reader = Reader(self.model, prompt, None, suffix, plan.sampler, keeps=job.is_alone)
        job.generator = torch.Generator(self.device).manual_seed(request.seed)
        job.loop = steps_of(
            1,
            plan.sampler,
            self.model.config.mask_token_id,
            plan.stops,
            (lambda state: self.tell(job, state)) if request.watches else None,
            plan.decode,
            plan.constraint,
        )
        self.advance(job, None)

    def choose(self) -> list[Job]:
        """The requests that this tick steps: the longest waiting first, as many as fit the budget."""
        tokens, logits, chosen = self.config.tick_tokens, self.config.tick_logits, []
        for job in sorted(self.running, key=lambda job: job.since):
            call = job.call
            rows = len(call.rows) * (2 if job.plan.sampler.cfg_scale else 1)
            whole = job.reader.prompt_length + call.canvas.shape[1] + len(job.plan.suffix)
            width = call.columns.shape[1] if call.scope is Scope.BLOCK else whole
            open_logits = int(call.is_open.sum()) * (rows // len(call.rows)) * self.vocabulary
            if rows * width <= tokens and open_logits <= logits:
                tokens, logits = tokens - rows * width, logits - open_logits
                chosen.append(job)
                self.counts["positions"] += rows * width
                self.waits.append(max(0, self.tick_number - job.since - 1))
            else:
                job.ticks_waited += 1
        return chosen

    def logits_of(self, jobs: list[Job]) -> dict[Job, torch.Tensor]:
        """What each request's call asks for."""
        parts = {job: self.part_of(job) for job in jobs if not job.is_alone}
        found = {job: job.reader(job.call) for job in jobs if job.is_alone}
        self.counts["forwards"] += len(found) + bool(parts)
        if parts:
            trunk, is_exact = self.model.model.language_model, self.device.type == "cpu"
            made = run_packed(trunk, self.model.lm_head, list(parts.values()), self.pool, is_exact)
            found |= {job: job.reader.finish(logits) for job, logits in zip(parts, made, strict=True)}
        return found

    def part_of(self, job: Job) -> Part:
        """A request's call, for the pack."""
        run = job.reader.prepare(job.call)
        assert run.mask is None, "a request alone has nothing to hide"
        stretch = job.start if job.room else None
        return Part(run, stretch, job.reader.length, job.room, job.copies)

    def proposed(self, job: Job, logits: torch.Tensor) -> Proposals:
        """What the logits propose, and their runners-up on the side."""
        found = proposals(logits, job.call, job.plan.sampler, job.generator, job.plan.constraint)
        job.seen, job.num_seen = None, 0
        if job.request.runners_up:
            best = logits.log_softmax(1).topk(min(job.request.runners_up, logits.shape[1]), dim=1)
            job.seen = [best.indices.cpu(), best.values.cpu(), job.call.is_open]
        return found

    def tell(self, job: Job, state: SamplerState) -> None:
        """Hand a step to the listener."""
        revealed, runners_up = state.revealed[0], {}
        if job.seen is not None:
            ids, values, is_open = job.seen
            before = int(is_open[: job.num_seen].sum())
            places = is_open[job.num_seen].nonzero()[:, 0].tolist()
            for position in revealed:
                at = before + places.index(position)
                runners_up[position] = list(zip(ids[at].tolist(), values[at].tolist(), strict=True))
        job.num_seen += 1
        job.request.listener(
            Step(
                state.step,
                state.num_steps,
                state.canvas[0].tolist(),
                state.confidence[0].tolist(),
                revealed,
                int(state.stop_positions[0]),
                runners_up,
            )
        )

    def advance(self, job: Job, found: Proposals | None) -> None:
        """Give a loop what it waits for, and take its next call or its answer."""
        try:
            job.call, job.since = job.loop.send(found), self.tick_number
        except StopIteration as finished:
            self.finish(job, finished.value)
        except UserError as error:
            self.fail(job, error)
        except Exception as error:
            log.exception("a request failed")
            self.fail(job, error)

    def finish(self, job: Job, found: Sampled) -> None:
        """Hand out an answer."""
        end, now, suffix = int(found.ends[0]), time.monotonic(), job.plan.suffix
        positions = job.plan.is_said(found)[0].nonzero()[:, 0]
        ids = [*found.canvas[0, positions].tolist(), *suffix]
        text = (found.texts or [""])[0] + (job.plan.decode(suffix) if suffix and job.plan.decode else "")
        self.leave(job)
        self.counts["finished"] += 1
        self.counts["tokens"] += len(ids)
        self.times.append(now - job.begun)
        job.request.listener(
            Finished(
                ids,
                positions.tolist(),
                text,
                end < int(found.lengths[0]),
                [step[0] for step in found.order],
                found.num_forwards,
                now - job.begun,
                job.let_in - job.begun,
                job.ticks_waited,
            )
        )

    def fail(self, job: Job, error: BaseException) -> None:
        """End a request without an answer."""
        self.leave(job)
        self.counts["failed"] += 1
        job.request.listener(Failed(error))

    def leave(self, job: Job) -> None:
        """Free all that a request held."""
        with self.changed:
            if job in self.running:
                self.running.remove(job)
                self.pool.give_back(job.start, job.stretch)
            elif job in self.queue:
                self.queue.remove(job)
        job.reader = job.loop = job.generator = job.call = job.seen = None


def refusal(sampler: SamplerConfig) -> str | None:
    """Why no engine steps requests with these settings, which `generate` answers; None where one does."""
    if sampler.compile:
        return "compile builds kernels for one shape, and here calls of many are run; leave it out"
    if sampler.rule == "klass":
        return "rule 'klass' holds the logits of a step for the next, and the engine has no place for them"
    if sampler.keep_features is not None:
        return "keep_features makes a prompt shorter on the way, and the engine holds a request's place as it began"
    return None


def needs_of(plan: Plan, vocabulary: int) -> tuple[int, int, int]:
    """The most that a request takes: positions of the pool, positions of one call, logits of one call."""
    sampler = plan.sampler
    copies = 1 + sampler.lookahead
    rows = copies * (2 if sampler.cfg_scale else 1)
    keeps = sampler.cache == "prompt"
    # A whole call of a request that keeps something has one canvas: its drafts wait for the next.
    whole = plan.length * (1 if keeps else rows)
    cost = max(whole, rows * sampler.resolved.block_length)
    return plan.length * copies if keeps else 0, cost, rows * sampler.canvas_length * vocabulary


def on_cpu(found: list[tuple[Job, Proposals]]) -> list[tuple[Job, Proposals]]:
    """All requests' proposals on the CPU, in one transfer: float64 holds every id exactly."""
    if not found:
        return []
    lengths = [len(proposed[0]) for _, proposed in found]
    stacked = torch.cat([torch.stack([part.double() for part in proposed]) for _, proposed in found], dim=1).cpu()
    return [(job, tuple(part)) for (job, _), part in zip(found, stacked.split(lengths, dim=1), strict=True)]
