"""Write what a training in the small world starts from: data, a model with random weights, or a tower that sees."""

import argparse

from ..toyworld.questions import FAMILIES
from ..toyworld.scenes import KINDS, SPLITS
from ..toyworld.stories import STYLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each thing that is written."""
    things = parser.add_subparsers(dest="thing", metavar="THING", required=True)
    data = things.add_parser("data", help="records.json and pictures")
    data.set_defaults(write=write_data)
    data.add_argument("folder")
    data.add_argument("--style", choices=STYLES, required=True)
    data.add_argument("--split", choices=SPLITS, default="train")
    data.add_argument("--count", type=int, required=True, help="records")
    data.add_argument("--max-turns", type=int, default=10, help="questions about one picture, at most (%(default)s)")
    data.add_argument("--one-turn-each", action="store_true", help="every question is a record of its own")
    data.add_argument("--max-things", type=int, help="most shapes in a picture of shapes")
    data.add_argument("--kinds", nargs="+", choices=KINDS, help="only pictures of these kinds, equally many")
    data.add_argument("--families", nargs="+", choices=FAMILIES, help="only questions of these families")
    data.add_argument("--answers", nargs="+", help="only questions with one of these answers")
    data.add_argument("--asking", nargs="+", help="only questions that have one of these texts in them")
    data.add_argument("--rounds", type=int, default=1, help="draws of questions about one picture (%(default)s)")
    data.add_argument("--lists", action="store_true", help="of pairs and clips, ask also for everything that is seen")
    data.add_argument("--seed", type=int, default=0)
    model = things.add_parser("model", help="the tiny model with random weights, its tokenizer and processor")
    model.set_defaults(write=write_model)
    model.add_argument("folder")
    model.add_argument("--seed", type=int, default=0)
    sight = things.add_parser("sight", help="teach the tower of a model folder to see, before any language")
    sight.set_defaults(write=write_sight)
    sight.add_argument("source")
    sight.add_argument("target")
    sight.add_argument("--steps", type=int, required=True)
    sight.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> None:
    """Write it."""
    given = vars(args)
    del given["thing"]
    given.pop("write")(**given)


def write_data(**given) -> None:
    """Records and pictures."""
    from ..toyworld.records import write_dataset

    write_dataset(**given)


def write_model(folder: str, seed: int) -> None:
    """Random weights."""
    from ..toyworld.tiny import build

    build(folder, seed)


def write_sight(source: str, target: str, steps: int, seed: int) -> None:
    """A tower that sees."""
    from ..toyworld.sight import learn_to_see

    learn_to_see(source, target, steps, seed=seed)
