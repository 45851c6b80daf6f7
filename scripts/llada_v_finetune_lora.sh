#!/usr/bin/env bash
# The same on one card of 24 GB, with adapters: --data FILE --image_root FOLDER.
# bash scripts/llada_v_finetune_lora.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 1 1
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" finetune_lora "$@"
