"""P6: the reference job, described once for both sides, and done our way."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Answer
from benchmarks.stores import make_store


def describe_job(photos: str, work: str, model: str, count: str, target: str) -> Answer:
    """Draw the reference job's photos, 80 % to train on and 20 % held out, and write them down for both sides.

    The weights of the frozen backbone are random where no file is at hand (model hubs are not reachable
    everywhere), with statistics of BatchNorm that are measured on the photos: what they cost to run is the same.
    """
    import torch

    from horovod_asl.inputs.pixels import to_input
    from horovod_asl.models.registry import build_model
    from horovod_asl.store.store import Store

    job = {"photos": photos, "samples": int(count), "model": model, "size": 64, "batch": 32, "epochs": 5}
    job |= {"learning_rate": 1e-3, "validate_every": 150, "split_seed": 0}
    _make_job_store(job, Path(work) / "job-store")
    store = Store.open(Path(work) / "job-store")
    folder = Path(photos)
    listed = {
        side: [
            (str(folder / path), int(label))
            for path, label in zip(store.paths[rows], store.labels[rows], strict=True)
        ]
        for side, rows in (("train", store.rows("train")), ("validation", _held_out(store)))
    }
    torch.manual_seed(0)
    network = build_model(model, num_classes=29).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        for rows in np.array_split(store.rows("train")[::40], 4):
            network(to_input(torch.from_numpy(store.gather(rows))))
    weights = Path(work) / "backbone.pt"
    torch.save(network.state_dict(), weights)
    Path(target).write_text(json.dumps(job | listed | {"weights": str(weights)}), encoding="utf-8")
    return {"photos": len(store)}


def reference_job(described: str) -> Answer:
    """The reference job our way: prepare, then train the head on features that are computed once."""
    from horovod_asl.command_line.cli import parse
    from horovod_asl.config import TrainConfig
    from horovod_asl.distributed.create import create
    from horovod_asl.runs.run_folder import RESULT
    from horovod_asl.training.session import run_training

    job = json.loads(Path(described).read_text(encoding="utf-8"))
    words = ["--model", job["model"], "--pretrained", job["weights"], "--train", "head", "--no-augment"]
    words += ["--epochs", job["epochs"], "--batch-size-per-replica", job["batch"], "--label-smoothing", 0]
    words += ["--learning-rate", job["learning_rate"], "--schedule", "constant", "--warmup-epochs", 0]
    with tempfile.TemporaryDirectory() as folder:
        run, store = Path(folder) / "run", Path(folder) / "store"
        words += ["--store", store, "--run-folder", run, "--backend", "serial"]
        config = parse(TrainConfig, [str(word) for word in words], prog="sides", description=None)
        prepare_seconds = _make_job_store(job, store)
        started = time.perf_counter()
        run_training(config, store, create("serial", device="auto"))
        train_seconds = time.perf_counter() - started
        scores = json.loads((run / RESULT).read_text(encoding="utf-8"))["scores"]
    held_out = [scores[split] for split in ("validation", "test")]
    hits, count = sum(part["correct"] for part in held_out), sum(part["n"] for part in held_out)
    return {
        "seconds": prepare_seconds + train_seconds,
        "train_seconds": train_seconds,
        "top1": hits / count,
        "held_out": count,
    }


def _make_job_store(job: Answer, store: Path) -> float:
    """Prepare the job's photos; the seconds that it took.

    The split is random, as the reference had it: neighbours of held-out frames are in training.
    """
    from horovod_asl.splits.split import SplitRule

    split = SplitRule(kind="random", fraction=0.1, seed=job["split_seed"])
    return make_store(job["photos"], store, image_size=job["size"], split=split, samples=job["samples"])[1]


def _held_out(store: Any) -> Any:
    return np.sort(np.concatenate([store.rows("validation"), store.rows("test")]))
