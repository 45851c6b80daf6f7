"""Closed questions about pictures or a video, all read at once, with the probability of every value.

    llada-v decide --image form.png --ask 'Is it signed?' --ask 'What colour is the stamp?=red,blue' --ask 'Pages?=1..9'

Behind a question's last "=" stand the values it may have: some with commas between, or whole numbers FIRST..LAST;
without "=" it may be yes or no.
"""

import argparse
import json
import re
from dataclasses import asdict

from ..errors import WrongValue
from ..json_text import shown
from .options import add_device_options, add_quantize, check_numbers, need_to_quantize

MOST_VALUES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked about what, and how the probabilities are read."""
    add = parser.add_argument
    add("--model", help="folder or hub name (default: the tiny model that ships)")
    add("--image", action="append", default=[], metavar="FILE", help="a picture; repeat for several")
    add("--video", metavar="FILE", help="a video file or a folder of frames")
    add("--ask", action="append", required=True, metavar="QUESTION=VALUES", help="repeat for several; see above")
    add("--temperature", type=float, default=1.0, metavar="X", help="above 1 makes the answers less sure (%(default)s)")
    add("--close", type=float, metavar="X", help="lead below which the second comes close (default: 0.2)")
    add("--gen-length", type=int, metavar="N", help="masks where the answer would stand (default: the model's own)")
    add("--alone", action="store_true", help="a row for each question, in which the pictures see it: slower")
    add_device_options(parser)
    add_quantize(parser)
    add("--json", action="store_true", help="one JSON object a question on stdout")


def questions_of(asked: list[str]) -> dict[str, bool | range | list[str]]:
    """The questions and what they may be, for `decide`. Raises ValueError for one that cannot be read."""
    found: dict = {}
    for text in asked:
        question, equals, values = text.rpartition("=")
        question = question.strip() if equals else text.strip()
        span = re.fullmatch(r"\s*(-?\d{1,9})\.\.(-?\d{1,9})\s*", values)
        if question in found:
            raise WrongValue(f"--ask {shown(question)} is given twice; ask it once")
        if not equals:
            found[question] = bool
        elif span:
            first, last = int(span[1]), int(span[2])
            if not first < last <= first + MOST_VALUES:
                raise WrongValue(f"--ask {shown(text)} goes from {first} to {last}; give 2 to {MOST_VALUES} numbers")
            found[question] = range(first, last + 1)
        else:
            found[question] = [value.strip() for value in values.split(",")]
    return found


def run(args: argparse.Namespace) -> None:
    """Decide and print.

    Raises ValueError for questions that cannot be asked, and whatever `load` and `decide` raise.
    """
    need_to_quantize(args)
    check_numbers(args, "gen_length")
    questions = questions_of(args.ask)

    from ..answering import DEMO_MODEL, load
    from ..decisions import CLOSE, asked_of, decide, spellings
    from ..quantization import quantize

    for question, may_be in questions.items():
        asked_of(question, may_be)  # what cannot be asked is said before the weights are read
        spellings(question, may_be)
    model, processor = load(args.model or DEMO_MODEL, args.device, args.dtype)
    if args.quantize:
        quantize(model, args.quantize)
    close = CLOSE if args.close is None else args.close
    settings = {"temperature": args.temperature, "close": close, "gen_length": args.gen_length, "alone": args.alone}
    found = decide(model, processor, questions, args.image, args.video, **settings)
    for question, one in found.items():
        if args.json:
            print(json.dumps({"question": question} | asdict(one) | {"image": args.image, "video": args.video}))
            continue
        (second, less) = list(one.probabilities.items())[1]
        behind = f", {'close to' if one.is_close else 'before'} {said(second)} {less:.3f}"
        print(f"{question} -> {said(one.value)} {one.probability:.3f}{behind}")


def said(value) -> str:
    """A value as people write it."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
