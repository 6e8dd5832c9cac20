#!/usr/bin/env bash
# Build Horovod's release as a wheel, once, and keep it. Prints the wheel's path; all else goes to stderr.
#
#   launch/build_horovod.sh           the wheel for this machine: from the cache, or built now
#   launch/build_horovod.sh --key     the name under which the cache keeps it
#   launch/build_horovod.sh --check   only say what is missing for the build (exit code 3 if something is)
#   launch/build_horovod.sh --cached  exit code 0 if the cache has the wheel
#
# PYTHON=…                   the Python to build for (default .venv/bin/python); it needs torch, setuptools, wheel
# HOROVOD_GPU_OPERATIONS=…   NCCL or MPI, as in Horovod's own documentation, or cpu; chosen here if unset
# HOROVOD_CUDA_HOME=…        the CUDA toolkit, and no other (default: the PATH's nvcc, $CUDA_HOME, /usr/local/cuda)
# HOROVOD_NCCL_HOME=…        NCCL (default: the one that torch brought, so that a process holds one NCCL)
# XDG_CACHE_HOME=…           the cache is $XDG_CACHE_HOME/horovod_asl/wheels (default ~/.cache/…)
#
# Horovod 0.28.1 is of June 2023. What is changed in its sources, and why, stands in patch_sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=0.28.1
SHA256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/horovod_asl/wheels

say() { printf '%s\n' "$*" >&2; }
die() { say "build_horovod: $*"; exit 1; }

# ---- what is here -------------------------------------------------------------------------------------------

# "2.13.0+cpu none cp311 /usr/include/python3.11": torch, the CUDA release that it was built for, the Python tag and headers.
torch_facts() {
    "$PYTHON" -c 'import sys, sysconfig, torch
print(torch.__version__, torch.version.cuda or "none", "cp%d%d" % sys.version_info[:2], sysconfig.get_path("include"))' 2>/dev/null ||
        die "$PYTHON cannot import torch; \`make setup\` installs it before Horovod."
}

has_gpu() { [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; }

# "OpenMPI-4.1.4", "HYDRA-4.0.2": the first line of mpirun --version, without what cannot be in a file's name.
mpi_version() {
    mpirun --version 2>/dev/null | sed -n '1s/^mpirun (Open MPI) /OpenMPI-/;1s/[^A-Za-z0-9.-]//g;1p'
}

# NCCL where torch has CUDA and the machine has a GPU; cpu otherwise, also for a CUDA torch on a machine without one.
operations() {
    if [ -n "${HOROVOD_GPU_OPERATIONS:-}" ]; then echo "$HOROVOD_GPU_OPERATIONS"
    elif [ "$CUDA" != none ] && has_gpu; then echo NCCL
    else echo cpu; fi
}

# The folder that holds bin/nvcc and include/cuda_runtime.h; an nvcc on the PATH may be a wrapper in another folder.
cuda_home() {
    local nvcc
    nvcc=$(readlink -f "$(command -v nvcc || true)" || true)
    for home in ${HOROVOD_CUDA_HOME:-"${nvcc%/bin/nvcc}" "${CUDA_HOME:-}" /usr/local/cuda}; do
        if [ -x "$home/bin/nvcc" ] && [ -e "$home/include/cuda_runtime.h" ]; then echo "$home"; return; fi
    done
}

# The folder that holds include/nccl.h: HOROVOD_NCCL_HOME, torch's own NCCL, the toolkit's, the system's.
nccl_home() {
    local torchs
    torchs=$("$PYTHON" -c 'import importlib.util as u
print(*(u.find_spec("nvidia.nccl") or 1).submodule_search_locations)' 2>/dev/null || true)
    for home in ${HOROVOD_NCCL_HOME:-"$torchs" "$(cuda_home)" /usr}; do
        if [ -n "$home" ] && [ -e "$home/include/nccl.h" ]; then echo "$home"; return; fi
    done
}

nvcc_release() { "$(cuda_home)/bin/nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1.\2/p'; }

# One line for each thing that the build needs and does not find.
missing() {
    command -v cmake >/dev/null || echo "cmake (apt-get install cmake)"
    command -v g++ >/dev/null || echo "a C++ compiler (apt-get install build-essential)"
    command -v mpicxx >/dev/null || echo "Open MPI's headers (apt-get install openmpi-bin libopenmpi-dev)"
    [ -e "$PYTHON_INCLUDE/Python.h" ] || echo "Python's headers (apt-get install python3-dev, or python3.11-dev)"
    [ "$OPERATIONS" != cpu ] || return 0
    if [ "$CUDA" = none ]; then
        echo "a torch with CUDA: torch $TORCH is a CPU build (TORCH_INDEX_URL names another index)"
    elif [ -z "$(cuda_home)" ]; then
        echo "the CUDA $CUDA toolkit (bin/nvcc and include/cuda_runtime.h):" \
            "not in ${HOROVOD_CUDA_HOME:-the folder of nvcc, in CUDA_HOME or in /usr/local/cuda}"
    elif [ "$(nvcc_release | cut -d. -f1)" != "${CUDA%%.*}" ]; then
        echo "a CUDA ${CUDA%%.*} toolkit: torch $TORCH is built for CUDA $CUDA, $(cuda_home) is $(nvcc_release)"
    fi
    if [ "$OPERATIONS" = NCCL ] && [ -z "$(nccl_home)" ]; then
        echo "NCCL's header (nccl.h): apt-get install libnccl-dev, or set HOROVOD_NCCL_HOME"
    fi
}

# All that changes the binary is in the name; so is a digest of the patches and the build's settings.
cache_key() {
    local flavour=$OPERATIONS digest
    [ "$flavour" = cpu ] || flavour=$flavour-cuda$CUDA
    digest=$(declare -f patch_sources compile_wheel gpu_environment link_nccl | sha256sum)
    echo "horovod-$VERSION,torch-$TORCH,$TAG,$(mpi_version),$flavour,$(uname -m),$(getconf GNU_LIBC_VERSION | tr ' ' -),${digest:0:12}"
}

# ---- the build ----------------------------------------------------------------------------------------------

fetch_sources() {
    "$PYTHON" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$1" "horovod==$VERSION"
    echo "$SHA256  $1/horovod-$VERSION.tar.gz" | sha256sum --check --quiet ||
        die "the source archive of Horovod $VERSION is not the one that was tested (SHA-256 differs)"
    tar -xzf "$1/horovod-$VERSION.tar.gz" -C "$1" --no-same-owner
}

# Each line replaces a text that must be there, so a patch that no longer fits fails here and not at run time.
patch_sources() {
    replace() { grep -qF "$2" "$1" || die "patch does not fit: '$2' is not in $1"; sed -i "s|$2|$3|" "$1"; }
    # torch's headers are C++20 by now; Horovod asks for C++14 (its CUDA kernels for C++11, which CUDA 13 has dropped).
    replace CMakeLists.txt 'set(CMAKE_CXX_STANDARD 14)' 'set(CMAKE_CXX_STANDARD 20)'
    replace horovod/torch/CMakeLists.txt 'set(CMAKE_CXX_STANDARD 14)' 'set(CMAKE_CXX_STANDARD 20)'
    replace horovod/common/ops/cuda/CMakeLists.txt 'set(CMAKE_CUDA_STANDARD 11)' 'set(CMAKE_CUDA_STANDARD 17)'
    # GCC 13 (Ubuntu 24.04) no longer brings <string> along with <queue>.
    replace horovod/common/group_table.h '#include <queue>' '#include <queue>\n#include <string>'
    # A CUDA torch makes Horovod look for the CUDA toolkit, GPU operations asked for or not. Not on a machine without GPU.
    if [ "$OPERATIONS" = cpu ]; then
        replace cmake/Modules/FindPytorch.cmake 'string(TOUPPER "${Pytorch_CUDA}" Pytorch_CUDA)' 'set(Pytorch_CUDA FALSE)'
    fi
}

# As many compilers as cores, but no more than one per 2 GB of memory.
jobs() {
    awk -v cores="$(nproc)" '/^MemTotal/ { n = int($2 / 2e6); print n < 1 ? 1 : n < cores ? n : cores }' /proc/meminfo
}

# torch's NCCL package has libnccl.so.2 alone: give the linker the name that it looks for.
link_nccl() {
    local home=$1 folder=$2
    mkdir -p "$folder/lib"
    ln -s "$home/include" "$folder/include"
    ln -s "$(find "$home/lib" "$home/lib64" -name 'libnccl.so.2' 2>/dev/null | head -1)" "$folder/lib/libnccl.so"
}

gpu_environment() {
    local home
    export HOROVOD_GPU_OPERATIONS=$OPERATIONS HOROVOD_CUDA_HOME
    HOROVOD_CUDA_HOME=$(cuda_home)
    export PATH=$HOROVOD_CUDA_HOME/bin:$PATH
    home=$(nccl_home)
    export HOROVOD_NCCL_HOME=$home
    if [ -e "$home/lib/libnccl.so.2" ] && [ ! -e "$home/lib/libnccl.so" ]; then
        link_nccl "$home" "$1/nccl"
        export HOROVOD_NCCL_HOME=$1/nccl HOROVOD_NCCL_LINK=shared
    fi
}

compile_wheel() {
    export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
    export HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1
    export MAKEFLAGS=-j$(jobs) CMAKE_POLICY_VERSION_MINIMUM=3.5 # CMake 4 refuses Gloo's "2.8.12" without it
    if [ "$OPERATIONS" = cpu ]; then unset HOROVOD_GPU_OPERATIONS; else gpu_environment "$1"; fi
    nice "$PYTHON" -m pip wheel --no-build-isolation --no-deps --wheel-dir "$1/wheel" --verbose "$1/horovod-$VERSION"
}

build() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/horovod-build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    fetch_sources "$work" >&2
    (cd "$work/horovod-$VERSION" && patch_sources)
    compile_wheel "$work" >&2 || die "Horovod did not compile; the compiler's message is above"
    # Into place in one move: a build that is interrupted leaves nothing that looks like a wheel.
    mkdir -p "$CACHE"
    local staging
    staging=$(mktemp -d "$CACHE/.staging.XXXXXX")
    chmod 755 "$staging"
    cp "$work"/wheel/horovod-*.whl "$staging/"
    mv -T "$staging" "$CACHE/$KEY" 2>/dev/null || rm -rf "$staging" # another set-up was first: its wheel is as good
}

FACTS=$(torch_facts)
read -r TORCH CUDA TAG PYTHON_INCLUDE <<<"$FACTS"
OPERATIONS=$(operations)
KEY=$(cache_key)
if [ "${1:-}" = --key ]; then echo "$KEY"; exit; fi
MISSING=$(missing)
if [ -n "$MISSING" ]; then
    say "Horovod $VERSION cannot be built for torch $TORCH ($OPERATIONS) here. Missing:"
    say "$(sed 's/^/  - /' <<<"$MISSING")"
    exit 3
fi
if [ "${1:-}" = --check ]; then exit; fi
is_cached() { compgen -G "$CACHE/$KEY/horovod-*.whl" >/dev/null; }
if [ "${1:-}" = --cached ]; then is_cached; exit; fi
is_cached || build
ls "$CACHE/$KEY"/horovod-*.whl
