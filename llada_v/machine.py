"""What a device does in how much time: measured on the spot, or as its maker states it."""

import re
import resource
import sys
import time
from collections.abc import Callable

import torch

REPEATS = 5  # the best of these counts: a busy neighbour only ever makes a machine slower
SAMPLE_SECONDS = 0.02  # a repeat lasts at least about this long
CPU_SIDE, GPU_SIDE = 1024, 8192  # of the matrices that are multiplied: large enough for the full rate

clock: Callable[[], float] = time.perf_counter  # `time.process_time` where a CPU of one thread is shared with others

# 10^12 dense bfloat16 operations a second, accumulated in float32, by words of the device's name; the first line whose
# words are all there counts. From NVIDIA's data sheets and architecture papers, and AMD's data sheets; where a sheet
# gives the rate "with sparsity", half of it.
CARDS = (
    ("B200", 2250),
    ("GH200", 989.4),
    ("H200", 989.4),
    ("H100 NVL", 835.5),
    ("H100 PCIE", 756.5),
    ("H100", 989.4),
    ("H800", 989.4),
    ("A100", 312),
    ("A800", 312),
    ("A40", 149.7),
    ("A30", 165),
    ("A10", 125),
    ("A6000", 154.8),
    ("L40S", 362.05),
    ("L40", 181.05),
    ("L4", 121),
    ("5090", 209.5),
    ("4090", 165.2),
    ("3090", 71),
    ("MI325X", 1307.4),
    ("MI300X", 1307.4),
    ("MI210", 181),
)


def stated_rate(name: str) -> float | None:
    """Floating-point operations a second in bfloat16 that the maker of a device states; None for an unknown one.

    name: as `torch.cuda.get_device_name` gives it, "NVIDIA H100 80GB HBM3".
    """
    words = set(re.split(r"[\s\-_/]+", name.upper()))
    if "LAPTOP" in words:  # slower than the card of the same number
        return None
    return next((1e12 * rate for card, rate in CARDS if set(card.split()) <= words), None)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product, a multiply-add counted as two.

    Of random numbers: a GPU multiplies equal ones with less power, and so faster than any model.
    """
    side = CPU_SIDE if device.type == "cpu" else GPU_SIDE
    first, second = (
        torch.randn(side, side, generator=torch.Generator(device).manual_seed(seed), dtype=dtype, device=device)
        for seed in (0, 1)
    )
    return 2 * side**3 / seconds_of(lambda: first @ second, device)


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second that a device can do at most: in bfloat16 as stated, otherwise measured."""
    stated = stated_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return stated if stated and dtype == torch.bfloat16 else matrix_rate(device, dtype)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one `run`, the best of `REPEATS` samples."""
    run()
    times = 1
    best = timed(run, times, device)
    times = max(1, round(SAMPLE_SECONDS / best))
    return min(timed(run, times, device) for _ in range(REPEATS))


def timed(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean seconds of `run` over `times`, the device idle before and after."""
    synchronize(device)
    start = clock()
    for _ in range(times):
        run()
    synchronize(device)
    return (clock() - start) / times


def peak_bytes(who: int = resource.RUSAGE_SELF) -> int:
    """Most memory that this process has had at once, or with RUSAGE_CHILDREN the largest of those that have ended."""
    unit = 1 if sys.platform == "darwin" else 1024  # KiB but on macOS
    return resource.getrusage(who).ru_maxrss * unit


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
