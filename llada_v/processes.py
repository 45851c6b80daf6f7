"""What the processes of a run agree on: which signals ask for a stop, and that workers leave those to their parents."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.util import Finalize

import torch

# Of a cluster before its time limit, of a terminal, of a person, of a terminal that is closed.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)


def handle_stops(handler: Callable) -> dict[int, Callable | int | None]:
    """Have the stop signals call `handler`; returns what they called before, for `signal.signal`.

    A signal that whoever started this process has told it to ignore, as `nohup` does, stays ignored.
    """
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def calm_worker(worker: int) -> None:
    """Keep a loader's worker to one thread, and deaf to stop signals, which clusters send to all processes.

    It leaves when its parent does (`end_workers`), or within five seconds after that one is gone.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)


def end_workers() -> None:
    """End the workers that are left: Python would ask with SIGTERM, to which ours are deaf, and wait for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


Finalize(None, end_workers, exitpriority=0)  # when this process ends, and before Python asks
