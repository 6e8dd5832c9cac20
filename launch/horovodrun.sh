#!/usr/bin/env bash
# Train under horovodrun: NP processes on HOSTS. horovodrun itself chooses MPI (built with both, it prefers it).
#
#   launch/horovodrun.sh --epochs 3                         one process per GPU or core of this machine
#   NP=8 HOSTS=alpha:4,beta:4 launch/horovodrun.sh          two machines: ssh without a password between them, and
#                                                           this checkout and its data at the same path on both
#   HOROVODRUN="--gloo --network-interfaces eth0" launch/horovodrun.sh    more of horovodrun's own options
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need horovodrun "run \`make setup\` (it builds Horovod), or train without it: launch/torchrun.sh"

# shellcheck disable=SC2086  # HOROVODRUN is a list of options
exec horovodrun -np "$NP" -H "$HOSTS" ${HOROVODRUN:-} python "$ROOT/train.py" "$@"
