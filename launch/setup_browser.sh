#!/usr/bin/env bash
# Install Chromium, which the tests of the live page start, on Debian and Ubuntu. `make setup-browser` runs this;
# `make test` runs it first. Where it cannot be installed, those tests are skipped and say so: nothing else needs it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LOG=.setup-log-browser.txt
skip() { echo "set-up for browser tests: $1, so these tests are skipped (apt-get install chromium)"; exit; }
found() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null; }

if found; then echo "set-up for browser tests: ready"; exit; fi
command -v apt-get >/dev/null || skip "Chromium is missing, and this is no Debian or Ubuntu"
sudo=()
if [ "$(id -u)" != 0 ]; then
    sudo=(sudo)
    { command -v sudo && { [ -t 0 ] || sudo -n true; }; } >/dev/null 2>&1 ||
        skip "Chromium is missing, and this user is neither root nor can use sudo"
fi
echo "set-up for browser tests: installing chromium"
apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }
{ apt update && apt install -y --no-install-recommends chromium; } >"$LOG" 2>&1 ||
    skip "apt-get could not install Chromium (log: $PWD/$LOG)"
found || skip "the package has no program of that name"
echo "set-up for browser tests: installed in $SECONDS s"
