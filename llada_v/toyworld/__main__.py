"""Write what a training in the small world starts from: `data` (records and pictures) or `model` (random weights)."""

import argparse
import sys

from ..cli import status_of
from .questions import FAMILIES
from .records import write_dataset
from .scenes import KINDS, SPLITS
from .stories import STYLES


def main() -> None:
    """Parse the verb and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m llada_v.toyworld", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    data = verbs.add_parser("data", help="records.json and pictures")
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
    model = verbs.add_parser("model", help="the tiny model with random weights, its tokenizer and processor")
    model.add_argument("folder")
    model.add_argument("--seed", type=int, default=0)
    sight = verbs.add_parser("sight", help="teach the tower of a model folder to see, before any language")
    sight.add_argument("source")
    sight.add_argument("target")
    sight.add_argument("--steps", type=int, required=True)
    sight.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.verb == "data":
        del args.verb
        write_dataset(**vars(args))
    elif args.verb == "sight":
        from .sight import learn_to_see

        learn_to_see(args.source, args.target, args.steps, seed=args.seed)
    else:
        from .tiny import build

        build(args.folder, args.seed)


if __name__ == "__main__":
    sys.exit(status_of(main))
