#!/usr/bin/env bash
# What the model in the box is held against, on the very folds and photos of `make model` (run that first): ResNet-18 on
# whole photos, as most projects read this alphabet, and the landmarks alone. WORK as in launch/model.sh; the same command again goes on.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
WORK=${WORK:-$ROOT/runs/model} STORE=$WORK/store
SETS=(asl/3 phone massey homes) PEOPLE=(massey/hand1 massey/hand2 massey/hand3 massey/hand4 massey/hand5)
need horovodrun "run \`make setup\` (it builds Horovod)"
[ -d "$STORE" ] || {
    echo "baselines: there is no store in $STORE: run \`make model\` first" >&2
    exit 1
}

folds() {
    local name=$1
    shift
    horovodrun -np "$NP" -H "$HOSTS" horovod-asl crossval "$STORE" --by source --signers massey --out "$WORK/$name" "$@"
}

echo "baselines: 1 of 2, the landmarks alone"
folds landmarks --only "${SETS[@]}" "${PEOPLE[@]}" --input landmarks --epochs 25 --batch-size-per-replica 128 \
    --learning-rate 2e-3 --balance 0.6 --hands-in-nothing 0.2

echo "baselines: 2 of 2, ResNet-18 on whole photos"
folds resnet18 --only "${SETS[@]}" --model resnet18 --epochs 6
