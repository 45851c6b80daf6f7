"""Start the processes of a run on this node, one a device: torch's launcher, as `scripts/launch.sh` calls it.

A signal that asks for a stop is handed on to every process, and the launcher waits until all have saved and left: its
status is 0 then. torch's own would end with a traceback. Without processes there is nothing to save, and it leaves.
"""

import signal
import sys

import psutil
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from ..processes import handle_stops


def hand_on(number: int, frame) -> None:
    """Send a signal on to the processes that were started here."""
    children = psutil.Process().children()
    if not children:
        sys.exit(0)
    for child in children:
        try:
            child.send_signal(number)
        except psutil.NoSuchProcess:
            pass  # it has just left


def main(words: list[str]) -> int:
    """Run torch's launcher with the words of its command line; the status of the process that failed first, or 0."""
    handle_stops(hand_on)
    try:
        torchrun(["--signals-to-handle", signal.SIGQUIT.name, *words])
    except ChildFailedError as error:
        failed = error.get_first_failure()[1].exitcode  # the process has said why; a killed one has a negative number
        return failed if failed > 0 else 128 - failed
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
