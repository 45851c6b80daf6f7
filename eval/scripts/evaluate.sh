#!/usr/bin/env bash
# Runs benchmarks on all GPUs, one after the other, and ends with their table:
#   bash eval/scripts/evaluate.sh [--model PATH] [--tasks a,b] [--preset paper|fast]
# `llada-v evaluate --help` lists every option; docs/benchmarks.md explains them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=.venv/bin/python
if [ ! -x "$python" ]; then python=python3; fi
exec "$python" -m llada_v evaluate "$@"
