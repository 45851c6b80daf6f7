"""The fastest settings for your own questions, found by successive halving (arXiv 1502.07943).

Every setting answers some of the questions, taken in random order; the better half goes on and answers as many again,
and so on, until the last few have answered all. Better is what lies nearer the front of accuracy and speed, so a fast
setting that loses a little stays as long as none beats it in both. The plain sampler always stays: all others are
compared with it on the same questions. The best of many looks a little better than it is: questions that were not
searched on tell how much.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from tqdm import tqdm

from .accuracy import front
from .batches import Item, question_batches
from .bench import machine_of
from .candidates import Setting, with_plain
from .floor import Machine
from .report import Measured, row_of
from .rounds import Rounds, Run

FINALISTS = 8  # settings, at most, that answer every question where there are enough questions
FEWEST = 16  # questions before anything is left out


def tune(
    model,
    processor,
    items: Sequence[Item],
    settings: Sequence[Setting],
    common: dict,
    batch_size: int = 1,
    seed: int = 0,
    machine: Machine | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[Measured], list[Measured]]:
    """Rows of the settings that answered every question, plain first, and of those left out on the way.

    common: fields all settings share. report: called with one line a stage.
    Raises ValueError for settings that do not fit together.
    """
    items = random.Random(seed).sample(items, len(items))
    rounds = Rounds(model, [s.over(**common) for s in with_plain(settings)], seed=seed, decode=processor.decode)
    machine = machine or machine_of(model)
    plain, left_out = rounds.runs[0], []
    done = 0
    for keep, until in stages(len(rounds.runs) - 1, len(items), batch_size):
        if done:
            kept = nearest_the_front(rounds.runs[1:], keep)
            left_out += [run for run in rounds.runs[1:] if run not in kept]
            rounds.runs = [plain, *kept]
        report(f"{len(rounds.runs)} settings answer questions {done + 1} to {until} of {len(items)}")
        with tqdm(total=len(rounds.runs) * (until - done), unit="answer", leave=False, disable=None) as bar:
            batches = question_batches(processor, items[done:until], batch_size, model.device)
            rounds.answer(batches, len(plain.batches), bar.update)
        done = until

    def row(run: Run) -> Measured:
        same = replace(plain, batches=plain.batches[: len(run.batches)])
        return row_of(run, same, same.answers, batch_size, machine)

    return [row(run) for run in rounds.runs], [row(run) for run in left_out]


def stages(num_settings: int, num_questions: int, batch_size: int) -> list[tuple[int, int]]:
    """(settings, questions answered by its end) of each stage: half the settings, twice the questions.

    The last stage has all questions. The first has `FEWEST` at least, so few questions mean few stages. Whole batches
    but for the last.
    """
    halvings = 0
    while num_settings > FINALISTS << halvings and num_questions >> (halvings + 1) >= max(FEWEST, batch_size):
        halvings += 1
    plan = []
    for turn in range(halvings + 1):
        questions = num_questions >> (halvings - turn)
        if turn < halvings:
            questions -= questions % batch_size
        plan.append((-(-num_settings // 2**turn), questions))
    return plan


def nearest_the_front(runs: Sequence[Run], keep: int) -> list[Run]:
    """The `keep` best runs: those on the front, then those on the front of the rest, and so on.

    Of the last front that is needed the more accurate come first.
    """
    left = list(runs)
    kept: list[Run] = []
    while left and len(kept) < keep:
        layer = [left[index] for index in front([(1 / total(run), accuracy(run)) for run in left])]
        layer.sort(key=accuracy, reverse=True)
        kept += layer[: keep - len(kept)]
        left = [run for run in left if run not in layer]
    return kept


def total(run: Run) -> float:
    """Seconds of all answers."""
    return run.picture_seconds + run.seconds


def accuracy(run: Run) -> float:
    """Share of right answers."""
    return sum(run.is_right) / len(run.is_right)
