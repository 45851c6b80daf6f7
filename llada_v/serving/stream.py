"""From the engine's events to OpenAI's answers: whole, or chunk by chunk.

A stream's text is what has become final from the left: masks behind it may still be open, but nothing in front of it.
With frames, chunks with an empty delta between show the whole canvas after each step; strict clients pass over them.
Knows no network.
"""

import math
import time
from dataclasses import dataclass, field

import torch

from ..generation.generate import Plan
from .engine import Finished, Step

MASK = "▒"


@dataclass
class Writer:
    """One answer of a request as it appears.

    sent: text handed out. told: up to where on the canvas tokens have been told with their probabilities.
    canvas: as the last step left it. logprobs: by position the token, its log probability, and its runners-up.
    """

    plan: Plan
    mask_id: int
    index: int = 0
    with_logprobs: bool = False
    with_frames: bool = False
    sent: str = ""
    told: int = 0
    canvas: list[int] = field(default_factory=list)
    logprobs: dict[int, tuple[int, float, list[tuple[int, float]]]] = field(default_factory=dict)

    def __post_init__(self):
        # What may still turn out to be the beginning of a stop is held back.
        self.held_letters = max((len(text) for text in self.plan.sampler.stop_strings or ()), default=1) - 1
        self.held_tokens = max((len(stop) for stop in self.plan.stops), default=1) - 1

    def step(self, step: Step) -> list[dict]:
        """The chunks' parts after a step: a frame, and text that became final."""
        found = []
        self.canvas = step.canvas
        for position in step.revealed:
            probability = step.confidence[position]
            logprob = math.log(probability) if probability > 0 else -9999.0
            self.logprobs[position] = (step.canvas[position], logprob, step.runners_up.get(position, []))
        if self.with_frames:
            found.append(self.frame(step))
        final = step.canvas[: step.end]
        if self.mask_id in final:
            final = final[: final.index(self.mask_id)]
        if len(final) < step.end:
            final = final[: max(0, len(final) - self.held_tokens)]
        text = self.plan.decode(final)
        stops = (text.find(stop) for stop in self.plan.sampler.stop_strings or ())
        text = text[: min((place for place in stops if place >= 0), default=len(text))]  # the last token may hold one
        text = text[: len(text) - self.held_letters] if self.held_letters else text
        while text.endswith("\ufffd"):  # a character of which some bytes are still masked
            text = text[:-1]
        if len(text) > len(self.sent) and text.startswith(self.sent):
            found.append(self.text(text, len(final)))
        return found

    def finish(self, done: Finished) -> list[dict]:
        """The rest of the text, then the reason why it ends."""
        found = []
        end = max(done.positions, default=-1) + 1
        if done.text != self.sent or self.with_logprobs and self.told < end:
            assert done.text.startswith(self.sent), "text that was handed out is final"
            found.append(self.text(done.text, end))
        return [*found, self.choice({}, finish_reason=reason_of(done))]

    def text(self, text: str, end: int) -> dict:
        """A choice with what is new of the text, which the canvas spells up to that position."""
        delta = {"content": text[len(self.sent) :]}
        logprobs = None
        if self.with_logprobs:
            logprobs = {"content": self.logprobs_of(self.said(self.told, end)), "refusal": None}
            self.told = end
        self.sent = text
        return self.choice(delta, logprobs)

    def choice(self, delta: dict, logprobs: dict | None = None, finish_reason: str | None = None) -> dict:
        """A part of a chunk."""
        return {
            "choices": [{"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}]
        }

    def said(self, start: int, end: int) -> list[int]:
        """Positions of the canvas from `start` to `end` that belong to the answer."""
        constraint = self.plan.constraint
        kept = [True] * end if constraint is None else constraint.is_said(torch.tensor([self.canvas]))[0].tolist()
        return [position for position in range(start, end) if kept[position]]

    def logprobs_of(self, positions: list[int]) -> list[dict]:
        """OpenAI's list for the tokens at these positions; what stood there from the start is certain."""
        found = (self.logprobs.get(at) or (self.canvas[at], 0.0, []) for at in positions)
        return [
            self.token(token, logprob)
            | {"top_logprobs": [self.token(other, value) for other, value in runners_up if value > -math.inf]}
            for token, logprob, runners_up in found
        ]

    def token(self, token_id: int, logprob: float) -> dict:
        """A token with its log probability."""
        text = self.plan.decode([token_id])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def frame(self, step: Step) -> dict:
        """The canvas after a step, up to the end of the answer where that is known."""
        new = set(step.revealed)
        tokens: list[dict] = []
        text = ""
        stretch: list[int] = []
        for position, token in enumerate(step.canvas[: step.end]):
            if token == self.mask_id:
                text += (self.plan.decode(stretch) if stretch else "") + MASK
                stretch = []
                tokens.append({"id": token, "text": MASK, "probability": None, "state": "masked"})
                continue
            stretch.append(token)
            entry = {
                "id": token,
                "text": self.plan.decode([token]),
                "probability": step.confidence[position],
                "state": "new" if position in new else "kept",
            }
            if position in step.runners_up:
                entry["runners_up"] = [
                    {"id": other, "text": self.plan.decode([other]), "probability": math.exp(value)}
                    for other, value in step.runners_up[position]
                ]
            tokens.append(entry)
        text += self.plan.decode(stretch) if stretch else ""
        choice = {"index": self.index, "delta": {}, "finish_reason": None}
        return {
            "choices": [choice],
            "type": "diffusion_frame",
            "step": step.number,
            "total": step.total,
            "text": text,
            "tokens": tokens,
        }


def reason_of(done: Finished) -> str:
    """OpenAI's word for why an answer ended."""
    return "stop" if done.stopped else "length"


def usage_of(num_prompt: int, answers: list[Finished]) -> dict:
    """Real tokens: of the prompt with its pictures, and of the answers up to where they stop."""
    completion = sum(len(done.token_ids) for done in answers)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": completion,
        "total_tokens": num_prompt + completion,
    }


def timings_of(answers: list[Finished]) -> dict:
    """What it took: of several answers steps and forward passes together, and the longest times."""
    seconds = max(done.seconds for done in answers)
    waited = max(done.waited_seconds for done in answers)
    tokens = sum(len(done.token_ids) for done in answers)
    return {
        "steps": sum(len(done.order) for done in answers),
        "forwards": sum(done.num_forwards for done in answers),
        "milliseconds": round(1000 * seconds, 3),
        "queue_milliseconds": round(1000 * waited, 3),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 3),
        "ticks_waited": sum(done.ticks_waited for done in answers),
    }


def completion(head: dict, writers: list[Writer], answers: list[Finished], num_prompt: int) -> dict:
    """A whole answer. head: id, created, model."""
    choices = []
    for writer, done in zip(writers, answers, strict=True):
        logprobs = None
        if writer.with_logprobs:
            logprobs = {"content": writer.logprobs_of(done.positions), "refusal": None}
        choices.append(
            {
                "index": writer.index,
                "message": {"role": "assistant", "content": done.text, "refusal": None},
                "logprobs": logprobs,
                "finish_reason": reason_of(done),
            }
        )
    return {
        **head,
        "object": "chat.completion",
        "choices": choices,
        "usage": usage_of(num_prompt, answers),
        "timings": timings_of(answers),
    }


def head_of(request_id: str, model: str) -> dict:
    """What every chunk and answer begins with."""
    return {"id": request_id, "created": int(time.time()), "model": model}
