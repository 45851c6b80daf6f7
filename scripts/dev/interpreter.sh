#!/usr/bin/env bash
# For the scripts beside it: `source interpreter.sh VERSION` sets `interpreter` to a Python of that version and
# `torch_options` to what makes $uv install torch for the CPU.
set -euo pipefail

interpreter=$1 # uv finds it, or fetches it; those of pyenv that are not switched on it does not see
for candidate in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if [ -x "$candidate" ]; then interpreter=$candidate; fi
done
# The ordinary torch works as well and takes several GB; PyTorch's own index cannot be reached from everywhere.
torch_options=()
if "$uv" pip install --quiet --dry-run --torch-backend cpu --target "$(mktemp -d)" --no-deps torch 2>/dev/null; then
    torch_options=(--torch-backend cpu)
fi
