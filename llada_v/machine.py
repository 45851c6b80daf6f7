"""What a device does in how much time, measured on the spot."""

import time
from collections.abc import Callable

import torch

REPEATS = 5  # the best of these counts: a busy neighbour only ever makes a machine slower
SAMPLE_SECONDS = 0.02  # a repeat lasts at least about this long
CPU_SIDE, GPU_SIDE = 1024, 8192  # of the matrices that are multiplied: large enough for the full rate


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product, a multiply-add counted as two."""
    side = CPU_SIDE if device.type == "cpu" else GPU_SIDE
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / seconds_of(lambda: matrix @ matrix, device)


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
    start = time.perf_counter()
    for _ in range(times):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / times


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
