#!/usr/bin/env bash
# The published model learns from your records: --data FILE --image_root FOLDER.
# bash scripts/llada_v_finetune.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 4 8
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" finetune "$@"
