#!/usr/bin/env bash
# Stage 3b: with and without reasoning (the mixture of create_mix_data.py), after stage 3a.
# bash scripts/train_llada_v/llada_v_mix_ov_vw.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 8 8
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" mix_ov_vw "$@"
