#!/usr/bin/env bash
# Stage 3a: reasoning (VisualWebInstruct), after stage 2b.
# bash scripts/train_llada_v/llada_v_vw.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 8 8
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" vw "$@"
