#!/usr/bin/env bash
# The fast tests in an environment of their own, with every extra: bash scripts/dev/test_versions.sh SET PYTHON [ARG ...]
#
# SET: lowest (the oldest versions that pyproject.toml allows), locked (constraints.txt) or newest. PYTHON: 3.11 to 3.13.
# ARG: for pytest, instead of all fast tests. UV is uv, of .venv unless given. The environment is made anew each time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

uv=${UV:-.venv/bin/uv}
set=$1 python=$2
shift 2
case $set in
    lowest) options=(--resolution lowest-direct) torch="torch==$(sed -n 's/.*"torch>=\([0-9.]*\).*/\1/p' pyproject.toml).*" ;;
    locked) options=(--constraints constraints.txt) torch=$(sed -n 's/^# torch==/torch==/p' constraints.txt) ;;
    newest) options=(--upgrade) torch=torch ;;
    *)
        echo "error: expected lowest, locked or newest; found '$set'" >&2
        exit 2
        ;;
esac
source scripts/dev/interpreter.sh "$python"

home=.venv-versions/$set-$python
"$uv" venv --quiet --clear --python "$interpreter" "$home"
"$uv" pip install --quiet --prerelease disallow --python "$home/bin/python" "${options[@]}" "${torch_options[@]}" -e '.[dev]' "$torch"
"$uv" pip list --quiet --python "$home/bin/python" | grep -iE '^(torch|transformers|accelerate|pillow|numpy|datasets|peft|av|decord) '
CI=true "$home/bin/python" -m pytest -q -p no:cacheprovider "$@"
