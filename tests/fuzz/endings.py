"""What every fuzzer asks: a right result or one clear error of ours, within ten seconds of CPU."""

import signal
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import llada_v

SECONDS = 10  # of CPU, an input: a loaded machine changes nothing
LONGEST = 1000  # letters of a message
OURS = str(Path(llada_v.__file__).parent)
CLEAR = (ValueError, OSError)


@contextmanager
def ends_well(counts: Counter | None = None):
    """What runs inside ends as a result or as a clear error; which of the two is counted.

    An error is clear if it is a ValueError or OSError that a line of the package raises, with a message of one screen.
    """
    old = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    kind = "right"
    try:
        yield
    except CLEAR as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        assert last.filename.startswith(OURS), f"raised by {last.filename}:{last.lineno}: {error!r}"
        assert 0 < len(str(error)) <= LONGEST, f"{len(str(error))} letters: {str(error)[:200]}"
        kind = "refused"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    if counts is not None:
        counts[kind] += 1


def too_long(*_):
    """What the alarm does."""
    raise AssertionError(f"no end after {SECONDS} seconds")
