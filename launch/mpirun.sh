#!/usr/bin/env bash
# Train under Open MPI's mpirun: NP processes on HOSTS. Under SLURM, mpirun takes its hosts from the allocation.
#
#   launch/mpirun.sh --epochs 3
#   HOSTS=alpha:4,beta:4 INTERFACE=eth0 launch/mpirun.sh         two machines, joined by their eth0: see horovodrun.sh
#   HOSTFILE=hosts.txt launch/mpirun.sh                          the same from a file with lines such as `alpha slots=4`
#   MPIRUN="--report-bindings" launch/mpirun.sh                  more of mpirun's own options
#
# --bind-to none: mpirun would pin each rank to one core, and a rank computes with several threads.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need mpirun "run \`make setup\`, or: apt-get install openmpi-bin"

options=(-np "$NP" --bind-to none --map-by slot -x PATH)
if [ -n "${HOSTFILE:-}" ]; then options+=(--hostfile "$HOSTFILE")
elif [ -z "${SLURM_JOB_ID:-}" ]; then options+=(-H "$HOSTS"); fi
if [ -n "${INTERFACE:-}" ]; then options+=(-x NCCL_SOCKET_IFNAME); fi # its own settings mpirun passes on
if [ "$(id -u)" = 0 ]; then options+=(--allow-run-as-root); fi
# In a container ranks may not read each other's memory: Open MPI's copy in one step fails there.
if [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then options+=(--mca btl_vader_single_copy_mechanism none); fi

# shellcheck disable=SC2086  # MPIRUN is a list of options
exec mpirun "${options[@]}" ${MPIRUN:-} python "$ROOT/train.py" "$@"
