#!/usr/bin/env bash
# Train the tiny model from random weights: the tower's sight, single things, whole pictures, signs and charts, tower and
# projector alone, then questions: several at a time, one at a time, those that must be looked up, all of them.
# An interrupted run goes on where it was: each stage resumes from its newest checkpoint, finished ones are kept.
# To start again: rm -r exp/tiny
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

# One process a GPU; without a GPU one process a core, with one thread each, which is faster than one with all cores.
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then processes=1; else processes=2; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processes == 2 ? 1 : $(nproc)))}

train() { # stage, then options of the data it learns from; none where its recipe names another stage's data
    local stage=$1
    shift
    [ $# = 0 ] || [ -d "data/toyworld/$stage" ] || "$python" -m llada_v.toyworld data "data/toyworld/$stage" "$@"
    [ -f "exp/tiny/$stage/model.safetensors" ] ||
        "$python" -m torch.distributed.run --standalone --nproc-per-node "$processes" \
            -m llada_v train "scripts/recipes/tiny/$stage.yaml"
}

see() { # from, to, then options: the tower sees before it speaks, as SigLIP2 does; one thread a core
    local from=exp/tiny/$1 to=exp/tiny/$2
    shift 2
    [ -d "$to" ] || OMP_NUM_THREADS=$(nproc) "$python" -m llada_v.toyworld sight "$from" "$to" "$@"
}

[ -d exp/tiny/random ] || "$python" -m llada_v.toyworld model exp/tiny/random
see random glance --steps 1200
see glance sight --steps 2000 --seed 1
see sight reading --steps 3600 --seed 2
see reading order --steps 1600 --seed 3
train first_sight --style caption --count 6000 --kinds shapes --max-things 1
train captions --style caption --count 80000 --seed 1
train signs --style caption --count 24000 --kinds sign chart --seed 3
train pretrain --style caption --count 4000 --seed 2
train instruct --style instruct --count 60000 --max-turns 4
train polish
train single --style instruct --count 24000 --max-turns 1
train answers --style instruct --count 60000 --max-turns 4 --one-turn-each
train lookups --style instruct --count 20000 --max-turns 5 --one-turn-each --seed 5 --kinds shapes --max-things 3 \
    --families colour shape count relation yes_no
train mixed --style instruct --count 16000 --max-turns 4 --one-turn-each --seed 6

mkdir -p model/llada-v-tiny
files="config.json generation_config.json model.safetensors processor_config.json tokenizer.json tokenizer_config.json"
for file in $files recipe.yaml; do
    cp "exp/tiny/mixed/$file" model/llada-v-tiny/
done
OMP_NUM_THREADS=$(nproc) "$python" -m llada_v judge --model model/llada-v-tiny
