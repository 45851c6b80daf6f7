"""Start the processes of a run on this node, one a device: torch's launcher, as `scripts/launch.sh` calls it.

A signal that asks for a stop is handed on to every process, and the launcher waits until all have saved and left: its
status is 0 then. torch's own would end with a traceback. Without processes there is nothing to save, and it leaves.

Where nodes may come and go they meet at one of them. If that one dies the launchers of the others, which torch's would
end, look for it until it is back.
"""

import os
import signal
import sys
from time import monotonic, sleep

import psutil
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)
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


def wait_seconds() -> float:
    """How long nodes that come and go are waited for."""
    return 60 * float(os.environ.get("WAIT_MINUTES", 10))


def main(words: list[str]) -> int:
    """Run torch's launcher with the words of its command line; the status of the process that failed first, or 0."""
    handle_stops(hand_on)
    # torch's launchers share one store from round to round, of which a node that comes later is not told.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    lost = None  # when the meeting place was last seen
    while True:
        began = monotonic()
        try:
            torchrun(["--signals-to-handle", signal.SIGQUIT.name, *words])
            return 0
        except ChildFailedError as error:
            failed = error.get_first_failure()[1].exitcode  # the process has said why; a killed one's is negative
            return failed if failed > 0 else 128 - failed
        except RendezvousClosedError:
            print("error: the other nodes have ended the run; run.json in its output says how", file=sys.stderr)
            return 1
        except RendezvousTimeoutError:
            print("error: too few nodes came; see WAIT_MINUTES in scripts/launch.sh", file=sys.stderr)
            return 1
        except (RendezvousConnectionError, DistError) as error:
            if lost is None or monotonic() - began > wait_seconds():
                lost = monotonic()
            if monotonic() - lost > wait_seconds():
                print(f"error: the node where all meet is not back ({error})", file=sys.stderr)
                return 1
            print("the node where all meet cannot be reached: trying again", file=sys.stderr)
            sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
