#!/usr/bin/env bash
# Makes .venv and installs the project into it:
#   bash init_env.sh [--latest] [train|video|eval|quantize|structured|serve|browser|cluster|world|docs|dev|flash-attn|all ...]
#
# Without extras: what answering questions needs. `dev` is everything that tests and checks need, `all` the same; neither
# has flash-attn, which needs a CUDA compiler. Extras add up over calls. Nothing is done where all is there already.
# Versions are those of constraints.txt, which CI tests; --latest takes the newest that pyproject.toml allows.
# A torch that is in .venv already stays. PYTHON=python3.12 picks the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
stamp=$venv/llada-v.stamp # line 1: checksum of what was asked for; then one installed extra a line
torch=$(sed -n 's/^# torch==//p' constraints.txt)
torch_cpu_index=https://download.pytorch.org/whl/cpu
oldest=3.11 newest=3.13 # of Python; constraints.txt fits these

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

extras=()
latest=false
for extra in "$@"; do
    case $extra in
        --latest) latest=true ;;
        all | dev) extras+=(train video eval quantize structured serve world docs dev) ;;
        train | video | eval | quantize | structured | serve | browser | cluster | world | docs | flash-attn) extras+=("$extra") ;;
        *) fail "unknown extra '$extra'; choose from train, video, eval, quantize, structured, serve, browser, cluster, world, docs, dev, flash-attn, all" 2 ;;
    esac
done

checksum="$(cat pyproject.toml constraints.txt | cksum) $latest"
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

# The version of a Python, "3.12"; nothing where there is none.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

# Whether a version lies from $2 to $3; nothing lies nowhere.
lies_within() { [ -n "$1" ] && [ "$(printf '%s\n' "$2" "$1" "$3" | sort -V | sed -n 2p)" = "$1" ]; }

last=$newest wanted_python="Python $oldest to $newest" or_latest=" (--latest leaves the tested versions)"
if $latest; then last=3.999 wanted_python="Python $oldest or newer" or_latest=; fi
if [ -e "$venv" ]; then
    found=$(version_of "$venv/bin/python")
    lies_within "$found" "$oldest" "$last" || fail "$venv has Python ${found:-(none that starts)}, but this needs $wanted_python; \
remove $venv and run this again; PYTHON=/path/to/python names another$or_latest"
else
    candidates=(python3 python3.13 python3.12 python3.11)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    python=
    for candidate in "${candidates[@]}"; do
        found=$(version_of "$candidate")
        if lies_within "$found" "$oldest" "$last"; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "$candidate is ${found:-not there}, but this needs $wanted_python; \
name one: PYTHON=/path/to/python bash init_env.sh$or_latest"
    echo "Creating $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
constraints=(-c constraints.txt)
if $latest; then constraints=(--upgrade); fi

# A plain `pip install torch` on Linux brings several GB of CUDA, so a machine without a GPU gets the CPU build first.
# Only PyTorch's own index has it; --no-deps asks that index one question and takes everything else from yours.
has_gpu=false
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then has_gpu=true; fi
torch_there() { "$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true; }
if ! $has_gpu && [ "$(uname -s)" = Linux ] && [ -z "$(torch_there)" ]; then
    cpu_build=(--extra-index-url "$torch_cpu_index" "torch==$torch+cpu")
    if $latest; then cpu_build=(--index-url "$torch_cpu_index" torch); fi
    echo "No GPU: installing ${cpu_build[-1]} for the CPU"
    "${pip[@]}" install --no-deps --timeout 15 --retries 1 "${cpu_build[@]}" 2>/dev/null ||
        echo "No CPU build of torch for this Python in $torch_cpu_index or your own index: taking the one with CUDA (3 GB)"
fi

wanted=$(printf '%s\n' ${installed[@]+"${installed[@]}"} ${extras[@]+"${extras[@]}"} | sed '/^$/d' | sort -u)
list=$(echo "$wanted" | paste -sd , -)
# The torch that is there stays: torchvision of lmms-eval would replace it by its own favourite, built for CUDA.
there=$(torch_there)
torch_wanted=()
if [ -n "$there" ]; then torch_wanted=("torch==$there"); elif ! $latest; then torch_wanted=("torch==$torch"); fi
echo "Installing llada-v${list:+[$list]}"
rm -f "$stamp"
"${pip[@]}" install "${constraints[@]}" -e ".${list:+[$list]}" ${torch_wanted[@]+"${torch_wanted[@]}"} || {
    machine="$(uname -sm), Python $(version_of "$venv/bin/python")${there:+, torch $there}"
    if $latest; then fail "pip found no set of versions for this machine ($machine); see above"; fi
    fail "the tested versions (constraints.txt) do not fit this machine ($machine), see above; \
'bash init_env.sh --latest $*' takes the newest that are allowed"
}

# lmms-eval brings torchvision built for CUDA. Beside a CPU torch its import fails (torchvision::nms does not exist) and
# takes transformers' image processors with it; without torchvision both work with Pillow.
if ! $has_gpu && ! "$venv/bin/python" -c 'import importlib.util as u; u.find_spec("torchvision") and __import__("torchvision")' 2>/dev/null; then
    "${pip[@]}" uninstall --yes torchvision
fi
if $has_gpu; then
    "$venv/bin/python" - <<'PY'
import sys
import torch
if torch.version.cuda is None:
    print(f"warning: this machine has a GPU, but torch {torch.__version__} is built without CUDA; for the GPU: "
          f"{sys.executable} -m pip install --force-reinstall torch=={torch.__version__.split('+')[0]}", file=sys.stderr)
elif not torch.cuda.is_available():
    print(f"warning: torch {torch.__version__} cannot use this machine's GPU: the driver is too old for CUDA "
          f"{torch.version.cuda}; update it, or install a torch for an older CUDA", file=sys.stderr)
PY
fi

printf '%s\n' "$checksum" ${wanted:+"$wanted"} >"$stamp"
echo "Ready: source $venv/bin/activate"
