#!/usr/bin/env bash
# Install what the launch tests start for real, on Debian and Ubuntu: SLURM and munge, sshd, ip netns, buildah.
# `make setup-launch` runs this; `make test-launch` runs it first. It starts no service, now or at the next boot.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin:/sbin # where daemons lie, also for an ordinary user

LOG=.setup-log-launch.txt
# program:package that brings it
WANTED="slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge sshd:openssh-server ssh:openssh-client ip:iproute2 buildah:buildah debootstrap:debootstrap"
POLICY=/usr/sbin/policy-rc.d

die() { printf 'set-up for launch tests failed: %s\n' "$@" >&2; exit 1; }

missing() { for pair in $WANTED; do command -v "${pair%:*}" >/dev/null || echo "${pair#*:}"; done; }

# What a package would start, here with names: invoke-rc.d and deb-systemd-invoke ask this file, and 101 means no.
forbid_services() {
    [ ! -e $POLICY ] || return 0 # an administrator's own stays as it is
    trap '"${sudo[@]}" rm -f $POLICY' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $POLICY >/dev/null
    "${sudo[@]}" chmod 755 $POLICY
}

units() { ls /lib/systemd/system 2>/dev/null | grep -xE '(ssh|munge|slurmd|slurmctld)\.service' || true; }

packages=$(missing | xargs)
if [ -z "$packages" ]; then echo "set-up for launch tests: ready"; exit; fi
command -v apt-get >/dev/null || die "these are missing: $packages" "This is no Debian or Ubuntu: install them with your system's own tool."
sudo=()
if [ "$(id -u)" != 0 ]; then
    sudo=(sudo)
    { command -v sudo && { [ -t 0 ] || sudo -n true; }; } >/dev/null 2>&1 ||
        die "this user is neither root nor can use sudo" "Ask an administrator to run: apt-get install $packages"
fi
echo "set-up for launch tests: installing $packages"
before=$(units)
forbid_services
apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }
# shellcheck disable=SC2086  # a list
{ apt update && apt install -y --no-install-recommends $packages; } >"$LOG" 2>&1 ||
    { tail -n 15 "$LOG" | sed 's/^/    | /' >&2; die "apt-get could not install $packages (log: $PWD/$LOG)"; }
if command -v systemctl >/dev/null; then
    for unit in $(comm -13 <(echo "$before") <(units)); do "${sudo[@]}" systemctl disable "$unit" >>"$LOG" 2>&1 || true; done
fi
[ -z "$(missing)" ] || die "still missing after the installation: $(missing | xargs)"
echo "set-up for launch tests: installed in $SECONDS s"
