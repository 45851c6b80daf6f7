#!/usr/bin/env bash
# Writes constraints.txt anew: the newest versions that pyproject.toml allows, of all that any extra installs, with
# markers for Python 3.11 to 3.13 on Linux, macOS and Windows. TORCH=2.13.0 moves the torch that they are chosen for.
# Then run `make test` and `make test-versions`, and commit what passed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

torch=${TORCH:-$(sed -n 's/^# torch==//p' constraints.txt)}
apart='torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+' # torch, what comes with it, and what must fit it
versions=$(.venv/bin/python -m uv pip compile pyproject.toml --extra dev --extra browser --extra cluster --universal --python-version 3.11 \
    --constraints <(echo "torch==$torch") --prerelease if-necessary --upgrade --quiet --no-header --no-annotate)

cat >constraints.txt <<END
# Made by \`make lock\`: the set that CI installs, for every extra and Python 3.11 to 3.13 on Linux, macOS and Windows.
# init_env.sh installs these; by hand: pip install -c constraints.txt -e '.[train]'. Constraints install nothing by
# themselves, so one file serves every extra, and torch stands apart: built for the CPU, for CUDA, or there already.
# torch==$torch
$(grep -vE "^($apart)==" <<<"$versions")
END
echo "constraints.txt: $(grep -c '==' constraints.txt) versions, torch $torch"
