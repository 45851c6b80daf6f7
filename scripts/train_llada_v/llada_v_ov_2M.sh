#!/usr/bin/env bash
# Stage 2b: several pictures and videos (MAmmoTH-VL OV-2M), after stage 2a.
# bash scripts/train_llada_v/llada_v_ov_2M.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 8 8
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" ov_2M "$@"
