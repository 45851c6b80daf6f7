"""Named settings of the sampler: from a YAML file, from words on the command line, or from the grid of the search.

A setting is a name and some fields of `SamplerConfig`; what it leaves out is the plain sampler's. A list stands for
several settings, one a value:

    careful: {rule: threshold, threshold: [0.9, 0.95]}            # in a file
    --setting "careful: rule=threshold threshold=[0.9,0.95]"      # on the command line
    --setting "kept: preset=[balanced,fast] refresh_interval=0"   # what a preset sets, changed
"""

import dataclasses
import itertools
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..data.yaml_text import parse_yaml, read_yaml
from ..errors import WrongValue
from ..generation.config import SamplerConfig
from ..generation.presets import settings_of

PLAIN = "plain"
FIELDS = tuple(field.name for field in dataclasses.fields(SamplerConfig))
LISTS = ("stop_token_ids", "stop_strings", "suffix_token_ids")  # a list is one value of these

CACHES: dict[str, dict] = {
    "": {},
    "prompt": {"cache": "prompt"},
    "prompt kept": {"cache": "prompt", "refresh_interval": 0},
    "dllm": {"cache": "dllm"},
}
SEARCHED_CACHES: dict[str, dict] = {
    "": {},
    "prompt": {"cache": "prompt", "refresh_interval": [0, 4, 16]},
    "dllm": {"cache": "dllm"},
}


@dataclass(frozen=True)
class Setting:
    """A name and fields of `SamplerConfig`."""

    name: str
    fields: dict

    def over(self, gen_length: int | str, steps: int | None = None, **common) -> "Setting":
        """The same setting with what all settings share; what it says itself goes first.

        gen_length: the answer canvas in tokens. common: other fields.
        steps: forward passes for that canvas, where it is revealed by schedule: rules that wait for confidence take
            what they need.
        """
        common = {"gen_length": gen_length} | common
        if steps is not None and "gen_length" not in self.fields and self.fields.get("rule", "top_k") == "top_k":
            common["steps"] = steps
        return Setting(self.name, common | self.fields)

    def sampler(self) -> SamplerConfig:
        """The settings. Raises ValueError, with the setting's name, for fields that do not fit together."""
        try:
            return SamplerConfig(**self.fields)
        except WrongValue as error:
            raise WrongValue(f"setting {self.name!r}: {error}") from error

    def __str__(self) -> str:
        """As it is written in Python."""
        return f"SamplerConfig({', '.join(f'{field}={value!r}' for field, value in self.fields.items())})"


def expand(name: str, fields: dict) -> list[Setting]:
    """The settings that `fields` stands for, every combination of the lists in it, named after what varies.

    A name that is that of a field which varies says nothing more, and is left out.

    Raises ValueError for a field that `SamplerConfig` does not have, and for an unknown preset.
    """
    unknown = sorted(set(fields) - {"preset", *FIELDS})
    if unknown:
        raise WrongValue(f"setting {name!r} has {', '.join(unknown)}; SamplerConfig knows {', '.join(FIELDS)}")
    varied = [field for field, value in fields.items() if isinstance(value, list) and field not in LISTS]
    settings = []
    for values in itertools.product(*(fields[field] for field in varied)):
        chosen = dict(zip(varied, values, strict=True))
        changes = fields | chosen
        preset = changes.pop("preset", None)
        changes = changes if preset is None else settings_of(preset, changes)
        words = [f"{field}={value}" for field, value in chosen.items()]
        settings.append(Setting(" ".join(words if name in chosen else [name, *words]), changes))
    return settings


def parse_setting(text: str) -> list[Setting]:
    """The settings of "name: field=value field=value". Values are YAML."""
    name, colon, words = text.partition(":")
    name = name.strip()
    fields = {}
    for word in shlex.split(words):
        field, equals, value = word.partition("=")
        if not equals:
            raise WrongValue(f"setting {name!r} has {word!r}; write field=value, as in 'fast: steps=8 block_length=16'")
        fields[field] = parse_yaml(value, f"setting {name!r}: {field}")
    if not name or not colon:
        raise WrongValue(f"--setting is {text!r}; write 'name: field=value ...', as in 'fast: steps=8'")
    return expand(name, fields)


def read_settings(file: str | Path) -> list[Setting]:
    """The settings of a YAML file, a mapping from name to fields.

    Raises FileNotFoundError for a missing file, ValueError for one that says something else.
    """
    named = read_yaml(file, "--settings names a YAML file of 'name: {field: value}'")
    if not isinstance(named, dict) or not all(isinstance(fields or {}, dict) for fields in named.values()):
        raise WrongValue(f"{file} must be a mapping from a name to fields, as in 'fast: {{steps: 8}}'")
    return [setting for name, fields in named.items() for setting in expand(str(name), fields or {})]


def compared(gen_length: int) -> list[Setting]:
    """What is compared where nothing is named: every cache with every way to reveal `gen_length` tokens."""
    half = -(-gen_length // 2)
    reveals: dict[str, dict] = {
        "": {},
        "half the steps": {"steps": half},
        "half, convex": {"steps": half, "schedule": "convex"},
        "threshold": {"rule": "threshold"},
        "factor": {"rule": "factor"},
        "frechet": {"rule": "frechet"},
        "entropy bound": {"rule": "entropy_bound"},
        "margin": {"rule": "margin"},
        "klass": {"rule": "klass"},
        "lookahead": {"lookahead": 4},
    }
    return grid(CACHES, reveals)


def compared_without_confidence() -> list[Setting]:
    """What is compared on random weights: what is recomputed, and not the rules that wait for confidence."""
    return [*grid(CACHES, {"": {}}), Setting("prompt kept + lookahead", CACHES["prompt kept"] | {"lookahead": 4})]


def searched(gen_length: int) -> list[Setting]:
    """What `tune` searches where nothing is named: the same, with several values of each parameter."""
    steps = sorted({-(-gen_length // share) for share in (2, 4)})
    reveals: dict[str, dict] = {
        "": {},
        "top_k": {"steps": steps, "schedule": ["linear", "convex"]},
        "threshold": {"rule": "threshold", "threshold": [0.6, 0.7, 0.8, 0.9, 0.95]},
        "factor": {"rule": "factor", "factor": [0.5, 1.0, 2.0]},
        "frechet": {"rule": "frechet", "frechet": [0.0, 0.25, 0.5]},
        "entropy bound": {"rule": "entropy_bound", "entropy_bound": [0.1, 0.3, 1.0]},
        "margin": {"rule": "margin", "margin": [0.4, 0.6, 0.8]},
        "klass": {"rule": "klass", "divergence": [0.01, 0.1]},
        "lookahead": {"lookahead": [2, 4, 8]},
    }
    return grid(SEARCHED_CACHES, reveals)


def grid(caches: dict[str, dict], reveals: dict[str, dict]) -> list[Setting]:
    """Every cache with every way to reveal, named "cache + reveal", but for the plain sampler and what cannot be.

    A step ahead cannot be verified with the "dllm" cache, which changes at every step.
    """
    settings = []
    for (cache, kept), (reveal, shown) in itertools.product(caches.items(), reveals.items()):
        if (cache or reveal) and not (kept.get("cache") == "dllm" and "lookahead" in shown):
            settings += expand(" + ".join(filter(None, (cache, reveal))), kept | shown)
    return settings


def with_plain(settings: Iterable[Setting]) -> list[Setting]:
    """The plain sampler, which all others are compared with, and the settings.

    Raises ValueError where two have one name, or where another setting is called plain.
    """
    settings = [setting for setting in settings if setting != Setting(PLAIN, {})]
    names = [PLAIN, *(setting.name for setting in settings)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise WrongValue(
            f"{', '.join(map(repr, twice))} names more than one setting; each needs a name of its own, and "
            f"{PLAIN!r} is the plain sampler"
        )
    return [Setting(PLAIN, {}), *settings]
