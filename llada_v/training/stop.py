"""A stop that is asked for politely: all processes of a run save after the step that they are in, and leave together.

It is asked for by a signal to any of them, by a launcher that is gone, or by a loader's worker that was killed. A
checkpoint that is due by the clock of the first process is agreed on with it.
"""

import logging
import os
import signal
import threading
from time import monotonic

import torch
from transformers import TrainerCallback

from ..processes import handle_stops

log = logging.getLogger(__name__)


class Stopped(SystemExit):
    """The run was asked to stop and is not finished; what it learned is saved. `run.json` tells it from the end."""

    code = 0


class StopPolitely(TrainerCallback):
    """Holds within `with`; after that the signals mean again what they meant before.

    save_minutes: minutes after a checkpoint when the next one is due; None: never.
    why: what asked for the stop; None: nothing has.
    has_stopped: whether training ended because of it.
    """

    def __init__(self, save_minutes: float | None = None):
        self.save_seconds = None if save_minutes is None else 60 * save_minutes
        self.saved = monotonic()
        self.why: str | None = None
        self.has_stopped = False
        self.waits = False  # for the end of a step; until then a signal ends the process at once
        self.former: dict = {}
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.former = handle_stops(self.hear)
        return self

    def __exit__(self, *error):
        for number, handler in self.former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's

    def hear(self, number: int, frame) -> None:
        """What a signal does: it ends a process that no other one waits for yet, and is remembered by any other."""
        self.ask(signal.Signals(number).name)
        if not self.waits:
            log.info("%s before the first step: nothing to save", self.why)
            raise Stopped

    def ask(self, why: str) -> None:
        """Have all processes stop after the step that they are in."""
        self.why = self.why or why

    def wait_for_steps(self) -> None:
        """From now on processes wait for one another: a signal is remembered until the end of a step."""
        self.waits = True

    def on_train_begin(self, args, state, control, **kwargs):
        self.wait_for_steps()
        self.saved = monotonic()
        return self.stop_together(args, state, control, saves=False)

    def on_step_end(self, args, state, control, **kwargs):
        if self.launcher not in (None, os.getppid()):
            self.ask("the launcher is gone")
        return self.stop_together(args, state, control, saves=True)

    def on_save(self, args, state, control, **kwargs):
        self.saved = monotonic()

    def stop_together(self, args, state, control, saves: bool):
        """Stop where any process was asked to: a signal reaches one earlier than another. Save what is due."""
        is_timed = saves and self.save_seconds is not None and args.process_index == 0
        both = (self.why is not None, is_timed and monotonic() - self.saved >= self.save_seconds)
        found = torch.tensor(both, dtype=torch.float32, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(found)
        asked, is_due = (found > 0).tolist()
        control.should_save |= is_due
        if asked and state.global_step < state.max_steps:
            self.ask("another process was asked to")
            self.has_stopped = control.should_training_stop = True
            control.should_save |= saves
        return control
