"""What a GPU does with the 8B model, in one run of at most nine minutes: random weights, no network.

    llada-v measure                 # writes exp/measured/measured.json and .md, after every part
    llada-v measure --rehearse      # all of it on a CPU with a small shape, in some minutes

Bandwidth and matrix rate; the picture; forward passes against their floor; answers by length; batches; a profile;
clients of the engine; compiled layers; a step of training; weights in 8 bits. What there is no time or no memory for is
left out and named. Status 1 where a part failed by a fault of ours.
"""

import argparse
from pathlib import Path

from .options import add_device_options, check_numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, how long, and what in its place."""
    add = parser.add_argument
    add("--output", type=Path, default=Path("exp/measured"), metavar="FOLDER", help="of the two files (%(default)s)")
    add("--minutes", type=float, default=9.0, help="after which the run ends, whatever is left (%(default)g)")
    add("--rehearse", action="store_true", help="a small shape on a CPU in place of the 8B one")
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure. Raises ValueError for a request that cannot be met."""
    from ..answering import device_of, dtype_of
    from ..benchmark.measure import Measurement

    check_numbers(args, "minutes")
    device = device_of("cpu" if args.rehearse else args.device)
    measurement = Measurement("small" if args.rehearse else "8b", device, dtype_of(args.dtype, device), args.output)
    failed = measurement.run(60 * args.minutes)
    print((args.output / "measured.md").read_text(encoding="utf-8"))
    return 1 if failed else 0
