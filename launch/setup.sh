#!/usr/bin/env bash
# Install what is missing, on Debian and Ubuntu; when nothing is, answer at once. `make setup` runs this, and so do
# `make train` and `make test`. The steps, in order: see the last lines.
#
# PYTHON=python3.12               the Python for .venv (default: python3.11, the one that was tested, else a newer one)
# TORCH_INDEX_URL=…               the one package index for torch and torchvision (default: pip's own; on Linux without
#                                 an NVIDIA GPU also PyTorch's index of CPU builds, where it can be reached)
# HOROVOD_ASL_WITHOUT_HOROVOD=1   leave Horovod and MPI out: the backends serial, dp and ddp need neither
# HOROVOD_ASL_WITHOUT_HANDS=1     leave MediaPipe out: `prepare` finds hands by it, the bundled model and `live` need it
# HOROVOD_ASL_WITHOUT_DEV=1       leave out what the tests and the linters need
# HOROVOD_GPU_OPERATIONS=… etc.   see launch/build_horovod.sh
# pip's own settings (PIP_…, pip.conf) hold here too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LOG=.setup-log.txt
VENV=.venv
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
WITHOUT=${HOROVOD_ASL_WITHOUT_HOROVOD:-}
[ "$WITHOUT" != 0 ] || WITHOUT=
WITHOUT_DEV=${HOROVOD_ASL_WITHOUT_DEV:-}
[ "$WITHOUT_DEV" != 0 ] || WITHOUT_DEV=
WITHOUT_HANDS=${HOROVOD_ASL_WITHOUT_HANDS:-}
[ "$WITHOUT_HANDS" != 0 ] || WITHOUT_HANDS=

# ---- talking ------------------------------------------------------------------------------------------------

say() { printf 'set-up: %s\n' "$*"; printf '### %s\n' "$*" >>"$LOG"; }

die() {
    printf 'set-up failed: %s\n' "$1" >&2
    shift
    [ $# = 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

# logged WHAT COMMAND…: run it into the log; on failure show the log's end and where the rest is.
logged() {
    local what=$1 start=$SECONDS
    shift
    printf '+ %s\n' "$*" >>"$LOG"
    if ! "$@" >>"$LOG" 2>&1; then
        tail -n 15 "$LOG" | sed 's/^/    | /' >&2
        die "$what. The last lines of the log are above; all of it: $PWD/$LOG"
    fi
    took=$((SECONDS - start))
}

# ---- is there anything to do? -------------------------------------------------------------------------------

# What the environment was made from. Equal to .venv/.ready: nothing to do.
stamp() {
    local version
    version=$("$VENV/bin/python" -V 2>/dev/null) || return 0
    { echo "$version"; cat setup.cfg pyproject.toml launch/constraints.txt launch/setup.sh launch/build_horovod.sh; } |
        sha256sum | cut -c1-64
}

# The extras of setup.cfg that are asked for.
extras() {
    { [ -n "$WITHOUT" ] || echo horovod; [ -n "$WITHOUT_HANDS" ] || echo hands live; echo export; [ -n "$WITHOUT_DEV" ] || echo dev; } | xargs
}

is_ready() {
    local wanted made_from has extra
    wanted=$(stamp)
    read -r made_from has 2>/dev/null <"$VENV/.ready" && [ "$made_from" = "$wanted" ] || return 1
    for extra in $(extras); do [[ " $has " == *" $extra "* ]] || return 1; done
}

# ---- system packages ----------------------------------------------------------------------------------------

# The first Python that is new enough and can make an environment with pip in it; nothing if there is none.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
}

has_header() { "$1" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'; }

# "python3.11" where the distribution has it, else its python3. apt must know its packages: after apt-get update.
packaged_python() { if apt-cache show python3.11-venv >/dev/null 2>&1; then echo python3.11; else echo python3; fi; }

# MediaPipe loads these although it computes on the CPU; the packages of those that are missing.
missing_libraries() {
    local pair
    for pair in libEGL.so.1:libegl1 libGLESv2.so.2:libgles2 libGL.so.1:libgl1 libgthread-2.0.so.0:libglib2.0-0; do
        "${1:-false}" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${pair%:*}" 2>/dev/null || echo "${pair#*:}"
    done
}

# The Debian packages that are missing, judged by what they bring: a compiler from elsewhere will do as well.
# "PYTHON-…" stands for the Python that the distribution packages.
missing_packages() {
    local python
    python=$(find_python)
    [ -n "$python" ] || echo PYTHON PYTHON-venv
    [ -n "$WITHOUT_HANDS" ] || missing_libraries "$python"
    [ -z "$WITHOUT" ] || return 0
    if [ -z "$python" ]; then echo PYTHON-dev
    elif ! has_header "$python"; then "$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])'; fi
    { command -v g++ && command -v make; } >/dev/null || echo build-essential
    command -v cmake >/dev/null || echo cmake
    command -v mpirun >/dev/null || echo openmpi-bin
    command -v mpicxx >/dev/null || echo libopenmpi-dev
    command -v ssh >/dev/null || echo openssh-client
}

system_packages() {
    local missing sudo=()
    missing=$(missing_packages | xargs)
    if [ -z "$missing" ]; then say "system packages: all here"; return; fi
    [ -z "${PYTHON:-}" ] || [ -n "$(find_python)" ] ||
        die "PYTHON=$PYTHON is not a Python 3.11 or newer with the modules venv and ensurepip" "Name another, or unset PYTHON."
    command -v apt-get >/dev/null || die "these are missing: ${missing//PYTHON/python3}" \
        "This is no Debian or Ubuntu, and only their packages are installed here." \
        "Install them with your system's own tool, then run this again."
    if [ "$(id -u)" != 0 ]; then
        sudo=(sudo)
        { command -v sudo && { [ -t 0 ] || sudo -n true; }; } >/dev/null 2>&1 || die "system packages are missing, and this user is neither root nor can use sudo" \
            "Ask an administrator to run:" \
            "  apt-get install ${missing//PYTHON/$(packaged_python)}" \
            "Or go on without Horovod and MPI: HOROVOD_ASL_WITHOUT_HOROVOD=1 make train"
    fi
    logged "apt-get update failed" "${sudo[@]}" apt-get update
    missing=${missing//PYTHON/$(packaged_python)}
    say "system packages: installing $missing"
    # shellcheck disable=SC2086  # a list
    logged "apt-get could not install $missing" \
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    say "system packages: installed in $took s"
    [ -n "$(find_python)" ] || die "there is still no Python 3.11 or newer that can make an environment" \
        "Install one (python3.11 and python3.11-venv), or name one: PYTHON=/path/to/python3.11 make setup"
}

# `live` speaks by espeak-ng where the browser has no voice. All else works without it, so a failure is said, no more.
speech() {
    local sudo=()
    if [ -n "$WITHOUT_HANDS" ] || command -v espeak-ng >/dev/null; then return; fi
    [ "$(id -u)" = 0 ] || sudo=(sudo -n)
    if { command -v apt-get && "${sudo[@]}" apt-get update &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends espeak-ng; } >>"$LOG" 2>&1
    then say "speech: installed espeak-ng"
    else say "speech: espeak-ng could not be installed, so only browsers speak (apt-get install espeak-ng)"; fi
}

# horovodrun looks for `localhost` first of all; a bare root (debootstrap's) has no /etc/hosts.
localhost_has_an_address() { getent hosts localhost >/dev/null; }

address_of_localhost() {
    local sudo=()
    if localhost_has_an_address; then return; fi
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    say "localhost has no address here: adding it to /etc/hosts"
    printf '127.0.0.1 localhost\n' | logged "could not write /etc/hosts" "${sudo[@]}" tee -a /etc/hosts
}

# ---- the virtual environment --------------------------------------------------------------------------------

pip_install() { "$VENV/bin/python" -m pip install --no-input -c launch/constraints.txt "$@"; }

venv_fits() {
    "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$VENV/bin/python" -V)" = "$("$PYTHON" -V)" ]
}

environment() {
    local python
    if venv_fits; then say "environment: $VENV is here, $("$VENV/bin/python" -V)"; return; fi
    python=$(find_python)
    logged "could not make $VENV with $python" "$python" -m venv --clear "$VENV"
    say "environment: made $VENV with $("$VENV/bin/python" -V)"
}

torch_version() { "$VENV/bin/python" -c 'import torch; print(torch.__version__)' 2>/dev/null || true; }

torch_build() {
    "$VENV/bin/python" -c 'import torch; cuda = torch.version.cuda; print("CUDA " + cuda if cuda else "CPU")' 2>/dev/null
}

# An NVIDIA GPU, with its driver or without; or Horovod is to be built for one that this machine lacks.
for_nvidia_gpu() {
    case ${HOROVOD_GPU_OPERATIONS:-} in "" | cpu) ;; *) return 0 ;; esac
    nvidia-smi -L >/dev/null 2>&1 || [ -e /proc/driver/nvidia ] || grep -qsx 0x10de /sys/bus/pci/devices/*/vendor
}

# A look of a few seconds: pip itself would try an index that does not answer for minutes.
cpu_index_answers() {
    timeout 6 "$VENV/bin/python" -c 'import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=3).read(1)' "$TORCH_CPU_INDEX/torch/" >>"$LOG" 2>&1
}

# Elsewhere than on Linux, torch of pip's own index brings no CUDA.
prefers_cpu_builds() { [ "$(uname)" = Linux ] && ! for_nvidia_gpu && cpu_index_answers; }

torch_and_torchvision() {
    local wanted index=()
    wanted=$(sed -n 's/^torch==//p' launch/constraints.txt)
    # Horovod's build uses these as they are (no build isolation), so they come first.
    logged "pip could not install the build tools" pip_install setuptools wheel packaging cloudpickle psutil pyyaml cffi
    if [ -n "${TORCH_INDEX_URL:-}" ]; then index=(--index-url "$TORCH_INDEX_URL"); fi
    if [[ "$(torch_version)" != "$wanted"* ]]; then
        # Of 2.13.0 and 2.13.0+cpu pip takes the second; where that index lacks it, the first.
        if [ ${#index[@]} = 0 ] && prefers_cpu_builds; then index=(--extra-index-url "$TORCH_CPU_INDEX"); fi
        say "torch: installing $wanted from ${index[1]:-the index of pip} (a build with CUDA is several GB)"
    fi
    logged "pip could not install torch and torchvision" pip_install "${index[@]}" torch torchvision
    [ -n "$(torch_version)" ] || logged "torch is installed but cannot be imported" "$VENV/bin/python" -c 'import torch'
    say "torch: $(torch_version) is here, a build for $(torch_build)"
}

# ---- Horovod ------------------------------------------------------------------------------------------------

horovod_wheel() { PYTHON=$PWD/$VENV/bin/python launch/build_horovod.sh "$@"; }

check_horovod() {
    local report line
    report=$("$VENV/bin/horovodrun" --check-build 2>&1) || true
    printf '%s\n' "$report" >>"$LOG"
    for line in PyTorch MPI Gloo; do
        grep -q "\[X\] $line" <<<"$report" || die "Horovod was installed, but \`horovodrun --check-build\` does not show $line:" "$report"
    done
}

horovod() {
    local key wheel start=$SECONDS
    if [ -n "$WITHOUT" ]; then say "Horovod: left out, as HOROVOD_ASL_WITHOUT_HOROVOD asks"; return; fi
    horovod_wheel --check 2>>"$LOG" || die "$(horovod_wheel --check 2>&1)" \
        "Install that and run this again." \
        "Or go on without Horovod (torchrun on several GPUs, or one process): HOROVOD_ASL_WITHOUT_HOROVOD=1 make train"
    key=$(horovod_wheel --key)
    if [ "$(cat "$VENV/.horovod" 2>/dev/null)" = "$key" ]; then say "Horovod: here"; check_horovod; return; fi
    if ! horovod_wheel --cached >/dev/null; then
        say "Horovod: building it for this torch: about 7 minutes on two cores, once (log: $LOG)"
    fi
    wheel=$(horovod_wheel 2>>"$LOG") || { tail -n 15 "$LOG" | sed 's/^/    | /' >&2; die "Horovod could not be built. The log: $PWD/$LOG" \
        "To go on without it: HOROVOD_ASL_WITHOUT_HOROVOD=1 make train"; }
    logged "pip could not install $wheel" pip_install --force-reinstall --no-deps "$wheel"
    check_horovod
    echo "$key" >"$VENV/.horovod"
    say "Horovod: installed in $((SECONDS - start)) s from $wheel"
}

package() {
    local with
    with=$(extras)
    logged "pip could not install horovod_asl and what it needs" pip_install --no-build-isolation -e ".[${with// /,}]"
    say "horovod_asl: installed with ${with:-no extras} in $took s"
}

finish() {
    echo "$(stamp) $(extras)" >"$VENV/.ready.new"
    mv "$VENV/.ready.new" "$VENV/.ready"
    say "ready"
}

# -------------------------------------------------------------------------------------------------------------

if is_ready; then echo "set-up: ready"; exit; fi
exec 9>.setup-log.lock
flock --nonblock 9 || { echo "set-up: waiting for another set-up in this checkout"; flock 9; }
if is_ready; then echo "set-up: ready"; exit; fi
date >"$LOG"
rm -f "$VENV/.ready"
system_packages
speech
address_of_localhost
environment
torch_and_torchvision
horovod
package
finish
