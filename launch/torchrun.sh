#!/usr/bin/env bash
# Train under torchrun with torch's own DistributedDataParallel: NP processes on each machine. Needs no Horovod, no MPI.
#
#   launch/torchrun.sh --epochs 3
#   NP=4 NNODES=2 MASTER=alpha:29500 INTERFACE=eth0 launch/torchrun.sh      the same line on each of the two machines
#   TORCHRUN="--max-restarts 3" launch/torchrun.sh    more of torchrun's own options; with this one ranks that were lost are
#                                                     started again, and go on from the last checkpoint
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need torchrun "run \`make setup\`"

options=(--nproc-per-node "$NP")
if [ "${NNODES:-1}" = 1 ]; then
    options+=(--standalone --local-addr 127.0.0.1) # without the address it hangs where the host's name does not resolve
else
    : "${MASTER:?torchrun.sh: with NNODES=$NNODES name the meeting point too, as MASTER=host:port}"
    options+=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$MASTER" --rdzv-id "${JOB:-horovod_asl}")
    echo "torchrun.sh: meeting at $MASTER; training starts when all $NNODES hosts are there" # torchrun waits in silence
fi

# shellcheck disable=SC2086  # TORCHRUN is a list of options
stoppable torchrun "${options[@]}" ${TORCHRUN:-} "$ROOT/train.py" --backend ddp "$@"
