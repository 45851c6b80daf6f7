"""DeepSpeed: its settings, refused where they would undo a recipe, and its checkpoints for any number of processes."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from ..errors import MissingFile, WrongValue
from ..shipped import located

UNIVERSAL = "universal"  # DeepSpeed's word for checkpoints that know no number of processes


def read_deepspeed(file: str | Path) -> dict:
    """The settings in a JSON file, for ZeRO stage 0 to 3.

    Raises FileNotFoundError for a missing file, ValueError for what is not JSON or would overrule the recipe: an
    `optimizer` section makes DeepSpeed forget the learning rates per part.
    """
    file = located(file)
    if not file.is_file():
        raise MissingFile(f"no DeepSpeed settings at {file}; the project's are under scripts/deepspeed")
    try:
        settings = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise WrongValue(f"{file} is not valid JSON: {error}") from error
    for section in ("optimizer", "scheduler"):
        if section in settings:
            raise WrongValue(
                f"{file} has a section {section!r}, with which the recipe's rates would be lost; remove it"
            )
    if zero_stage(settings) == 3 and not settings["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
        raise WrongValue(
            f"{file} lacks stage3_gather_16bit_weights_on_model_save: true, without which no model would be saved"
        )
    return settings


def join_deepspeed() -> None:
    """Let DeepSpeed see the group of processes: without it, it would load a model as if it were alone."""
    import deepspeed

    # It calls functions by names that newer versions of torch warn about, at every step.
    warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False)


def zero_stage(settings: dict | None) -> int:
    """What is scattered over the devices: 0 nothing, 1 the optimizer, 2 gradients as well, 3 weights as well."""
    return 0 if settings is None else settings.get("zero_optimization", {}).get("stage", 0)


def offloads(settings: dict | None) -> bool:
    """Whether the optimizer lives in main memory."""
    zero = {} if settings is None else settings.get("zero_optimization", {})
    return zero.get("offload_optimizer", {}).get("device", "none") != "none"


def scattered_over(checkpoint: str | Path) -> int | None:
    """The number of processes over which DeepSpeed has scattered a checkpoint's optimizer; None where it has not."""
    return len(list(Path(checkpoint).glob("global_step*/*zero_pp_rank_*_optim_states.pt"))) or None


def gather(checkpoint: str | Path) -> None:
    """Write a checkpoint of ZeRO a second time, into `universal` in its folder, for any number of processes.

    Raises RuntimeError with what DeepSpeed's converter said last.
    """
    source = next(Path(checkpoint).glob("global_step*"))
    forget_gathered(checkpoint)
    target = Path(checkpoint) / UNIVERSAL
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(source), "--output_folder", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")


def forget_gathered(checkpoint: str | Path) -> None:
    """Remove what `gather` wrote."""
    shutil.rmtree(Path(checkpoint) / UNIVERSAL, ignore_errors=True)
    (Path(checkpoint) / f"latest_{UNIVERSAL}").unlink(missing_ok=True)
