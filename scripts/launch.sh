#!/usr/bin/env bash
# Run a recipe, one process a device: bash scripts/launch.sh RECIPE [NUM_NODES [GPUS_PER_NODE]] [--key value ...]
#
# RECIPE: a file, or the name of one in scripts/recipes (in $LLADA_V_RECIPES, if that is set). Without numbers: this node
# and all its GPUs, or one process where there is none. On several nodes run the same line on each, with
#   MASTER_ADDR          name of the first node (needed)
#   MASTER_PORT          a free port there (29199)
#   NODE_RANK or RANK    number of this node, from 0 (Slurm's SLURM_NODEID, if that is set)
# --dry-run prints the plan for that many devices and starts nothing. PYTHON is the interpreter (.venv/bin/python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "error: $1" >&2
    exit 2
}

[ $# -gt 0 ] || fail "usage: bash scripts/launch.sh RECIPE [NUM_NODES [GPUS_PER_NODE]] [--key value ...]"
recipe=$1
shift
[[ $recipe == *.yaml ]] || recipe=${LLADA_V_RECIPES:-scripts/recipes}/$recipe.yaml

gpus=
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    gpus=$(nvidia-smi -L | wc -l)
fi
nodes=1
devices=${gpus:-1}
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    nodes=$1
    shift
    if [[ ${1:-} =~ ^[0-9]+$ ]]; then
        devices=$1
        shift
    fi
fi
[[ -z ${1:-} || $1 == --* ]] || fail "expected NUM_NODES GPUS_PER_NODE, two numbers, then --key value; found '$1'"
[ "$nodes" -gt 0 ] && [ "$devices" -gt 0 ] || fail "NUM_NODES $nodes and GPUS_PER_NODE $devices must be at least 1"

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || fail "no Python at $python; run 'bash init_env.sh train', or name one: PYTHON=python3"

if [[ " $* " == *" --dry-run "* ]]; then
    WORLD_SIZE=$((nodes * devices)) exec "$python" -m llada_v train "$recipe" "$@"
fi

if [ "$nodes" = 1 ]; then
    place=(--standalone)
else
    [ -n "${MASTER_ADDR:-}" ] || fail "$nodes nodes need MASTER_ADDR, the name of the first one"
    place=(--nnodes "$nodes" --node-rank "${NODE_RANK:-${RANK:-${SLURM_NODEID:-0}}}")
    place+=(--master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29199}")
fi
# After SIGTERM the processes may take this many seconds to save; torch's own limit is 30.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}
exec "$python" -m torch.distributed.run "${place[@]}" --nproc-per-node "$devices" -m llada_v train "$recipe" "$@"
