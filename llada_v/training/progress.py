"""How a run goes on: what was done since the last line, and one line for people; a stop that is asked for politely."""

import logging
import resource
import signal
import threading
import time
from datetime import timedelta

import torch
from transformers import TrainerCallback

log = logging.getLogger(__name__)


class Meter:
    """Tokens, pictures and floating-point operations of this process since the last reading."""

    def __init__(self, device: torch.device):
        self.device = device
        self.reset(0)

    def reset(self, step: int) -> None:
        """Begin to count again, when this many optimizer steps have been taken."""
        self.start, self.step = time.perf_counter(), step
        self.tokens = torch.zeros((), device=self.device)
        self.images = self.flops = 0.0

    def add(self, tokens: torch.Tensor, images: int, flops: float) -> None:
        """Count one forward and backward pass; `tokens` stays on its device, so that nothing waits for it."""
        self.tokens += tokens
        self.images += images
        self.flops += flops

    def read(self, step: int) -> tuple[float, int, torch.Tensor]:
        """Seconds, steps, and (tokens, images, operations) of this process since the last reading; counts again."""
        seconds, steps = time.perf_counter() - self.start, step - self.step
        counts = torch.stack((self.tokens, *(self.tokens.new_tensor(count) for count in (self.images, self.flops))))
        self.reset(step)
        return seconds, steps, counts


def memory_gib(device: torch.device) -> float:
    """Most memory so far: of the GPU as torch counts it, without one of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class ProgressLines(TrainerCallback):
    """One line a log entry, by the first process. What happens before the first step is not counted."""

    def __init__(self, meter: Meter):
        self.meter = meter

    def on_train_begin(self, args, state, control, **kwargs):
        self.meter.reset(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        log.info(
            "step %d of %d | loss %.4f | %s tokens/s | %.3g images/s | %.3g %% MFU | %.2f GiB | %s left",
            state.global_step,
            state.max_steps,
            logs["loss"],
            f"{logs['tokens_per_second']:,.0f}",
            logs["images_per_second"],
            100 * logs["mfu"],
            logs["memory_gib"],
            timedelta(seconds=round(logs["seconds_left"])),
        )


class StopPolitely(TrainerCallback):
    """SIGTERM, sent to any process: all of them save after the step that they are in, and stop together.

    It holds within `with`; after that the signal means again what it meant before.
    """

    def __init__(self):
        self.is_asked = False
        self.has_stopped = False
        self.former = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.former = signal.signal(signal.SIGTERM, self.ask)

    def __exit__(self, *error):
        if self.former is not None:
            signal.signal(signal.SIGTERM, self.former)

    def ask(self, *signal_and_frame) -> None:
        """What the signal does."""
        self.is_asked = True

    def on_step_end(self, args, state, control, **kwargs):
        asked = torch.tensor(float(self.is_asked), device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(asked)  # a step that all of them are in, wherever the signal came first
        if asked and state.global_step < state.max_steps:
            self.has_stopped = True
            control.should_save = control.should_training_stop = True
        return control
