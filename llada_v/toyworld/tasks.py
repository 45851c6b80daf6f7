"""The small world's held-out questions as lmms-eval tasks: their data, and what the task files call.

`write_tasks` draws pictures and questions from the seeded generator into parquet files; the task files beside them are
in `eval/tasks/toyworld`. All but the questions with options are the very ones that `llada-v judge` asks.
"""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..conversation import list_of
from ..evaluation.extraction import Verdict, lettered, option
from ..shipped import shipped
from .questions import FAMILIES
from .records import heldout_questions

TASKS = shipped("eval/tasks/toyworld")
ASKED = {"short_answer": FAMILIES, "multi_image": ("compare",), "video": ("motion",), "reasoning": ("reasoning",)}
"""Kinds of tasks with free answers, and the families of their questions."""
WITH_OPTIONS = tuple(family for family in FAMILIES if family != "caption")  # a caption has no alternatives
NUM_OPTIONS = 4
OPTIONS_SEED = 1  # other questions than those that are answered freely


def write_tasks(folder: str | Path, count: int = 200, seed: int = 0) -> Path:
    """Write the task files, and in `data` one parquet file a kind of question; returns the folder.

    Data that are there already stay.

    count: questions of each kind. Raises ImportError without `datasets`, which lmms-eval brings.
    """
    from datasets import Dataset, Features, Image, Sequence, Value
    from datasets.utils import disable_progress_bars

    folder = Path(folder)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for file in TASKS.glob("*.yaml"):
        shutil.copyfile(file, folder / file.name)
    stamp = data / "written.json"  # last, so that it vouches for the others
    written = json.dumps({"count": count, "seed": seed, "kinds": [*ASKED, "multiple_choice"]})
    if stamp.is_file() and stamp.read_text() == written:
        return folder
    disable_progress_bars()
    text = Value("string")
    columns = {"id": text, "family": text, "images": Sequence(Image()), "question": text, "answer": text}
    stamp.unlink(missing_ok=True)
    for kind, families in ASKED.items():
        rows = [row_of(*item) for item in heldout_questions(count, seed, families)]
        Dataset.from_list(rows, features=Features(columns)).to_parquet(data / f"{kind}.parquet")
    rows = list(multiple_choice(count, seed + OPTIONS_SEED))
    columns["choices"] = Sequence(text)
    Dataset.from_list(rows, features=Features(columns)).to_parquet(data / "multiple_choice.parquet")
    stamp.write_text(written)
    return folder


def row_of(visual, question, id: str) -> dict:
    """A held-out question as a row of its file."""
    asked = {"question": question.text, "answer": question.answer}
    return {"id": id, "family": question.family, "images": list_of(visual)} | asked


def multiple_choice(count: int, seed: int) -> Iterator[dict]:
    """Rows of held-out questions with up to `NUM_OPTIONS` choices, the right one at a random place."""
    items = heldout_questions(count, seed, WITH_OPTIONS)
    answers: dict[tuple, set[str]] = {}
    for _, question, _ in items:
        answers.setdefault(sort_of(question), set()).add(question.answer)
    for visual, question, id in items:
        rng = random.Random(f"choices/{id}")
        others = sorted(answers[sort_of(question)] - {question.answer})
        choices = [question.answer, *rng.sample(others, min(NUM_OPTIONS - 1, len(others)))]
        rng.shuffle(choices)
        yield row_of(visual, question, id) | {"choices": choices}


def sort_of(question) -> tuple:
    """What an answer must share with its alternatives: the family, and yes or no, a number, or how many words."""
    answer = question.answer
    if answer in ("yes", "no"):
        return question.family, "yes or no"
    return question.family, "number" if re.fullmatch(r"\d+", answer) else len(answer.split())


# What the task files call


def pictures(doc: dict) -> list:
    """The pictures."""
    return doc["images"]


def video(doc: dict) -> list:
    """The only video: a list of frames."""
    return [doc["images"]]


def video_messages(doc: dict) -> list[dict]:
    """The chat of a question about a video; lmms-eval makes none by itself of frames."""
    parts = [{"type": "video", "url": doc["images"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": parts}]


def question_with_options(doc: dict) -> str:
    """The question with its options under letters, as the published benchmarks write them."""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in lettered(doc["choices"]).items())
    return f"{doc['question']}\n{options}\nAnswer with the option's letter from the given choices directly."


def judged(doc: dict, results: list) -> dict:
    """The score of a free answer, by the judge's own comparison."""
    verdict = Verdict(doc["id"], doc["family"], doc["question"], doc["answer"], results[0])
    return {"exact_match": float(verdict.is_right)}


def chosen(doc: dict, results: list) -> dict:
    """The score of an answer to a question with options: the one it names, by letter or by text."""
    options = lettered(doc["choices"])
    return {"accuracy": float(options.get(option(results[0], options)) == doc["answer"])}


def likeliest(doc: dict, results: list) -> dict:
    """The score of the choice with the largest log-likelihood; a document that was skipped is wrong.

    results: a text like "[-1.5, false]" for each choice: its log-likelihood, and whether it is the greedy answer.
    """
    numbers = [json.loads(result)[0] for result in results]
    is_known = all(number == number for number in numbers)
    best = max(range(len(numbers)), key=numbers.__getitem__)
    return {"accuracy": float(is_known and doc["choices"][best] == doc["answer"])}
