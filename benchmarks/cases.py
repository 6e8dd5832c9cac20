"""The figures P1 to P11, each a function from the benchmark to its rows of the table."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench, horovodrun, in_pace, independent, sides_command, torchrun
from benchmarks.figures import Figure, Goal, faster, per_second, share
from benchmarks.measure import side


def uint8_batches(bench: Bench) -> list[Figure]:
    """P1: batches of uint8 pictures at the device's door."""
    ours = bench.ours("reading", "store", bench.store, "uint8", 256)
    theirs = bench.peer("imagefolder.py", "ImageFolder", bench.class_folders, "--what", "uint8")
    measured = bench.turns(ours, theirs)
    what = "uint8 batches of 64 px ÷ ImageFolder + DataLoader with 2 workers"
    return [per_second("P1", what, measured["store"], measured["ImageFolder"], goal=Goal("≥", 300))]


def float_batches(bench: Bench) -> list[Figure]:
    """P2: normalised floats, and augmented ones."""
    figures = []
    for kind, goal in (("float", 30.0), ("augmented", 5.0)):
        ours = bench.ours("reading", "store", bench.store, kind, 256)
        theirs = bench.peer("imagefolder.py", "ImageFolder", bench.class_folders, "--what", kind)
        measured = bench.turns(ours, theirs)
        name = "normalised float" if kind == "float" else "augmented"
        what = f"{name} batches ÷ transforms.v2 per photo under DataLoader with 2 workers"
        figures.append(
            per_second("P2", what, measured["store"], measured["ImageFolder"], goal=Goal("≥", goal))
        )
    return figures


def preparing(bench: Bench) -> list[Figure]:
    """P3: prepare per core-second, and from one worker to two."""
    prepare = {count: bench.ours("prepare", f"{count} worker(s)", bench.photos, count) for count in (1, 2)}
    pillow = bench.peer("pillow_decode.py", "Pillow", bench.class_folders)
    measured = bench.turns(*prepare.values(), pillow)
    one, two = measured["1 worker(s)"], measured["2 worker(s)"]
    what = "prepare, photos per core-second ÷ Pillow's full decode and resize"
    scaling = "prepare, two workers ÷ one (wall time)"
    return [
        per_second("P3", what, one, measured["Pillow"], goal=Goal("≥", 1.8), key="core_seconds"),
        faster("P3", scaling, two, one, goal=Goal("≥", 1.85), key="seconds"),
    ]


def training_step(bench: Bench) -> list[Figure]:
    """P4: our step ÷ a bare torch loop's, and the share of it that waits for photos."""
    figures = []
    model = "small_cnn" if bench.small else "resnet18"
    for batch, count in ((32, bench.size(12, 2)), (256, bench.size(4, 1))):
        words = (model, batch, count, "--no-augment", "--backend", "serial")
        ours = bench.ours("steps", "ours", bench.store, *words)
        loop = ("--model", model, "--batch", batch, "--steps", count)
        theirs = bench.peer("bare_step.py", "bare loop", bench.store, *loop)
        measured = bench.turns(ours, theirs)
        what = f"a training step ÷ a bare torch loop's ({model}, 64 px, batch {batch})"
        step = share("P4", what, measured["ours"], measured["bare loop"], goal=Goal("≤", 1.02))
        wait = 100 * measured["ours"].median("loader_share")
        what = f"share of the step that waits for photos (batch {batch})"
        figures += [step, Figure("P4", what, wait, "%", Goal("≤", 1.0))]
    return figures


def two_ranks(bench: Bench) -> list[Figure]:
    """P5: two ranks ÷ two independent processes, ÷ two that only keep pace (the bound), and ÷ the same over DDP."""
    network, count = "small_cnn" if bench.small else "resnet18", bench.size(12, 2)
    words = (bench.store, network, 32, count)
    steps = ("steps", *words)
    horovod = side("Horovod", *horovodrun(2), *sides_command(*steps))
    # torchrun brings its own Python.
    ddp = side("DDP/Gloo", *torchrun(2), *sides_command(*steps, "--backend", "ddp")[1:])
    measured = bench.turns(independent(steps, 2), in_pace(words, bench.work / "meeting"), horovod, ddp)
    ours = measured["Horovod"].median("seconds")
    rates = {f"{name} photos/s per rank": 32 / one.median("seconds") for name, one in measured.items()}
    rounds = {name: one.values("seconds") for name, one in measured.items()}
    rows = (
        ("independent", "two independent processes", Goal("≥", 0.95)),
        ("in pace", "two that send nothing, but wait for each other", None),
        ("DDP/Gloo", "the same over DDP/Gloo", Goal("≥", 1.1)),
    )
    return [
        Figure(
            "P5",
            f"two ranks over Horovod ÷ {against} ({network}, batch 32 per rank)",
            measured[name].median("seconds") / ours,
            goal=goal,
            sides=rates,
            rounds=rounds,
        )
        for name, against, goal in rows
    ]


def reference_job(bench: Bench) -> list[Figure]:
    """P6: the reference job, ours from the photos on (prepare included)."""
    model, photos = ("small_cnn", 203) if bench.small else ("resnet50", 10_000)
    job = bench.work / "job.json"
    described = bench.ours("describe-job", "job", bench.photos, bench.work, model, photos, job)
    bench.turns(described, rounds=1)
    ours = bench.ours("reference-job", "ours", job)
    theirs = bench.peer("reference_job.py", "their way", job)
    measured = bench.turns(ours, theirs, rounds=1 if bench.small else max(1, bench.rounds // 2))
    name = f"the reference job ({photos:,} photos, {model} frozen, 64 px, batch 32, 5 epochs)"
    mine, reference = measured["ours"], measured["their way"]
    whole = faster(
        "P6",
        f"{name}: their time ÷ ours, prepare included",
        mine,
        reference,
        goal=Goal("≥", 10),
        key="seconds",
    )
    on_store = reference.median("seconds") / mine.median("train_seconds")
    accuracy = {f"{one.name} %": 100 * one.median("top1") for one in (mine, reference)}
    apart = 100 * abs(mine.median("top1") - reference.median("top1"))
    return [
        whole,
        Figure("P6", f"{name}: the same on a store that is there", on_store),
        Figure(
            "P6", "its validation accuracy, ours and theirs apart", apart, "points", Goal("≤", 0.5), accuracy
        ),
    ]


def memory(bench: Bench) -> list[Figure]:
    """P7: the dataset's share of memory with 1, 2 and 4 ranks."""
    sides = [bench.ours("memory", f"{n} rank(s)", bench.store, ranks=n) for n in (1, 2, 4)]
    measured = bench.turns(*sides, rounds=1)
    copies = {name: one.median("pss_bytes") / one.median("dataset_bytes") for name, one in measured.items()}
    worst = max(copies.values())
    what = "copies of the dataset in memory, by proportional set size, over all ranks"
    return [Figure("P7", what, worst, "copies", Goal("≤", 1.02), copies)]


def scoring(bench: Bench) -> list[Figure]:
    """P8: `evaluate` and `predict` on a folder, whole commands."""
    weights = next(bench.run.glob("best/*/weights.safetensors"))
    theirs = bench.peer("pillow_predict.py", "Pillow and torch", bench.class_folders, weights)
    ours = [bench.command(name, bench.run, bench.photos, label=name) for name in ("evaluate", "predict")]
    measured = bench.turns(theirs, *ours)
    plain = measured["Pillow and torch"]
    return [
        faster(
            "P8",
            f"{name} on a folder of {plain.median('photos'):,.0f} photos ÷ a plain loop of Pillow and torch "
            "(small_cnn, whole commands)",
            measured[name],
            plain,
            goal=Goal("≥", 3),
        )
        for name in ("evaluate", "predict")
    ]


def start_up(bench: Bench) -> list[Figure]:
    """P9: the manual, and the first step of two ranks."""
    shown = bench.command("train", "--help", label="help")
    first = bench.ours("first-step", "ours", bench.store)
    bare = bench.peer("bare_start.py", "bare start", ranks=2)
    measured = bench.turns(first, bare, shown, rounds=1 if bench.small else max(5, bench.rounds))
    helped = measured["help"].median("wall_seconds")
    what = "two ranks until their first step is done ÷ until import torch and hvd.init are, both from horovodrun on"
    ours, theirs = measured["ours"], measured["bare start"]
    return [
        Figure("P9", "horovod-asl train --help", helped, "s", Goal("≤", 0.5)),
        share("P9", what, ours, theirs, goal=Goal("≤", 1.3), key="reached_seconds"),
    ]


def growth(bench: Bench) -> list[Figure]:
    """P10: from the photos to many times as many."""
    times = bench.size(8, 2)
    many = bench.ours("repeat", "repeat", bench.class_folders, bench.work / "many", times)
    bench.turns(many, rounds=1)
    sides = [
        bench.ours("grow", label, folder, bench.work / f"store-{label}")
        for label, folder in (("once", bench.work / "many" / "once"), ("many", bench.work / "many" / "all"))
    ]
    measured = bench.turns(*sides, rounds=1)
    once, many_ = measured["once"], measured["many"]
    counted = f"{once.median('photos'):,.0f} photos to {many_.median('photos'):,.0f}"
    rows = (
        ("prepare, seconds per photo", "prepare_seconds", True),
        ("open a store", "open_seconds", False),
        ("the first batch", "batch_seconds", False),
        ("memory of a process that trains on it, without the mapped photos", "private_bytes", False),
        ("memory of prepare's main process", "prepare_bytes", False),
    )
    return [
        Figure(
            "P10",
            f"{what}: how many times as much, from {counted}",
            (many_.median(key) / once.median(key))
            / (many_.median("photos") / once.median("photos") if per_photo else 1.0),
            sides={f"{one.name} {key}": one.median(key) for one in (once, many_)},
        )
        for what, key, per_photo in rows
    ]


def allreduce(bench: Bench) -> list[Figure]:
    """P11: what an allreduce of a step's gradients reaches."""
    script = bench.peer("allreduce.py", "allreduce", ranks=2)
    measured = bench.turns(script)["allreduce"]
    fused, single = measured.median("fused_seconds"), measured.median("one_by_one_seconds")
    rate = measured.median("bytes") / fused / 1e9
    memcpy = measured.median("bytes") / measured.median("memcpy_seconds") / 1e9
    sides = {"fused s": fused, "one by one s": single, "GB/s": rate, "memcpy GB/s": memcpy}
    size = f"{measured.median('bytes') / 1e6:.1f} MB of ResNet-18's gradients, two ranks"
    return [
        Figure(
            "P11", f"allreduce ({size}) ÷ a memcpy of as many bytes", 100 * rate / memcpy, "%", None, sides
        ),
        Figure("P11", "gradients fused ÷ one by one", single / fused, goal=Goal("≥", 2), sides=sides),
    ]


CASES: dict[str, Callable[[Bench], list[Figure]]] = {
    "P1": uint8_batches,
    "P2": float_batches,
    "P3": preparing,
    "P4": training_step,
    "P5": two_ranks,
    "P6": reference_job,
    "P7": memory,
    "P8": scoring,
    "P9": start_up,
    "P10": growth,
    "P11": allreduce,
}
