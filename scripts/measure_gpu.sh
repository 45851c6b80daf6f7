#!/usr/bin/env bash
# What one GPU does with the 8B model, in at most nine minutes: bash scripts/measure_gpu.sh [--output FOLDER] [--rehearse]
# Needs torch, transformers and this repository: no network, no weights. --rehearse runs all of it on a CPU, smaller.
# PYTHON is the interpreter (.venv/bin/python, else python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
exec "$python" -m llada_v measure "$@"
