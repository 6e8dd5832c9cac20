#!/usr/bin/env bash
# Train in a container of Dockerfile.gpu: one process per GPU of this machine, or NP.
#
#   BUILD=1 launch/docker.sh --epochs 3          the first time: build the image (half an hour), then train
#   launch/docker.sh horovod-asl doctor          another command than training
#   DATA=~/asl_photos launch/docker.sh horovod-asl prepare data stores/asl       photos: there as data/, read-only
#   DATA=~/asl_photos launch/docker.sh horovod-asl predict data/photo.jpg        read by the model that ships
#   GPUS=none ENGINE=podman launch/docker.sh     without GPUs; podman in place of docker
#
# Several machines: the same key pair on each in a folder (ssh-keygen -t ed25519 -N "" -f job-keys/id_ed25519), then
#   SSH_KEYS=job-keys launch/docker.sh sshd                                            on all but the first
#   SSH_KEYS=job-keys HOSTS=alpha:8,beta:8 INTERFACE=eth0 launch/docker.sh             on the first, alpha
#
# stores/ and runs/ of the working folder are the container's. IMAGE, SHM_SIZE (8g) and SSH_PORT (2222) can be set too,
# and with BUILD=1 the Dockerfile's BASE_IMAGE, RUNTIME_IMAGE, TORCH_INDEX_URL, HOROVOD_GPU_OPERATIONS, and
# HOROVOD_ASL_WITHOUT_HANDS=1, which leaves MediaPipe and its libraries out.
# DOCKER="-e NCCL_DEBUG=INFO" gives more of the engine's own options.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ENGINE=${ENGINE:-docker}
IMAGE=${IMAGE:-horovod_asl}
GPUS=${GPUS:-$(nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && echo all || echo none)}
command -v "$ENGINE" >/dev/null || { echo "docker.sh: $ENGINE is missing: install it, or name the other: ENGINE=podman" >&2; exit 1; }

if [ -n "${BUILD:-}" ]; then
    options=(--build-arg "REVISION=$(git -C "$ROOT" rev-parse HEAD 2>/dev/null || true)")
    if [ "$(id -u)" != 0 ]; then options+=(--build-arg "USER_ID=$(id -u)"); fi # then runs/ is yours, and not of user 1000
    for name in BASE_IMAGE RUNTIME_IMAGE TORCH_INDEX_URL HOROVOD_GPU_OPERATIONS HOROVOD_ASL_WITHOUT_HANDS; do
        if [ -n "${!name:-}" ]; then options+=(--build-arg "$name=${!name}"); fi
    done
    "$ENGINE" build -f "$ROOT/Dockerfile.gpu" -t "$IMAGE" "${options[@]}" "$ROOT"
fi

for folder in stores runs; do
    # What the engine would make is root's; so is what root makes, and the image's user could not write there.
    [ -d $folder ] || if [ "$(id -u)" = 0 ]; then install -d -o 1000 $folder; else mkdir $folder; fi
done
# --init: a process 1 that passes signals on. Shared memory and locked memory: the engine's own limits are too low for NCCL.
options=(--rm --init "--shm-size=${SHM_SIZE:-8g}" --ulimit memlock=-1 --ulimit stack=67108864)
options+=(-v "$PWD/stores:/workspace/stores" -v "$PWD/runs:/workspace/runs")
if [ -t 0 ] && [ -t 1 ]; then options+=(-it); fi
if [ -n "${DATA:-}" ]; then options+=(-v "$(cd "$DATA" && pwd):/workspace/data:ro"); fi
if [ -n "${SSH_KEYS:-}" ]; then options+=(--network host -v "$(cd "$SSH_KEYS" && pwd):/ssh:ro"); fi
if [ "$ENGINE" = podman ]; then
    options+=(--userns keep-id --security-opt label=disable) # mounted folders stay this user's; SELinux lets them in
    if [ "$GPUS" != none ]; then options+=(--device "nvidia.com/gpu=$GPUS"); fi
elif [ "$GPUS" != none ]; then options+=(--gpus "$GPUS"); fi
for name in NP HOSTS INTERFACE HOROVODRUN SSH_PORT; do
    if [ -n "${!name:-}" ]; then options+=(-e "$name=${!name}"); fi
done

# shellcheck disable=SC2086  # DOCKER is a list of options
exec "$ENGINE" run "${options[@]}" ${DOCKER:-} "$IMAGE" "$@"
