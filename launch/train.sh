#!/usr/bin/env bash
# What `make train` runs: horovodrun where Horovod is installed; else torchrun on several GPUs; else one process.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if command -v horovodrun >/dev/null; then
    echo "train: horovodrun, $NP process(es) on ${HOSTFILE:-$HOSTS}"
    exec "$ROOT/launch/horovodrun.sh" "$@"
elif [ "$(count_gpus)" -gt 1 ]; then
    echo "train: Horovod is not installed: torchrun, $NP process(es), DistributedDataParallel"
    exec "$ROOT/launch/torchrun.sh" "$@"
else
    echo "train: Horovod is not installed: one process"
    exec python "$ROOT/train.py" "$@"
fi
