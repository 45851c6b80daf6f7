"""What a run is expected to take, said before its first step, and what it took, said at its end.

`account.json` in the output holds both, in bytes: `llada-v runs` and the run's page show them.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil
import torch

from ..benchmark.memory import PeakMemory
from .budget import BudgetMaker, sharding_of
from .history import ACCOUNT, amount, compared
from .output import write_whole
from .plan import check_settings, checkpoint_bytes
from .recipe import Recipe
from .saving import bytes_of, checkpoints

log = logging.getLogger(__name__)

SHARED = Path("/dev/shm")
PARTS = ("weights", "gradients", "optimizer", "activations", "working")


class Account:
    """What one device of a run is expected to take, as its first process works it out.

    longest: tokens of the longest record; None: the longest that the recipe allows.
    """

    def __init__(self, recipe: Recipe, num_devices: int, longest: int | None):
        self.recipe, self.num_devices, self.output = recipe, num_devices, Path(recipe.output)
        length = None if longest is None else min(max(longest, recipe.pack_length), recipe.max_length)
        self.maker = BudgetMaker(recipe, length)
        self.sharding = sharding_of(recipe, check_settings(recipe, num_devices), num_devices)
        self.budget = self.maker.budget(self.sharding, num_devices)
        self.checkpoint = checkpoint_bytes(recipe, self.maker.total, self.maker.trained, self.maker.moments)

    @property
    def memory(self) -> float:
        """What is expected to be taken where training computes; without a GPU all is in one place."""
        return self.budget.total + (0 if torch.cuda.is_available() else self.budget.offloaded)

    def tell(self) -> None:
        """Say what is expected, and what the machine has too little of."""
        budget, maker = self.budget, self.maker
        parts = " + ".join(f"{amount(getattr(budget, part))} {part}" for part in PARTS)
        over = "" if self.num_devices == 1 else f" ({self.sharding.name} over {self.num_devices})"
        main = f", and {amount(budget.offloaded)} of main memory" if budget.offloaded else ""
        log.info("memory a device%s: %s = %s%s", over, parts, amount(budget.total), main)
        log.info("  with rows of up to %s tokens, %d at a time", f"{maker.length:,}", maker.rows)
        self.tell_disk()
        shared = maker.shared_bytes()
        if SHARED.is_dir() and shutil.disk_usage(SHARED).free < shared:
            log.warning(
                "%s has %s free, the loader's workers may hold %s a device: lower workers, or give the container more "
                "(docker run --shm-size)",
                SHARED,
                amount(shutil.disk_usage(SHARED).free),
                amount(shared),
            )
        self.write({})

    def tell_disk(self) -> None:
        """Say what the checkpoints take, and warn where they will not fit."""
        kept, free = self.recipe.save_total, shutil.disk_usage(self.output).free
        most = (kept + 1) * self.checkpoint
        there = sum(map(bytes_of, checkpoints(self.output)))
        log.info(
            "disk: %s a checkpoint, %s for %d and the one that is being written; %s are free",
            *(amount(self.checkpoint), amount(most), kept, amount(free)),
        )
        if free < most - there:
            log.warning(
                "the disk of %s has %s free, too little for %d checkpoints and the one that is being written (%s): "
                "lower save_total or free space, else the run ends when it is full",
                *(self.output, amount(free), kept, amount(most - there)),
            )

    def settle(self, memory: int, rows: int, length: int, tiles: int) -> None:
        """Say what was taken, beside what is expected for the batches that really came.

        memory: bytes on the device that had most; 0 where it could not be measured. rows, length, tiles: the most rows,
            tokens in a row, and tiles of a forward pass.
        """
        maker = self.maker
        if length and not self.recipe.pack_length:
            maker.rows, maker.length, maker.tiles = rows, length, max(tiles, 1)
            self.budget = maker.budget(self.sharding, self.num_devices)
        taken, expected = {}, {"memory": self.memory, "checkpoint": self.checkpoint}
        if memory:
            taken["memory"] = memory
        saved = checkpoints(self.output)
        if saved:
            taken["checkpoint"] = bytes_of(saved[-1])
        if taken:
            told = "; ".join(f"{name} {compared(taken[name], expected[name])}" for name in taken)
            log.info("taken with rows of up to %s tokens: %s", f"{maker.length:,}", told)
        self.write(taken)

    def write(self, taken: dict[str, int]) -> None:
        """Note expectation and truth in the output."""
        expected = asdict(self.budget) | {"memory": self.memory, "checkpoint": self.checkpoint}
        expected["shared"] = self.maker.shared_bytes()
        told = {"sharding": self.sharding.name, "devices": self.num_devices, "expected": expected, "taken": taken}
        write_whole(self.output / ACCOUNT, json.dumps(told, indent=1) + "\n")


class MemoryTaken:
    """The memory that this process takes from now on: of its GPU, else of the machine beside what it has already."""

    def __init__(self, device: torch.device):
        self.peak = PeakMemory(device)
        self.peak.reset()
        self.before = 0 if device.type == "cuda" else psutil.Process().memory_info().rss

    def most(self) -> int:
        """Bytes at the peak so far; 0 where they cannot be measured."""
        found = self.peak.read()
        return 0 if found is None else found - self.before


def most_of_all(numbers: Sequence[int], device: torch.device) -> list[int]:
    """The largest of each number over all processes; all must ask."""
    found = torch.tensor(numbers, device=device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return found.tolist()
