"""Where the time of an answer goes: operations, kernels, waits for the device, and the host's own time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from ..machine import timed
from .host import Count

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
HEAVIEST = 10


@dataclass(frozen=True)
class Kernel:
    """What ran: a GPU's kernel, without one an operator of torch. How often, and seconds of all together."""

    name: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Profile:
    """One run. seconds: of the run when nobody looks.

    operations: of torch, as they reach the device's back end. kernels: the heaviest first. waits: calls in which the
    host waits for the device; 0 on a CPU. host_seconds: that the host is busy, without these.
    """

    seconds: float
    operations: int
    kernels: list[Kernel]
    waits: int
    host_seconds: float

    @property
    def kernel_seconds(self) -> float:
        """Of all kernels."""
        return sum(kernel.seconds for kernel in self.kernels)


def profile(run: Callable[[], object], device: torch.device) -> Profile:
    """What one `run` is made of; it is called four times."""
    has_gpu = device.type == "cuda"
    run()
    with Count() as count:
        run()
    seconds = timed(run, 1, device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_gpu else [])]
    with torch.profiler.profile(activities=activities) as seen:
        run()
    events = seen.key_averages()
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    waits = [event for event in on_host if event.key in WAITS]
    if has_gpu:
        found = [(event.key, event.count, event.self_device_time_total) for event in events if event not in on_host]
    else:
        found = [(event.key, event.count, event.self_cpu_time_total) for event in on_host]
    kernels = sorted((Kernel(name, times, micro / 1e6) for name, times, micro in found), key=lambda one: -one.seconds)
    busy = sum(event.self_cpu_time_total for event in on_host if event not in waits) / 1e6
    return Profile(seconds, count.num_operations, kernels, sum(event.count for event in waits), busy)
