"""The rounds: settings answer the same batches in turn, in one process, and what each took is kept.

Who begins changes from batch to batch, so that what slows the machine down for a while slows all settings. Nothing
is timed before every setting has answered its first batch untimed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import nn

from ..evaluation.extraction import Verdict
from ..generation.config import SamplerConfig
from ..machine import timed
from .batches import Batch
from .candidates import Setting
from .floor import Work, count_work
from .memory import PeakMemory


@dataclass
class Answered:
    """One batch as one setting answered it.

    answers: ids by row. verdicts: by row, empty where no answer is known. forwards: model calls.
    picture_seconds, seconds: encoding the pictures, and `generate`, once a round.
    """

    answers: list[list[int]]
    verdicts: list[Verdict]
    forwards: int
    picture_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Run:
    """What one setting did: each batch, and of the first one the memory and the work.

    peak: bytes; None: not measured. work: of `work_forwards` forward passes.
    """

    setting: Setting
    sampler: SamplerConfig
    batches: list[Answered] = field(default_factory=list)
    peak: int | None = None
    work: Work | None = None
    work_forwards: int = 0

    @property
    def answers(self) -> list[list[int]]:
        """Ids by question."""
        return [answer for batch in self.batches for answer in batch.answers]

    @property
    def is_right(self) -> list[bool]:
        """By question; empty where nothing is judged."""
        return [verdict.is_right for batch in self.batches for verdict in batch.verdicts]

    @property
    def forwards(self) -> int:
        """Model calls for all batches once."""
        return sum(batch.forwards for batch in self.batches)

    @property
    def picture_seconds(self) -> float:
        """Of encoding all pictures once: the median round of each batch."""
        return sum(median(batch.picture_seconds) for batch in self.batches)

    @property
    def seconds(self) -> float:
        """Of `generate` for all batches once: the median round of each batch."""
        return sum(median(batch.seconds) for batch in self.batches)


class Rounds:
    """The runs of some settings on one model.

    warmup: untimed answers of each setting to its first batch, at least 1: the work is counted there.
    decode: ids to text, to judge answers by; None where there is nothing to judge.
    Raises ValueError for settings that do not fit together.
    """

    def __init__(self, model, settings: Sequence[Setting], warmup: int = 1, seed: int = 0, decode=None):
        self.model, self.warmup, self.seed, self.decode = model, warmup, seed, decode
        self.runs = [Run(setting, setting.sampler()) for setting in settings]
        self.peak = PeakMemory(model.device)

    def answer(
        self, batches: Iterable[Batch], first: int = 0, progress: Callable[[int], object] = lambda count: None
    ) -> None:
        """One round: every setting answers every batch.

        first: which batch of the whole this round begins with; a batch that was answered before adds only its time.
        progress: called with the number of answers just given.
        """
        for index, batch in enumerate(batches, first):
            for turn in range(len(self.runs)):
                self.answer_one(self.runs[(index + turn) % len(self.runs)], index, batch)
                progress(len(batch))

    def answer_one(self, run: Run, index: int, batch: Batch) -> None:
        """Batch `index` by one setting."""
        if run.work is None:
            self.warm_up(run, batch)
        answers, forwards, picture_seconds, seconds = answer_batch(self.model, batch, run.sampler, self.seed)
        if index == len(run.batches):
            run.batches.append(Answered(answers, self.judge(batch, answers), forwards))
        run.batches[index].picture_seconds.append(picture_seconds)
        run.batches[index].seconds.append(seconds)

    def judge(self, batch: Batch, answers: list[list[int]]) -> list[Verdict]:
        """Verdicts on the answers of a batch."""
        if self.decode is None:
            return []
        return [
            Verdict(item.id, item.family, item.question, item.answer, self.decode(ids, skip_special_tokens=True))
            for item, ids in zip(batch.items, answers, strict=True)
        ]

    def warm_up(self, run: Run, batch: Batch) -> None:
        """Answer untimed: what is built at the first use is there, the work is counted, the peak is taken.

        Code that torch.compile made cannot be counted: the same settings are counted without it, and the compiled
        ones warm up behind that.
        """
        is_compiled = run.setting.fields.get("compile", False)
        counted = replace(run.sampler, compile=False) if is_compiled else run.sampler

        def count():
            run.work_forwards = answer_batch(self.model, batch, counted, self.seed)[1]

        self.peak.reset()
        run.work = count_work(language_layers(self.model), count)
        for turn in range(max(self.warmup - 1, int(is_compiled))):
            if turn == 0:
                self.peak.reset()
            answer_batch(self.model, batch, run.sampler, self.seed)
        run.peak = self.peak.read()


def language_layers(model) -> list[nn.Linear]:
    """The linear layers of the trunk, and the head: what forward passes read."""
    return [*(part for part in model.model.language_model.modules() if isinstance(part, nn.Linear)), model.lm_head]


@torch.no_grad()
def answer_batch(model, batch: Batch, sampler: SamplerConfig, seed: int):
    """(answers, forward passes, seconds for the pictures, seconds for `generate`), the device idle before and after."""
    found = {}

    def encode():
        found["features"] = model.encode_pictures(**batch.pictures) if batch.pictures else None

    def generate():
        found["output"] = model.generate(
            **batch.prompts,
            image_features=found["features"],
            sampler=sampler,
            generator=torch.Generator(model.device).manual_seed(seed),
            return_dict_in_generate=True,
        )

    picture_seconds, seconds = (timed(part, 1, model.device) for part in (encode, generate))
    output = found["output"]
    return [ids.tolist() for ids in output.answers], output.num_forwards, picture_seconds, seconds
