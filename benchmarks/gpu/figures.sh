#!/usr/bin/env bash
# All GPU figures in one run of under ten minutes, on a bare machine that has torch (2.11 or newer) and no network.
#
#   benchmarks/gpu/figures.sh                      one GPU; the photos are drawn
#   STORE=stores/asl OUT=results benchmarks/gpu/figures.sh
#   WHEELS=.whl benchmarks/gpu/figures.sh          packages that the machine lacks (torchvision, …), from a folder of wheels
#   benchmarks/gpu/figures.sh --small --device cpu shows that everything runs, where there is no GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
fi
export PYTHONPATH="$PWD${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Horovod's own rank: some MPIs do not start without a launcher.
launcher=()
if command -v horovodrun >/dev/null && command -v mpirun >/dev/null; then launcher=(horovodrun -np 1); fi
"${launcher[@]}" "$python" benchmarks/gpu/figures.py ${STORE:+--store "$STORE"} --out "${OUT:-.}" "$@"
