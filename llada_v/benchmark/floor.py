"""The floor: what this machine can do, what an answer asks of it, and the least time that takes.

Work is counted, not modelled: while one answer is made, hooks see every linear layer and a dispatch mode every
attention of torch, so a setting costs what it really does, whatever it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from ..machine import matrix_rate, seconds_of

READ_LIMIT = 2**30  # bytes


@dataclass(frozen=True)
class Machine:
    """What the device reaches: `bandwidth` in bytes read a second, `matrix_rate` in FLOPs a second."""

    bandwidth: float
    matrix_rate: float


@dataclass
class Work:
    """What some forward passes ask for.

    weight_bytes: weights of linear layers, each as often as it is read.
    cache_bytes: keys and values read by attention.
    flops: multiplications and additions of linear layers and attention.
    """

    weight_bytes: int = 0
    cache_bytes: int = 0
    flops: int = 0

    def floor(self, machine: Machine) -> float:
        """Seconds this takes at least: the slower of reading and computing, as if each hid the other."""
        return max((self.weight_bytes + self.cache_bytes) / machine.bandwidth, self.flops / machine.matrix_rate)


class AttentionCounter(TorchDispatchMode):
    """Adds to `work` what attention does inside the `with`: torch's own kernels, and batched products (eager).

    Kernels from elsewhere, such as those of the package flash-attn, are not seen.
    """

    def __init__(self, work: Work):
        super().__init__()
        self.work = work

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name == "bmm":
            self.work.flops += 2 * args[0].numel() * args[1].shape[-1]
        elif name.startswith("_scaled_dot_product"):
            query, key, value = args[:3]  # (B, H, ., K); several query heads may share one head of keys
            self.work.flops += 2 * query.shape[:-1].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1])
            self.work.cache_bytes += key.nbytes + value.nbytes
        return func(*args, **kwargs or {})


def count_work(layers: Sequence[nn.Linear], run: Callable[[], None]) -> Work:
    """The work of `run` in these linear layers and in attention.

    Code compiled by torch.compile is not seen: count the same settings without it.
    """
    work = Work()

    def count(layer, inputs, output):
        work.weight_bytes += bytes_of(layer.weight)
        work.flops += 2 * inputs[0].numel() * layer.out_features

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with AttentionCounter(work):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return work


def bytes_of(weight: torch.Tensor) -> int:
    """Bytes of a tensor; of a quantised one those of its parts."""
    if is_traceable_wrapper_subclass(weight):
        return sum(bytes_of(getattr(weight, name)) for name in weight.__tensor_flatten__()[0])
    return weight.nbytes


def measure_machine(device: torch.device, dtype: torch.dtype, num_bytes: int) -> Machine:
    """What the device reaches now.

    num_bytes: how much is read at a time: the size of the weights, so that weights that stay in a cache between two
        forward passes are measured as such.
    dtype: of the matrices that are multiplied.
    """
    read = torch.ones(max(1, min(num_bytes, READ_LIMIT) // 4), device=device)
    return Machine(read.nbytes / seconds_of(read.sum, device), matrix_rate(device, dtype))
