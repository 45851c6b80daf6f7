"""Write what a training in the small world starts from: data, a model with random weights, or a tower that sees."""

import argparse

from ..toyworld.scenes import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each thing that is written."""
    things = parser.add_subparsers(dest="thing", metavar="THING", required=True)
    data = things.add_parser("data", help="records.json and pictures")
    data.set_defaults(write=write_data)
    data.add_argument("folder")
    data.add_argument("course", help="YAML file: what the records are about, as those in scripts/courses")
    data.add_argument("--split", choices=SPLITS, default="train")
    model = things.add_parser("model", help="the tiny model with random weights, its tokenizer and processor")
    model.set_defaults(write=write_model)
    model.add_argument("folder")
    model.add_argument("--seed", type=int, default=0)
    sight = things.add_parser("sight", help="teach the tower of a model folder to see, apart from any language")
    sight.set_defaults(write=write_sight)
    sight.add_argument("source")
    sight.add_argument("target")
    sight.add_argument("--steps", type=int, required=True)
    sight.add_argument("--seed", type=int, default=0)
    join = things.add_parser("join", help="a model folder with the tower of another")
    join.set_defaults(write=write_join)
    join.add_argument("language", help="folder that everything but the tower comes from")
    join.add_argument("tower", help="folder that the tower comes from")
    join.add_argument("target")


def run(args: argparse.Namespace) -> None:
    """Write it."""
    given = vars(args)
    del given["thing"]
    given.pop("write")(**given)


def write_data(folder: str, course: str, split: str) -> None:
    """Records and pictures."""
    from ..toyworld.courses import course_records
    from ..toyworld.records import write_records

    write_records(folder, course_records(course, split))


def write_model(folder: str, seed: int) -> None:
    """Random weights."""
    from ..toyworld.tiny import build

    build(folder, seed)


def write_sight(source: str, target: str, steps: int, seed: int) -> None:
    """A tower that sees."""
    from ..toyworld.sight import learn_to_see

    learn_to_see(source, target, steps, seed=seed)


def write_join(language: str, tower: str, target: str) -> None:
    """One model's language, another's tower."""
    from ..toyworld.sight import join

    join(language, tower, target)
