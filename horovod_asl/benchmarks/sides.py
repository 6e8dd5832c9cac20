"""Our sides of the comparisons: `python -m horovod_asl.benchmarks.sides NAME …` works and prints what it took.

Each goes through what a user's command goes through (the store, the trainer, the predictor, a backend), and prints
one JSON object as its last line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from horovod_asl.benchmarks.measure import Answer
from horovod_asl.launcher import detect


def reading(store: str, what: str, batch: str) -> Answer:
    """All photos of a store in a shuffled order, at the device's door: `uint8`, `float` or `augmented`."""
    import torch

    from horovod_asl.backends.threads import limit_threads
    from horovod_asl.config import AugmentConfig
    from horovod_asl.data.store import Store
    from horovod_asl.data.transforms import Augment, draws, normalise, to_input, to_unit
    from horovod_asl.memory import keep_freed_memory

    keep_freed_memory()
    limit_threads(None, 1)
    opened, size, augment = Store.open(store), int(batch), Augment(AugmentConfig())
    order = np.random.default_rng(0).permutation(len(opened))

    def one_pass() -> None:
        for step, start in enumerate(range(0, len(order), size)):
            rows = order[start : start + size]
            images = torch.from_numpy(opened.gather(rows))
            if what == "float":
                to_input(images)
            elif what == "augmented":
                uniform = draws(0, step, np.arange(len(rows)), size)
                normalise(augment(to_unit(images), uniform))

    one_pass()
    passes = [_seconds(one_pass)]
    while sum(passes) < 1.0:
        passes.append(_seconds(one_pass))
    return {"seconds": median(passes), "photos": len(order)}


def steps(store: str, model: str, batch: str, count: str, *flags: str) -> Answer:
    """Training steps of this rank, after two that are not counted; the median of a step's seconds.

    `flags` are the config's, as on the command line of `train`.
    """
    return _steps(store, model, batch, count, flags, at_end=lambda: None)


def steps_in_pace(place: str, store: str, model: str, batch: str, count: str, *flags: str) -> Answer:
    """The same by one of two processes that share nothing, but wait for each other at the end of each step.

    A socket at `place` is where they meet. What is lost against processes that do not wait is lost by every
    synchronous backend, whatever it sends.
    """
    with _partner(Path(place)) as partner:

        def meet() -> None:
            partner.send(None)
            partner.recv()

        return _steps(store, model, batch, count, flags, at_end=meet)


@contextmanager
def _partner(place: Path) -> Iterator[Connection]:
    """A connection to the other process that names this place: who comes first listens."""
    try:
        listener = Listener(str(place), "AF_UNIX")
    except OSError:
        with Client(str(place), "AF_UNIX") as connection:
            yield connection
        return
    with listener, listener.accept() as connection:
        yield connection


def _steps(
    store: str, model: str, batch: str, count: str, flags: Sequence[str], *, at_end: Callable[[], None]
) -> Answer:
    from horovod_asl.backends import create
    from horovod_asl.cli import parse
    from horovod_asl.config import TrainConfig

    warm = 2
    words = ["--store", store, "--model", model, "--batch-size-per-replica", batch]
    words += ["--stop-after-steps", str(warm + int(count)), *flags]
    config = parse(TrainConfig, words, prog="sides steps", description=None)
    backend = create(config.execution.backend, device=config.execution.device)
    with _trainer(config, backend, at_end) as (trainer, waits, ends):
        trainer.run()
    durations = [after - before for before, after in zip(ends[warm - 1 :], ends[warm:], strict=False)]
    backend.close()
    return {
        "seconds": median(durations),
        "loader_share": sum(waits[warm:]) / sum(durations),
    }


@contextmanager
def _trainer(
    config: Any, backend: Any, at_end: Callable[[], None]
) -> Iterator[tuple[Any, list[float], list[float]]]:
    """A trainer in a folder that goes afterwards; the seconds that batches took, and when steps ended.

    `at_end` is called at each step's end and belongs to it.
    """
    from horovod_asl.data.store import Store
    from horovod_asl.engine import Photos
    from horovod_asl.runfolder import RunFolder
    from horovod_asl.session import settle_process
    from horovod_asl.store_photos import photos_of
    from horovod_asl.trainer import Trainer

    settle_process(config, backend)
    store = Store.open(config.data.store)
    photos = photos_of(store, store.rows("train"), config.model.input)
    waits: list[float] = []
    ends: list[float] = []

    def gather(rows: Any) -> Any:
        started = time.perf_counter()
        images = photos.gather(rows)
        waits.append(time.perf_counter() - started)
        return images

    def step_ended(step: int, total: int) -> None:
        at_end()
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        yield (
            Trainer(
                config,
                backend,
                RunFolder(Path(folder)),
                Photos(gather, photos.labels),
                None,
                on_step=step_ended,
            ),
            waits,
            ends,
        )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prepare(photos: str, workers: str) -> Answer:
    """`prepare` with so many workers into a folder that goes afterwards."""
    from horovod_asl.data.build import prepare_store
    from horovod_asl.data.prepare_options import PhotoSelection, PrepareOptions, Reporter

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        options = PrepareOptions(PhotoSelection((f"photos={photos}",)))
        report = prepare_store(
            Path(folder) / "store", options, workers=int(workers), reporter=Reporter(log=_aside)
        )
        seconds = time.perf_counter() - started
    assert report is not None
    return {"seconds": seconds, "photos": report.photos}


def describe_job(photos: str, work: str, model: str, count: str, target: str) -> Answer:
    """Draw the reference job's photos, 80 % to train on and 20 % held out, and write them down for both sides.

    The weights of the frozen backbone are random where no file is at hand (model hubs are not reachable
    everywhere), with statistics of BatchNorm that are measured on the photos: what they cost to run is the same.
    """
    import torch

    from horovod_asl.data.build import prepare_store
    from horovod_asl.data.store import Store
    from horovod_asl.data.transforms import to_input
    from horovod_asl.models import build_model

    job = {"photos": photos, "samples": int(count), "model": model, "size": 64, "batch": 32, "epochs": 5}
    job |= {"learning_rate": 1e-3, "validate_every": 150, "split_seed": 0}
    report = prepare_store(**_job_store(job, Path(work) / "job-store"))
    assert report is not None
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
    from horovod_asl.backends import create
    from horovod_asl.cli import parse
    from horovod_asl.config import TrainConfig
    from horovod_asl.data.build import prepare_store
    from horovod_asl.runfolder import RESULT
    from horovod_asl.session import run_training

    job = json.loads(Path(described).read_text(encoding="utf-8"))
    words = ["--model", job["model"], "--pretrained", job["weights"], "--freeze-backbone", "--no-augment"]
    words += ["--epochs", job["epochs"], "--batch-size-per-replica", job["batch"], "--label-smoothing", 0]
    words += ["--learning-rate", job["learning_rate"], "--schedule", "constant", "--warmup-epochs", 0]
    with tempfile.TemporaryDirectory() as folder:
        run, store = Path(folder) / "run", Path(folder) / "store"
        words += ["--store", store, "--run-folder", run, "--backend", "serial"]
        config = parse(TrainConfig, [str(word) for word in words], prog="sides", description=None)
        started = time.perf_counter()
        prepare_store(**_job_store(job, store))
        prepared = time.perf_counter()
        run_training(config, store, create("serial", device="auto"))
        ended = time.perf_counter()
        scores = json.loads((run / RESULT).read_text(encoding="utf-8"))["scores"]
    held_out = [scores[split] for split in ("validation", "test")]
    hits, count = sum(part["correct"] for part in held_out), sum(part["n"] for part in held_out)
    return {
        "seconds": ended - started,
        "train_seconds": ended - prepared,
        "top1": hits / count,
        "held_out": count,
    }


def _job_store(job: Answer, store: Path) -> Answer:
    """`prepare_store`'s arguments for the job: a random split, as the reference had it (a leak; see the README)."""
    from horovod_asl.data.prepare_options import PhotoSelection, PrepareOptions, Reporter, StoreFormat
    from horovod_asl.data.split import SplitRule

    split = SplitRule(kind="random", fraction=0.1, seed=job["split_seed"])
    selection = PhotoSelection((f"photos={job['photos']}",), samples=job["samples"])
    options = PrepareOptions(selection, StoreFormat(image_size=job["size"]), split)
    return {"store": store, "options": options, "reporter": Reporter(log=_aside)}


def _held_out(store: Any) -> Any:
    return np.sort(np.concatenate([store.rows("validation"), store.rows("test")]))


def memory(store: str) -> Answer:
    """Read all photos on every rank; the mapped photos' proportional set size, summed over ranks (Linux)."""
    import torch

    from horovod_asl.backends import create
    from horovod_asl.data.store import Store

    backend = create("auto", device="cpu")
    opened = Store.open(store)
    for start in range(0, len(opened), 512):
        opened.gather(np.arange(start, min(start + 512, len(opened))))
    backend.barrier()
    total = backend.sum(torch.tensor([float(_mapped_bytes(Path(store).resolve()))], dtype=torch.float64))
    backend.barrier()  # nobody leaves before all have looked
    backend.close()
    size = sum(file.stat().st_size for file in Path(store).glob("images-*.npy"))
    return {"pss_bytes": float(total), "dataset_bytes": size, "ranks": backend.world_size}


def _mapped_bytes(folder: Path) -> int:
    """The proportional set size of the files below `folder` that this process maps, in bytes."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            ours = str(folder) in line
        elif ours and words[0] == "Pss:":
            total += int(words[1]) * 1024
    return total


def first_step(store: str) -> Answer:
    """Launch `train` on two ranks; the seconds until the first step is done on both, read from the ledger."""
    import subprocess

    from horovod_asl.benchmarks.bench import horovodrun

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [
            "train",
            "--store",
            store,
            "--run-folder",
            run,
            "--epochs",
            1,
            "--stop-after-steps",
            2,
            "--ledger",
        ]
        command = [*horovodrun(2), sys.executable, "-m", "horovod_asl", *map(str, words)]
        started = time.time()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        ledgers = [file.read_text(encoding="utf-8") for file in (run / "ledger").glob("*")]
        lines = [line for text in ledgers for line in text.splitlines()]
    # The line of step 1 is written when step 0 has ended.
    reached = [row["time_s"] for row in map(json.loads, lines) if row["step"] == 1]
    if len(reached) != 2:
        raise RuntimeError(
            f"the run did not come to its second step: {done.stdout[-300:]} {done.stderr[-300:]}"
        )
    return {"reached_seconds": max(reached) - started}


def repeat(class_folders: str, target: str, times: str) -> Answer:
    """Copies of JPEGs that differ in their bytes (a comment) and not in their pixels: `once`, and all `times`."""
    count = 0
    for path in sorted(Path(class_folders).glob("*/*")):
        data = path.read_bytes()
        if data[:2] != b"\xff\xd8":
            continue
        for number in range(int(times)):
            note = f"copy {number}".encode()
            segment = b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note
            name = f"{path.stem}-{number}.jpg"
            for folder in ("once", "all") if number == 0 else ("all",):
                place = Path(target) / folder / path.parent.name
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(data[:2] + segment + data[2:])
            count += 1
    return {"photos": count}


def grow(photos: str, store: str) -> Answer:
    """Prepare, open and read a first batch of a folder; times in seconds, memory in bytes."""
    import subprocess

    from horovod_asl.data.build import prepare_store
    from horovod_asl.data.prepare_options import PhotoSelection, PrepareOptions, Reporter

    started = time.perf_counter()
    options = PrepareOptions(PhotoSelection((f"photos={photos}",), group_by=("source",)))
    report = prepare_store(Path(store), options, reporter=Reporter(log=_aside))
    assert report is not None
    prepared = time.perf_counter() - started
    own = _anonymous_bytes()
    command = [sys.executable, "-m", "horovod_asl.benchmarks.sides", "open-store", store]
    opened: Answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"photos": report.photos, "prepare_seconds": prepared, "prepare_bytes": own} | opened


def open_store(store: str) -> Answer:
    """Open a store, find its training photos, read a batch of 32; and what it takes of memory beside the map."""
    from horovod_asl.data.store import Store
    from horovod_asl.store_photos import photos_of

    started = time.perf_counter()
    opened = Store.open(store)
    found = time.perf_counter()
    photos = photos_of(opened, opened.rows("train"), None)
    photos.gather(np.random.default_rng(0).integers(0, len(photos), 32))
    read = time.perf_counter()
    return {"open_seconds": found - started, "batch_seconds": read - found, "private_bytes": _private_bytes()}


def _anonymous_bytes() -> int:
    """This process's memory that no file lies behind (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def _private_bytes() -> int:
    return int(psutil.Process().memory_full_info().uss)


def _aside(line: str) -> None:
    print(line, file=sys.stderr)


SIDES: dict[str, Callable[..., Answer]] = {
    "reading": reading,
    "steps": steps,
    "steps-in-pace": steps_in_pace,
    "prepare": prepare,
    "describe-job": describe_job,
    "reference-job": reference_job,
    "memory": memory,
    "first-step": first_step,
    "repeat": repeat,
    "grow": grow,
    "open-store": open_store,
}


def main(argv: list[str]) -> None:
    """Run the side that the first word names with the others, and print its answer, on rank 0 alone."""
    answer = SIDES[argv[0]](*argv[1:])
    if detect().rank == 0:
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
