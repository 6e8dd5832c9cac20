"""Score a run on a split of a store, or on a folder of class folders.

    horovod-asl evaluate runs/RUN stores/asl --split test --json scores.json
    horovod-asl evaluate runs/RUN ~/photos_of_my_friends --json scores.json
    horovodrun -np 4 horovod-asl evaluate runs/RUN stores/asl

Every photo counts once, whatever the number of ranks. Sets with fewer classes (letters only) are fine: answers
outside them count as wrong. The table and the JSON say whose hands were in training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from horovod_asl.cli import parse
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from horovod_asl.inference import Predictor


@dataclass(frozen=True)
class EvaluateConfig:
    """Flags of `evaluate`."""

    run: Positional[Path]
    """RUN: a run folder."""
    photos: Positional[Path]
    """A store, or a folder of class folders."""
    split: Literal["train", "validation", "test", "all"] = "test"
    """The split of the store to score (a folder is scored whole)."""
    json: Path | None = None
    """Write the scores here as JSON."""
    backend: Literal["auto", "serial", "dp", "ddp", "horovod"] = "auto"
    """auto reads the launcher's environment."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 on success."""
    config = parse(EvaluateConfig, argv, prog="horovod-asl evaluate", description=__doc__)
    if config.json is not None and not config.json.absolute().parent.is_dir():
        raise UserError(f"--json {config.json}: there is no folder {config.json.absolute().parent}")

    from horovod_asl.backends import create
    from horovod_asl.backends.threads import limit_threads
    from horovod_asl.inference import Predictor

    backend = create(config.backend, device=config.device)
    limit_threads(None, backend.local_size)
    predictor = Predictor.from_run(config.run, backend)
    score = _score_store if _is_store(config.photos) else _score_folder
    answer = score(config, predictor)
    if backend.rank == 0:
        _show(answer)
        if config.json is not None:
            config.json.write_text(json.dumps(answer, indent=1))
    backend.close()
    return 0


def _is_store(path: Path) -> bool:
    from horovod_asl.data.store import Store

    if not path.exists():
        raise UserError(f"no store and no folder of photos at {path}")
    return Store.exists(path)


def _score_store(config: EvaluateConfig, predictor: Predictor) -> dict[str, Any]:
    from horovod_asl.data.store import Store
    from horovod_asl.session import parts_of, photos_of

    store = Store.open(config.photos)
    if store.image_size != predictor.image_size:
        raise UserError(
            f"{config.photos} holds photos of {store.image_size} px and the run reads {predictor.image_size} px; "
            f"prepare it again with --image-size {predictor.image_size}"
        )
    photos = photos_of(store, config.split)
    if len(photos) == 0:
        raise UserError(f"{config.photos} has no {config.split} photos; choose another with --split")
    scores = predictor.score(photos)
    return scores.as_dict(predictor.classes) | _provenance(
        config, predictor, parts_of(store, config.split), left_out=0
    )


def _score_folder(config: EvaluateConfig, predictor: Predictor) -> dict[str, Any]:
    """Each rank decodes and scores every world_size-th photo."""
    from horovod_asl.data.executor import usable_cores
    from horovod_asl.data.folder import load_folder
    from horovod_asl.engine import Photos

    backend = predictor.backend
    loaded = load_folder(
        config.photos,
        image_size=predictor.image_size,
        workers=max(1, usable_cores() // backend.local_size),
        rank=backend.rank,
        world_size=backend.world_size,
    )
    problems = sorted(problem for share in backend.gather(loaded.problems) for problem in share)
    if backend.rank == 0:
        for path, reason in problems:
            print(f"left out {path}: {reason}", flush=True)
    if sum(backend.gather(len(loaded))) == 0:
        raise UserError(f"no photo in {config.photos} can be read")
    scores = predictor.score(Photos(loaded.images.__getitem__, loaded.labels), own_share=True)
    return scores.as_dict(predictor.classes) | _provenance(
        config, predictor, [str(config.photos)], left_out=len(problems)
    )


def _provenance(
    config: EvaluateConfig, predictor: Predictor, scored: list[str], *, left_out: int
) -> dict[str, Any]:
    trained_on = predictor.facts["trained_on"]
    return {
        "scored": scored,
        "trained_on": trained_on,
        "seen_in_training": sorted(set(scored) & set(trained_on)),
        "split_rule": predictor.facts["split_rule"]["kind"],
        "run": str(config.run),
        "photos": str(config.photos),
        "epoch": predictor.epoch,
        "left_out": left_out,
    }


def _show(answer: dict[str, Any]) -> None:
    print(f"scored    {', '.join(answer['scored'])}")
    print(f"trained on {', '.join(answer['trained_on'])}")
    if answer["seen_in_training"]:
        print("note: these recordings were in training, so this says nothing about other people")
    if answer["split_rule"] == "random":
        print("note: the run's split is random: neighbouring frames were in training")
    print(f"{answer['correct']:,} of {answer['n']:,} right")
    for name in ("top1", "top3", "macro_f1"):
        print(f"  {name:<9} {answer[name]:8.2%}")
    for name in ("nll", "ece"):
        print(f"  {name:<9} {answer[name]:8.4f}")
