#!/usr/bin/env bash
# Train under horovodrun with ranks that may come and go. HOSTFILE lists hosts as `alpha:4`; it is read again every
# second, so editing it adds and removes hosts. A rank that is lost costs the steps since the last commit.
#
#   HOSTFILE=hosts.txt INTERFACE=eth0 launch/elastic.sh --epochs 30 --commit-every-steps 20
#   NP=4 MIN_NP=2 MAX_NP=16 HOSTFILE=hosts.txt INTERFACE=eth0 launch/elastic.sh
#   DISCOVERY=./my_hosts.sh INTERFACE=eth0 launch/elastic.sh       a command that prints the hosts, in place of HOSTFILE
#
# INTERFACE must be named (lo on one machine): without it horovodrun waits for a second host to find a common one.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need horovodrun "run \`make setup\` (it builds Horovod)"
: "${INTERFACE:?elastic.sh: name the network between the hosts, as INTERFACE=eth0 (lo on one machine)}"
if [ -z "${DISCOVERY:-}" ]; then
    : "${HOSTFILE:?elastic.sh: name the hosts, as HOSTFILE=hosts.txt with lines such as alpha:4}"
    DISCOVERY="cat $HOSTFILE"
fi

options=(-np "$NP" --min-np "${MIN_NP:-1}" --max-np "${MAX_NP:-1024}" --network-interfaces "$INTERFACE")

# shellcheck disable=SC2086  # HOROVODRUN is a list of options
exec horovodrun "${options[@]}" --host-discovery-script "$DISCOVERY" ${HOROVODRUN:-} python "$ROOT/train.py" "$@"
