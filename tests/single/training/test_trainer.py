"""The trainer in one process: a stop at any step leaves no trace in the weights, and neither does how often a
run is scored or saved. The same runs without a stop are the reference."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DistributedSampler

from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import AugmentConfig, ExecutionConfig, OptimizerConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.distributed.dp import DataParallel
from horovod_asl.engine.dataset import Dataset, fits_on_device, on_device
from horovod_asl.engine.loader import ShardedSteps
from horovod_asl.engine.resume import read_state
from horovod_asl.engine.step import StepOptions, train_step
from horovod_asl.engine.train_state import TrainState, build_optimizer
from horovod_asl.errors import UserError
from horovod_asl.inputs.pixels import normalise
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.models.registry import SmallCNN
from horovod_asl.runs import checkpoint
from horovod_asl.runs.preemption import Outcome
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.training.trainer import Trainer

torch.set_num_threads(1)
CPU = torch.device("cpu")
EPOCHS, PHOTOS, BATCH = 2, 22, 8
STEPS_PER_EPOCH = 3  # the last of 6 photos
STEPS = EPOCHS * STEPS_PER_EPOCH

PLAIN = TrainConfig(
    augment=AugmentConfig(augment=False),
    optimizer=OptimizerConfig(optimizer="sgd", learning_rate=0.05, weight_decay=5e-4),
    epochs=EPOCHS,
    batch_size_per_replica=BATCH,
    seed=3,
)
# All that keeps state or draws at random: momentum or Adam's moments, augmentation,
# mixing, moving averages, micro-batches.
RICH = dataclasses.replace(
    PLAIN,
    augment=AugmentConfig(mixup_alpha=0.4, cutmix_alpha=1.0),
    optimizer=OptimizerConfig(optimizer="adamw", learning_rate=0.003, ema_decay=0.9),
    batch_size_per_replica=BATCH // 2,
    accumulation_steps=2,
)
CONFIGS = {
    "sgd": PLAIN,
    "adamw, augmented, averaged, accumulated": RICH,
}


@pytest.fixture(autouse=True, scope="module")
def narrow() -> Iterator[None]:
    """Our network at a quarter of its width: the same parts in a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("horovod_asl.models.registry.SmallCNN", functools.partial(SmallCNN, width=8))
        yield


def make_photos(count: int = PHOTOS, seed: int = 0) -> Dataset:
    """Learnable noise: the class is a brightness."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, NUM_CLASSES, count)
    images = generator.integers(0, 30, (count, 16, 16, 3)) + 7 * labels[:, None, None, None]
    images = images.astype(np.uint8)
    return Dataset(gather=lambda indices: images[indices], labels=labels)


def make_trainer(config: TrainConfig, path: Path, *, validation: bool = True, **options: Any) -> Trainer:
    folder, backend = RunFolder(path), Serial(CPU)
    if config.resume is None:
        folder.create(config)
    loaded = read_state(config, folder, backend)
    scored = make_photos(9, 1) if validation else None
    return Trainer(config, backend, folder, make_photos(), scored, loaded=loaded, **options)


def resumed(config: TrainConfig, path: Path, stop: int | None = None) -> Trainer:
    return make_trainer(dataclasses.replace(config, resume=path, stop_after_steps=stop), path)


def everything(trainer: Trainer) -> dict[str, Any]:
    """All that a run ends with, to the bit."""
    train_state = trainer.train_state
    moments = [
        tensor for state in train_state.optimizer.state_dict()["state"].values() for tensor in state.values()
    ]
    return {
        "model": checkpoint.weights_digest(train_state.model.state_dict()),
        "average": None
        if train_state.average is None
        else checkpoint.weights_digest(train_state.average.state_dict()),
        "optimizer": checkpoint.weights_digest(
            {
                str(index): torch.as_tensor(moment)
                for index, moment in enumerate(moments)
                if moment is not None
            }
        ),
        "history": trainer.position.history,
        "best": {
            path.name: checkpoint.weights_digest(checkpoint.load_weights(path))
            for path in sorted(trainer.folder.best.iterdir())
        },
    }


@pytest.fixture(scope="module", params=CONFIGS)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, dict[str, Any]]:
    """A config, and what its run ends with when nothing stops it."""
    config = CONFIGS[request.param]
    trainer = make_trainer(config, tmp_path_factory.mktemp("whole") / "run")
    assert trainer.run() is Outcome.FINISHED
    assert trainer.position.step == STEPS
    return config, everything(trainer)


# -- stop and resume ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_a_run_stopped_at_any_step_and_resumed_ends_as_if_nothing_had_happened(
    whole: tuple[TrainConfig, dict[str, Any]], stop: int, tmp_path: Path
) -> None:
    config, expected = whole
    first = make_trainer(dataclasses.replace(config, stop_after_steps=stop), tmp_path / "run")
    assert (first.run() is Outcome.FINISHED) is (stop == STEPS)
    assert first.position.step == stop
    torch.manual_seed(stop)  # another process would have another random state
    second = resumed(config, tmp_path / "run")
    assert second.position.step == stop
    assert second.run() is Outcome.FINISHED
    assert everything(second) == expected


def test_a_run_stopped_after_each_of_its_steps_ends_as_if_nothing_had_happened(
    whole: tuple[TrainConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, expected = whole
    make_trainer(dataclasses.replace(config, stop_after_steps=1), tmp_path / "run").run()
    for stop in range(2, STEPS + 1):
        last = resumed(config, tmp_path / "run", stop=stop)
        assert (last.run() is Outcome.FINISHED) is (stop == STEPS)
    assert everything(last) == expected


def test_a_run_killed_between_checkpoints_does_the_lost_steps_again_and_ends_the_same(
    whole: tuple[TrainConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, expected = whole
    killed = make_trainer(
        dataclasses.replace(config, save_every_steps=2), tmp_path / "run", on_step=_die_at(5)
    )
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    second = resumed(config, tmp_path / "run")
    assert second.position.step == 3  # the end of epoch 1; step 4 was not saved, nor was 5
    assert second.run() is Outcome.FINISHED
    assert everything(second) == expected


def _die_at(step: int) -> Any:
    def on_step(done: int, total: int) -> None:
        if done == step - 1:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_that_dies_at_any_moment_of_an_epoch_s_end_loses_no_best_weights(
    whole: tuple[TrainConfig, dict[str, Any]], epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, expected = whole
    for name, method in (("score", "score"), ("best", "_save_best"), ("state", "save")):
        path = tmp_path / name
        killed = make_trainer(config, path)
        calls = [getattr(killed, method)] * (epoch - 1)

        def die(*args: Any, calls: list[Any] = calls) -> Any:
            if calls:
                return calls.pop()(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(killed, method, die)
        with pytest.raises(KeyboardInterrupt):
            killed.run()
        second = resumed(config, path)
        assert second.run() is Outcome.FINISHED
        assert everything(second) == expected, f"died before {method}"


def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(
    whole: tuple[TrainConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, expected = whole
    make_trainer(dataclasses.replace(config, stop_after_steps=5), tmp_path / "run").run()
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    (newest / checkpoint.STATE).write_bytes(b"torn")
    with pytest.warns(UserWarning, match="step-000000005 is damaged"):
        second = resumed(config, tmp_path / "run")
    assert second.position.step == 3
    assert second.run() is Outcome.FINISHED
    assert everything(second) == expected


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(
    whole: tuple[TrainConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, expected = whole
    RunFolder(tmp_path / "run").create(config)
    again = resumed(config, tmp_path / "run")
    assert again.position.step == 0
    again.run()
    assert everything(again) == expected


def test_where_every_checkpoint_is_damaged_the_resume_is_refused(tmp_path: Path) -> None:
    make_trainer(dataclasses.replace(PLAIN, stop_after_steps=1), tmp_path / "run").run()
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        (folder / checkpoint.WEIGHTS).unlink()
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(UserError, match="every checkpoint"):
        resumed(PLAIN, tmp_path / "run")


def test_a_resume_of_a_finished_run_changes_nothing(
    whole: tuple[TrainConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, expected = whole
    make_trainer(config, tmp_path / "run").run()
    again = resumed(config, tmp_path / "run")
    assert again.run() is Outcome.FINISHED
    assert everything(again) == expected


# -- longer, shorter, ended early -----------------------------------------------------------------------------


def extended(config: TrainConfig, path: Path, epochs: int, **options: Any) -> Trainer:
    """The run in `path`, to be resumed to so many epochs."""
    return make_trainer(dataclasses.replace(config, resume=path, epochs=epochs), path, **options)


@pytest.mark.parametrize("stop", [None, 4])
def test_at_a_constant_rate_a_run_that_is_extended_is_the_longer_run(stop: int | None, tmp_path: Path) -> None:
    """Finished, or stopped in the middle of an epoch, it ends with the weights of a run of four epochs."""
    optimizer = dataclasses.replace(RICH.optimizer, schedule="constant", warmup_epochs=0.25)
    config = dataclasses.replace(RICH, optimizer=optimizer)
    longer = make_trainer(dataclasses.replace(config, epochs=4), tmp_path / "longer")
    longer.run()
    make_trainer(dataclasses.replace(config, stop_after_steps=stop), tmp_path / "run").run()
    trainer = extended(config, tmp_path / "run", 4)
    assert trainer.run() is Outcome.FINISHED
    assert everything(trainer) == everything(longer)
    assert [row["epoch"] for row in trainer.position.history] == [1, 2, 3, 4]


def test_the_rate_of_an_extended_run_is_that_of_the_longer_run_and_is_not_warmed_up_again(
    tmp_path: Path,
) -> None:
    """Two epochs of three steps, then to six: cosine over the 18 - 3 steps after one epoch of warm-up."""
    config = dataclasses.replace(PLAIN, optimizer=dataclasses.replace(PLAIN.optimizer, warmup_epochs=1.0))
    make_trainer(config, tmp_path / "run").run()
    rates: list[float] = []
    trainer = extended(config, tmp_path / "run", 6)
    trainer.on_step = lambda step, total: rates.append(trainer.train_state.optimizer.param_groups[0]["lr"])
    trainer.run()
    expected = [0.05 * 0.5 * (1 + np.cos(np.pi * (step - 3) / 15)) for step in range(6, 18)]
    assert rates == pytest.approx(expected)
    assert trainer.position.step == 18


def test_the_best_of_an_extended_run_are_the_best_of_all_its_epochs(tmp_path: Path) -> None:
    config = dataclasses.replace(RICH, keep_top=2)
    make_trainer(config, tmp_path / "run").run()
    trainer = extended(config, tmp_path / "run", 5)
    trainer.run()
    scores = {row["epoch"]: row["validation_top1"] for row in trainer.position.history}
    best = sorted(scores, key=lambda epoch: (scores[epoch], epoch))[-2:]
    assert sorted(path.name for path in trainer.folder.best.iterdir()) == [
        f"epoch-{epoch:05d}" for epoch in sorted(best)
    ]


@pytest.mark.parametrize("validation", [False, True])
def test_where_the_last_epoch_is_kept_the_new_last_one_is_kept_alone(validation: bool, tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, last_epoch=validation)
    trainer = make_trainer(config, tmp_path / "run", validation=validation)
    trainer.run()
    folder = trainer.folder  # as if the end had been better than what is to come
    folder.save_best(2, 2.0, trainer.train_state.model.state_dict(), keep=3)
    longer = extended(config, tmp_path / "run", 3, validation=validation)
    longer.run()
    assert [path.name for path in folder.best.iterdir()] == ["epoch-00003"]
    weights = folder.best_weights()[1]
    assert checkpoint.weights_digest(weights) == checkpoint.weights_digest(longer.train_state.model.state_dict())


def test_a_run_may_be_ended_where_it_is_but_not_before(tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, epochs=4, stop_after_steps=7)
    make_trainer(config, tmp_path / "within", validation=False).run()
    with pytest.raises(UserError, match=r"--epochs 2: .*is in epoch 3 already"):
        extended(config, tmp_path / "within", 2, validation=False)
    make_trainer(
        dataclasses.replace(config, stop_after_steps=6), tmp_path / "between", validation=False
    ).run()
    trainer = extended(config, tmp_path / "between", 2, validation=False)
    assert trainer.run() is Outcome.FINISHED
    manifest, weights = trainer.folder.best_weights()
    assert manifest["epoch"] == 2
    assert checkpoint.weights_digest(weights) == checkpoint.weights_digest(trainer.train_state.model.state_dict())


def scored(trainer: Trainer, tops: list[float]) -> Trainer:
    """With these accuracies on validation, one per epoch to come."""
    predictions = iter(tops)
    trainer.score = lambda photos: SimpleNamespace(top1=next(predictions), nll=0.0)  # type: ignore[method-assign,assignment,return-value]
    return trainer


TOPS = [0.1, 0.3, 0.2, 0.3, 0.3, 0.9]
"""The second is the best until the sixth; those that equal it are no gain."""


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 5), (4, 6), (None, 6)])
def test_patience_ends_a_run_after_so_many_epochs_without_a_gain(
    patience: int | None, epochs: int, tmp_path: Path
) -> None:
    config = dataclasses.replace(PLAIN, epochs=6, patience=patience)
    trainer = scored(make_trainer(config, tmp_path / "run"), TOPS)
    assert trainer.run() is Outcome.FINISHED
    assert trainer.position.epoch == epochs
    assert trainer.stopped_early is (epochs < 6)


@pytest.mark.parametrize("stop", [2, 9, 11])
def test_patience_counts_the_epochs_before_a_resume_too(stop: int, tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, epochs=6, patience=2)
    scored(make_trainer(dataclasses.replace(config, stop_after_steps=stop), tmp_path / "run"), TOPS).run()
    second = scored(resumed(config, tmp_path / "run"), TOPS[stop // 3 :])
    assert second.run() is Outcome.FINISHED
    assert second.position.epoch == 4
    again = resumed(config, tmp_path / "run")
    assert again.run() is Outcome.FINISHED
    assert again.position.step == 12
    more = scored(
        make_trainer(
            dataclasses.replace(config, resume=tmp_path / "run", patience=None), tmp_path / "run"
        ),
        TOPS[4:],
    )
    more.run()
    assert more.position.epoch == 6


# -- a part of an epoch ---------------------------------------------------------------------------------------


def ledger_of(path: Path) -> dict[int, list[list[int]]]:
    """The photos of each step by epoch, as the ledger of a run has them; of several ranks, those of rank 0 first."""
    (file,) = (path / "ledger").iterdir()
    steps: dict[tuple[int, int], list[int]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        steps.setdefault((line["epoch"], line["step"]), []).extend(line["photos"])
    epochs: dict[int, list[list[int]]] = {}
    for epoch, step in sorted(steps):
        epochs.setdefault(epoch, []).append(steps[epoch, step])
    return epochs


PARTS = pytest.mark.parametrize(
    ("epochs", "photos"), [(0.5, [11]), (1.5, [PHOTOS, 11]), (0.65, [15]), (1.65, [PHOTOS, 15])]
)
"""Of 22 photos; 0.65 of them are 14.3."""


@PARTS
def test_the_last_epoch_may_be_a_part_of_one(epochs: float, photos: list[int], tmp_path: Path) -> None:
    """It shows the photos that numpy's permutation puts first, in the order of torch's sampler."""
    config = dataclasses.replace(PLAIN, epochs=epochs, last_epoch=True, ledger=True)
    trainer = make_trainer(config, tmp_path / "run")
    assert trainer.run() is Outcome.FINISHED
    assert [row["photos"] for row in trainer.position.history] == photos
    assert trainer.position.step == trainer.plan.total_steps == sum(-(-shown // BATCH) for shown in photos)
    assert [path.name for path in trainer.folder.best.iterdir()] == [f"epoch-{len(photos):05d}"]
    ledger = ledger_of(tmp_path / "run")
    for epoch, shown in enumerate(photos):
        sampler: DistributedSampler[int] = DistributedSampler(
            range(shown),  # type: ignore[arg-type]
            num_replicas=1,
            rank=0,
            seed=3,
        )
        sampler.set_epoch(epoch)
        order = np.arange(PHOTOS)
        if shown < PHOTOS:
            order = np.random.default_rng([3, epoch, 3]).permutation(PHOTOS)[:shown]
        assert [len(step) for step in ledger[epoch]] == [
            min(BATCH, shown - start) for start in range(0, shown, BATCH)
        ]
        assert sum(ledger[epoch], []) == order[list(sampler)].tolist()  # noqa: RUF017 - short lists


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (1.5, 5)])
def test_a_run_of_a_part_of_an_epoch_that_is_stopped_at_any_step_ends_as_if_nothing_had_happened(
    epochs: float, steps: int, tmp_path: Path
) -> None:
    config = dataclasses.replace(RICH, epochs=epochs)
    whole = make_trainer(config, tmp_path / "whole")
    whole.run()
    for stop in range(1, steps + 1):
        path = tmp_path / f"stopped-{stop}"
        first = make_trainer(dataclasses.replace(config, stop_after_steps=stop), path)
        assert (first.run() is Outcome.FINISHED) is (stop == steps)
        torch.manual_seed(stop)
        second = resumed(config, path)
        assert second.position.step == stop
        assert second.run() is Outcome.FINISHED
        assert everything(second) == everything(whole)


def test_the_schedule_of_a_part_of_an_epoch_ends_with_its_steps(tmp_path: Path) -> None:
    """One and a half epochs are five steps, of which the first (a quarter at most) warms up."""
    config = dataclasses.replace(PLAIN, epochs=1.5)
    rates: list[float] = []
    trainer = make_trainer(config, tmp_path / "run")
    trainer.on_step = lambda step, total: rates.append(trainer.train_state.optimizer.param_groups[0]["lr"])
    trainer.run()
    cosine = [0.05 * 0.5 * (1 + np.cos(np.pi * done / 4)) for done in range(4)]
    assert rates == pytest.approx([0.05 * (0.1 + 0.9 / 2), *cosine])


def test_a_run_is_not_ended_before_the_photos_that_it_has_seen(tmp_path: Path) -> None:
    """After five steps it is in epoch 2, and has seen 16 photos there; half of it are 11."""
    make_trainer(dataclasses.replace(PLAIN, stop_after_steps=5), tmp_path / "run").run()
    with pytest.raises(UserError, match=r"--epochs 1\.5: .*is in epoch 2 already"):
        make_trainer(dataclasses.replace(PLAIN, resume=tmp_path / "run", epochs=1.5), tmp_path / "run")


class Rank(Serial):
    """One of two ranks that are threads of this process: one computes while the other waits for it to speak."""

    def __init__(self, rank: int, shared: SimpleNamespace) -> None:
        super().__init__(CPU)
        self.rank = self.local_rank = rank
        self.world_size = self.local_size = self.num_replicas = 2
        self._shared, self._calls = shared, 0

    def gather(self, value: Any) -> list[Any]:
        told = self._shared.told.setdefault(self._calls, {})
        told[self.rank] = copy.deepcopy(value)
        self._calls += 1
        self._shared.turn.release()
        try:
            self._shared.meeting.wait(timeout=60)
        finally:
            self._shared.turn.acquire()
        return [told[0], told[1]]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        first, second = self.gather(tensor.detach())
        total: torch.Tensor = first + second
        return total

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]

    def barrier(self) -> None:
        self.gather(None)

    def reduce_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = self.sum(parameter.grad) / 2


def on_two_ranks(config: TrainConfig, path: Path) -> list[Trainer]:
    RunFolder(path).create(config)
    shared = SimpleNamespace(turn=threading.Lock(), meeting=threading.Barrier(2), told={})

    def train(rank: int) -> Trainer:
        with shared.turn:
            try:
                trainer = Trainer(
                    config, Rank(rank, shared), RunFolder(path), make_photos(), make_photos(9, 1)
                )
                assert trainer.run() is Outcome.FINISHED
            except BaseException:
                shared.meeting.abort()
                raise
        return trainer

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(train, range(2)))


@PARTS
def test_two_replicas_take_the_steps_of_one_in_a_part_of_an_epoch(
    epochs: float, photos: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchNorm in evaluation mode, as its statistics are per rank; the tolerances are those of test_equivalence."""
    monkeypatch.setattr("horovod_asl.models.registry.set_train_mode", torch.nn.Module.eval)
    optimizer = dataclasses.replace(PLAIN.optimizer, learning_rate_scaling="none")
    config = dataclasses.replace(
        PLAIN, augment=AugmentConfig(), optimizer=optimizer, epochs=epochs, ledger=True
    )
    one = make_trainer(config, tmp_path / "one")
    began = {name: tensor.clone() for name, tensor in one.train_state.model.state_dict().items()}
    one.run()
    halved = dataclasses.replace(config, batch_size_per_replica=BATCH // 2)
    two = on_two_ranks(halved, tmp_path / "two")
    for trainer in two:
        assert trainer.position.step == one.position.step == one.plan.total_steps == trainer.plan.total_steps
        assert [row["photos"] for row in trainer.position.history] == photos
        for row, expected in zip(trainer.position.history, one.position.history, strict=True):
            assert row == pytest.approx(expected, rel=1e-4)
        for name, tensor in one.train_state.model.state_dict().items():
            torch.testing.assert_close(trainer.train_state.model.state_dict()[name], tensor, rtol=1e-4, atol=2e-5)
    ours, theirs = ledger_of(tmp_path / "one"), ledger_of(tmp_path / "two")
    assert {epoch: list(map(sorted, steps)) for epoch, steps in ours.items()} == {
        epoch: list(map(sorted, steps)) for epoch, steps in theirs.items()
    }
    assert (one.train_state.model.head.bias - began["head.bias"]).abs().max() > 5e-3  # type: ignore[union-attr,operator]


# -- what must not matter, and what must ----------------------------------------------------------------------


def test_scoring_or_saving_more_often_does_not_change_the_weights(tmp_path: Path) -> None:
    def digest(config: TrainConfig, name: str, **options: Any) -> str:
        trainer = make_trainer(config, tmp_path / name, **options)
        trainer.run()
        return checkpoint.weights_digest(trainer.train_state.model.state_dict())

    often = make_trainer(RICH, tmp_path / "scored")
    often.on_step = lambda step, total: _score(often)
    often.run()
    reference = digest(RICH, "plain")
    assert digest(RICH, "unscored", validation=False) == reference
    assert digest(dataclasses.replace(RICH, save_every_steps=1), "saved") == reference
    assert checkpoint.weights_digest(often.train_state.model.state_dict()) == reference


def _score(trainer: Trainer) -> None:
    """Score in the middle of an epoch, as nothing does today; the caller goes on in training mode."""
    trainer.score(make_photos(5, 2))
    trainer.train_state.model.train()


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(tmp_path: Path) -> None:
    def digest(seed: int, name: str) -> str:
        trainer = make_trainer(dataclasses.replace(PLAIN, seed=seed, stop_after_steps=1), tmp_path / name)
        trainer.run()
        return checkpoint.weights_digest(trainer.train_state.model.state_dict())

    assert digest(3, "a") == digest(3, "b") != digest(4, "c")


def test_data_parallel_on_one_device_is_the_serial_backend(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "dp")
    folder.create(RICH)
    parallel = Trainer(RICH, DataParallel(CPU), folder, make_photos(), make_photos(9, 1))
    serial = make_trainer(RICH, tmp_path / "serial")
    parallel.run()
    serial.run()
    assert everything(parallel) == everything(serial)


def test_training_is_plain_torch(tmp_path: Path) -> None:
    """A run of the `sgd` config, written with nothing of ours but the network, its order and normalisation."""
    optimizer_config = OptimizerConfig(
        optimizer="sgd",
        learning_rate=0.005,
        schedule="constant",
        warmup_epochs=0,
        weight_decay=1.0,  # heavy, so that its absence would be seen; small steps keep rounding small
        clip_norm=0.5,
    )
    config = dataclasses.replace(PLAIN, optimizer=optimizer_config)
    trainer = make_trainer(config, tmp_path / "run")
    model = SmallCNN(NUM_CLASSES, width=8)
    model.load_state_dict(trainer.train_state.model.state_dict())
    trainer.run()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    spared = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 1.0}, {"params": spared}]
    optimizer = torch.optim.SGD(groups, lr=0.005, momentum=0.9, nesterov=True)
    photos, losses = make_photos(), []
    model.train()
    for epoch in range(EPOCHS):
        for shard in ShardedSteps(PHOTOS, global_batch=BATCH, world_size=1, rank=0, seed=3).epoch(epoch):
            images = torch.from_numpy(photos.gather(shard.indices)).permute(0, 3, 1, 2) / 255
            labels = torch.from_numpy(photos.labels[shard.indices])
            loss = F.cross_entropy(model(normalise(images)), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item() * len(labels))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trainer.train_state.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    seen = [row["train_loss"] for row in trainer.position.history]
    assert seen == pytest.approx([sum(losses[:3]) / PHOTOS, sum(losses[3:]) / PHOTOS], rel=1e-4)


def test_the_moving_average_is_its_formula(tmp_path: Path) -> None:
    config = dataclasses.replace(RICH, augment=AugmentConfig(augment=False))
    weights: list[torch.Tensor] = []
    trainer = make_trainer(config, tmp_path / "run")
    trainer.on_step = lambda step, total: weights.append(trainer.train_state.model.head.weight.detach().clone())  # type: ignore[union-attr,operator]
    trainer.run()
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.9 * expected + 0.1 * weight
    assert trainer.train_state.average is not None
    torch.testing.assert_close(trainer.train_state.average.module.head.weight.detach(), expected)  # type: ignore[union-attr]
    with trainer.scoring_model() as model:
        assert model is trainer.train_state.average.module


def test_accumulated_micro_batches_take_the_step_of_the_whole_batch() -> None:
    """BatchNorm in evaluation mode, as its statistics are of each pass; float32 sums in another order."""

    def step(accumulation: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = SmallCNN(NUM_CLASSES).eval()
        optimizer = build_optimizer(model, OptimizerConfig(optimizer="sgd"))
        shard = next(ShardedSteps(PHOTOS, global_batch=11, world_size=1, rank=0, seed=1).epoch(0))
        options = StepOptions(
            AugmentConfig(), NUM_CLASSES, global_batch=11, seed=1, accumulation_steps=accumulation
        )
        train_step(
            TrainState(model, model, optimizer),
            Serial(CPU),
            make_photos(),
            shard,
            options,
            step=0,
            learning_rate=1.0,
        )
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    whole = step(1)
    for accumulation in (2, 3, 8):  # 8: micro-batches of one photo and a filler
        torch.testing.assert_close(step(accumulation), whole, rtol=1e-4, atol=1e-5)


# -- a loss that is not finite --------------------------------------------------------------------------------


def test_a_learning_rate_that_explodes_stops_the_run_before_the_weights_change_again(tmp_path: Path) -> None:
    config = dataclasses.replace(
        PLAIN, optimizer=OptimizerConfig(learning_rate=1e30, clip_norm=None, warmup_epochs=0)
    )
    digests: list[str] = []
    trainer = make_trainer(config, tmp_path / "run")
    trainer.on_step = lambda step, total: digests.append(_parameters(trainer.train_state.model))
    with pytest.raises(UserError, match=r"not finite at step \d.*lower --learning-rate"):
        trainer.run()
    assert _parameters(trainer.train_state.model) == digests[-1]
    assert all(parameter.isfinite().all() for parameter in trainer.train_state.model.parameters())


@pytest.mark.parametrize("clip_norm", [None, 5.0])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_every_weight_as_it_was(
    poison: float, clip_norm: float | None
) -> None:
    model = SmallCNN(NUM_CLASSES)
    optimizer = build_optimizer(model, OptimizerConfig(optimizer="sgd"))
    model.head.bias.register_hook(lambda gradient: torch.full_like(gradient, poison))
    before = _parameters(model)
    shard = next(ShardedSteps(PHOTOS, global_batch=8, world_size=1, rank=0, seed=1).epoch(0))
    options = StepOptions(PLAIN.augment, NUM_CLASSES, global_batch=8, seed=1, clip_norm=clip_norm)
    with pytest.raises(UserError, match="not finite at step 7"):
        train_step(
            TrainState(model, model, optimizer),
            Serial(CPU),
            make_photos(),
            shard,
            options,
            step=7,
            learning_rate=0.1,
        )
    assert _parameters(model) == before


def test_an_fp16_run_whose_every_step_is_skipped_ends_with_its_first_epoch(tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, execution=ExecutionConfig(precision="fp16"))
    trainer = make_trainer(config, tmp_path / "run")
    trainer.train_state.model.head.bias.data.fill_(1e6)  # beyond what fp16 holds  # type: ignore[union-attr,operator]
    before = _parameters(trainer.train_state.model)
    with pytest.raises(UserError, match=r"loss of epoch 1 is not finite.*bf16"):
        trainer.run()
    assert _parameters(trainer.train_state.model) == before
    assert not (tmp_path / "run" / "checkpoints").exists()


def _parameters(model: torch.nn.Module) -> str:
    return checkpoint.weights_digest(dict(model.named_parameters()))


# -- what is kept ---------------------------------------------------------------------------------------------


def test_the_best_epochs_are_kept_and_found_again(tmp_path: Path) -> None:
    config = dataclasses.replace(RICH, epochs=5, keep_top=2)
    trainer = make_trainer(config, tmp_path / "run")
    kept: dict[int, dict[str, torch.Tensor]] = {}
    trainer.on_epoch = lambda row: kept.update({row["epoch"]: _scored_weights(trainer)})
    trainer.run()
    scores = {row["epoch"]: row["validation_top1"] for row in trainer.position.history}
    best = sorted(scores, key=lambda epoch: (scores[epoch], epoch), reverse=True)[:2]
    assert sorted(path.name for path in trainer.folder.best.iterdir()) == sorted(
        f"epoch-{e:05d}" for e in best
    )
    manifest, weights = trainer.folder.best_weights()
    assert (manifest["epoch"], manifest["validation_top1"]) == (best[0], scores[best[0]])
    assert checkpoint.weights_digest(weights) == checkpoint.weights_digest(kept[best[0]])


def _scored_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    with trainer.scoring_model() as model:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("validation", [False, True])
def test_without_validation_or_when_asked_the_last_epoch_is_kept(validation: bool, tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, last_epoch=validation)
    trainer = make_trainer(config, tmp_path / "run", validation=validation)
    trainer.run()
    assert all(("validation_top1" in row) == validation for row in trainer.position.history)
    assert [path.name for path in trainer.folder.best.iterdir()] == [f"epoch-{EPOCHS:05d}"]
    weights = trainer.folder.best_weights()[1]
    assert checkpoint.weights_digest(weights) == checkpoint.weights_digest(trainer.train_state.model.state_dict())


def test_two_resumable_checkpoints_are_kept(tmp_path: Path) -> None:
    make_trainer(dataclasses.replace(PLAIN, save_every_steps=1), tmp_path / "run").run()
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"step-{STEPS - 1:09d}", f"step-{STEPS:09d}"]


def test_damaged_best_weights_fall_back_and_in_the_end_to_the_resumable_ones(tmp_path: Path) -> None:
    trainer = make_trainer(PLAIN, tmp_path / "run")
    trainer.run()
    ranked = trainer.folder._ranked()
    assert len(ranked) == 2
    (ranked[0] / checkpoint.WEIGHTS).write_bytes(b"torn")
    with pytest.warns(UserWarning, match=f"{ranked[0].name} is damaged"):
        manifest, _ = trainer.folder.best_weights()
    assert f"epoch-{manifest['epoch']:05d}" == ranked[1].name
    (ranked[1] / checkpoint.MANIFEST).write_text("null")
    with pytest.warns(UserWarning, match="damaged"):
        manifest, weights = trainer.folder.best_weights()
    assert manifest["step"] == STEPS
    assert checkpoint.weights_digest(weights) == checkpoint.weights_digest(trainer.train_state.model.state_dict())


def test_a_run_folder_without_weights_or_without_a_run_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="holds no run"):
        folder.config()
    folder.create(PLAIN)
    with pytest.raises(UserError, match="no weights yet"):
        folder.best_weights()
    with pytest.raises(UserError, match="--resume"):
        folder.claim()


def test_the_config_in_the_folder_is_the_config_that_was_run(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").create(RICH)
    assert RunFolder(tmp_path / "run").config() == RICH


def test_metrics_are_written_whole_so_a_resume_drops_what_it_does_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_metrics([{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 2.0}])
    folder.write_metrics([{"epoch": 1, "loss": 2.5}])
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"epoch": 1, "loss": 2.5}
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_epoch_s_line_counts_every_photo_once(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    trainer = make_trainer(RICH, tmp_path / "run", on_epoch=rows.append)
    trainer.run()
    assert rows == trainer.position.history
    assert [(row["epoch"], row["step"], row["photos"]) for row in rows] == [
        (epoch, epoch * STEPS_PER_EPOCH, PHOTOS) for epoch in (1, 2)
    ]


@pytest.mark.parametrize("block", [5, 4096])
def test_photos_on_the_device_are_the_same_photos(block: int) -> None:
    """On the CPU, which stands for a GPU here: that a batch is an index there, whatever the blocks they came in."""
    photos = make_photos()
    resident = on_device(photos, CPU, block=block)
    for rows in (np.array([3, 0, 21]), np.arange(PHOTOS)):
        for mine, expected in zip(resident.batch(rows, CPU), photos.batch(rows, CPU), strict=True):
            assert torch.equal(mine, expected)
    assert not fits_on_device(photos, CPU)


# -- ways of computing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "execution",
    [
        ExecutionConfig(precision="bf16"),
        ExecutionConfig(precision="fp16"),
        ExecutionConfig(channels_last=True),
        ExecutionConfig(deterministic=True),
        pytest.param(ExecutionConfig(compile=True), marks=pytest.mark.long),
    ],
)
def test_a_run_in_another_way_comes_to_nearly_the_same_loss(
    execution: ExecutionConfig, tmp_path: Path
) -> None:
    reference = make_trainer(PLAIN, tmp_path / "reference")
    reference.run()
    trainer = make_trainer(dataclasses.replace(PLAIN, execution=execution), tmp_path / "run")
    assert trainer.run() is Outcome.FINISHED
    losses = [[row["train_loss"] for row in run.position.history] for run in (reference, trainer)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
