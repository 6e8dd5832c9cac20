#!/usr/bin/env bash
# What `make model` runs: the model in the box, from photos to horovod_asl/box, and what it is worth on people who are
# left out. PHOTOS is the folder that holds asl_alphabet_train and other_signers (default: the one beside the project);
# WORK is where stores and runs go (default: runs/model). Each stage is kept: the same command again goes on. Further
# words are flags of train, for all trainings.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PHOTOS=${PHOTOS:-$ROOT/../shared/data} WORK=${WORK:-$ROOT/runs/model}
need horovodrun "run \`make setup\` (it builds Horovod)"
[ -d "$PHOTOS/asl_alphabet_train" ] || {
    echo "model: $PHOTOS holds no asl_alphabet_train: name the folder of the photos in PHOTOS" >&2
    exit 1
}
OTHERS=$PHOTOS/other_signers STORE=$WORK/store
RECIPE=(--config "$ROOT/launch/model.yaml" --features-file "$WORK/features")

run() { horovodrun -np "$NP" -H "$HOSTS" horovod-asl "$@"; }

echo "model: 1 of 4, hands found in all photos"
horovod-asl prepare "asl=$PHOTOS/asl_alphabet_train" "phone=$OTHERS/phone" "massey=$OTHERS/massey" \
    "homes=$OTHERS/homes" "$STORE" --hands --poor-copies 2 --group-by 'massey=/(?P<r>hand\d)' --allow-missing

# Trainings of one recipe on one store: what an earlier one left of another is neither gone on with nor put into the box.
recipe() {
    cat "$ROOT/launch/model.yaml"
    echo "# store $(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["digest"])' "$STORE/store.json")"
    echo "# $NP rank(s), flags: $*"
}
if [ -f "$WORK/recipe.yaml" ] && ! recipe "$@" | diff "$WORK/recipe.yaml" - >&2; then
    echo "model: $WORK holds trainings of another recipe (above: < theirs, > this one):" \
        "remove crossval, all and recipe.yaml in it, or name another folder in WORK" >&2
    exit 1
fi
recipe "$@" >"$WORK/recipe.yaml"

echo "model: 2 of 4, every source, a recording and every person of massey left out in turn, over $NP rank(s)"
run crossval "$STORE" "${RECIPE[@]}" --by source --signers massey --out "$WORK/crossval" \
    --only asl/3 phone massey homes massey/hand1 massey/hand2 massey/hand3 massey/hand4 massey/hand5 "$@"

echo "model: 3 of 4, trained on all of them"
if [ ! -f "$WORK/all/result.json" ]; then
    [ -f "$WORK/all/config.yaml" ] && go=(--resume "$WORK/all") ||
        go=("${RECIPE[@]}" --store "$STORE" --all-splits --run-folder "$WORK/all" "$@")
    run train "${go[@]}"
fi

echo "model: 4 of 4, into the box"
# Nothing is left to fit its temperature on: it takes the median of those that the folds fitted, each on its validation
# (on one that was read without a mistake, none can be fitted).
temperature=$(python -c '
import json, statistics, sys
rows = [row for row in json.load(open(sys.argv[1])) if row["validation"]["top1"] < 1]
print(statistics.median(row["scores"]["temperature"] for row in rows))' "$WORK/crossval/crossval.json")
horovod-asl export "$WORK/all" --box "$ROOT/horovod_asl/box" --scores "$WORK/crossval/crossval.json" \
    --temperature "$temperature" --half --notes "$ROOT/launch/model.md"
