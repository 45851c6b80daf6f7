"""A table of results: every task through lmms-eval on all devices, one after the other, and what came out.

A task that fails is said and the others go on. A run that was killed goes on where it was: finished tasks are not run
again, and lmms-eval's cache holds the answers of the one that was running. Both count for whatever makes the same
answers, see `places`; results of anything else stay beside them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pkgutil import resolve_name

import torch

from ..checkpoint.files import local_folder
from ..errors import NoPackage, WrongValue
from ..generation.config import SamplerConfig
from ..generation.sampler import ANSWERS_VERSION
from ..processing_llada_v import LladaVProcessor
from ..shipped import PACKAGE, shipped
from .extraction import RULES_VERSION
from .places import Digests, claim, model_sums, others, place_of, task_sums
from .request import CHOICES, Evaluation
from .results import Row, failed, read_log, rows_of, save_table
from .settings import NO_KEY, Benchmark, chosen_tasks, has_judge, read_settings

TASK_FILES = shipped("eval/tasks")
MASTER_PORT = 29199
SAME_TOKENS = ("lookahead", "compile")  # settings of the sampler that change no answer
SHOWN = 12  # lines of a traceback


def evaluate(plan: Evaluation) -> list[Row]:
    """Run the tasks and return the rows of the table, which is also written to the output.

    Raises ValueError, FileNotFoundError or OSError for a request that cannot be met, before anything runs.
    """
    tasks = chosen_tasks(read_settings(plan.settings), plan.tasks)
    check_installed()
    model = local_folder(plan.model, {})
    LladaVProcessor.from_pretrained(model)  # what is missing from the folder is said before the weights are read
    for made_by, files in dict.fromkeys((task.made_by, task.files) for task in tasks if task.made_by):
        resolve_name(made_by)(made_in(files, plan), plan.questions)
    given = [task.name for task in tasks if task.is_likelihood]
    if plan.read == CHOICES and given:
        raise WrongValue(
            f"--read {CHOICES} is for answers that would be written, and {given[0]} scores given ones; leave it out"
        )
    variant = plan.preset + ("-original" if plan.reproduce_original else "")
    variant += f"-{CHOICES}" if plan.read == CHOICES else ""
    folder = Path(plan.output) / Path(plan.model).name / variant
    folder.mkdir(parents=True, exist_ok=True)
    digests = Digests(Path(plan.output) / "digests.json")
    made_of = model_sums(Path(model), digests)
    rows: list[Row] = []
    beside: list[str] = []
    for task in tasks:
        identity, scored_with = identity_of(task, made_of, plan, digests)
        place = place_of(folder / task.name, identity)
        rows += run_task(task, model, place, identity, scored_with, plan)
        beside += others(folder / task.name, place, identity)
        if plan.node_rank == 0:
            title = f"{Path(plan.model).name}, preset {variant}"
            save_table(rows, folder, title, facts_of(plan), beside)
    for line in beside:
        print(f"kept beside: {line}", file=sys.stderr)
    if plan.node_rank == 0:
        print(f"table.md, table.json and table.png are in {folder}", file=sys.stderr)
    return rows


def check_installed() -> None:
    """Raise ImportError where lmms-eval is missing."""
    try:
        version("lmms_eval")
    except PackageNotFoundError as error:
        raise NoPackage("benchmarks need lmms-eval: bash init_env.sh eval, or pip install 'llada-v[eval]'") from error


def facts_of(plan: Evaluation) -> dict:
    """What the table says about itself."""
    packages = ("llada-v", "lmms_eval", "torch", "transformers")
    return {
        "model": plan.model,
        "preset": plan.preset,
        "reproduce_original": plan.reproduce_original,
        "batch_size": plan.batch_size,
        "limit": plan.limit,
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
    }


# One task


def identity_of(task: Benchmark, made_of: dict, plan: Evaluation, digests: Digests) -> tuple[dict, dict]:
    """What makes the answers to a task differ from others, and what its scores depend on beside them.

    made_of: see `model_sums`.
    """
    files = task_sums(task_files(task, plan), digests)
    if task.is_likelihood:
        sampler: dict = {"num_masks": plan.num_masks, "seed": plan.seed}
    else:
        given, plain = task.sampling(plan.preset), {field.name: field.default for field in fields(SamplerConfig)}
        sampler = {key: value for key, value in given.items() if value != plain[key] and key not in SAME_TOKENS}
        if given.get("temperature") or given.get("remasking") == "random":
            sampler["seed"] = plan.seed
        if plan.read == CHOICES:
            sampler = {"read": CHOICES}
        sampler |= {"gen_length": given["gen_length"], "until": task.until, "think_mode": task.think_mode}
    identity = made_of | {
        "task": tasks_argument(task).removeprefix(str(TASK_FILES)),
        "files": files["asked"],
        "limit": plan.limit,
        "sampler": sampler,
        "dtype": plan.dtype or ("bfloat16" if torch.cuda.is_available() else "float32"),
        "attention": plan.attn_implementation,
        "prompts": "original" if plan.reproduce_original else "plain" if task.plain else "chat",
        "lmms_eval": version("lmms_eval"),
        "code": ANSWERS_VERSION,
    }
    scored_with = {"rules": RULES_VERSION, "files": files["scored"], "judge": has_judge()}
    return identity, scored_with


def made_in(files: str, plan: Evaluation) -> Path:
    """The folder where the questions of tasks that are made here lie, with copies of their task files."""
    return Path(plan.output) / f"{files}-tasks"


def task_files(task: Benchmark, plan: Evaluation) -> list[Path]:
    """The task files of the project that a task is made of."""
    if task.files is None:
        return []
    if task.made_by:
        return [made_in(task.files, plan) / f"{name}.yaml" for name in task.tasks or (task.name,)]
    return sorted((TASK_FILES / task.files).glob("*.yaml"))


def run_task(
    task: Benchmark, model: str, folder: Path, identity: dict, scored_with: dict, plan: Evaluation
) -> list[Row]:
    """Run one task in its place, unless it is done, and read its rows.

    Answers that are there, scored in another way, are only scored again.
    """
    settings = settings_text(task, plan)
    done = folder / "done.json"
    known = json.loads(done.read_text()) if done.is_file() and not plan.fresh else {}
    if known.get("scored_with") == scored_with:
        rows = rows_in(task, folder, known["results"], settings, plan)
        if plan.on_bad_document == "skip" or not any(row.skipped for row in rows):
            print(f"{task.name}: done before", file=sys.stderr)
            return rows
    if plan.node_rank == 0:
        claim(folder, identity, plan.fresh)
        put_together(folder / "cache")
    log = folder / ("log.txt" if plan.node_rank == 0 else f"log-{plan.node_rank}.txt")
    print(f"{task.name}: running, see {log}", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with open(log, "a", encoding="utf-8") as output:
        begun = output.tell()
        status = subprocess.run(
            [*launcher(plan), *command_of(task, model, folder, plan)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(plan),
        ).returncode
    written = [file for file in folder.rglob("*_results.json") if file.stat().st_mtime >= start - 1]
    if status or not (written or plan.node_rank):  # lmms-eval itself ends with 0 whatever happened
        problem, trace = problem_in(log, begun)
        print(f"{task.name}: failed: {problem} (see {log})", file=sys.stderr)
        for line in trace:
            print(f"    {line}", file=sys.stderr, flush=True)
        return [failed(task, settings, problem if not trace else f"{problem} (traceback in {log})")]
    if plan.node_rank:
        return []
    results = max(written, key=lambda file: file.stat().st_mtime).relative_to(folder)
    rows = rows_in(task, folder, str(results), settings, plan)
    if not any(row.problem for row in rows):
        done.write_text(json.dumps({"scored_with": scored_with, "results": str(results)}, indent=2))
    print(f"{task.name}: done in {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


def rows_in(task: Benchmark, folder: Path, results: str, settings: str, plan: Evaluation) -> list[Row]:
    """The rows of a task from the files in its folder."""
    try:
        found, log = json.loads((folder / results).read_text()), read_log(folder / "documents")
        return rows_of(task, found, log, settings, plan.read == CHOICES)
    except (WrongValue, json.JSONDecodeError) as error:  # a metric that is missing, a file that was cut off
        return [failed(task, settings, str(error))]


def settings_text(task: Benchmark, plan: Evaluation) -> str:
    """The sampler's settings for the table."""
    if task.is_likelihood:
        return f"{plan.num_masks} masks"
    given = task.sampling(plan.preset)
    if plan.read == CHOICES:
        return " ".join([f"{given['gen_length']} masks, one read", *([task.think_mode] if task.think_mode else [])])
    lengths = "/".join(str(given.pop(name, "-")) for name in ("gen_length", "block_length", "steps"))
    words = [lengths, *(f"{name} {value}" for name, value in given.items() if value not in (0.0, "low_confidence"))]
    return " ".join([*words, *([task.think_mode] if task.think_mode else [])])


def launcher(plan: Evaluation) -> list[str]:
    """The start of the command line: as many processes as there are devices."""
    processes = plan.num_processes or max(1, torch.cuda.device_count())
    if processes * plan.nodes == 1:
        return [sys.executable, "-m"]
    # `accelerate launch --cpu` starts one process whatever --num_processes says; torchrun starts them all.
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    if plan.nodes == 1:
        return [*command, "--standalone", "-m"]
    place = [f"--nnodes={plan.nodes}", f"--node-rank={plan.node_rank}", f"--master-addr={os.environ['MASTER_ADDR']}"]
    return [*command, *place, f"--master-port={os.environ.get('MASTER_PORT', MASTER_PORT)}", "-m"]


def command_of(task: Benchmark, model: str, folder: Path, plan: Evaluation) -> list[str]:
    """What runs a task through lmms-eval: its module's name and arguments."""
    model_args = {
        "pretrained": model,
        "dtype": plan.dtype,
        "attn_implementation": plan.attn_implementation,
        "num_masks": plan.num_masks,
        "read": plan.read if plan.read == CHOICES else None,  # what it is by default makes no other cache
        "seed": plan.seed,
        "log": folder / "documents" / "log",
        "reproduce_original": plan.reproduce_original or None,
    }
    command = ["lmms_eval", "--model", "llada_v", "--batch_size", str(plan.batch_size)]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in model_args.items() if value is not None)]
    command += ["--tasks", tasks_argument(task), "--output_path", str(folder), "--log_samples"]
    command += ["--use_cache", str(folder / "cache"), "--verbosity", "DEBUG"]  # with DEBUG an error ends the process
    if task.made_by:
        command += ["--include_path", str(made_in(task.files, plan))]
    if not task.is_likelihood:
        command += ["--gen_kwargs", task.gen_kwargs(plan.preset)]
    if task.plain or plan.reproduce_original:
        command += ["--force_simple"]
    if plan.limit is not None:
        command += ["--limit", str(plan.limit)]
    return command


def tasks_argument(task: Benchmark) -> str:
    """What lmms-eval runs: names, or the folder of task files that change some of its own."""
    if task.files is not None and not task.made_by:
        return str(TASK_FILES / task.files)
    return ",".join(task.tasks or (task.name,))


def environment(plan: Evaluation) -> dict[str, str]:
    """The environment of lmms-eval."""
    # PYTHONSAFEPATH: packages are found because they are installed, not because the current folder has their name.
    given = {"PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": "false", "LLADA_V_ON_BAD_DOCUMENT": plan.on_bad_document}
    return {"OPENAI_API_KEY": NO_KEY} | os.environ | given


def put_together(cache: Path) -> None:
    """Make one cache of the answers that a run left which did not end."""
    left = sorted((cache / "runs").glob("*/rank_*.db"))
    if left:
        from lmms_eval.caching.response_cache import ResponseCache

        kept = ResponseCache.merge_shards([str(file) for file in left], str(cache / "cache.db"))
        shutil.rmtree(cache / "runs")
        print(f"going on with {kept} answers of a run that did not end", file=sys.stderr)


def problem_in(log: Path, begun: int = 0) -> tuple[str, list[str]]:
    """What a log says went wrong, in one line, and the last lines of the traceback behind it.

    begun: byte at which the run's part of the log starts. No traceback where one of our own checks says what is wrong
    with what it was given: an error that a `raise` of this package makes.
    """
    with open(log, "rb") as file:
        file.seek(begun)
        text = file.read().decode("utf-8", errors="replace")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [re.sub(r"^\[rank\d+\]:\s?", "", line).rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [
        number
        for number, line in enumerate(lines)
        if re.match(r"(?:[\w.]*(?:Error|Exception|Interrupt)|(?:\w+\.)+[A-Z]\w+)(?::|$)", line)
        and not line.split(":")[0].endswith("ChildFailedError")
    ]
    if not errors:
        return (lines or ["no output"])[-1].strip(), []
    last = errors[-1]
    starts = [number for number in range(last) if lines[number].startswith("Traceback (most recent call last)")]
    trace = lines[starts[-1] : last + 1] if starts else []
    frames = [number for number, line in enumerate(trace) if line.lstrip().startswith('File "')]
    if not frames or is_own_check(*trace[frames[-1] : frames[-1] + 2]):
        return re.sub(r"^(?:ValueError|llada_v\.[\w.]+):\s*", "", lines[last]), []
    return lines[last], trace[-SHOWN:]


def is_own_check(frame: str, code: str = "") -> bool:
    """Whether a frame of a traceback is a `raise` in this package: File "...", and its line of code."""
    return f'File "{PACKAGE}' in frame and code.lstrip().startswith("raise ")
