#!/usr/bin/env bash
# Stage 2a: everything learns from single pictures (MAmmoTH-VL SI-10M), after stage 1.
# bash scripts/train_llada_v/llada_v_si_10M.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 8 8
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" si_10M "$@"
