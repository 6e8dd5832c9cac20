#!/usr/bin/env bash
# What `make model` runs: the bundled model, from photos to horovod_asl/bundled_model, and what it is worth on people who are
# left out. PHOTOS is the folder that holds asl_alphabet_train and other_signers (default: the one beside the project);
# WORK is where stores and runs go (default: runs/model), BUNDLE the folder of the bundled model; DRAWN says how many signers are drawn
# beside those in the photos. Each stage is kept: the same command again goes on. Further words are flags of train, for
# all trainings. A training has two stages: the head alone (recipes/head.yaml), and from there the head with the trunk's
# last blocks (recipes/tuned.yaml).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PHOTOS=${PHOTOS:-$ROOT/../shared/data} WORK=${WORK:-$ROOT/runs/model} BUNDLE=${BUNDLE:-$ROOT/horovod_asl/bundled_model}
DRAWN=${DRAWN:-40}
need horovodrun "run \`make setup\` (it builds Horovod)"
[ -d "$PHOTOS/asl_alphabet_train" ] || {
    echo "model: $PHOTOS holds no asl_alphabet_train: name the folder of the photos in PHOTOS" >&2
    exit 1
}
OTHERS=$PHOTOS/other_signers STORE=$WORK/store
HEAD=(--config "$ROOT/horovod_asl/recipes/head.yaml") TRUNK=$WORK/trunk
TUNED=(--config "$ROOT/horovod_asl/recipes/tuned.yaml")
# Drawn hands are in every training: they validate nobody, and nobody is scored on them.
FOLDS=(--by source --signers massey --validate-on massey/hand5 massey/hand4 asl/3
    --only asl/3 phone massey homes massey/hand1 massey/hand2 massey/hand3 massey/hand4 massey/hand5)

run() { stoppable horovodrun "${HOROVOD_HOSTS[@]}" horovod-asl "$@"; }

# as_before FILE REMOVE: the words that come in are those that an earlier call left in FILE, or there was none. Else it
# ends here: what stands in WORK is of other words, and is neither resumed nor put into the bundle.
as_before() {
    local now
    now=$(cat)
    if [ -f "$1" ] && ! diff "$1" - <<<"$now" >&2; then
        echo "model: $WORK was begun with another recipe or store (above: < that one, > this one):" \
            "remove $2 in it, or name another folder in WORK" >&2
        exit 1
    fi
    mkdir -p "$WORK"
    echo "$now" >"$1"
}

# train_on_all FOLDER FLAGS: one training on every photo of the store; one that was interrupted goes on.
train_on_all() {
    local go=("${@:2}" --store "$STORE" --all-splits --run-folder "$1")
    [ -f "$1/result.json" ] && return
    [ -f "$1/config.yaml" ] && go=(--resume "$1")
    run train "${go[@]}" --cache-features "$TRUNK"
}

{
    cat "$ROOT/horovod_asl/recipes/head.yaml" "$ROOT/horovod_asl/recipes/tuned.yaml"
    echo "# $NP rank(s), $DRAWN drawn signers, flags: $*"
} | as_before "$WORK/recipe.yaml" "head, head-all, crossval, all and recipe.yaml"

echo "model: 1 of 5, hands found in all photos"
horovod-asl prepare "asl=$PHOTOS/asl_alphabet_train" "phone=$OTHERS/phone" "massey=$OTHERS/massey" \
    "homes=$OTHERS/homes" drawn=synthetic "$STORE" --hands --degraded-copies 2 --group-by 'massey=/(?P<r>hand\d)' \
    --synthetic-recordings "$DRAWN" --synthetic-photos 2 --synthetic-size 200 --synthetic-variety 1 --allow-missing

python -c 'import json, sys; print("store", json.load(open(sys.argv[1]))["digest"])' "$STORE/store.json" |
    as_before "$WORK/trained-on" "head, head-all, crossval, all, trunk* and trained-on"

echo "model: 2 of 5, the heads: a recording, each other source and each person of massey left out in turn, $NP rank(s)"
run crossval "$STORE" "${HEAD[@]}" --cache-features "$TRUNK" "${FOLDS[@]}" --out "$WORK/head" "$@"

echo "model: 3 of 5, the same with the trunk's last blocks"
run crossval "$STORE" "${TUNED[@]}" --cache-features "$TRUNK" --pretrained "$WORK/head" "${FOLDS[@]}" \
    --out "$WORK/crossval" "$@"

echo "model: 4 of 5, both on all of them"
train_on_all "$WORK/head-all" "${HEAD[@]}" "$@"
train_on_all "$WORK/all" "${TUNED[@]}" --pretrained "$WORK/head-all" "$@"

echo "model: 5 of 5, into the bundle"
# Nothing is left to fit its temperature on: it takes the median of those that the folds fitted, each on its validation
# (on one that was read without a mistake, none can be fitted; where none was, it is 1).
temperature=$(python -c '
import json, statistics, sys
rows = [row for row in json.load(open(sys.argv[1])) if row["temperature_fitted"]]
print(statistics.median([row["scores"]["temperature"] for row in rows] or [1.0]))' "$WORK/crossval/crossval.json")
horovod-asl export "$WORK/all" --bundle "$BUNDLE" --scores "$WORK/crossval/crossval.json" \
    --temperature "$temperature" --half --notes "$ROOT/launch/model.md"
