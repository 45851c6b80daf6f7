#!/usr/bin/env python
"""Measures answers with a shape: right fields of JSON, the price of a step under a schema, decisions and their price.

python scripts/measure_shapes.py fields --pictures 500              # right fields: in words, together, apart
python scripts/measure_shapes.py joint --pictures 30               # tokens that do not go together
python scripts/measure_shapes.py step                               # the mid shape under a schema of ten fields
python scripts/measure_shapes.py decisions --questions 1000 --png docs/decisions.png
python scripts/measure_shapes.py price                              # 64 questions about one picture
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from llada_v import SamplerConfig, answer, charts, decide, fit_temperature, load
from llada_v.answering import PictureMemory
from llada_v.benchmark.accuracy import Estimate, difference, share
from llada_v.benchmark.shapes import SHAPES as MODEL_SHAPES
from llada_v.benchmark.shapes import build
from llada_v.generation import automaton, shape
from llada_v.generation.choices import Asked, read_apart
from llada_v.generation.constraint import Constraint
from llada_v.generation.template import Template
from llada_v.toyworld.alphabet import WORDS
from llada_v.toyworld.questions import questions_about
from llada_v.toyworld.records import heldout_questions
from llada_v.toyworld.scenes import COLORS, NEUTRALS, SHAPES, draw
from llada_v.toyworld.stories import scene_of
from llada_v.toyworld.tiny import CANVAS

LOOKS = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
CLOSED = ("colour", "shape", "count", "relation", "yes_no", "chart")  # families whose answers can be listed
NUM_BINS = 15  # of the expected calibration error (arXiv 1706.04599)


def values_of(question) -> list | range | type:
    """What a question of the small world may be answered with, as `decide` takes it."""
    said = question.answer
    if said in ("yes", "no"):
        return bool
    if said.isdigit():
        return range(13)
    every = ([*COLORS, *NEUTRALS], list(SHAPES), LOOKS)
    return next(values for values in every if said in values)


def told(found: Estimate) -> str:
    """A share with its interval."""
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


# Fields


FIELDS = {
    "count": {"type": "integer", "minimum": 0, "maximum": 12},
    "colour": {"enum": [*COLORS, *NEUTRALS]},
    "shape": {"enum": list(SHAPES)},
    "word": {"type": "string", "maxLength": max(map(len, WORDS))},
    "chart": {"type": "integer", "minimum": 0, "maximum": 12},
}


def forms(count: int, seed: int):
    """(picture, schema, right values by field) of held-out pictures: shapes, signs and charts in turn."""
    for number in range(count):
        rng = random.Random(f"shapes/{seed}/{number}")
        while True:
            scene = scene_of("heldout", rng, kind=("shapes", "sign", "chart")[number % 3])
            asked = {}
            for question in questions_about(scene, rng):
                if question.family in FIELDS and (question.family != "chart" or question.answer.isdigit()):
                    asked.setdefault(question.family, question)
            if asked.keys() >= ({"count", "colour", "shape"}, {"word"}, {"chart", "count"})[number % 3]:
                break
        properties = {name: FIELDS[name] | {"description": asked[name].text} for name in FIELDS if name in asked}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        yield draw(scene), schema, {name: asked[name].answer for name in properties}


def measure_fields(args) -> None:
    """Right fields, and how often tokens that a rule reveals at once do not go together."""
    model, processor = load(args.model)
    right, forwards, dropped = defaultdict(lambda: defaultdict(list)), defaultdict(list), Counter()
    count_dropped(dropped)
    settings = {"gen_length": CANVAS, "rule": "threshold", "threshold": 0.9}
    for picture, schema, expected in forms(args.pictures, args.seed):
        memory, shaped = PictureMemory(model, is_frozen=True), {"constraint": {"json_schema": schema}}
        questions = [part["description"] for part in schema["properties"].values()]
        in_json = "\n".join([*questions, "Answer all in JSON."])

        def ask(question, memory=memory, picture=picture, **given):
            sampler = SamplerConfig(**settings | given)
            return answer(model, processor, question, [picture], sampler=sampler, memory=memory)

        plain = {name: ask(part["description"]) for name, part in schema["properties"].items()}
        together = ask(in_json, **shaped | {"gen_length": 96})
        apart = ask("", **shaped | {"fields": "apart"})
        forwards["in words"].append(sum(one.num_forwards for one in plain.values()))
        forwards["together"].append(together.num_forwards)
        forwards["apart"].append(apart.num_forwards)
        found = {"in words": {name: one.text for name, one in plain.items()}}
        found |= {way: json.loads(one.text) for way, one in (("together", together), ("apart", apart))}
        for way, fields in found.items():
            for name, value in expected.items():
                right[name][way].append(str(fields[name]) == value)
    print("| field | asked | in words | together | apart | apart against words |\n|---|---|---|---|---|---|")
    every = {way: [is_right for name in right for is_right in right[name][way]] for way in forwards}
    for name, ways in [*((name, right[name]) for name in FIELDS), ("all", every)]:
        shares = " | ".join(told(share(ways[way])) for way in forwards)
        change = difference(ways["apart"], ways["in words"])
        print(f"| {name} | {len(ways['apart'])} | {shares} | {told(change)} |")
    print("forwards a picture:", ", ".join(f"{way} {mean(some):.2f}" for way, some in forwards.items()))
    print("together:", dropped_told(dropped))


def measure_joint(args) -> None:
    """How often tokens that are revealed at once do not go together where a schema is no form, and what that takes."""
    model, processor = load(args.model)
    dropped: Counter = Counter()
    count_dropped(dropped)
    print("| setting | forwards an answer | steps with tokens left out | left out | revealed |\n|---|---|---|---|---|")
    for name, settings in (
        ("threshold 0.9", {"rule": "threshold", "threshold": 0.9}),
        ("threshold 0.5", {"rule": "threshold", "threshold": 0.5}),
        ("4 tokens a step", {"steps": 24}),
        ("8 tokens a step", {"steps": 12}),
    ):
        dropped.clear()
        taken = []
        for picture, schema, _ in forms(args.pictures, args.seed):
            # One property may be left out, so the text is masked like the values.
            whole = schema | {"properties": schema["properties"] | {"note": {"type": "null"}}}
            sampler = SamplerConfig(gen_length=96, constraint={"json_schema": whole}, **settings)
            question = "\n".join(
                [*(part["description"] for part in schema["properties"].values()), "Answer all in JSON."]
            )
            taken.append(answer(model, processor, question, [picture], sampler=sampler).num_forwards)
        some, steps = dropped["steps with some left out"], dropped["steps"]
        print(
            f"| {name} | {mean(taken):.2f} | {some} of {steps} | {dropped['left out']} | {dropped['revealed']} |",
            flush=True,
        )


def count_dropped(counts: Counter) -> None:
    """Count what `Constraint.together` leaves out of what a rule reveals at once."""
    plain = Constraint.together

    def together(self, canvas, tokens, scores, chosen):
        kept = plain(self, canvas, tokens, scores, chosen)
        counts["steps"] += int(chosen.any(1).sum())
        counts["steps with some left out"] += int((chosen != kept).any(1).sum())
        counts["revealed"] += int(kept.sum())
        counts["left out"] += int((chosen & ~kept).sum())
        return kept

    Constraint.together = together


def dropped_told(counts: Counter) -> str:
    """The counts in words."""
    some, steps = counts["steps with some left out"], counts["steps"]
    return f"tokens left out in {some} of {steps} steps, {counts['left out']} beside {counts['revealed']} revealed"


# The price of a step


TEN = {
    "vendor": {"type": "string", "maxLength": 24},
    "number": {"type": "string", "maxLength": 12},
    "date": {"type": "string", "minLength": 10, "maxLength": 10},
    "currency": {"enum": ["EUR", "USD", "GBP", "JPY"]},
    "total": {"type": "number"},
    "tax": {"type": "number"},
    "items": {"type": "integer", "minimum": 0, "maximum": 99},
    "paid": {"type": "boolean"},
    "note": {"type": "string", "maxLength": 40},
    "method": {"enum": ["card", "cash", "transfer"]},
}


def trained_tokenizer(vocab_size: int):
    """A byte-level tokenizer of that size, trained on the sources of this Python's packages."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    files = sorted(str(file) for file in Path(torch.__file__).parent.parent.rglob("*.py"))[:3000]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train(files, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made)


class Enough(Exception):
    """Steps were measured."""


def measure_step(args) -> None:
    """CPU seconds that the constraint takes of a step of the mid shape, and how long its automata take to make."""
    model = build("mid", torch.device("cpu"), torch.float32)
    vocabulary = model.config.text_config.vocab_size
    tokenizer = trained_tokenizer(vocabulary - 200)
    print(f"a vocabulary of {len(tokenizer):,} trained tokens among {vocabulary:,} ids")
    spent = Counter()
    for kind in (Constraint, Template):
        for name in ("restrict", "together", "closed"):
            timed(kind, name, spent)
    prompt = torch.randint(0, 1000, (1, MODEL_SHAPES["mid"].prompt_length))
    code = {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4,8}$"}
    day = {"type": "string", "pattern": "^20[0-9]{2}-[01][0-9]-[0-3][0-9]$"}
    for told_as, changed in (("as a form", {}), ("as a whole", {"number": code, "date": day})):
        schema = {"type": "object", "properties": TEN | changed, "required": list(TEN)}
        with tempfile.TemporaryDirectory() as shape.CACHE:
            for cached in ("", ", from disk"):
                automaton.automaton_of.cache_clear()
                start, cpu = time.perf_counter(), time.process_time()
                sampler = SamplerConfig(gen_length=256, constraint={"json_schema": schema}, cache="prompt")
                shape.shape_of(sampler, tokenizer, model.config)
                seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
                print(f"{told_as}: made in {seconds:.2f} s{cached} ({cpu:.2f} s of this process)")
            for cache in ("prompt", "none"):
                refresh = {"refresh_interval": 0} if cache == "prompt" else {}
                sampler = SamplerConfig(
                    gen_length=256, steps=8, constraint={"json_schema": schema}, cache=cache, **refresh
                )
                steps, ends = [], [time.process_time()]
                spent.clear()

                def watch(state, steps=steps, ends=ends):
                    ends.append(time.process_time())
                    steps.append((ends[-1] - ends[-2], spent["seconds"]))
                    spent.clear()
                    if len(steps) == args.steps:
                        raise Enough

                with contextlib.suppress(Enough):
                    model.generate(prompt, sampler=sampler, tokenizer=tokenizer, callback=watch)
                rest = steps[1:]  # the first computes the prompt
                whole, own = median(whole for whole, _ in rest), median(own for _, own in rest)
                print(
                    f"{told_as}, cache {cache}: a step takes {1000 * whole:.0f} ms of CPU, the constraint "
                    f"{1000 * own:.1f} ms of it, {100 * own / (whole - own):.1f} % of the rest ({len(steps)} steps)"
                )


def timed(kind: type, name: str, spent: Counter) -> None:
    """Add the CPU seconds of a method to `spent`; of what calls itself through another once."""
    plain = getattr(kind, name)

    def run(self, *given):
        if spent["inside"]:
            return plain(self, *given)
        spent["inside"] = 1
        start = time.process_time()
        try:
            return plain(self, *given)
        finally:
            spent["seconds"] += time.process_time() - start
            spent["inside"] = 0

    setattr(kind, name, run)


# Decisions


def measure_decisions(args) -> None:
    """Decisions against written answers, their calibration, and the price of 64 questions about one picture."""
    model, processor = load(args.model)
    fitted = decided(model, processor, args.questions // 2, args.seed + 1)
    judged = decided(model, processor, args.questions, args.seed)
    written = []
    for picture, question, _ in heldout_questions(args.questions, args.seed, CLOSED):
        sampler = SamplerConfig(gen_length=CANVAS, rule="threshold", threshold=0.9)
        written.append(answer(model, processor, question.text, [picture], sampler=sampler).text == question.answer)
    print(f"{args.questions} held-out closed questions, written answers right: {told(share(written))}")
    for way, (found, right) in judged.items():
        is_right = [one.value == value for one, value in zip(found, right, strict=True)]
        temperature = fit_temperature(*fitted[way])
        sure = [one.probability for one in found]
        scaled = [probability_at(one, temperature) for one in found]
        print(
            f"decided {way}: right {told(share(is_right))}, against written {told(difference(is_right, written))}, "
            f"calibration error {calibration_error(sure, is_right):.4f}, with the temperature {temperature:.2f} of "
            f"{args.questions // 2} other questions {calibration_error(scaled, is_right):.4f}"
        )
        if way == "together" and args.png:
            rows = {"as read": sure, f"temperature {temperature:.2f}": scaled}
            title = f"{args.questions} held-out closed questions: how often a decision is right that is so sure"
            charts.reliability(rows, is_right, title).save(args.png)


def decided(model, processor, count: int, seed: int) -> dict:
    """way -> (decisions, right values) of held-out questions, each about a picture of its own."""
    found: dict = {way: ([], []) for way in ("together", "alone")}
    for picture, question, _ in heldout_questions(count, seed, CLOSED):
        values, memory = values_of(question), PictureMemory(model, is_frozen=True)
        value = question.answer == "yes" if values is bool else question.answer
        value = int(value) if isinstance(values, range) else value
        for way, (decisions, right) in found.items():
            settings = {"gen_length": CANVAS, "alone": way == "alone", "memory": memory}
            decisions.append(decide(model, processor, {"q": (question.text, values)}, [picture], **settings)["q"])
            right.append(value)
    return found


def probability_at(one, temperature: float) -> float:
    """What a decision's probability is at a temperature, where each value has one text."""
    powers = [probability ** (1 / temperature) for probability in one.probabilities.values()]
    return max(powers) / sum(powers)


def calibration_error(sure, is_right) -> float:
    """Expected calibration error: how far probability and share of right answers are apart, in bins of equal width."""
    bins = defaultdict(list)
    for probability, right in zip(sure, is_right, strict=True):
        bins[min(NUM_BINS - 1, int(probability * NUM_BINS))].append((probability, right))
    gaps = (abs(sum(p for p, _ in some) - sum(right for _, right in some)) for some in bins.values())
    return sum(gaps) / len(sure)


def measure_price(args, count: int = 64) -> None:
    """What many questions about one picture take, beside one: of the tiny model, and of the mid shape's long prompt."""
    model, processor = load(args.model)
    rng = random.Random(0)
    asked: dict = {}
    while len(asked) < count:
        scene = scene_of("heldout", random.Random(3), kind="shapes")
        for question in questions_about(scene, rng):
            if question.family in CLOSED and len(asked) < count:
                asked[question.text] = values_of(question)
    picture, first = draw(scene), dict([next(iter(asked.items()))])
    calls: list[int] = []
    model.model.language_model.register_forward_pre_hook(lambda *given: calls.append(1))
    for name, questions in (("1 question", first), (f"{count} questions", asked)):
        decide(model, processor, questions, [picture], gen_length=CANVAS)
        calls.clear()
        times, wall = [], []
        for _ in range(5):
            start, begun = time.process_time(), time.perf_counter()
            decide(model, processor, questions, [picture], gen_length=CANVAS)
            times.append(time.process_time() - start)
            wall.append(time.perf_counter() - begun)
        print(f"{name}: {len(calls) / 5:.0f} forwards, {median(times):.3f} s of CPU, {median(wall):.3f} s")
    start, begun, forwards = time.process_time(), time.perf_counter(), 0
    memory = PictureMemory(model, is_frozen=True)
    for text in asked:
        sampler = SamplerConfig(gen_length=CANVAS, rule="threshold", threshold=0.9)
        forwards += answer(model, processor, text, [picture], sampler=sampler, memory=memory).num_forwards
    cpu, wall = time.process_time() - start, time.perf_counter() - begun
    print(f"{count} questions written, one after the other: {forwards} forwards, {cpu:.2f} s of CPU, {wall:.2f} s")
    model, length = build("mid", torch.device("cpu"), torch.float32), MODEL_SHAPES["mid"].prompt_length
    print(f"mid shape, {length} tokens in front, questions of 16:")
    for number in (1, count):
        for canvas in (2, 32):
            questions = [Asked([1000 + one] * 16, [[40], [41]]) for one in range(number)]
            start = time.process_time()
            read_apart(model, [30] * length, questions, canvas)
            print(f"    {number} questions, {canvas} masks: {time.process_time() - start:.2f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fields", "joint", "step", "decisions", "price"))
    parser.add_argument("--model", default=str(Path(__file__).resolve().parent.parent / "model" / "llada-v-tiny"))
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=12, help="of an answer that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path, help="where the reliability diagram goes")
    args = parser.parse_args()
    measures = {"fields": measure_fields, "joint": measure_joint, "step": measure_step}
    measures |= {"decisions": measure_decisions, "price": measure_price}
    measures[args.what](args)


if __name__ == "__main__":
    main()
