"""Ask the tiny model about data/demo.png; takes every option of `llada-v generate`."""

import sys

from llada_v.cli import main

sys.exit(main(["generate", *sys.argv[1:]]))
