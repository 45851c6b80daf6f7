"""The judge of the tiny model: held-out questions, exact match after white space and case are normalised.

llada-v judge --model model/llada-v-tiny --count 1000
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import mean

from ..evaluation.extraction import Verdict
from ..generation.config import SamplerConfig
from ..serving.together import Question, answer_together
from .questions import DONT_KNOW, FAMILIES
from .records import heldout_questions, message_of
from .stories import ALL_FAMILIES
from .tiny import CANVAS

WINDOW = 500  # questions whose pictures are ready at once


def judge(
    model,
    processor,
    count: int,
    seed: int = 0,
    sampler: SamplerConfig | None = None,
    batch_size: int = 25,
    progress: Callable[[int], object] | None = None,
    families: Sequence[str] = FAMILIES,
) -> list[Verdict]:
    """Verdicts on `count` held-out questions, each about something new, families in equal parts.

    progress: called with the number of questions just answered.
    """
    sampler = sampler or SamplerConfig(gen_length=CANVAS)
    items = heldout_questions(count, seed, families)
    verdicts = {}
    for start in range(0, count, WINDOW):
        window = items[start : start + WINDOW]
        asked = []
        for visual, question, _ in window:
            inputs = processor.apply_chat_template(
                [message_of(visual, question)],
                add_generation_prompt=True,
                return_tensors="pt",
                tokenize=True,
                return_dict=True,
            )
            asked.append(Question(dict(inputs), sampler))
        for finished in answer_together(model, processor, asked, batch_size):
            for number, answered in finished:
                _, question, id = window[number]
                found = processor.decode(answered.token_ids, skip_special_tokens=True)
                verdicts[start + number] = Verdict(id, question.family, question.text, question.answer, found)
            if progress is not None:
                progress(len(finished))
    return [verdicts[number] for number in range(count)]


def table(verdicts: list[Verdict]) -> list[tuple[str, int, int, float]]:
    """(family, right, asked, per cent) by family, and a last row "mean": the mean of the families' per cents."""
    by_family: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        by_family[verdict.family].append(verdict.is_right)
    rows = []
    for family in ALL_FAMILIES:
        if by_family[family]:
            right, asked = sum(by_family[family]), len(by_family[family])
            rows.append((family, right, asked, 100 * right / asked))
    return [*rows, ("mean", sum(row[1] for row in rows), sum(row[2] for row in rows), mean(row[3] for row in rows))]


def refused(verdicts: list[Verdict]) -> tuple[int, int]:
    """How many questions that can be answered were answered with "I do not know.", and how many there are."""
    answerable = [verdict for verdict in verdicts if verdict.expected != DONT_KNOW]
    return sum(verdict.found == DONT_KNOW for verdict in answerable), len(answerable)
