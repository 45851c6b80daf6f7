"""The judge of the tiny model: held-out questions, exact match after white space and case are normalised.

python -m llada_v judge --model model/llada-v-tiny --count 1000
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from ..answer import DEMO_MODEL, load
from ..generation.config import SamplerConfig
from .questions import FAMILIES
from .reasons import final_answer
from .records import heldout_questions, message_of
from .stories import ALL_FAMILIES
from .tiny import CANVAS


@dataclass(frozen=True)
class Verdict:
    """One judged question."""

    id: str
    family: str
    question: str
    expected: str
    found: str

    @property
    def is_right(self) -> bool:
        """Whether the final answers are equal but for white space and case; a thought before them does not count."""
        expected, found = (final_answer(text).casefold().split() for text in (self.expected, self.found))
        return expected == found


def judge(
    model,
    processor,
    count: int,
    seed: int = 0,
    sampler: SamplerConfig | None = None,
    batch_size: int = 25,
    progress: Callable[[int], None] | None = None,
    families: Sequence[str] = FAMILIES,
) -> list[Verdict]:
    """Verdicts on `count` held-out questions, each about something new, families in equal parts.

    progress: called with the number of questions just answered.
    """
    sampler = sampler or SamplerConfig(gen_length=CANVAS)
    items = heldout_questions(count, seed, families)
    verdicts = []
    for start in range(0, count, batch_size):
        batch = items[start : start + batch_size]
        prompts = [[message_of(visual, question)] for visual, question, _ in batch]
        inputs = processor.apply_chat_template(prompts, add_generation_prompt=True, return_tensors="pt")
        output = model.generate(**inputs.to(model.device), sampler=sampler, return_dict_in_generate=True)
        for (_, question, id), ids in zip(batch, output.answers, strict=True):
            found = processor.decode(ids, skip_special_tokens=True)
            verdicts.append(Verdict(id, question.family, question.text, question.answer, found))
        if progress is not None:
            progress(len(batch))
    return verdicts


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
    mean = sum(share for *_, share in rows) / len(rows)
    return [*rows, ("mean", sum(row[1] for row in rows), sum(row[2] for row in rows), mean)]


def main(argv: list[str]) -> None:
    """Judge a model and print the table as Markdown, or everything as JSON."""
    parser = argparse.ArgumentParser(prog="llada-v judge", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO_MODEL, help="folder of the model (default: the tiny one that ships)")
    parser.add_argument("--count", type=int, default=1000, help="questions (%(default)s)")
    parser.add_argument("--families", nargs="+", choices=ALL_FAMILIES, default=FAMILIES, help="what is asked about")
    parser.add_argument("--seed", type=int, default=0, help="which held-out questions (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=25, help="questions answered at once (%(default)s)")
    parser.add_argument("--gen-length", type=int, default=CANVAS, help="answer canvas in tokens (%(default)s)")
    parser.add_argument("--steps", type=int, help="forward passes for a whole canvas (default: one token a step)")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--json", action="store_true", help="every question, its answer and the table as JSON")
    args = parser.parse_args(argv)
    if args.count < 1 or args.batch_size < 1:
        raise ValueError(f"--count is {args.count} and --batch-size {args.batch_size}; both must be at least 1")
    sampler = SamplerConfig(gen_length=args.gen_length, steps=args.steps)
    model, processor = load(args.model, args.device, torch.float32)
    with tqdm(total=args.count, desc="judging", unit="question", disable=None) as bar:
        verdicts = judge(model, processor, args.count, args.seed, sampler, args.batch_size, bar.update, args.families)
    rows = table(verdicts)
    if args.json:
        print(
            json.dumps(
                {"table": rows, "verdicts": [vars(verdict) | {"is_right": verdict.is_right} for verdict in verdicts]}
            )
        )
        return
    print("| family | right | asked | exact match |\n|---|---|---|---|")
    for family, right, asked, share in rows:
        print(f"| {family} | {right} | {asked} | {share:.1f} % |")
