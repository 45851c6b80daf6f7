#!/usr/bin/env bash
# Stage 1: the projector learns captions (LLaVA-Pretrain, 558K).
# bash scripts/llada_v_pretrain.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 1 4
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" pretrain "$@"
