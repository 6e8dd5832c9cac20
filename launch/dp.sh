#!/usr/bin/env bash
# Train in one process that feeds all GPUs of this machine (torch's DataParallel): no launcher at all.
#
#   launch/dp.sh --epochs 3
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

exec python "$ROOT/train.py" --backend dp "$@"
