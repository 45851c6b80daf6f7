"""What lmms-eval's generation_kwargs ask of the sampler: its settings by their real names, and three of our own.

A task file's values and those of --gen_kwargs arrive in one dictionary, so what task files say to autoregressive models
is known by name here; any other name stops the run.
"""

import difflib
import json
from dataclasses import dataclass, fields, replace

from ..errors import WrongValue
from ..generation.config import SamplerConfig
from ..processing_llada_v import LladaVProcessor
from .prompts import check_think_mode

APART = {"stop_token_ids", "stop_strings", "suffix_token_ids", "constraint", "fields"}  # until, suffix; no shapes
SAMPLER_SETTINGS = {field.name for field in fields(SamplerConfig)} - APART
OTHER_SETTINGS = {"until", "suffix", "think_mode"}
# Settings of autoregressive models, and the values that ask for nothing the sampler lacks; None: any value.
AUTOREGRESSIVE = {
    "max_new_tokens": None,
    "do_sample": None,
    "image_aspect_ratio": None,
    "num_beams": (None, 1),
    "top_p": (None, 0, 1),
    "top_k": (None, 0, 1),
    "repetition_penalty": (None, 1),
}


@dataclass(frozen=True)
class Settings:
    """How a request is answered.

    think_mode: see `prompts`.
    """

    sampler: SamplerConfig
    think_mode: str | None

    @property
    def is_random(self) -> bool:
        """Whether random numbers take part in the answer."""
        return bool(self.sampler.temperature) or self.sampler.remasking == "random"

    @property
    def answer_length(self) -> int:
        """The most tokens that the answer can have, a suffix with it."""
        return self.sampler.canvas_length + len(self.sampler.suffix_token_ids or [])

    def without_stops(self) -> "Settings":
        """The same, with nothing to end the answer."""
        return replace(self, sampler=replace(self.sampler, stop_token_ids=[], stop_strings=None))


def settings_of(gen_kwargs: dict, processor: LladaVProcessor, default_length: int) -> Settings:
    """The settings that a task's generation_kwargs and --gen_kwargs ask for.

    Without gen_length the answer gets `default_length` tokens, or the task's max_new_tokens if that is less.
    Raises ValueError for an unknown name, for a value of another kind of model that would be ignored, and for settings
    that do not fit together.
    """
    for name in sorted(gen_kwargs.keys() - SAMPLER_SETTINGS - OTHER_SETTINGS):
        check_autoregressive(name, gen_kwargs[name])
    check_think_mode(gen_kwargs.get("think_mode"))
    sampling = {"gen_length": min(default_length, gen_kwargs.get("max_new_tokens", default_length))}
    sampling |= {name: value for name, value in gen_kwargs.items() if name in SAMPLER_SETTINGS}
    until = strings(gen_kwargs.get("until"))
    suffix = processor.encode(gen_kwargs.get("suffix", ""))
    eot = [processor.config.eot_token_id]
    sampler = SamplerConfig(**sampling, suffix_token_ids=suffix, stop_token_ids=[eot], stop_strings=until)
    if processor.reproduce_original:  # which looks for the ids of its stops, and leaves the text as it is
        stops = stops_of([eot, *map(processor.encode_finished, until)], sampler.canvas_length)
        sampler = replace(sampler, stop_token_ids=stops, stop_strings=None)
    return Settings(sampler, gen_kwargs.get("think_mode"))


def stops_of(stops: list[list[int]], canvas_length: int) -> list[list[int]]:
    """Those id sequences that can end an answer: no longer than the canvas, and starting with no shorter one."""
    found: list[list[int]] = []
    for stop in sorted(stops, key=len):
        if len(stop) <= canvas_length and not any(stop[: len(other)] == other for other in found):
            found.append(stop)
    return found


def check_autoregressive(name: str, value) -> None:
    """Raise ValueError unless the name belongs to autoregressive models and the value asks for nothing special."""
    if name not in AUTOREGRESSIVE:
        known = sorted(SAMPLER_SETTINGS | OTHER_SETTINGS)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        meant = f"; did you mean {near[0]!r}?" if near else ";"
        raise WrongValue(f"gen_kwargs has {name!r}, which is no setting{meant} There are {', '.join(known)}")
    neutral = AUTOREGRESSIVE[name]
    if neutral is not None and value not in neutral:
        raise WrongValue(
            f"gen_kwargs has {name}={value!r}, which the sampler lacks; --gen_kwargs {name}={neutral[-1]} runs the "
            "task without it"
        )


def strings(until) -> list[str]:
    """Stop strings from what a task file or --gen_kwargs gives: nothing, a string, a list, or a list as JSON."""
    if isinstance(until, str) and until.startswith("["):
        until = json.loads(until)
    found = [until] if isinstance(until, str) else until or []
    return [stop for stop in map(str, found) if stop]
