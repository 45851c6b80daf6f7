#!/usr/bin/env bash
# Makes .venv and installs the project into it: bash init_env.sh [train|video|eval|dev|flash-attn|quantize|world|all ...]
#
# Without arguments: what answering questions needs. `all` is everything but flash-attn, which needs a CUDA compiler,
# and quantize (torchao), which says on stderr which of its GPU kernels it cannot load.
# Extras add up over calls. Nothing is done where everything is there already. PYTHON=python3.12 picks the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
stamp=$venv/llada-v.stamp # line 1: checksum of pyproject.toml; then one installed extra a line
torch_cpu=torch==2.13.0+cpu
torch_cpu_index=https://download.pytorch.org/whl/cpu

extras=()
for extra in "$@"; do
    case $extra in
        all) extras+=(train video eval world dev) ;;
        train | video | eval | dev | flash-attn | quantize | world) extras+=("$extra") ;;
        *)
            echo "error: unknown extra '$extra'; choose from train, video, eval, dev, flash-attn, quantize, world, all" >&2
            exit 2
            ;;
    esac
done

checksum=$(cksum <pyproject.toml)
installed=()
if [ -f "$stamp" ]; then
    while read -r line; do installed+=("$line"); done < <(tail -n +2 "$stamp")
fi

is_ready() {
    [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$checksum" ] || return 1
    local extra
    for extra in ${extras[@]+"${extras[@]}"}; do
        [[ " ${installed[*]-} " == *" $extra "* ]] || return 1
    done
    # -P: found because it is installed, not because this is the current folder. A moved clone is installed again.
    "$venv/bin/python" -P - "$PWD" <<'PY'
import importlib.util, pathlib, sys
torch, llada_v = (importlib.util.find_spec(name) for name in ("torch", "llada_v"))
here = pathlib.Path(sys.argv[1], "llada_v").resolve()
sys.exit(not (torch and llada_v and pathlib.Path(llada_v.origin).resolve().parent == here))
PY
}
is_ready && exit 0

if [ ! -x "$venv/bin/python" ]; then
    python=
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "error: found no Python of at least 3.11; install one, or name it: PYTHON=/path/to/python bash init_env.sh" >&2
        exit 1
    fi
    echo "Creating $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)

# A plain `pip install torch` on Linux brings several GB of CUDA, so a machine without a GPU gets the CPU build first.
# Only PyTorch's own index has it; --no-deps asks that index one question and takes everything else from yours.
has_gpu=false
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then has_gpu=true; fi
if ! $has_gpu && [ "$(uname -s)" = Linux ] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    echo "No GPU: installing $torch_cpu"
    if ! "${pip[@]}" install --no-deps --timeout 15 --retries 1 --extra-index-url "$torch_cpu_index" "$torch_cpu"; then
        echo "error: found no $torch_cpu (looked in $torch_cpu_index and your own index); install a CPU build of torch" \
            "into $venv yourself, then run this again" >&2
        exit 1
    fi
fi

wanted=$(printf '%s\n' ${installed[@]+"${installed[@]}"} ${extras[@]+"${extras[@]}"} | sed '/^$/d' | sort -u)
list=$(echo "$wanted" | paste -sd , -)
# The torch that is there stays: torchvision of lmms-eval would replace it by its own favourite, built for CUDA.
torch=$("$venv/bin/python" -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' 2>/dev/null || true)
echo "Installing llada-v${list:+[$list]}"
rm -f "$stamp"
"${pip[@]}" install -e ".${list:+[$list]}" $torch

# lmms-eval brings torchvision built for CUDA. Beside a CPU torch its import fails (torchvision::nms does not exist) and
# takes transformers' image processors with it; without torchvision both work with Pillow.
if ! $has_gpu && ! "$venv/bin/python" -c 'import importlib.util as u; u.find_spec("torchvision") and __import__("torchvision")' 2>/dev/null; then
    "${pip[@]}" uninstall --yes torchvision
fi

printf '%s\n' "$checksum" ${wanted:+"$wanted"} >"$stamp"
echo "Ready: source $venv/bin/activate"
