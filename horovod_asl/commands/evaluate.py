"""Score a run on a split of a store, or on a folder of class folders.

    horovod-asl evaluate runs/RUN stores/asl --split test --json scores.json
    horovod-asl evaluate runs/RUN ~/photos_of_my_friends --json scores.json
    horovod-asl evaluate runs/RUN ~/roboflow_export --split test      # of its folders train/, valid/, test/
    horovodrun -np 4 horovod-asl evaluate runs/RUN stores/asl
    horovod-asl evaluate runs/RUN ~/photos_of_my_friends --report friends   # friends/report.html
    horovod-asl evaluate default ~/photos_of_my_friends     # the model that ships with the package

Every photo counts once, whatever the number of ranks. Sets with fewer classes (letters only) are fine: answers
outside them count as wrong. The answer and the JSON say how many of the very photos were in training (by the
SHA-256 of their files: the same picture saved anew is not noticed), and which of the recordings. Where the run began
with a file of weights that no run of ours left (--pretrained FILE), that is not known: `photos_in_training` is then
null, `in_training_unknown_because` says why, and `photos_known_in_training` counts those that are known to be. A run
that is not finished is scored with its best epoch so far: a line reports it, and in the JSON `finished` is false.

`nll` and `ece` are of the network as it is, `nll_calibrated` and `ece_calibrated` at the run's temperature, which was
fitted on its validation split (1 without one). What abstaining brings is reported at that temperature: `coverage` and
`at_accuracy`, whose thresholds are chosen on these very photos, so expect a little less of them elsewhere.

The report shows single photos: right and wrong answers, where in the pixels the network found them (Grad-CAM), the
landmarks of the hand, and the pairs of classes that are confused most, side by side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from horovod_asl.command_line.cli import parse, require_writable, write_text
from horovod_asl.command_line.progress import Progress, counted
from horovod_asl.errors import UserError
from horovod_asl.reports.score_lines import lines_of

if TYPE_CHECKING:
    from horovod_asl.discovery.class_names import ClassNames
    from horovod_asl.engine.dataset import Dataset
    from horovod_asl.engine.predictions import Predictions
    from horovod_asl.inference.classifier import Classifier
    from horovod_asl.inference.folder import LoadedPhotos
    from horovod_asl.reports.examples import Album, Readings
    from horovod_asl.runs.run_folder import RunFolder
    from horovod_asl.store.store import Store

    Examples = Callable[[], tuple[Album, Readings]]


_SHOWN_PROBLEMS = 5  # photos that cannot be read: there may be thousands


@dataclass(frozen=True)
class EvaluateConfig:
    """Flags of `evaluate`."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run folder, or `default` for the model that ships."""
    photos: Positional[Annotated[Path, arg(metavar="PHOTOS")]]
    """A store, or a folder or zip of class folders."""
    split: Literal["train", "validation", "test", "all"] | None = None
    """The split to score. Of a store it is test by default. A folder is scored whole by default; one with folders
    train/, valid/ or test/ has the splits that these name."""
    exclude: tuple[str, ...] = ()
    """Of a folder, leave out files that match one of these patterns, such as 'depth_*' (see prepare)."""
    classes: Path | None = None
    """Of a folder, a text file that says which class each of its folders is (see prepare)."""
    class_from_name: str | None = None
    """Of a folder, a regular expression that finds the class in the names of files (see prepare)."""
    json: Path | None = None
    """Write the scores here as JSON."""
    report: Path | None = None
    """Write report.html and its pictures into this folder: single answers explained, the most confused pairs."""
    backend: Literal["auto", "serial", "dp", "ddp", "horovod"] = "auto"
    """auto reads the launcher's environment."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 on success."""
    config = parse(EvaluateConfig, argv, prog="horovod-asl evaluate", description=__doc__)
    from horovod_asl.distributed.create import create
    from horovod_asl.distributed.launcher import detect
    from horovod_asl.distributed.threads import limit_threads
    from horovod_asl.inference.classifier import Classifier
    from horovod_asl.system.memory import keep_freed_memory

    score = _score_store if _is_store(config) else _score_folder
    if config.json is not None and detect().rank == 0:
        require_writable(config.json, "--json")
    if config.report is not None and detect().rank == 0:
        from horovod_asl.reports.evaluation_report import claim_report_folder, write_evaluation_report

        claim_report_folder(config.report)
    backend = create(config.backend, device=config.device)
    limit_threads(None, backend.local_size)
    keep_freed_memory()
    classifier = Classifier.from_run(config.run, backend)
    answer, examples = score(config, classifier)
    if backend.rank == 0:
        if classifier.unfinished is not None:
            print(f"note: {classifier.unfinished}")
        for line in lines_of(answer):  # each in a write of its own, or launchers tear it
            print(line)
        if config.json is not None:
            write_text(config.json, json.dumps(answer, indent=1), "--json")
        if config.report is not None:
            with Progress("") as progress:
                progress.stage("drawing the report")
                page = write_evaluation_report(config.report, answer, classifier, *examples())
            print(f"report    {page}")
    backend.close()
    return 0


def _is_store(config: EvaluateConfig) -> bool:
    from horovod_asl.store.store import Store

    if not config.photos.exists():
        raise UserError(f"no store and no folder of photos at {config.photos}")
    is_store = Store.exists(config.photos)
    if is_store and config.exclude:
        raise UserError("--exclude is for a folder: a store holds what its prepare did not leave out")
    if is_store and (config.classes or config.class_from_name):
        raise UserError("--classes and --class-from-name are for a folder: a store knows its classes")
    return is_store


def _score_store(config: EvaluateConfig, classifier: Classifier) -> tuple[dict[str, Any], Examples]:
    from horovod_asl.engine.dataset import photos_of
    from horovod_asl.engine.predictions import metrics_report
    from horovod_asl.runs.bundled_model import open_run
    from horovod_asl.store.store import Store
    from horovod_asl.training.datasets import recording_names

    store = Store.open(config.photos)
    _require_size(store, classifier)
    split = config.split or "test"
    rows = store.rows(split)
    if len(rows) == 0:
        raise UserError(f"{config.photos} has no {split} photos; choose another with --split")
    photos = photos_of(store, rows, classifier.input_type)
    predictions = _predictions(classifier, photos)
    run = open_run(config.run)
    seen = run.were_in_training(store.digests[rows])
    provenance = _provenance(
        config,
        classifier,
        run,
        scored=recording_names(store, rows),
        seen=[] if seen is None else recording_names(store, rows[seen]),
        known_in_training=None if seen is None else sum(seen),
    ) | {"other_finder": classifier.other_finder(store.hand_settings)}
    figures = metrics_report(predictions, classifier.classes, classifier.temperature) | provenance

    def examples() -> tuple[Album, Readings]:
        from horovod_asl.reports.examples import Readings, StoreAlbum, ranks_apart

        order = ranks_apart(len(rows), classifier.backend.world_size)
        return StoreAlbum(store, rows, photos), Readings.of(predictions, classifier.temperature, order)

    return figures, examples


def _require_size(store: Store, classifier: Classifier) -> None:
    crops = classifier.input_type in ("pixels", "both")
    if classifier.input_type == "landmarks" or (crops and store.crop_size is None):
        return  # a store without hands is refused where they are read
    flag = "--crop-size" if crops else "--image-size"
    held, read = (
        (store.crop_size, classifier.facts["crop_size"]) if crops else (store.image_size, classifier.image_size)
    )
    if held != read:
        raise UserError(
            f"{store.path} holds {'crops' if crops else 'photos'} of {held} px and the run reads {read} px; "
            f"prepare it again with {flag} {read}"
        )


def _score_folder(config: EvaluateConfig, classifier: Classifier) -> tuple[dict[str, Any], Examples]:
    """Each rank decodes and scores every world_size-th photo."""
    from horovod_asl.discovery.class_names import classes_by
    from horovod_asl.engine.dataset import Dataset
    from horovod_asl.engine.predictions import metrics_report
    from horovod_asl.runs.bundled_model import open_run

    backend = classifier.backend
    classes = classes_by(config.classes, config.class_from_name)
    loaded = _load_folder(config, classifier, classes)
    problems = sorted(problem for own in backend.gather(loaded.problems) for problem in own)
    if backend.rank == 0:
        _show_left_out(problems, config.json)
        for line in loaded.notes:
            print(line, flush=True)
    if sum(backend.gather(len(loaded))) == 0:
        raise UserError(f"no photo in {config.photos} can be read")
    predictions = _predictions(
        classifier, Dataset(loaded.images.__getitem__, loaded.labels), already_sharded=True
    )
    run = open_run(config.run)
    seen = run.were_in_training(loaded.digests)
    count = None if seen is None else sum(backend.gather(sum(seen)))
    paths = [path for own in backend.gather(loaded.paths) for path in own]
    name = str(config.photos) + (f" ({config.split})" if config.split else "")
    provenance = _provenance(
        config, classifier, run, scored=[name], seen=[name] if count else [], known_in_training=count
    ) | {"other_finder": classifier.other_finder()}
    figures = metrics_report(predictions, classifier.classes, classifier.temperature)

    def examples() -> tuple[Album, Readings]:
        from horovod_asl.reports.examples import FolderAlbum, Readings

        order = sorted(range(len(paths)), key=paths.__getitem__)
        has_hands = classifier.input_type in ("landmarks", "both")
        album = FolderAlbum(config.photos, [paths[i] for i in order], classifier.reader, has_hands, classes)
        return album, Readings.of(predictions, classifier.temperature, order)

    left_out = {"left_out": len(problems) + loaded.strays, "unreadable": dict(problems)}
    return figures | provenance | left_out, examples


def _load_folder(config: EvaluateConfig, classifier: Classifier, classes: ClassNames) -> LoadedPhotos:
    """The photos of this rank, their number shown meanwhile."""
    from horovod_asl.inference.folder import load_folder
    from horovod_asl.system.cores import usable_cores

    backend = classifier.backend
    with Progress(counted("read", backend.world_size), rank=backend.rank) as progress:
        return load_folder(
            config.photos,
            reader=classifier.reader,
            workers=max(1, usable_cores() // backend.local_size),
            rank=backend.rank,
            world_size=backend.world_size,
            split=config.split,
            exclude=config.exclude,
            classes=classes,
            log=lambda line: print(line, flush=True),
            on_progress=progress.update,
        )


def _show_left_out(problems: Sequence[tuple[str, str]], json_file: Path | None) -> None:
    for path, reason in problems[:_SHOWN_PROBLEMS]:
        print(f"left out {path}: {reason}", flush=True)
    more = len(problems) - _SHOWN_PROBLEMS
    if more > 0:
        where = "--json FILE lists all" if json_file is None else f"{json_file} lists all"
        print(f"left out {more:,} more photos that cannot be read ({where})", flush=True)


def _predictions(classifier: Classifier, photos: Dataset, *, already_sharded: bool = False) -> Predictions:
    """The answers to all photos, their number shown meanwhile."""
    backend = classifier.backend
    with Progress(counted("scored", backend.world_size), rank=backend.rank) as progress:
        return classifier.predictions(photos, already_sharded=already_sharded, on_progress=progress.update)


def _provenance(
    config: EvaluateConfig,
    classifier: Classifier,
    run: RunFolder,
    *,
    scored: list[str],
    seen: list[str],
    known_in_training: int | None,
) -> dict[str, Any]:
    from horovod_asl.runs.run_folder import training_unknown

    file = run.unknown_weights()
    unknown = None if file is None else training_unknown(file)
    if known_in_training is None:
        unknown = "the run did not save what it was trained on"
    return {
        "scored": scored,
        "trained_on": classifier.facts["trained_on"],
        "seen_in_training": seen,
        "photos_in_training": known_in_training if unknown is None else None,
        "photos_known_in_training": known_in_training,
        "in_training_unknown_because": unknown,
        "split_rule": classifier.facts["split_rule"]["kind"],
        "run": str(config.run),
        "photos": str(config.photos),
        "epoch": classifier.epoch,
        "finished": classifier.unfinished is None,
        "left_out": 0,
    }
