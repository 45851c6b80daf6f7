#!/usr/bin/env bash
# Proves that every extra installs on four platforms and three Pythons with the versions of constraints.txt: uv resolves it
# there from wheels alone, as `pip download --platform ... --only-binary :all:` would, but with the markers of that platform.
# Only metadata is fetched. The packages in `sources` have no wheel for any platform: pip builds them, of Python alone
# (DeepSpeed, for Linux only, compiles its kernels when they are used). mahotas, which brings two photographs, has no wheel
# for Linux on ARM: pip compiles it there, with the C++ compiler that torch.compile needs too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

sources=(antlr4-python3-runtime deepspeed font-roboto transformers-stream-generator zss)
uv=${UV:-.venv/bin/uv}
torch=$(sed -n 's/^# torch==/torch==/p' constraints.txt)
export MACOSX_DEPLOYMENT_TARGET=14.0 # the oldest macOS that torch has wheels for
found=$(mktemp)
trap 'rm "$found"' EXIT

for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin x86_64-pc-windows-msvc; do
    built=("${sources[@]}")
    if [ "$platform" = aarch64-manylinux_2_28 ]; then built+=(mahotas); fi
    for python in 3.11 3.12 3.13; do
        for extra in video train eval quantize structured serve browser cluster world docs dev; do
            "$uv" pip compile pyproject.toml --extra "$extra" --python-platform "$platform" --python-version "$python" \
                --only-binary :all: "${built[@]/#/--no-binary=}" --prerelease if-necessary \
                --constraints constraints.txt --constraints <(echo "$torch") --quiet --no-header --no-annotate >"$found"
            echo "$platform, Python $python, $extra: $(grep -c == "$found") packages" \
                "$(grep -oE '^(decord|av)==[0-9.]+' "$found" | paste -sd ' ')"
        done
    done
done
