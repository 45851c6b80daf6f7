#!/usr/bin/env bash
# Ablation: everything learns from LLaVA-NeXT, after stage 1.
# bash scripts/train_ablation/llada_v_sft.sh [NUM_NODES GPUS_PER_NODE] [--key value ...]; published with 4 8
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" sft "$@"
