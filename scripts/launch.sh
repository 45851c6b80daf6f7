#!/usr/bin/env bash
# Run a recipe, one process a device: bash scripts/launch.sh RECIPE [NUM_NODES [GPUS_PER_NODE]] [--key value ...]
#
# RECIPE: a file, or the name of one in scripts/recipes (in $LLADA_V_RECIPES, if that is set). Without numbers: this node
# and all its GPUs, or one process where there is none. On several nodes run the same line on each, with
#   MASTER_ADDR          name of the first node (needed)
#   MASTER_PORT          a free port there (29199)
#   NODE_RANK or RANK    number of this node, from 0 (needed; Slurm's SLURM_NODEID, if that is set)
# A node that waits ten minutes for another one ends with an error. SIGTERM, SIGINT, SIGUSR1 and SIGHUP have the run save
# and end with status 0; "status" in run.json in its output tells whether it is finished.
#
# NUM_NODES may be MIN:MAX. Nodes then find each other at MASTER_ADDR, without numbers. When one dies the others go on from
# the newest whole checkpoint as soon as MIN of them are there, and one that comes (back) joins by the same line:
#   WAIT_MINUTES         how long MIN nodes are waited for (10)
#   MAX_RESTARTS         how often processes that fail on this node are started again (10)
#
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
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then # as CUDA reads it: what is behind a -1 is not seen, empty is none
    gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | sed '/^ *-/,$d' | grep -c . || true)
elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    gpus=$(nvidia-smi -L | wc -l)
fi
nodes=1
least=
devices=$((gpus > 0 ? gpus : 1))
if [[ ${1:-} =~ ^([0-9]+:)?[0-9]+$ ]]; then
    nodes=${1##*:}
    [[ $1 != *:* ]] || least=${1%%:*}
    shift
    if [[ ${1:-} =~ ^[0-9]+$ ]]; then
        devices=$1
        shift
    fi
fi
[[ -z ${1:-} || $1 == --* ]] || fail "expected NUM_NODES GPUS_PER_NODE, two numbers, then --key value; found '$1'"
[ "$nodes" -gt 0 ] && [ "$devices" -gt 0 ] || fail "NUM_NODES $nodes and GPUS_PER_NODE $devices must be at least 1"
[ -z "$least" ] || { [ "$least" -gt 0 ] && [ "$least" -le "$nodes" ]; } ||
    fail "NUM_NODES $least:$nodes must be MIN:MAX, with MIN from 1 to MAX"

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || fail "no Python at $python; run 'bash init_env.sh train', or name one: PYTHON=python3"

if [[ " $* " == *" --dry-run "* ]]; then
    WORLD_SIZE=$((nodes * devices)) exec "$python" -m llada_v train "$recipe" "$@"
fi

if [ "$nodes" = 1 ] && [ -z "$least" ]; then
    place=(--standalone)
elif [ -n "$least" ]; then
    [ -n "${MASTER_ADDR:-}" ] || fail "$least to $nodes nodes need MASTER_ADDR, the name of the one where they meet"
    seconds=$((${WAIT_MINUTES:-10} * 60))
    place=(--nnodes "$least:$nodes" --rdzv-backend c10d --rdzv-id llada-v --rdzv-conf "join_timeout=$seconds")
    place+=(--rdzv-endpoint "$MASTER_ADDR:${MASTER_PORT:-29199}" --max-restarts "${MAX_RESTARTS:-10}")
else
    [ -n "${MASTER_ADDR:-}" ] || fail "$nodes nodes need MASTER_ADDR, the name of the first one"
    number=${NODE_RANK:-${RANK:-${SLURM_NODEID:-}}}
    [ -n "$number" ] || fail "$nodes nodes need NODE_RANK, the number of this one, 0 on the first"
    [[ $number =~ ^[0-9]+$ ]] && [ "$number" -lt "$nodes" ] || fail "NODE_RANK is $number; of $nodes nodes it is 0 to $((nodes - 1))"
    place=(--nnodes "$nodes" --node-rank "$number")
    place+=(--master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29199}")
fi
exec "$python" -m llada_v.training.launch "${place[@]}" --nproc-per-node "$devices" -m llada_v train "$recipe" "$@"
