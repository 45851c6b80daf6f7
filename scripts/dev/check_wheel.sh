#!/usr/bin/env bash
# Builds the wheel, installs it into a new environment of Python 3.12 (PYTHON=...) with the tested versions, and runs every
# verb once in an empty folder, far from the repository: bash scripts/dev/check_wheel.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

most=24 # MB that the wheel may have
uv=$(realpath "$(command -v "${UV:-.venv/bin/uv}")")
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
source scripts/dev/interpreter.sh "${PYTHON:-3.12}"

"$uv" build --quiet --out-dir "$home/dist"
wheel=$(echo "$home"/dist/*.whl)
size=$(($(wc -c <"$wheel") / 1000000))
[ "$size" -le "$most" ] || {
    echo "error: the wheel has $size MB; at most $most are allowed" >&2
    exit 1
}
torch=$(sed -n 's/^# torch==/torch==/p' constraints.txt)
"$uv" venv --quiet --python "$interpreter" "$home/env"
"$uv" pip install --quiet --python "$home/env/bin/python" "${torch_options[@]}" \
    -c constraints.txt "$wheel[train,eval,world,serve]" "$torch"

mkdir "$home/elsewhere"
cd "$home/elsewhere"
PATH=$home/env/bin:$PATH
export CI=true HF_HUB_OFFLINE=1
unset PYTHONPATH

# step WHAT COMMAND ...: runs it; its output is shown if it fails.
step() {
    local what=$1 start=$SECONDS
    shift
    "$@" >log.txt 2>&1 || {
        cat log.txt
        echo "error: $what failed: $*" >&2
        exit 1
    }
    echo "$what: $((SECONDS - start)) s"
}

small=(--output out --data toys/records.json --image_root toys --global_batch_size 4 --micro_batch_size 2 --bf16 false
    --group_by_length false --in_order false --workers 0 --max_steps 2)
shipped=$(python -c 'from llada_v.shipped import shipped; print(shipped("model/llada-v-tiny"))')

step "version" python -c 'import llada_v; print(llada_v.__version__)'
step "help" llada-v --help
step "generate" llada-v generate
echo '{records: 12, seed: 1, parts: [{style: instruct, share: 1, max_turns: 2}]}' >course.yaml
step "toyworld" llada-v toyworld data toys course.yaml
picture=$(find toys -name '*.png' | sort | head -1)
step "generate of a picture" llada-v generate --image "$picture" --question "What is it?" --model "$shipped"
step "chat" bash -c 'echo "What is it?" | llada-v chat --image "$0"' "$picture"
serve() { # a question over HTTP, the page, and a stop that is asked for
    llada-v serve --port 8917 &
    local server=$!
    until curl --silent --fail http://127.0.0.1:8917/ready; do kill -0 "$server" && sleep 0.5; done
    curl --silent --fail http://127.0.0.1:8917/ | grep --quiet LLaDA-V
    curl --silent --fail http://127.0.0.1:8917/v1/chat/completions --json \
        '{"messages": [{"role": "user", "content": "Hello"}]}' | grep --quiet '"finish_reason"'
    kill "$server"
    wait "$server"
}
step "serve" serve
step "judge" llada-v judge --count 16
step "bench" llada-v bench --count 2 --rounds 1 --setting "kept: cache=prompt"
echo '[{"image": "'"$picture"'", "question": "Is there a star?", "answer": "no"}]' >asked.json
step "tune" llada-v tune asked.json --setting "fast: rule=factor"
step "train NAME --dry-run" llada-v train pretrain --dry-run
step "budget" llada-v budget si_10M --gpus 8
step "data check" llada-v data check tiny/si_10M "${small[@]:2:4}" --model "$shipped"
step "train" llada-v train tiny/si_10M "${small[@]}" --model "$shipped"
step "runs" llada-v runs out
step "train an adapter" llada-v train tiny/finetune_lora "${small[@]}" --model "$shipped" --output adapter
step "merge-lora" llada-v merge-lora adapter merged
step "average" llada-v average mean "$shipped" merged
refused() { # a published folder is not at hand: what is none has to be told apart, with status 2
    llada-v convert "$shipped" converted || [ $? = 2 ]
}
step "convert" refused
step "data mix" llada-v data mix --normal_data toys/records.json --inference_data toys/records.json --output_path mixed.json
step "evaluate" llada-v evaluate --tasks toyworld --questions 2
step "lmms-eval" python -P -m lmms_eval --model llada_v --model_args "pretrained=$shipped" --tasks toyworld_short_answer \
    --include_path "$PWD/exp/eval/toyworld-tasks" --limit 2
echo "$(basename "$wheel"), $size MB, on $(python --version): every verb runs"
