"""Named settings of the sampler, one for each purpose, and which of them a model asks for.

    exact      the original's: one token a step unless `steps` says otherwise, everything computed at every step
    balanced   all tokens above 0.9, the prompt renewed every 4 steps: what arXiv 2505.22618 found safe on large models
    fast       the fastest that lost nothing on held-out questions of the small world (docs/faster.md)

What a caller sets himself wins: it takes away the part of the preset, how tokens are revealed or what is kept between
steps, that does not go with it. A model asks for a preset with `sampler_preset` in its generation_config.json; one
without it, such as the published weights, is answered with `exact`. Knows names and values only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import WrongValue

EXACT = "exact"
KEY = "sampler_preset"  # in a model's generation_config.json
# Settings with which neither another rule nor a cache goes, and the values that ask for nothing.
INSTEAD_OF_RULE = {"steps": None, "schedule": "linear", "remasking": "low_confidence"}
INSTEAD_OF_CACHE = {"cfg_scale": 0}


@dataclass(frozen=True)
class Preset:
    """Settings by name. reveal: how tokens are revealed; keep: what is kept between steps."""

    reveal: dict[str, Any] = field(default_factory=dict)
    keep: dict[str, Any] = field(default_factory=dict)


PRESETS = {
    EXACT: Preset(),
    "balanced": Preset(
        {"rule": "threshold", "threshold": 0.9},
        {"cache": "prompt", "refresh_interval": 4},
    ),
    "fast": Preset(
        {"rule": "factor", "factor": 1.0},
        {"cache": "prompt", "refresh_interval": 8},
    ),
}


def settings_of(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's settings with the caller's `changes` in their place. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise WrongValue(f"the preset is {name!r}; choose one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    found: dict[str, Any] = {}
    for owner, part, instead in (
        ("rule", preset.reveal, INSTEAD_OF_RULE),
        ("cache", preset.keep, INSTEAD_OF_CACHE),
    ):
        if owner not in changes and all(changes.get(other, nothing) == nothing for other, nothing in instead.items()):
            found |= part
    return found | dict(changes)


def preset_of(generation_config, reproduce_original: bool = False) -> str:
    """The preset that a model is answered with where nobody names one: its own, else `exact`.

    generation_config: the model's. reproduce_original: of its processor; comparing with the original takes `exact`.
    Raises ValueError where the model asks for one that does not exist.
    """
    name = vars(generation_config).get(KEY) or EXACT
    if name not in PRESETS:
        raise WrongValue(f"{KEY} in the model's generation_config.json is {name!r}; choose one of {', '.join(PRESETS)}")
    return EXACT if reproduce_original else name


def told(name: str) -> str:
    """A preset in one line: its name and what it sets."""
    settings = settings_of(name, {})
    return f"{name} ({', '.join(f'{key} {value}' for key, value in settings.items()) or 'one token a step'})"
