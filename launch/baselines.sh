#!/usr/bin/env bash
# What the bundled model is held against, on the photos of `make model` (run that first). Words choose:
#   usual      ResNet-18 on whole photos, trained on the ASL Alphabet alone, as most projects read this alphabet
#   landmarks  the landmarks alone, on the very folds of `make model`
#   parts      hand_net, its trunk frozen, with a part changed or left out, on four of the folds (benchmarks/hand_parts.py)
#   resnet18   ResNet-18 on whole photos, on the same four folds: an hour on two cores
# None of them means the first three. WORK as in launch/model.sh; the same command again goes on.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PHOTOS=${PHOTOS:-$ROOT/../shared/data} WORK=${WORK:-$ROOT/runs/model} STORE=$WORK/store
SETS=(asl/3 phone massey homes) PEOPLE=(massey/hand1 massey/hand2 massey/hand3 massey/hand4 massey/hand5)
need horovodrun "run \`make setup\` (it builds Horovod)"
[ -d "$STORE" ] || {
    echo "baselines: there is no store in $STORE: run \`make model\` first" >&2
    exit 1
}

run() { stoppable horovodrun "${HOROVOD_HOSTS[@]}" "$@"; }
FOLDS=(--by source --signers massey --validate-on massey/hand5 massey/hand4 asl/3)

usual() {
    local usual=$WORK/usual others=$PHOTOS/other_signers set
    horovod-asl prepare "asl=$PHOTOS/asl_alphabet_train" "$usual/store" --no-hands
    if [ ! -f "$usual/run/result.json" ]; then
        local words=(--store "$usual/store" --model resnet18 --epochs 10 --run-folder "$usual/run")
        [ -f "$usual/run/config.yaml" ] && words=(--resume "$usual/run")
        run horovod-asl train "${words[@]}"
    fi
    for set in train test; do
        horovod-asl evaluate "$usual/run" "$usual/store" --split "$set" --json "$usual/$set.json"
    done
    for set in phone massey homes; do
        horovod-asl evaluate "$usual/run" "$others/$set" --json "$usual/$set.json"
    done
}

landmarks() {
    run horovod-asl crossval "$STORE" "${FOLDS[@]}" --out "$WORK/landmarks" --only "${SETS[@]}" "${PEOPLE[@]}" \
        --input landmarks --epochs 3 --batch-size-per-replica 128 --learning-rate 2e-3 --balance 0.6 \
        --hands-in-nothing 0.2 --last-epoch
}

parts() {
    local part
    for part in turned-up as-held together one-side pooled-alone; do
        run python "$ROOT/benchmarks/hand_parts.py" "$part" "$STORE" "${FOLDS[@]}" --out "$WORK/parts/$part" \
            --only "${SETS[@]}" --config "$ROOT/horovod_asl/recipes/head.yaml" --cache-features "$WORK/trunk"
    done
}

resnet18() {
    run horovod-asl crossval "$STORE" "${FOLDS[@]}" --out "$WORK/resnet18" --only "${SETS[@]}" --model resnet18 --epochs 6
}

[ $# -gt 0 ] || set -- usual landmarks parts
for word; do
    case $word in usual | landmarks | parts | resnet18) ;; *)
        echo "baselines: $word: choose of usual, landmarks, parts, resnet18" >&2
        exit 2
        ;;
    esac
done
for word; do
    echo "baselines: $word"
    "$word"
done
