#!/usr/bin/env bash
# What `make model` runs: the model in the box, from photos to horovod_asl/box, and what it is worth on people who are
# left out. PHOTOS is the folder that holds asl_alphabet_train and other_signers (default: the one beside the project);
# WORK is where stores and runs go (default: runs/model). Each stage is kept: the same command again goes on.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PHOTOS=${PHOTOS:-$ROOT/../shared/data} WORK=${WORK:-$ROOT/runs/model}
[ -d "$PHOTOS/asl_alphabet_train" ] || {
    echo "model: $PHOTOS holds no asl_alphabet_train: name the folder of the photos in PHOTOS" >&2
    exit 1
}
OTHERS=$PHOTOS/other_signers STORE=$WORK/store
RECIPE=(--config "$ROOT/launch/model.yaml")

echo "model: 1 of 4, hands found in all photos"
horovod-asl prepare "asl=$PHOTOS/asl_alphabet_train" "phone=$OTHERS/phone" "massey=$OTHERS/massey" \
    "homes=$OTHERS/homes" "$STORE" --hands --group-by 'massey=/(?P<r>hand\d)' --allow-missing

echo "model: 2 of 4, every source, a recording and every person of massey left out in turn, over $NP rank(s)"
"$ROOT/launch/horovodrun.sh" crossval "$STORE" "${RECIPE[@]}" --by source --out "$WORK/crossval" \
    --only asl/3 phone massey homes massey/hand1 massey/hand2 massey/hand3 massey/hand4 massey/hand5 "$@"

echo "model: 3 of 4, trained on all of them"
if [ ! -f "$WORK/all/result.json" ]; then
    [ -f "$WORK/all/config.yaml" ] && go=(--resume "$WORK/all") ||
        go=("${RECIPE[@]}" --store "$STORE" --all-splits --run-folder "$WORK/all" "$@")
    "$ROOT/launch/horovodrun.sh" train "${go[@]}"
fi

echo "model: 4 of 4, into the box"
horovod-asl export "$WORK/all" --box "$ROOT/horovod_asl/box" --scores "$WORK/crossval/crossval.json" \
    --temperature "${TEMPERATURE:-1}" --notes "$ROOT/launch/model.md"
