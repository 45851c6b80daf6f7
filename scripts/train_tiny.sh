#!/usr/bin/env bash
# Train the tiny model from random weights: bash scripts/train_tiny.sh [FOLDER]. Everything is made in FOLDER (exp/tiny).
#
# What stands for LLaDA's and SigLIP2's own training comes first, `language` and `tower` side by side; then the published
# stages, each from its recipe in scripts/recipes/tiny and the records that its course in scripts/courses draws.
# An interrupted run goes on where it was; to start again: rm -r exp/tiny
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-.venv/bin/python}
out=${1:-exp/tiny}

# One process a GPU; without a GPU one process a core, with one thread each, which is faster than one with all cores.
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then processes=1; else processes=2; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processes == 2 ? 1 : $(nproc)))}

say() { echo "$(date '+%F %T') $*"; }

train() { # stage, and the one it starts from
    if [ ! -f "$out/$1/model.safetensors" ]; then
        say "$1"
        [ -d "$out/data/$1" ] || "$PYTHON" -m llada_v.toyworld data "$out/data/$1" "scripts/courses/$1.yaml"
        bash scripts/launch.sh "scripts/recipes/tiny/$1.yaml" 1 "$processes" --model "$out/$2" --output "$out/$1" \
            --data "$out/data/$1/records.json" --image_root "$out/data/$1"
    fi
    # A stage that was asked to stop has saved, and its status is 0, too.
    [ -f "$out/$1/model.safetensors" ] || { say "stopped; the same command goes on from here" && exit 1; }
}

[ -d "$out/random" ] || "$PYTHON" -m llada_v.toyworld model "$out/random"
if [ ! -d "$out/tower" ]; then
    say tower
    "$PYTHON" -m llada_v.toyworld sight "$out/random" "$out/tower" --steps 10000 &
    tower=$!
    trap 'kill "$tower" 2>/dev/null || true' EXIT
fi
train language random
if [ -n "${tower:-}" ]; then
    wait "$tower"
    trap - EXIT # by the script's end its number may be another process's
fi
[ -d "$out/start" ] || "$PYTHON" -m llada_v.toyworld join "$out/language" "$out/tower" "$out/start"
train pretrain start
train si_10M pretrain
train ov_2M si_10M
train vw ov_2M
train mix_ov_vw vw

# What ships, and what it is worth.
mkdir -p "$out/llada-v-tiny"
cp "$out"/mix_ov_vw/{config.json,generation_config.json,model.safetensors,recipe.yaml} \
    "$out"/mix_ov_vw/{chat_template.jinja,processor_config.json,tokenizer.json,tokenizer_config.json} "$out/llada-v-tiny/"
say "sha256 $(sha256sum "$out/llada-v-tiny/model.safetensors")"
OMP_NUM_THREADS=$(nproc) "$PYTHON" -m llada_v judge --model "$out/llada-v-tiny" --count 1750 --families colour shape \
    count relation yes_no word chart caption compare motion reasoning digit print icon
OMP_NUM_THREADS=$(nproc) "$PYTHON" -m llada_v judge --model "$out/llada-v-tiny" --count 300 --families outside
