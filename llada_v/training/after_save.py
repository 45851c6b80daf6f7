"""A command of the user after each checkpoint, as `rclone copy "$LLADA_V_SAVED" remote:run`, while training goes on."""

import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)


class AfterSave:
    """Runs a shell command for what was saved, one at a time. A failing one is told and ends nothing.

    It finds the folder in LLADA_V_SAVED, its optimizer step in LLADA_V_STEP and the output in LLADA_V_OUTPUT. What is
    saved while it is still at work is passed over; the finished model is not.
    """

    def __init__(self, command: str | None, output: Path):
        self.command, self.output = command, output
        self.running: subprocess.Popen | None = None
        self.folder: Path | None = None

    def busy_with(self) -> Path | None:
        """The folder that the command is at work on, which must stay where it is."""
        if self.running is not None and self.running.poll() is not None:
            self.told()
        return self.folder

    def start(self, folder: Path, step: int) -> None:
        """Run the command for a folder, unless it is at work."""
        if self.command is None:
            return
        if self.busy_with() is not None:
            log.warning("on_save is still at work on %s: %s is passed over", self.folder, folder)
            return
        names = {"LLADA_V_SAVED": folder, "LLADA_V_STEP": step, "LLADA_V_OUTPUT": self.output}
        variables = os.environ | {name: str(value) for name, value in names.items()}
        self.folder = folder
        self.running = subprocess.Popen(
            self.command, shell=True, env=variables, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def wait(self) -> None:
        """Wait for the command's end."""
        if self.running is not None:
            self.running.wait()
            self.told()

    def told(self) -> None:
        """Say how the command has ended."""
        if self.running.returncode:
            log.warning("on_save ended with status %d for %s", self.running.returncode, self.folder)
        self.running = self.folder = None
