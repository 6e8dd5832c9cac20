#!/usr/bin/env bash
# What a container of Dockerfile.gpu starts. launch/docker.sh gives it all of this:
#
#   container.sh --epochs 3             options: train with them, as launch/train.sh does
#   container.sh horovod-asl doctor     any other command
#   container.sh sshd                   wait for the ranks of a job that is started in another host's container
#
# SSH_KEYS=/ssh    a folder with id_ed25519 and id_ed25519.pub, one pair for all hosts of the job (ssh-keygen -t ed25519)
# SSH_PORT=2222    sshd's port, the same on all hosts
set -euo pipefail
SSH_KEYS=${SSH_KEYS:-/ssh}
SSH_PORT=${SSH_PORT:-2222}

# An empty folder is none, one that cannot be read is some.
has_keys() { [ -d "$SSH_KEYS" ] && [ -n "$(ls -A "$SSH_KEYS" 2>&1)" ]; }

# The keys as ssh wants them: the user's own, unreadable to others. A host key lives as long as its container.
prepare_ssh() {
    mkdir -p -m 700 ~/.ssh
    install -m 600 "$SSH_KEYS/id_ed25519" "$SSH_KEYS/id_ed25519.pub" ~/.ssh/ || {
        echo "container.sh: user $(id -u) cannot read the keys in $SSH_KEYS (their owner's number: --build-arg USER_ID=…)" >&2
        exit 1
    }
    install -m 600 ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys
    printf 'Host *\n  Port %s\n  StrictHostKeyChecking accept-new\n  LogLevel ERROR\n' "$SSH_PORT" >~/.ssh/config
}

# A session over ssh would begin without the container's own environment.
session_environment() { env | grep -E '^(PATH|LD_LIBRARY_PATH|OMPI_|HOROVOD_|NCCL_)' | sed 's/.*/"&"/' | xargs -d '\n'; }

serve_ssh() {
    [ -e ~/.ssh/host_key ] || ssh-keygen -q -t ed25519 -N "" -f ~/.ssh/host_key
    printf '%s\n' "Port $SSH_PORT" "HostKey ~/.ssh/host_key" "PidFile none" "UsePAM no" "PasswordAuthentication no" \
        "SetEnv $(session_environment)" | sed "s|~|$HOME|" >~/.ssh/sshd_config
    exec /usr/sbin/sshd -D -e -f ~/.ssh/sshd_config
}

if has_keys; then prepare_ssh; fi
case "${1:-}" in
    "" | -*) exec "$(dirname "${BASH_SOURCE[0]}")/train.sh" "$@" ;;
    sshd)
        has_keys || { echo "container.sh: sshd needs keys: mount a folder with a key pair at $SSH_KEYS" >&2; exit 1; }
        serve_ssh
        ;;
    *) exec "$@" ;;
esac
