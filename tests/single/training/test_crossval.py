"""Cross-validation: who is left out and who validates; folds trained, scored, reported, and not trained twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from horovod_asl.commands import crossval as command
from horovod_asl.config import RETIRED, TrainConfig
from horovod_asl.config_groups import AugmentConfig, ExecutionConfig, ModelConfig, OptimizerConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.engine.dataset import photos_of
from horovod_asl.engine.features import features_of_store
from horovod_asl.engine.predictions import Predictions, metrics_report
from horovod_asl.errors import UserError
from horovod_asl.inference.classifier import Classifier
from horovod_asl.labels import CLASSES
from horovod_asl.models import registry
from horovod_asl.prepare.options import Tolerance
from horovod_asl.runs.preemption import Outcome, StopSignal
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.splits.split import SplitRule
from horovod_asl.store.folds import (
    LEFT_OUT,
    Fold,
    names_of,
    plan_folds,
    recordings_of,
    split_codes,
    with_fold,
)
from horovod_asl.store.store import Store
from horovod_asl.training import crossval
from horovod_asl.training.crossval import Plan, cross_validate
from horovod_asl.training.crossval_report import markdown, rows_of, table_row, write_report
from horovod_asl.training.session import run_training
from tests.conftest import write_frames
from tests.preparing import prepare_with

torch.set_num_threads(1)

PEOPLE = {"asl": ["1", "2", "3"], "homes": ["all"], "massey": ["hand1", "hand2", "hand3"], "phone": ["all"]}


def plan(**asked: Any) -> dict[str, Fold]:
    return {fold.held_out: fold for fold in plan_folds(PEOPLE, **({"by": "source"} | asked))}


def everybody(fold: Fold) -> list[str]:
    return sorted(names_of([*fold.test, *fold.validation, *fold.train]))


EVERYBODY = sorted(f"{source}/{name}" for source, names in PEOPLE.items() for name in names)


@pytest.mark.parametrize(
    "asked",
    [
        {"by": "source"},
        {"by": "source", "signers": ["massey"]},
        {"by": "signer", "signers": ["massey"]},
        {"by": "signer", "signers": ["massey", "asl"]},
        {"by": "source", "only": ["phone", "asl/3"]},
    ],
)
def test_everybody_is_on_one_side_of_every_fold(asked: dict[str, Any]) -> None:
    for fold in plan(**asked).values():
        assert everybody(fold) == EVERYBODY
        assert fold.train
        assert fold.test


def test_sources_and_signers_are_the_groups() -> None:
    assert list(plan()) == ["asl", "homes", "massey", "phone"]
    by_signer = plan(by="signer", signers=["massey"])
    assert list(by_signer) == ["asl", "homes", "massey/hand1", "massey/hand2", "massey/hand3", "phone"]
    assert names_of(by_signer["asl"].test) == ["asl/1", "asl/2", "asl/3"]  # takes of one signer
    assert names_of(by_signer["massey/hand2"].test) == ["massey/hand2"]


def test_validation_is_a_person_not_in_training_else_a_take_else_a_source_else_nobody() -> None:
    folds = plan(signers=["massey"])
    assert names_of(folds["phone"].validation) == ["massey/hand3"]
    assert folds["phone"].reason == "a person who is not in training"
    assert names_of(folds["massey"].validation) == ["asl/3"]
    assert folds["massey"].reason == "another take of a signer in training"
    alone = {name: ["all"] for name in "abcd"}
    (fold, *_) = plan_folds(alone, by="source")
    assert names_of(fold.validation) == ["d/all"]
    (fold, *_) = plan_folds({"a": ["all"], "b": ["all"]}, by="source")
    assert (fold.validation, names_of(fold.train)) == ((), ["b/all"])


def test_validation_as_asked_for_passes_over_who_is_held_out() -> None:
    folds = plan(signers=["massey"], validate_on=["phone", "massey/hand1"])
    assert names_of(folds["asl"].validation) == ["phone/all"]
    assert names_of(folds["phone"].validation) == ["massey/hand1"]
    assert all(fold.validation == () for fold in plan(validate_on=["none"]).values())


def test_a_recording_may_be_held_out_and_its_signer_is_then_known_to_be_in_training() -> None:
    folds = plan(signers=["massey"], only=["asl/3", "massey/hand1", "phone"])
    assert names_of(folds["asl/3"].test) == ["asl/3"]
    assert {"asl/1", "asl/2"} <= set(names_of(folds["asl/3"].train))
    assert [fold.same_signer for fold in folds.values()] == [True, False, False]
    assert [fold.folder for fold in folds.values()] == ["asl-3", "massey-hand1", "phone"]


def test_the_recordings_of_a_person_stay_together() -> None:
    takes = [f"{who}/{take}" for who in ("anna", "ben", "cleo") for take in (1, 2)]
    people = {"set": takes, "phone": ["all"]}
    asked = {"by": "signer", "signers": ["set"]}
    folds = {fold.held_out: fold for fold in plan_folds(people, **asked)}
    assert list(folds) == ["set/anna", "set/ben", "set/cleo", "phone"]
    assert names_of(folds["set/ben"].test) == ["set/ben/1", "set/ben/2"]
    assert names_of(folds["set/ben"].validation) == ["set/cleo/1", "set/cleo/2"]
    assert names_of(folds["phone"].validation) == ["set/cleo/1", "set/cleo/2"]
    (take,) = plan_folds(people, by="source", signers=["set"], only=["set/anna/1"])
    assert take.same_signer
    (whole,) = plan_folds(people, by="source", signers=["set"], only=["set/anna"])
    assert not whole.same_signer


def test_no_two_folds_share_a_folder_even_where_case_is_ignored() -> None:
    people = {"a": ["b", "c"], "a-b": ["all"], "A": ["B"], "a-c-x": ["all"]}
    names = [*people, "a/b", "a/c", "A/B"]
    folders = {fold.held_out: fold.folder for fold in plan_folds(people, by="source", only=names)}
    assert len({folder.lower() for folder in folders.values()}) == len(names)
    assert (folders["A"], folders["A/B"], folders["a/c"]) == ("A", "A-B", "a-c")  # as before, where that is enough
    assert all(fold.folder == folders[fold.held_out] for fold in plan_folds(people, by="source"))
    assert all("/" not in folder for folder in folders.values())


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"by": "signer"}, "--by signer: say which sources"),
        ({"signers": ["strangers"]}, "--signers strangers: no such source"),
        ({"only": ["asl/9"]}, "--only asl/9: no such source or recording"),
        ({"only": ["asl", "asl"]}, "twice"),
        ({"validate_on": ["nobody"]}, "--validate-on nobody"),
    ],
)
def test_mistakes_are_refused_with_a_remedy(asked: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        plan(**asked)


def test_one_source_alone_leaves_nobody_to_train_on() -> None:
    with pytest.raises(UserError, match="nobody is left to train on without a"):
        plan_folds({"a": ["1", "2"]}, by="source")


# -- with photos ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of two sources: `a` with three recordings, `b` with two; one photo of `b` is a copy of a/1's."""
    folder = tmp_path_factory.mktemp("crossval")
    names = [*CLASSES[:4], "J"]
    write_frames(folder / "a", classes=names, recordings=3, per_recording=2, seed=0)
    write_frames(folder / "b", classes=names, recordings=2, per_recording=2, seed=1)
    shutil.copy(folder / "a" / "A" / "A1.jpg", folder / "b" / "A" / "A3.jpg")
    prepare_with(
        [f"{name}={folder / name}" for name in "ab"],
        folder / "store",
        image_size=16,
        split=SplitRule(test=("a/3",)),
        tolerance=Tolerance(allow_missing=True),
    )
    return folder / "store"


CONFIG = TrainConfig(
    epochs=1, batch_size_per_replica=16, execution=ExecutionConfig(device="cpu", threads_per_rank=1)
)
BY_SOURCE = Plan("source", signers=("a",))


def walk(store: Path, out: Path, *, config: TrainConfig = CONFIG, plan: Plan = BY_SOURCE) -> Outcome:
    return cross_validate(config, plan, store, out, Serial(torch.device("cpu")))


@pytest.fixture(scope="module")
def out(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "out"
    assert walk(store, folder) is Outcome.FINISHED
    return folder


def test_copies_of_who_is_held_out_are_left_out_of_training(store: Path) -> None:
    opened = Store.open(store)
    (fold,) = plan_folds(recordings_of(opened), by="source", signers=["a"], only=["b"])
    codes = split_codes(opened, fold)
    (copy,) = np.flatnonzero(codes == LEFT_OUT)
    assert opened.paths[copy] == "A/A1.jpg"
    split = with_fold(opened, fold, codes)
    assert set(split.sources[split.rows("test")]) == {"b"}
    assert set(split.recordings[split.rows("train")]) == {"1", "2"}
    assert set(split.recordings[split.rows("validation")]) == {"3"}
    assert copy not in np.concatenate([split.rows(side) for side in ("train", "validation", "test")])
    assert split.digest == opened.digest
    assert opened.manifest["split_rule"]["kind"] == "recording"  # the store itself is as it was


def test_the_store_of_a_fold_names_the_side_of_every_photo(store: Path) -> None:
    opened = Store.open(store)
    before = opened.splits.tolist()
    (fold,) = plan_folds(recordings_of(opened), by="source", signers=["a"], only=["b"])
    split = with_fold(opened, fold, split_codes(opened, fold))
    for side in ("train", "validation", "test"):
        assert np.array_equal(np.flatnonzero(split.splits == side), split.rows(side))
    assert split.paths[split.splits == "left out"].tolist() == ["A/A1.jpg"]
    assert opened.splits.tolist() == before == Store.open(store).splits.tolist()


def test_folds_a_b_with_a_dash_and_a_slash_are_trained_side_by_side(store: Path, tmp_path: Path) -> None:
    """The sources `a` (recordings 1, 2, 3), `b` and, of b's photos again under another name, `a-1`."""
    photos = store.parent
    both = tmp_path / "store"
    prepare_with(
        [f"a={photos / 'a'}", f"a-1={photos / 'b'}"],
        both,
        image_size=16,
        split=SplitRule(test=("a/3",)),
        tolerance=Tolerance(allow_missing=True),
    )
    folds = Plan("source", only=("a/1", "a-1"))
    assert walk(both, tmp_path / "out", plan=folds) is Outcome.FINISHED
    rows = {row["held_out"]: row for row in rows_of(tmp_path / "out")}
    assert rows["a/1"]["test"] == ["a/1"]
    assert rows["a-1"]["test"] == ["a-1/1", "a-1/2"]
    assert rows["a-1"]["folder"] == "a-1"
    first = replace(CONFIG, model=ModelConfig(pretrained=str(tmp_path / "out")))
    assert walk(both, tmp_path / "second", config=first, plan=folds) is Outcome.FINISHED
    for row in rows.values():
        begun = RunFolder(tmp_path / "second" / row["folder"]).facts()["initialized_from"]
        assert begun["run"] == str(tmp_path / "out" / row["folder"])

    # As an older version left it: the fold a/1 alone, in the folder that is now the other's.
    old, name = shutil.copytree(tmp_path / "out", tmp_path / "old"), rows["a/1"]["folder"]
    shutil.rmtree(old / "a-1")
    (old / name).rename(old / "a-1")
    assert walk(both, old, plan=replace(folds, only=("a/1",))) is Outcome.FINISHED
    assert not (old / name).exists()
    with pytest.raises(UserError, match=r"a-1 is of another fold, and a-1 needs that name"):
        walk(both, old, plan=folds)


def test_each_fold_is_a_run_that_never_saw_who_is_held_out(out: Path) -> None:
    rows = rows_of(out)
    assert [row["held_out"] for row in rows] == ["a", "b"]
    for row in rows:
        facts = json.loads((out / row["folder"] / "run.json").read_text())
        assert facts["trained_on"] == row["trained_on"]
        assert not set(row["test"]) & {*row["trained_on"], *row["validated_on"]}
        assert row["scores"]["n"] == row["photos"]["test"]
        assert row["scores"]["without_j_z"]["n"] == row["scores"]["n"] - row["scores"]["per_class"]["J"]["n"]
    assert [row["copies_left_out"] for row in rows] == [1, 1]


def test_a_row_is_what_the_run_s_own_result_says(out: Path) -> None:
    for row in rows_of(out):
        result = json.loads((out / row["folder"] / "result.json").read_text())
        assert row["scores"]["temperature"] == result["temperature"]
        own, reported = result["scores"]["test"], row["scores"]
        assert reported.keys() == own.keys()
        assert reported["confusion"] == own["confusion"]
        for name in ("nll", "ece", "nll_calibrated", "ece_calibrated"):
            assert reported[name] == pytest.approx(own[name], rel=1e-4)


def test_finished_folds_are_read_back_and_an_unscored_one_is_not_trained_again(
    store: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = shutil.copytree(out, tmp_path / "again")
    kept = (again / "b" / "fold.json").read_text()
    (again / "b" / "fold.json").unlink()
    monkeypatch.setattr("horovod_asl.training.crossval.run_training", lambda *given: pytest.fail("trained again"))
    assert walk(store, again) is Outcome.FINISHED
    assert json.loads((again / "b" / "fold.json").read_text()) == json.loads(kept)


def test_a_fold_of_a_version_that_kept_no_answers_is_refused_with_the_remedy(
    store: Path, out: Path, tmp_path: Path
) -> None:
    again = shutil.copytree(out, tmp_path / "again")
    for name in ("fold.json", "predictions.npz"):
        (again / "b" / name).unlink()
    with pytest.raises(UserError, match="remove that folder"):
        walk(store, again)


def test_a_fold_that_was_stopped_goes_on(store: Path, out: Path, tmp_path: Path) -> None:
    stopping = replace(CONFIG, stop_after_steps=1)
    only = Plan("source", signers=("a",), only=("b",))
    assert walk(store, tmp_path / "out", config=stopping, plan=only) is Outcome.STOPPED
    assert not (tmp_path / "out" / "b" / "result.json").exists()
    assert walk(store, tmp_path / "out", plan=only) is Outcome.FINISHED
    digests = [
        json.loads((folder / "b" / "result.json").read_text())["weights_digest"]
        for folder in (out, tmp_path / "out")
    ]
    assert digests[0] == digests[1]


def test_a_fold_cannot_be_resumed_on_the_store_s_own_split(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store's own split has a/1, a/2 and all of b in training; the fold holds b out."""
    only = Plan("source", signers=("a",), only=("b",))
    path = tmp_path / "out" / "b"
    assert walk(store, tmp_path / "out", config=replace(CONFIG, stop_after_steps=1), plan=only) is Outcome.STOPPED
    said = capsys.readouterr().out
    assert f"the same `horovod-asl crossval … --out {tmp_path / 'out'}`" in said
    assert "train --resume" not in said
    note = Classifier.from_run(path).unfinished or ""
    assert "(epoch 0 of 1; the same `horovod-asl crossval" in note
    assert "train --resume" not in note
    facts = json.loads((path / "run.json").read_text())
    of_older_version = {name: fact for name, fact in facts.items() if name != "split_digest"}
    for known in (facts, of_older_version):
        (path / "run.json").write_text(json.dumps(known))
        with pytest.raises(UserError, match=r"fold of a cross-validation.* --out .*/out` resumes it"):
            run_training(replace(CONFIG, resume=path), store, Serial(torch.device("cpu")))
        assert json.loads((path / "run.json").read_text()) == known
    assert walk(store, tmp_path / "out", plan=only) is Outcome.FINISHED


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_fold_that_was_gone_on_with_on_another_split_is_refused(
    is_finished: bool, store: Path, tmp_path: Path
) -> None:
    """As an older version's `train --resume OUT/FOLD` left it: interrupted once more, or at its end."""
    only = Plan("source", signers=("a",), only=("b",))
    stopping = replace(CONFIG, stop_after_steps=None if is_finished else 1)
    assert walk(store, tmp_path / "out", config=stopping, plan=only) is not Outcome.PREEMPTED
    (tmp_path / "out" / "b" / "fold.json").unlink(missing_ok=True)
    facts = RunFolder(tmp_path / "out" / "b").facts() | {"split_rule": {"kind": "recording", "test": ["a/3"]}}
    del facts["split_digest"]
    RunFolder(tmp_path / "out" / "b").write_facts(facts)
    with pytest.raises(UserError, match=r"with another split .* remove that folder, and the fold is trained anew"):
        walk(store, tmp_path / "out", plan=only)


@pytest.mark.parametrize("is_scored", [True, False])
def test_a_fold_whose_run_saw_those_who_are_held_out_is_refused(
    is_scored: bool, store: Path, out: Path, tmp_path: Path
) -> None:
    opened, run = Store.open(store), RunFolder(shutil.copytree(out, tmp_path / "out") / "b")
    if not is_scored:
        (run.path / "fold.json").unlink()
    facts = run.facts()
    run.write_facts(facts | {"trained_on": [*facts["trained_on"], "b/2"]})
    with pytest.raises(UserError, match=r"out/b was trained on b/2, which the fold holds out"):
        walk(store, tmp_path / "out")
    if is_scored:  # in the report of folds that are not asked for this time, too
        with pytest.raises(UserError, match=r"out/b was trained on b/2"):
            rows_of(tmp_path / "out")
    run.write_facts(facts)
    lines = run.training_photos() or []
    shown = opened.digests[(opened.sources == "b") & (opened.recordings == "1")][:3]
    (run.path / "trained_on.sha256").write_text("\n".join([*lines, *(digest[:16] for digest in shown)]))
    with pytest.raises(UserError, match=r"out/b was trained on 3 photos, which the fold holds out"):
        walk(store, tmp_path / "out")


def test_other_takes_of_the_same_signer_may_be_in_training(store: Path, tmp_path: Path) -> None:
    takes = Plan("source", only=("a/3",))
    for _ in range(2):  # trained, and read back
        assert walk(store, tmp_path / "out", plan=takes) is Outcome.FINISHED
    (row,) = rows_of(tmp_path / "out")
    assert row["same_signer_in_training"]
    assert row["trained_on"] == ["a/1", "b/1", "b/2"]
    assert (row["test"], row["validated_on"]) == (["a/3"], ["a/2"])


def test_a_row_is_what_the_weights_that_were_kept_make_of_the_photos(store: Path, out: Path) -> None:
    assert_rows_are_what_the_pixels_give(store, out)


def assert_rows_are_what_the_pixels_give(store: Path, out: Path) -> None:
    """Folds, scored once more from the store's photos."""
    opened = Store.open(store)
    for row in rows_of(out):
        classifier = Classifier.from_run(out / row["folder"])
        held = np.flatnonzero(opened.sources == row["held_out"])
        predictions = classifier.predictions(photos_of(opened, held, classifier.input_type))
        assert row["scores"]["n"] == len(held)
        assert row["scores"]["nll"] == pytest.approx(predictions.scores().nll, rel=1e-3)


def test_a_frozen_backbone_passes_the_store_once_for_all_folds(
    store: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = shutil.copy(max(out.glob("a/best/*/weights.safetensors")), tmp_path / "theirs.safetensors")
    frozen = replace(
        CONFIG,
        model=ModelConfig(pretrained=str(weights), train="head"),
        augment=AugmentConfig(augment=False),
    )
    passes: list[int] = []

    def counted(*given: Any, **named: Any) -> Any:
        passes.append(1)
        return features_of_store(*given, **named)

    monkeypatch.setattr("horovod_asl.training.crossval.features_of_store", counted)
    assert walk(store, tmp_path / "out", config=frozen) is Outcome.FINISHED
    assert passes == [1]
    assert_rows_are_what_the_pixels_give(store, tmp_path / "out")
    for row in rows_of(tmp_path / "out"):  # nothing says whom a file that lies outside a run has seen
        assert row["unknown_weights"] == str(weights)
        assert "; whoever was in the training of theirs.safetensors, which is not known" in table_row(row)[1]


def test_each_fold_begins_with_what_the_same_fold_of_an_earlier_one_left(
    store: Path, out: Path, tmp_path: Path
) -> None:
    standing_still = replace(
        CONFIG,
        model=ModelConfig(pretrained=str(out)),
        optimizer=OptimizerConfig(learning_rate=1e-12, weight_decay=0.0),
    )
    assert walk(store, tmp_path / "out", config=standing_still) is Outcome.FINISHED
    ends = {}
    for name in ("a", "b"):
        first, second = RunFolder(out / name), RunFolder(tmp_path / "out" / name)
        assert second.facts()["initialized_from"]["run"] == str(first.path)
        before, ends[name] = first.best_weights()[1], second.best_weights()[1]
        for key, _ in registry.build_model("small_cnn", num_classes=29).named_parameters():
            torch.testing.assert_close(ends[name][key], before[key], atol=1e-7, rtol=0)
    assert not torch.equal(ends["a"]["head.weight"], ends["b"]["head.weight"])
    lacking = shutil.copytree(out, tmp_path / "lacking")
    (lacking / "b" / "fold.json").unlink()
    other = replace(standing_still, model=ModelConfig(pretrained=str(lacking)))
    with pytest.raises(UserError, match="has no finished fold b; run it first"):
        walk(store, tmp_path / "other", config=other)


def test_an_earlier_run_that_saw_who_is_held_out_is_refused(store: Path, out: Path, tmp_path: Path) -> None:
    seen = replace(CONFIG, model=ModelConfig(pretrained=str(out / "a")))  # it was trained on b
    with pytest.raises(UserError, match=r"10 photos of this run's test split were in its training"):
        walk(store, tmp_path / "out", config=seen, plan=replace(BY_SOURCE, only=("b",)))
    file = next((out / "a" / "best").iterdir()) / "weights.safetensors"
    seen = replace(CONFIG, model=ModelConfig(pretrained=str(file)))
    with pytest.raises(UserError, match=r"10 photos of this run's test split were in its training"):
        walk(store, tmp_path / "by-file", config=seen, plan=replace(BY_SOURCE, only=("b",)))


def test_features_are_made_anew_where_the_folds_froze_other_weights(
    store: Path, out: Path, tmp_path: Path
) -> None:
    frozen = replace(
        CONFIG,
        model=ModelConfig(pretrained=str(out), train="head"),
        augment=AugmentConfig(augment=False),
    )
    assert walk(store, tmp_path / "out", config=frozen) is Outcome.FINISHED
    assert_rows_are_what_the_pixels_give(store, tmp_path / "out")


def test_a_run_that_folds_begin_with_is_the_same_by_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "hands").mkdir()  # nobody's run: `--pretrained hands` names weights
    monkeypatch.chdir(tmp_path)
    by_path = [
        crossval._flags(replace(CONFIG, model=ModelConfig(pretrained=name))) for name in ("head", "./head")
    ]
    plans = [{"train": flags} for flags in (*by_path, {**by_path[0], "pretrained": str(tmp_path / "head")})]
    assert not any(crossval._differences(plans[0], plan) for plan in plans)
    assert crossval._differences(plans[0], {"train": by_path[0] | {"pretrained": "hands"}}) == [
        f"pretrained {tmp_path / 'head'} (now hands)"
    ]


def test_another_plan_in_the_same_folder_is_refused(store: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"epochs 1 \(now 2\)"):
        walk(store, out, config=replace(CONFIG, epochs=2))
    with pytest.raises(UserError, match=r"signers a \(now none\)"):
        walk(store, out, plan=Plan("source"))
    other = replace(CONFIG, model=ModelConfig(pretrained=str(tmp_path / "a-run-of-a-long-name")))
    with pytest.raises(UserError, match=r"pretrained None \(now .*/a-run-of-a-long-name\)"):
        walk(store, out, config=other)
    begun = shutil.copytree(out, tmp_path / "on-two-ranks")
    plan = json.loads((begun / "plan.json").read_text())
    (begun / "plan.json").write_text(json.dumps(plan | {"replicas": 2}))
    with pytest.raises(UserError, match=r"replicas 2 \(now 1\)"):
        walk(store, begun)
    shutil.rmtree(begun)
    del plan["train"]["balance"]  # begun before there was that flag, which has its default now
    older = shutil.copytree(out, begun)
    (older / "plan.json").write_text(json.dumps(plan))
    assert walk(store, older) is Outcome.FINISHED
    with pytest.raises(UserError, match=r"balance 0\.0 \(now 0\.5\)"):
        walk(store, older, config=replace(CONFIG, data=replace(CONFIG.data, balance=0.5)))
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds no cross-validation"):
        walk(store, tmp_path)


def test_a_plan_of_another_version_differs_in_what_is_learned_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold options that are gone, and some that decide nothing, which were written down before."""
    monkeypatch.setitem(RETIRED, "sparkle", 0.0)
    now = {"train": crossval._flags(CONFIG)}
    older = {"train": now["train"] | {"sparkle": 0.0, "keep_top": 9, "ledger": True, "save_every_steps": 3}}
    assert crossval._differences(older, now) == []
    assert crossval._differences({"train": older["train"] | {"sparkle": 0.3}}, now) == ["sparkle 0.3 (now 0.0)"]


@pytest.mark.parametrize(("words", "differs"), [({}, False), ({"views": 2}, True), ({"tuned_blocks": 0}, True)])
def test_a_plan_in_the_words_of_an_older_version_is_compared_in_those_of_this_one(
    words: dict[str, Any], differs: bool
) -> None:
    """Where it asks for what is gone, or trained other layers, folds of both would not be alike."""
    model = ModelConfig(model="hand_net", pretrained="hands", train="last-6", cache_features="any/file")
    now = crossval._flags(replace(CONFIG, model=model))
    older = {name: value for name, value in now.items() if name not in ("train", "cache_features")}
    older |= {"freeze_backbone": True, "tuned_blocks": 6, "views": 1, "keep_maps": 0, "epoch_share": 1.0} | words
    assert bool(crossval._differences({"train": older}, {"train": now})) is differs


def test_asked_to_stop_while_the_backbone_is_passed_it_begins_no_fold(store: Path, tmp_path: Path) -> None:
    torch.save(registry.build_model("small_cnn", num_classes=len(CLASSES)).state_dict(), tmp_path / "weights.pt")
    frozen = replace(
        CONFIG,
        model=ModelConfig(pretrained=str(tmp_path / "weights.pt"), train="head"),
        augment=AugmentConfig(augment=False),
    )
    stop = StopSignal()
    stop.received = True
    serial = Serial(torch.device("cpu"))
    assert cross_validate(frozen, BY_SOURCE, store, tmp_path / "out", serial, stop) is Outcome.PREEMPTED
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plan.json"]


def test_the_report_holds_a_row_for_each_and_a_picture(out: Path) -> None:
    cells = write_report(out, rows_of(out))
    assert [row[0] for row in cells] == ["a", "b"]
    assert cells[0][1] == "b 1; validated on b 2"
    assert cells[1][1] == "a 1, 2; validated on a 3"
    table = (out / "crossval.md").read_text()
    assert table == markdown(cells)
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert json.loads((out / "crossval.json").read_text()) == rows_of(out)
    assert (out / "coverage.png").stat().st_size > 5000


def test_where_validation_shows_no_mistake_no_temperature_is_said_to_be_fitted(out: Path) -> None:
    row = rows_of(out)[0]
    flawless = row | {"temperature_fitted": False}
    assert row["temperature_fitted"]
    assert "not fitted" not in table_row(row)[6]
    assert table_row(flawless)[6].endswith("→ not fitted")


def test_the_report_of_a_network_that_knows_its_signs_and_one_without_validation(out: Path) -> None:
    """What the table says where there is something to say; the runs above are of one epoch."""
    labels = np.repeat(np.arange(29), 4)
    logits = np.eye(29, dtype=np.float32)[labels] * 8
    logits[0] = np.eye(29)[3]  # one A is read as D, and not surely
    row = rows_of(out)[0] | {
        "held_out": "asl/3",
        "scores": metrics_report(Predictions(logits, labels), CLASSES, 0.9),
        "test": ["asl/3"],
        "trained_on": ["asl/1", "phone/all"],
        "validated_on": [],
        "validation": None,
        "temperature_fitted": False,
        "same_signer_in_training": True,
    }
    cells = table_row(row)
    assert cells[0] == "asl/3 (the same signer is in training)"
    assert cells[1] == "asl 1; phone"
    assert cells[2:4] == ("116", "99.1%")
    assert cells[6].endswith("→ no validation")
    assert cells[7].startswith("100% (confidence")
    assert cells[8] == "A as D 1"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--store", "x"], "--store of each training itself"),
        (["--run-folder", "x"], "--run-folder of each training itself"),
        (["--resume", "x"], "--resume of each training itself"),
        (["--all-splits"], "would train on those who are held out"),
        (["--epochs", "0"], "--epochs must be above 0"),
    ],
)
def test_words_that_crossval_sets_itself_are_refused(words: list[str], part: str, store: Path) -> None:
    with pytest.raises(UserError, match=part):
        command.main([str(store), "--by", "source", "--out", "x", *words])
    with pytest.raises(UserError, match="no store at"):
        command.main(["/no/such/store", "--by", "source", "--out", "x"])
