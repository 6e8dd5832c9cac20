# What the launch scripts share; each begins with `. launch/lib.sh`. Sets ROOT, PATH, NP, HOSTS and HOROVOD_HOSTS.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ ! -x "$ROOT/.venv/bin/python" ]; then
    echo "${0##*/}: no virtual environment in $ROOT/.venv: run \`make setup\` first" >&2
    exit 1
fi
export PATH=$ROOT/.venv/bin:$PATH
export HOME=${HOME:-/} # without it, Open MPI ends in a segmentation fault for a user who is not in passwd

# need COMMAND REMEDY: stop with one line where the command is not there.
need() {
    command -v "$1" >/dev/null && return
    echo "${0##*/}: $1 is missing: $2" >&2
    exit 1
}

# The GPUs of this machine, or those of them that CUDA_VISIBLE_DEVICES leaves.
count_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '[^ ]' || true
    else (nvidia-smi -L 2>/dev/null || true) | grep -c '^GPU ' || true; fi
}

# The cores of this process: as nproc counts them, but no more than the CPU quota of its container or slice allows.
count_cores() {
    local listed usable
    listed=$(nproc 2>/dev/null || echo 65536) # macOS has none
    usable=$(PYTHONPATH=$ROOT python -m horovod_asl.system.cores)
    echo $((usable < listed ? usable : listed))
}

# As many processes as HOSTFILE or HOSTS have room for, or as SLURM gave tasks; else one per GPU of this machine, or core.
default_np() {
    local gpus
    gpus=$(count_gpus)
    if [ -n "${HOSTFILE:-}" ]; then awk -F 'slots *= *|:' '!/^ *(#|$)/ { n += NF > 1 ? $2 : 1 } END { print n + 0 }' "$HOSTFILE"
    elif [ -n "${HOSTS:-}" ]; then tr , '\n' <<<"$HOSTS" | awk -F : '{ n += NF > 1 ? $2 : 1 } END { print n }'
    elif [ -n "${SLURM_NTASKS:-}" ]; then echo "$SLURM_NTASKS"
    elif [ "$gpus" -gt 0 ]; then echo "$gpus"
    else count_cores; fi
}

NP=${NP:-$(default_np)}
HOSTS=${HOSTS:-localhost:$NP}

# The options of horovodrun for NP and the hosts.
HOROVOD_HOSTS=(-np "$NP")
if [ -n "${HOSTFILE:-}" ]; then HOROVOD_HOSTS+=(--hostfile "$HOSTFILE"); else HOROVOD_HOSTS+=(-H "$HOSTS"); fi

# INTERFACE=eth0: the network between the hosts, by a name that is the same on all of them; they have others besides.
if [ -n "${INTERFACE:-}" ]; then
    HOROVOD_HOSTS+=(--network-interfaces "$INTERFACE")
    export OMPI_MCA_btl_tcp_if_include=$INTERFACE OMPI_MCA_oob_tcp_if_include=$INTERFACE
    export NCCL_SOCKET_IFNAME=$INTERFACE GLOO_SOCKET_IFNAME=$INTERFACE
fi
# mpirun ends the job when a host has been silent for 30 + 9 × 10 s; by default, for 8 minutes. This must come before the
# ranks give up (--stall-timeout-seconds): once a rank has ended, mpirun waits for the silent host's answer.
export OMPI_MCA_oob_tcp_keepalive_time=${OMPI_MCA_oob_tcp_keepalive_time:-30}
export OMPI_MCA_oob_tcp_keepalive_intvl=${OMPI_MCA_oob_tcp_keepalive_intvl:-10}

# stoppable COMMAND…: run a launcher whose ranks save and leave at Ctrl-C; a second Ctrl-C ends it at once. Left to
# itself, a launcher ends its ranks within two seconds of that key. So it gets a session of its own, in which it does not
# see the key, and the ranks get a file (horovod_asl/runs/preemption.py). The code is then 130. It does not outlive this script.
stoppable() {
    local job code=0 pressed=0
    if ! { command -v setsid && command -v setpriv && command -v mktemp; } >/dev/null; then # not Linux
        "$@"
        return
    fi
    HOROVOD_ASL_STOP_FILE=$(mktemp -u "${TMPDIR:-/tmp}/horovod_asl-stop-XXXXXX")
    export HOROVOD_ASL_STOP_FILE
    setsid setpriv --pdeathsig KILL "$@" &
    job=$!
    trap 'pressed=$((pressed + 1)); ctrl_c "$pressed" "$job"' INT
    trap 'kill -TERM "$job"' TERM HUP
    trap 'kill -USR1 "$job"' USR1
    wait "$job" 2>/dev/null || code=$?
    while kill -0 "$job" 2>/dev/null; do # a signal ended `wait`, not the launcher
        code=0
        wait "$job" 2>/dev/null || code=$?
    done
    trap - INT TERM HUP USR1
    rm -f "$HOROVOD_ASL_STOP_FILE"
    if [ "$pressed" -gt 0 ]; then code=130; fi
    return "$code"
}

ctrl_c() {
    if [ "$1" = 1 ]; then
        echo "${0##*/}: Ctrl-C: the ranks save and stop; press it again to end them at once" >&2
        : >"$HOROVOD_ASL_STOP_FILE"
    else
        kill -KILL -- "-$2"
    fi
}

# without_tag COMMAND…: run it as `stoppable` does, and remove the rank that horovodrun puts before each line
# (`[1,0]<stdout>:` over MPI, `[0]<stdout>:` over Gloo) from the lines of rank 0, which has nearly all of them. Other
# ranks' lines keep theirs. The two filters live until the launcher has closed its output: no signal ends them before.
without_tag() {
    local code=0 tag='s/^\[\(1,\)\{0,1\}0\]<std[a-z]*>://' filters=()
    if [ "$(uname)" != Linux ]; then # sed -u and the process ids below need GNU sed and bash 4.4
        stoppable "$@"
        return
    fi
    exec 3> >(trap '' INT TERM HUP && LC_ALL=C exec sed -u "$tag")
    filters+=($!)
    exec 4> >(trap '' INT TERM HUP && LC_ALL=C exec sed -u "$tag" 3>&- >&2)
    filters+=($!)
    stoppable "$@" >&3 2>&4 3>&- 4>&- || code=$?
    exec 3>&- 4>&-
    wait_for_end "${filters[@]}"
    return "$code"
}

# wait_for_end PID…: until these have ended, or for 5 s: what a killed launcher left behind may hold their input open.
wait_for_end() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        kill -0 "$@" 2>/dev/null || return 0
        sleep 0.05
    done
}
