"""Training data: read every record (check), prepare the training (index), interleave (mix), rewrite a published set."""

import argparse
import os
from pathlib import Path

from .options import add_recipe, need, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each task."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)

    def add_task(name, run_task, told, **more):
        task = tasks.add_parser(name, help=told, description=told, **more)
        task.set_defaults(run_task=run_task)
        return task

    add_check(
        add_task(
            "check",
            run_check,
            "read every record of a recipe, decode every picture and video, and report what is there",
            epilog="--model, a folder with a processor, may be all that is needed where the stage before has not run.",
        )
    )
    add_index(
        add_task(
            "index",
            run_index,
            "read every record of a recipe and find its length, on any machine that sees the same files, so that the "
            "training starts at once",
            epilog="`data check` leaves the same behind, and decodes every picture and video as well.",
        )
    )
    add_mix(
        add_task(
            "mix",
            run_mix,
            "interleave ordinary records (every question marked /no_think) and reasoning records (half of the "
            "questions marked /think) in one JSON array",
        )
    )
    add_convert(
        add_task("convert-visualwebinstruct", run_convert, "rewrite VisualWebInstruct's JSON Lines as a JSON array")
    )


def run(args: argparse.Namespace) -> int | None:
    """Run the task."""
    return args.run_task(args)


def add_check(parser: argparse.ArgumentParser) -> None:
    """Options of `check`."""
    parser.add_argument("--processes", type=int, default=cores(), metavar="N", help="default: one a core")
    parser.add_argument("--report", metavar="DIR", help="folder for the report; default: exp/data_check/<recipe>")
    add_recipe(parser)


def run_check(args: argparse.Namespace) -> int:
    """Check the data of a recipe; 1 if a record is bad."""
    from ..data.check import check

    records, processor, encoding = read_recipe(args)
    folder = Path(args.report or Path("exp", "data_check", Path(args.recipe).stem))
    report = check(records, processor, encoding, max(args.processes, 0))
    report.write(folder)
    print(report.text())
    print(f"written to {folder}")
    return 1 if report.bad else 0


def add_index(parser: argparse.ArgumentParser) -> None:
    """Options of `index`."""
    parser.add_argument("--processes", type=int, default=cores(), metavar="N", help="default: one a core")
    add_recipe(parser)


def run_index(args: argparse.Namespace) -> None:
    """Make the index and the lengths of a recipe's records; bad ones are counted, and the first is named."""
    from ..data.measure import UNKNOWN, Measurer, Measures

    records, processor, encoding = read_recipe(args)
    bad = []
    measures = Measures(
        Measurer(records, processor, encoding), max(args.processes, 0), lambda number, error: bad.append(error)
    )
    count = int(((measures.lengths == UNKNOWN) | (measures.lengths > encoding.max_length)).sum())
    print(f"{len(records):,} records, {count:,} of them bad: {records.index.folder}")
    if count:
        print(bad[0] if bad else "`llada-v data check` names the bad ones")


def read_recipe(args: argparse.Namespace):
    """The records of a recipe, its processor, and what lengths depend on beside it."""
    recipe = recipe_of(args)
    need("train", "datasets")

    from ..data.measure import Encoding
    from ..data.records import Records
    from ..processing_llada_v import LladaVProcessor

    records = Records(recipe.data, recipe.image_root, recipe.index_folder, recipe.seed)
    encoding = Encoding(recipe.style, recipe.max_frames, recipe.max_length, recipe.max_tiles)
    return records, LladaVProcessor.from_pretrained(recipe.model), encoding


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_mix(parser: argparse.ArgumentParser) -> None:
    """Options of `mix`, named as the original's script names them."""
    parser.add_argument("--normal_data", required=True, metavar="FILE", help="ordinary records, .json or .jsonl")
    parser.add_argument("--inference_data", required=True, metavar="FILE", help="reasoning records, .json or .jsonl")
    parser.add_argument("--output_path", required=True, metavar="FILE", help="the JSON array to write")
    parser.add_argument("--seed", type=int, default=42, help="which questions are marked /think; default 42")


def run_mix(args: argparse.Namespace) -> None:
    """Interleave ordinary and reasoning records."""
    from ..data.mix import mix

    normal, reasoning, ratio = mix(args.normal_data, args.inference_data, args.output_path, args.seed)
    print(f"{args.output_path}: {normal} ordinary and {reasoning} reasoning records, {ratio[0]}:{ratio[1]}")


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Options of `convert-visualwebinstruct`."""
    parser.add_argument("source", metavar="SRC", help="mixed_conversation.jsonl")
    parser.add_argument("target", metavar="DST", help="data/visualwebinstruct/mixed_conversation.json")


def run_convert(args: argparse.Namespace) -> None:
    """Rewrite VisualWebInstruct."""
    from ..data.visualwebinstruct import convert

    print(f"{args.target}: {convert(args.source, args.target):,} records")
