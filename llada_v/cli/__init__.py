"""`llada-v VERB ...` (or `python -m llada_v`): all argument parsing of the project, one module a verb.

A verb's module has `add_arguments(parser)` and `run(args)`, which returns an exit status or nothing; its docstring is
what `--help` says. What a verb works with is imported when it runs.
"""

import errno
import logging
import os
import sys
from argparse import REMAINDER
from collections.abc import Callable
from importlib import import_module

from ..errors import UserError
from .parser import Parser

TRACEBACK = "LLADA_V_TRACEBACK"
# What torchao and torch say when transformers imports torchao: that kernels for some GPUs are not for this machine.
CHATTY = ("torchao", "torch.utils._pytree")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
VERBS = {
    "generate": "answer questions about pictures or a video",
    "decide": "answer closed questions with the probability of every value: --ask 'colour?=red,blue'",
    "chat": "talk with the model in a terminal, here or at a server",
    "serve": "answer over HTTP as OpenAI's API does, with a page: --model ... --port ...",
    "convert": "rewrite published weights as a folder that loads like any other",
    "train": "train a stage: RECIPE [--key value ...]",
    "runs": "what runs of training did, with their curves: FOLDER ...",
    "budget": "memory that a recipe needs on each device: RECIPE [--key value ...]",
    "merge-lora": "write base model and adapter as one model: ADAPTER DST",
    "average": "write the mean of several models' weights: DST SRC SRC ...",
    "data": "training data: check RECIPE, index RECIPE, mix, convert-visualwebinstruct",
    "judge": "score a model on held-out questions of the small world",
    "evaluate": "benchmarks through lmms-eval, and their table",
    "bench": "measure sampler settings side by side: speed, floor, memory, accuracy",
    "measure": "what a GPU does with the 8B model, in nine minutes; --rehearse on a CPU",
    "tune": "find the fastest settings for your own questions: FILE",
    "toyworld": "what a training in the small world starts from: data, model, sight, join",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status, see `status_of`."""
    parser = Parser(
        prog="llada-v",
        description="LLaDA-V: a masked-diffusion model that answers questions about pictures.\n\n"
        + "\n".join(f"  {name:10} {told}" for name, told in VERBS.items()),
        epilog=f"`llada-v VERB --help` lists a verb's options. {TRACEBACK}=1 shows where an error comes from.",
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB")
    parser.add_argument("arguments", nargs=REMAINDER, metavar="...", help="options of the verb")
    args = parser.parse_args(argv)
    return status_of(run_verb, args.verb, args.arguments)


def run_verb(name: str, argv: list[str]) -> int | None:
    """Parse the words behind a verb and run it."""
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    verb = import_module(f".{name.replace('-', '_')}", __package__)
    parser = Parser(prog=f"llada-v {name}", description=verb.__doc__)
    verb.add_arguments(parser)
    return verb.run(parser.parse_args(argv))


def status_of(run: Callable, *arguments) -> int:
    """The exit status that `run` returns (0 for nothing), or 2 after one line on stderr that says what is wrong.

    One line is for what the user can mend: a `UserError`, or a disk that is full or may not be written. All else is a
    fault and goes on with its traceback.
    """
    try:
        return run(*arguments) or 0
    except (UserError, OSError) as error:
        is_theirs = isinstance(error, UserError) or error.errno in DISK
        if not is_theirs or os.environ.get(TRACEBACK):
            raise
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
