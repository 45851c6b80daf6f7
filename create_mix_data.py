"""Interleave ordinary and reasoning records in one file; the same as `llada-v data mix`."""

import sys

from llada_v.cli import main

sys.exit(main(["data", "mix", *sys.argv[1:]]))
