"""The table of benchmarks, read from one YAML file: what pins each task's answers, and where its score comes from.

A wrong key anywhere in it stops with the key and those that exist.
"""

import dataclasses
import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..data.yaml_text import read_yaml
from ..errors import WrongValue
from .gen_kwargs import SAMPLER_SETTINGS
from .prompts import check_think_mode
from .request import SETTINGS_FILE

JUDGES = ("lmms-eval", "rules", "judge")
KEYS = ("OPENAI_API_KEY", "AZURE_API_KEY")  # of lmms-eval's judge models
NO_KEY = "no-key"  # stands for one: lmms-eval's files of MathVista and MathVerse cannot be loaded without


@dataclass(frozen=True)
class Score:
    """One number of a task.

    metric: its name in lmms-eval's results. name: what the table calls it, where a task has several.
    by: what decides right and wrong: lmms-eval's own code, the rules of `extraction`, or a judge model with a key.
    scale: times this it is in the paper's unit. paper: the figure of arXiv 2505.16933; None: none is given.
    """

    metric: str
    name: str = ""
    by: str = "lmms-eval"
    scale: float = 100.0
    paper: float | None = None

    def __post_init__(self):
        if self.by not in JUDGES:
            raise WrongValue(f"by is {self.by!r}; choose one of {', '.join(JUDGES)}")


@dataclass(frozen=True)
class Benchmark:
    """One task.

    sampler: settings of `SamplerConfig`, by name. fast: what preset "fast" changes in them; null takes a setting away.
    think_mode: think, no_think or null: no suffix. until: strings that end the answer, beside the end of the turn.
    files: folder under eval/tasks with task files of our own; null: those that lmms-eval brings.
    made_by: "module:function" that writes task files which are wholly ours, and their data, given a folder and how many
        questions; null: lmms-eval's data.
    tasks: lmms-eval's names of what is run; the task's own name unless given.
    plain: run with --force_simple, which log-likelihoods need.
    """

    name: str
    sampler: dict
    scores: tuple[Score, ...]
    fast: dict = dataclasses.field(default_factory=dict)
    think_mode: str | None = None
    until: tuple[str, ...] = ()
    files: str | None = None
    made_by: str | None = None
    tasks: tuple[str, ...] = ()
    plain: bool = False

    @property
    def is_likelihood(self) -> bool:
        """Whether given answers are scored and none is written."""
        return "gen_length" not in self.sampler

    def sampling(self, preset: str) -> dict:
        """The sampler's settings under a preset."""
        changed = self.sampler | (self.fast if preset == "fast" else {})
        return {name: value for name, value in changed.items() if value is not None}

    def gen_kwargs(self, preset: str) -> str:
        """The same with stops and think mode, as lmms-eval's --gen_kwargs takes them."""
        given = self.sampling(preset) | {"until": json.dumps(list(self.until))}
        if self.think_mode is not None:
            given["think_mode"] = self.think_mode
        return ",".join(f"{name}={value}" for name, value in given.items())


def has_judge() -> bool:
    """Whether there is a key for lmms-eval's judge models."""
    return any(os.environ.get(key, NO_KEY) not in ("", NO_KEY) for key in KEYS)


def read_settings(file: str | Path = SETTINGS_FILE) -> dict[str, Benchmark]:
    """Every task of a settings file, by name.

    Raises FileNotFoundError for a missing file, ValueError for a wrong key or value.
    """
    table = read_yaml(file, "the project's own settings are eval/settings.yaml")
    check_keys(table, ("every", "tasks"), str(file))
    every = table.get("every") or {}
    check_keys(every, SAMPLER_SETTINGS, f"{file}, every")
    return {name: benchmark_of(name, row, every, f"{file}, {name}") for name, row in table["tasks"].items()}


def benchmark_of(name: str, row: dict, every: dict, where: str) -> Benchmark:
    """A task from its row. In it the sampler's settings stand beside the others."""
    others = {field.name for field in dataclasses.fields(Benchmark)} - {"name", "sampler"}
    check_keys(row, SAMPLER_SETTINGS | others, where)
    check_keys(row.get("fast") or {}, SAMPLER_SETTINGS, f"{where}, fast")
    if not row.get("scores"):
        raise WrongValue(f"{where} has no scores; name at least one metric")
    scores = []
    for score in row["scores"]:
        check_keys(score, [field.name for field in dataclasses.fields(Score)], f"{where}, scores")
        scores.append(Score(**score))
    try:
        check_think_mode(row.get("think_mode"))
    except WrongValue as error:
        raise WrongValue(f"{where}: {error}") from error
    given = {key: value for key, value in row.items() if key in others and value is not None}
    given |= {key: tuple(given[key]) for key in ("until", "tasks") if key in given}
    sampler = every | {key: value for key, value in row.items() if key in SAMPLER_SETTINGS}
    return Benchmark(name=name, sampler=sampler, **(given | {"scores": tuple(scores)}))


def check_keys(table, known, where: str) -> None:
    """Raise ValueError unless it is a table whose keys are all known."""
    if not isinstance(table, dict):
        raise WrongValue(f"{where} is {table!r}; expected keys: {', '.join(sorted(known))}")
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise WrongValue(f"{where} has the key {key!r}; {meant}There are {', '.join(sorted(known))}")


def chosen_tasks(settings: dict[str, Benchmark], names: str | None) -> list[Benchmark]:
    """The tasks of names with commas between; `paper` is all with a figure of the paper, and the name of
    a folder with tasks of our own, such as `toyworld`, all of these.

    None: the paper's. Raises ValueError for a name that is not in the settings.
    """
    groups = {
        "paper": [task for task in settings.values() if any(score.paper is not None for score in task.scores)],
    }
    for task in settings.values():
        if task.made_by:
            groups.setdefault(task.files, []).append(task)
    found: list[Benchmark] = []
    for name in (names or "paper").split(","):
        if name not in settings and name not in groups:
            near = difflib.get_close_matches(name, [*settings, *groups], n=3)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise WrongValue(f"no task {name!r} in the settings; {meant}There are {', '.join([*groups, *settings])}")
        found += [task for task in groups.get(name, [settings.get(name)]) if task not in found]
    return found
