#!/usr/bin/env bash
# The tests of seconds; `make test` runs this. With arguments, pytest gets them; without, all tests run: first those of
# one process, a file at a time on each core, then those that start ranks, which need the cores for themselves.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests() { .venv/bin/python -m pytest -m "not long and not launch" "$@"; }

if [ $# -gt 0 ]; then
    tests "$@"
    exit
fi
OMP_NUM_THREADS=1 tests --numprocesses logical --maxprocesses 4 --dist loadfile tests/single
single=$?
tests tests/parallel tests/integration
exit $((single | $?))
