"""A table of results: every task through lmms-eval on all devices, one after the other, and what came out.

    llada-v evaluate --model path/to/LLaDA-V --tasks mmstar,chartqa --preset paper

A task that fails is said and the others go on; the exit status is then 1. A run that was killed goes on where it was.
"""

import argparse

from .options import add_dtype, check_numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of `Evaluation`, whose defaults hold for what is left out."""
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("--model", help="folder or hub name (default: the tiny model that ships)")
    add("--tasks", metavar="A,B", help="names of the settings; `paper`: all of the paper's (default); `toyworld`")
    add("--preset", choices=("paper", "fast"), help="paper: the original's settings (default); fast: the faster")
    add("--settings", metavar="FILE", help="default: eval/settings.yaml")
    add("--output", metavar="DIR", help="default: exp/eval")
    add("--batch-size", type=int, help="documents at once in a process (1)")
    add("--limit", type=int, metavar="N", help="only the first N documents of a task, to try things out")
    add("--num-processes", type=int, metavar="N", help="on this machine (default: one a GPU, or one)")
    add_dtype(parser)
    add("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, ...")
    add("--num-masks", type=int, help="of a log-likelihood (128)")
    add("--seed", type=int, help="of random masks, and of answers with temperature (0)")
    add("--on-bad-document", choices=("error", "skip"), help="whose picture cannot be read (error)")
    add("--reproduce-original", action="store_true", help="the original's prompts, token by token")
    add("--questions", type=int, metavar="N", help="of each kind in the small world (200)")
    add("--fresh", action="store_true", help="forget what earlier runs of these tasks left")
    add("--nodes", type=int, metavar="N", help="machines; run the same line on each, see eval/README.md")


def run(args: argparse.Namespace) -> int:
    """Run the tasks and print the table. Returns 0, or 1 where a task failed."""
    from ..evaluation.results import markdown
    from ..evaluation.run import Evaluation, evaluate

    check_numbers(args, "batch_size", "limit", "num_processes", "num_masks", "questions", "nodes")
    plan = Evaluation(**vars(args))
    rows = evaluate(plan)
    if plan.node_rank == 0:
        print(markdown(rows))
    return 1 if any(row.problem for row in rows) else 0
