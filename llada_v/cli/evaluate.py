"""A table of results: every task through lmms-eval on all devices, one after the other, and what came out.

    llada-v evaluate --model path/to/LLaDA-V --tasks mmstar,chartqa --preset paper

A task that fails is said and the others go on; the exit status is then 1. A run that was killed goes on where it was.
"""

import argparse

from ..evaluation.request import Evaluation
from .options import add_settings, given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An option for each field of `Evaluation`."""
    add_settings(parser, Evaluation)


def run(args: argparse.Namespace) -> int:
    """Run the tasks and print the table. Returns 0, or 1 where a task failed."""
    plan = Evaluation(**given(args, Evaluation))

    from ..evaluation.results import markdown
    from ..evaluation.run import evaluate

    rows = evaluate(plan)
    if plan.node_rank == 0:
        print(markdown(rows))
    return 1 if any(row.problem for row in rows) else 0
