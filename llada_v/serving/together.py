"""Many questions that are all known beforehand, answered by an engine in the caller's thread: what evaluations need.

As many as may are always on their way: where one is finished, the next begins, so nothing waits for the slowest of a
batch, and nothing is padded to the longest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..generation.config import SamplerConfig
from ..generation.generate import plan_of
from .engine import Engine, Event, Failed, Finished, Request, needs_of
from .limits import EngineConfig


@dataclass(frozen=True)
class Question:
    """What the processor makes of one conversation (see `Request`), how it is answered, and the seed of its chance."""

    inputs: dict[str, torch.Tensor]
    sampler: SamplerConfig
    seed: int = 0


def answer_together(
    model, processor, questions: Sequence[Question], at_once: int
) -> Iterator[list[tuple[int, Finished]]]:
    """The answers with their numbers among the questions, a list for each tick in which some were finished.

    Each is what `generate` gives to the question alone, with its seed. at_once: questions on their way together; memory
    is reserved for as many of the longest. Raises what a question raised, ValueErrors of settings before any is begun.
    """
    if not questions:
        return
    engine = Engine(model, processor, room_for(model, processor, questions, at_once))
    done: list[tuple[int, Event]] = []
    for number, question in enumerate(questions):
        listener = partial(lambda number, event: done.append((number, event)), number)
        engine.submit(Request(question.inputs, question.sampler, listener, question.seed))
    while engine.queue or engine.running:
        engine.tick()
        found = []
        for number, event in done:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                found.append((number, event))
        done.clear()
        if found:
            yield found


def room_for(model, processor, questions: Sequence[Question], at_once: int) -> EngineConfig:
    """The limits under which that many of the questions that need most can be stepped at once."""
    needs = []
    for question in questions:
        plan = plan_of(model.config, question.sampler, question.inputs["input_ids"].shape[1], processor.tokenizer)
        needs.append(needs_of(plan, model.config.text_config.vocab_size))
    stretch, cost, logits = (max(1, max(each)) * at_once for each in zip(*needs, strict=True))
    return EngineConfig(
        pool_tokens=stretch,
        tick_tokens=cost,
        tick_logits=logits,
        max_running=at_once,
        queue_length=len(questions),
        encode_at_once=at_once,
    )
