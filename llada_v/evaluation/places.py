"""Where the results of a task lie: a folder for each set of things that make answers differ; nothing is ever deleted.

What makes answers differ (`identity`): the content of the weights, the processor's and the model's settings, the task
and its files, the sampler's settings, lmms-eval's version, and `ANSWERS_VERSION` for the code. What does not: the batch
size, the number of processes, where the model's folder stands, comments and layout of any file.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import yaml

NAME_LENGTH = 10  # letters of a place's name
STAMP = "made_with.json"
NO_ANSWER_CHANGES = ("transformers_version", "_name_or_path")  # fields of a model's JSON files
ONLY_SCORES = ("process_results", "metric_list", "metadata")  # keys of a task file that come after the answers
BLOCK = 2**22  # bytes read at once


class Digests:
    """Sums over what files hold, kept in a file, so that weights that did not change are not read again.

    file: where they are kept, by path, size and time of change.
    """

    def __init__(self, file: Path):
        self.file = file
        try:
            self.known = json.loads(file.read_text()) if file.is_file() else {}
        except ValueError:
            self.known = {}  # cut off by a kill; all can be computed again

    def of(self, file: Path) -> str:
        """The sum over a file's bytes."""
        stat = file.stat()
        known = self.known.get(str(file.absolute()))
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return known[2]
        total = hashlib.sha256()
        with open(file, "rb") as stream:
            while block := stream.read(BLOCK):
                total.update(block)
        self.known[str(file.absolute())] = [stat.st_size, stat.st_mtime_ns, total.hexdigest()]
        draft = self.file.with_name(f"{self.file.name}.draft-{os.getpid()}")
        draft.write_text(json.dumps(self.known, indent=1))
        draft.replace(self.file)
        return total.hexdigest()


def sum_of(value) -> str:
    """A sum over a value of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def model_sums(folder: Path, digests: Digests) -> dict[str, str]:
    """{"weights", "settings"}: sums over the weights, and over the JSON and template files of model and processor."""
    weights = {file.name: digests.of(file) for file in sorted(folder.glob("*.safetensors"))}
    settings = {}
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.jinja"), *folder.glob("*.txt")]):
        if file.name.endswith((".safetensors.index.json", "trainer_state.json", "_results.json")):
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = file.read_text(encoding="utf-8", errors="replace")
        if isinstance(found, dict):
            found = {key: value for key, value in found.items() if key not in NO_ANSWER_CHANGES}
        settings[file.name] = found
    return {"weights": sum_of(weights), "settings": sum_of(settings)}


class TaskFile(yaml.SafeLoader):
    """Reads a task file of lmms-eval, with `!function a.b.c` as a text."""


TaskFile.add_multi_constructor("!", lambda loader, tag, node: f"!{tag} {node.value}")


def task_sums(files: Iterable[Path], digests: Digests) -> dict[str, str]:
    """{"asked", "scored"}: sums over what task files and their data say before and after the answer."""
    asked, scored = {}, {}
    for file in files:
        task = yaml.load(file.read_text(encoding="utf-8"), TaskFile)
        scored[file.name] = {key: task.pop(key) for key in ONLY_SCORES if key in task}
        data = (task.get("dataset_kwargs") or {}).get("data_files") or {}
        asked[file.name] = [task, {split: digests.of(file.parent / name) for split, name in sorted(data.items())}]
    return {"asked": sum_of(asked), "scored": sum_of(scored)}


def place_of(folder: Path, identity: dict) -> Path:
    """The folder for results that were made with `identity`, below the task's."""
    return folder / sum_of(identity)[:NAME_LENGTH]


def claim(place: Path, identity: dict, fresh: bool) -> None:
    """Make the place ready, and write into it what its results are made with.

    fresh: what earlier runs left is moved beside it first, under a name with a number.
    """
    if fresh and place.exists():
        number = 1
        while (aside := place.with_name(f"{place.name}-{number}")).exists():
            number += 1
        place.rename(aside)
    place.mkdir(parents=True, exist_ok=True)
    (place / STAMP).write_text(json.dumps(identity, indent=2, default=str) + "\n", encoding="utf-8")


def others(folder: Path, place: Path, identity: dict) -> list[str]:
    """A line for each other place of a task: its path, and in what it differs from `identity`."""
    lines = []
    for stamp in sorted(folder.glob(f"*/{STAMP}")):
        if stamp.parent == place:
            continue
        made_with = json.loads(stamp.read_text(encoding="utf-8"))
        lines.append(f"{stamp.parent}: {difference(made_with, json.loads(json.dumps(identity, default=str)))}")
    if (folder / "done.json").is_file():
        lines.append(f"{folder}: of an earlier version, which kept one run a task")
    return lines


def difference(made_with: dict, identity: dict) -> str:
    """What differs between two identities, in words: short values are shown, sums are only named."""
    words = []
    for name in identity | made_with:
        here, there = identity.get(name), made_with.get(name)
        if here == there:
            continue
        if isinstance(here, dict) and isinstance(there, dict):
            words += [f"{key} {there.get(key)}" for key in here | there if here.get(key) != there.get(key)]
        else:
            words.append(f"other {name}" if len(str(there)) > 40 else f"{name} {there}")
    return ", ".join(words) or "the same settings, moved aside"
