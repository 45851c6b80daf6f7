"""`python -m llada_v`: the same as the command `llada-v`."""

import sys

from .cli import main

sys.exit(main())
