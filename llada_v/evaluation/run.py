"""A table of results: every task through lmms-eval on all devices, one after the other, and what came out.

    llada-v evaluate --model path/to/LLaDA-V --tasks mmstar,chartqa --preset paper

A task that fails is said and the others go on; the exit status is then 1. A run that was killed goes on where it was:
finished tasks are not run again, and lmms-eval's cache holds the answers of the one that was running. Both count only
for the same model, settings and code.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..answer import DEMO_MODEL, DTYPES, check_numbers
from ..checkpoint.files import local_folder
from ..processing_llada_v import LladaVProcessor
from ..shipped import PACKAGE, shipped
from .results import Row, failed, markdown, read_log, rows_of, save_table
from .settings import NO_KEY, PRESETS, SETTINGS_FILE, Benchmark, chosen_tasks, read_settings
from .toyworld import write_tasks

TASK_FILES = shipped("eval/tasks")
OUTPUT = Path("exp/eval")
NODE_RANK, MASTER_PORT = ("NODE_RANK", "RANK", "SLURM_NODEID"), 29199
WHOLE_FILE = 2**20  # bytes up to which a file counts with its content and not its date


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of `main`."""
    add = parser.add_argument
    add("--model", default=str(DEMO_MODEL), help="folder or hub name (default: the tiny model that ships)")
    add("--tasks", metavar="A,B", help="names of the settings; `paper`: all of the paper's (default); `toyworld`")
    add("--preset", choices=PRESETS, default="paper", help="paper: the original's settings (default); fast: the faster")
    add("--settings", default=SETTINGS_FILE, metavar="FILE", help="default: eval/settings.yaml")
    add("--output", default=OUTPUT, metavar="DIR", help="default: exp/eval")
    add("--batch-size", type=int, default=1, help="documents at once in a process (%(default)s)")
    add("--limit", type=int, metavar="N", help="only the first N documents of a task, to try things out")
    add("--num-processes", type=int, metavar="N", help="on this machine (default: one a GPU, or one)")
    add("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, ...")
    add("--num-masks", type=int, default=128, help="of a log-likelihood (%(default)s)")
    add("--seed", type=int, default=0, help="of random masks, and of answers with temperature (%(default)s)")
    add("--on-bad-document", choices=("error", "skip"), default="error", help="whose picture cannot be read (error)")
    add("--reproduce-original", action="store_true", help="the original's prompts, token by token")
    add("--questions", type=int, default=200, metavar="N", help="of each kind in the small world (%(default)s)")
    add("--fresh", action="store_true", help="forget what earlier runs of these tasks left")
    add("--nodes", type=int, default=1, metavar="N", help="machines; run the same line on each, see eval/README.md")


def main(argv: list[str]) -> int:
    """Run the tasks and print the table. Returns 0, or 1 where a task failed.

    Raises ValueError, FileNotFoundError or OSError for a request that cannot be met, before anything runs.
    """
    parser = argparse.ArgumentParser(prog="llada-v evaluate", description=__doc__.splitlines()[0], allow_abbrev=False)
    add_arguments(parser)
    args = parser.parse_args(argv)
    check_numbers(args, "batch_size", "limit", "num_processes", "questions", "nodes")
    args.node_rank = node_rank(args.nodes)
    tasks = chosen_tasks(read_settings(args.settings), args.tasks)
    check_installed()
    model = local_folder(args.model, {})
    LladaVProcessor.from_pretrained(model)  # what is missing from the folder is said before the weights are read
    if any(task.files == "toyworld" for task in tasks):
        write_tasks(count=args.questions)
    variant = args.preset + ("-original" if args.reproduce_original else "")
    folder = Path(args.output) / Path(args.model).name / variant
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for task in tasks:
        rows += run_task(task, model, folder / task.name, args)
        if args.node_rank == 0:
            title = f"{Path(args.model).name}, preset {variant}"
            save_table(rows, folder, title, facts_of(args))
    if args.node_rank == 0:
        print(markdown(rows))
        print(f"table.md, table.json and table.png are in {folder}")
    return 1 if any(row.problem for row in rows) else 0


def check_installed() -> None:
    """Raise ImportError where lmms-eval is missing."""
    try:
        version("lmms_eval")
    except PackageNotFoundError as error:
        raise ImportError("benchmarks need lmms-eval: bash init_env.sh eval, or pip install 'llada-v[eval]'") from error


def facts_of(args: argparse.Namespace) -> dict:
    """What the table says about itself."""
    packages = ("llada-v", "lmms_eval", "torch", "transformers")
    return {
        "model": args.model,
        "preset": args.preset,
        "reproduce_original": args.reproduce_original,
        "batch_size": args.batch_size,
        "limit": args.limit,
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
    }


# One task


def run_task(task: Benchmark, model: str, folder: Path, args: argparse.Namespace) -> list[Row]:
    """Run one task, unless it is done, and read its rows."""
    settings = settings_text(task, args)
    command = command_of(task, model, folder, args)
    made_with = {"command": command, "content": fingerprint(task, model)}
    done = folder / "done.json"
    known = json.loads(done.read_text()) if done.is_file() and not args.fresh else {}
    if known.get("made_with") == made_with:
        print(f"{task.name}: done before", file=sys.stderr)
        return rows_in(task, folder, known["results"], settings)
    if args.node_rank == 0:
        begin(folder, made_with, args.fresh)
    log = folder / ("log.txt" if args.node_rank == 0 else f"log-{args.node_rank}.txt")
    print(f"{task.name}: running, see {log}", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with open(log, "a", encoding="utf-8") as output:
        status = subprocess.run(
            [*launcher(args), *command], stdout=output, stderr=subprocess.STDOUT, env=environment()
        ).returncode
    if args.node_rank:
        return [] if status == 0 else [failed(task, settings, problem_in(log))]
    written = [file for file in folder.rglob("*_results.json") if file.stat().st_mtime >= start - 1]
    if status or not written:  # lmms-eval itself ends with 0 whatever happened
        problem = problem_in(log)
        print(f"{task.name}: failed: {problem} (see {log})", file=sys.stderr, flush=True)
        return [failed(task, settings, problem)]
    results = max(written, key=lambda file: file.stat().st_mtime).relative_to(folder)
    rows = rows_in(task, folder, str(results), settings)
    if not any(row.problem for row in rows):
        done.write_text(json.dumps({"made_with": made_with, "results": str(results)}, indent=2))
    print(f"{task.name}: done in {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


def rows_in(task: Benchmark, folder: Path, results: str, settings: str) -> list[Row]:
    """The rows of a task from the files in its folder."""
    try:
        return rows_of(task, json.loads((folder / results).read_text()), read_log(folder / "documents"), settings)
    except ValueError as error:
        return [failed(task, settings, str(error))]


def settings_text(task: Benchmark, args: argparse.Namespace) -> str:
    """The sampler's settings for the table."""
    if task.is_likelihood:
        return f"{args.num_masks} masks"
    given = task.sampling(args.preset)
    lengths = "/".join(str(given.pop(name, "-")) for name in ("gen_length", "block_length", "steps"))
    words = [lengths, *(f"{name} {value}" for name, value in given.items() if value not in (0.0, "low_confidence"))]
    return " ".join([*words, *([task.think_mode] if task.think_mode else [])])


def node_rank(nodes: int) -> int:
    """The number of this machine, from the same variables as scripts/launch.sh. Raises ValueError where they lack."""
    if nodes == 1:
        return 0
    if not os.environ.get("MASTER_ADDR"):
        raise ValueError(f"{nodes} nodes need MASTER_ADDR, the name of the first one")
    return int(next((os.environ[name] for name in NODE_RANK if os.environ.get(name)), 0))


def launcher(args: argparse.Namespace) -> list[str]:
    """The start of the command line: as many processes as there are devices."""
    processes = args.num_processes or max(1, torch.cuda.device_count())
    if processes * args.nodes == 1:
        return [sys.executable, "-m"]
    # `accelerate launch --cpu` starts one process whatever --num_processes says; torchrun starts them all.
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    if args.nodes == 1:
        return [*command, "--standalone", "-m"]
    place = [f"--nnodes={args.nodes}", f"--node-rank={args.node_rank}", f"--master-addr={os.environ['MASTER_ADDR']}"]
    return [*command, *place, f"--master-port={os.environ.get('MASTER_PORT', MASTER_PORT)}", "-m"]


def command_of(task: Benchmark, model: str, folder: Path, args: argparse.Namespace) -> list[str]:
    """What runs a task through lmms-eval: its module's name and arguments."""
    model_args = {
        "pretrained": model,
        "dtype": args.dtype,
        "attn_implementation": args.attn_implementation,
        "on_bad_document": args.on_bad_document,
        "num_masks": args.num_masks,
        "seed": args.seed,
        "log": folder / "documents" / "log",
        "reproduce_original": args.reproduce_original or None,
    }
    command = ["lmms_eval", "--model", "llada_v", "--batch_size", str(args.batch_size)]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in model_args.items() if value is not None)]
    command += ["--tasks", tasks_argument(task), "--output_path", str(folder), "--log_samples"]
    command += ["--use_cache", str(folder / "cache"), "--verbosity", "DEBUG"]  # with DEBUG an error ends the process
    if task.files == "toyworld":
        command += ["--include_path", str(TASK_FILES / task.files)]
    if not task.is_likelihood:
        command += ["--gen_kwargs", task.gen_kwargs(args.preset)]
    if task.plain or args.reproduce_original:
        command += ["--force_simple"]
    if args.limit is not None:
        command += ["--limit", str(args.limit)]
    return command


def tasks_argument(task: Benchmark) -> str:
    """What lmms-eval runs: names, or the folder of task files that change some of its own."""
    if task.files is not None and task.files != "toyworld":
        return str(TASK_FILES / task.files)
    return ",".join(task.tasks or (task.name,))


def environment() -> dict[str, str]:
    """The environment of lmms-eval."""
    # PYTHONSAFEPATH: packages are found because they are installed, not because the current folder has their name.
    given = {"PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {"OPENAI_API_KEY": NO_KEY} | os.environ | given


def begin(folder: Path, made_with: dict, fresh: bool) -> None:
    """Make the folder ready: answers of another model, settings or code go, those of a killed run are put together."""
    stamp = folder / "begun.json"
    text = json.dumps(made_with, indent=2)
    if folder.is_dir() and (fresh or not (stamp.is_file() and stamp.read_text() == text)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(text)
    left = sorted((folder / "cache" / "runs").glob("*/rank_*.db"))
    if left:
        from lmms_eval.caching.response_cache import ResponseCache

        kept = ResponseCache.merge_shards([str(file) for file in left], str(folder / "cache" / "cache.db"))
        shutil.rmtree(folder / "cache" / "runs")
        print(f"going on with {kept} answers of a run that did not end", file=sys.stderr)


def fingerprint(task: Benchmark, model: str) -> str:
    """A sum over what answers depend on beside the command: the model's files, our code, the task's own files."""
    folders = [Path(model), PACKAGE]
    if task.files is not None:
        folders.append(TASK_FILES / task.files)
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    total = hashlib.sha256(version("lmms_eval").encode())
    for file in files:
        if "__pycache__" in file.parts:
            continue
        stat = file.stat()
        content = file.read_bytes() if stat.st_size <= WHOLE_FILE else str(stat.st_mtime_ns).encode()
        total.update(f"{file.name} {stat.st_size}".encode() + content)
    return total.hexdigest()


def problem_in(log: Path) -> str:
    """The line of a log that says best what went wrong: the last error of a traceback, or its last line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [
        line
        for line in lines
        if re.match(r"(?:\[rank\d+\]:\s*)?[\w.]*(?:Error|Exception|Interrupt|BadDocument)\b", line)
    ]
    ours = [line for line in errors if not line.split(":")[0].endswith("ChildFailedError")]
    found = (ours or errors or lines or ["no output"])[-1]
    return re.sub(r"^(?:\[rank\d+\]:\s*)?(?:[\w]+\.)*(?:ValueError|BadDocument):\s*", "", found)
