"""`python -m llada_v.toyworld`: the same as `llada-v toyworld`."""

import sys

from ..cli import main

sys.exit(main(["toyworld", *sys.argv[1:]]))
