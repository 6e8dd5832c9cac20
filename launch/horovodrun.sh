#!/usr/bin/env bash
# Train under horovodrun: NP processes on HOSTS. horovodrun itself chooses MPI (built with both, it prefers it).
#
#   launch/horovodrun.sh --epochs 3                         one process per GPU or core of this machine
#   HOSTS=alpha:4,beta:4 INTERFACE=eth0 launch/horovodrun.sh        two machines: ssh without a password between them,
#                                                           and this checkout and its data at the same path on both
#   HOSTFILE=hosts.txt launch/horovodrun.sh                 the same from a file with lines such as `alpha slots=4`
#   HOROVODRUN="--gloo --verbose" launch/horovodrun.sh      more of horovodrun's own options
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need horovodrun "run \`make setup\` (it builds Horovod), or train without it: launch/torchrun.sh"

# shellcheck disable=SC2086  # HOROVODRUN is a list of options
without_tag horovodrun "${HOROVOD_HOSTS[@]}" ${HOROVODRUN:-} python "$ROOT/train.py" "$@"
