"""Train what tells letters from hands that sign nothing: `python -m benchmarks.letter_gate ../shared/data`.

Letters: photos of all people, equally many of each letter, and drawn signers who spell. No letters: the digits of
`arda` that are none, drawn hands that rest, wave, scratch, type and point, and random poses that are far from every
letter's. Seeds are below 1000, where those of `benchmarks.spelling` begin.

First it is trained without each third of the people and of the seeds, and says of these how many letters it keeps and
how many idle frames it takes for letters; then on all, which is what ships. The features of each group are kept
in `--work`, so the same command goes on where it was interrupted; hands are found in half an hour on two cores.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.labels import CLASSES
from horovod_asl.live.letter_gate import BIAS, FILE, Layers, features, probabilities, save
from horovod_asl.live.reader import HandNetwork
from horovod_asl.live.suggestions import frequent_words
from horovod_asl.live.tracker import Tracker
from horovod_asl.photos.decode import decode_photo
from horovod_asl.reports.sign_pictures import sign_joints
from horovod_asl.synthetic.film import DrawnFrame, FilmSpec, film_frames, idle_frames
from horovod_asl.synthetic.pose import POSES, Pose

Rows = NDArray[np.float32]
Groups = dict[str, Rows]
"""`features` by person, or by the drawn signer's seed."""

SPELLED, IDLE, IDLE_S = 15, 24, 30.0
FOLDS, STEPS, WIDTH, HALF_BATCH = 3, 2400, 96, 128
_FRAME_S = 0.06
_FAR = 0.35
"""Palm lengths on the mean: a pose that is further from every letter than this is none."""
_TURN_DEGREES, _NOISE = 8.0, 0.03
_DRAWN, _ARDA = 3, 3
"""How often the drawn signers together, and the shapes of `arda`, are drawn from, when every other group is once."""


def spread(paths: list[Path], count: int) -> list[Path]:
    """So many of them, evenly."""
    paths = sorted(paths)
    return [paths[at * len(paths) // count] for at in range(count)] if len(paths) > count else paths


def people(data: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Photos by person: of letters, and of hands that show none."""
    letters: dict[str, list[Path]] = {}
    none: dict[str, list[Path]] = {}
    for person in sorted((data / "webcam").iterdir()):
        for folder in sorted(person.iterdir()):
            of = none if folder.name == "nothing" else letters
            count = 8 if person.name != "arda" else 400 if of is none else 60
            found = list(folder.glob("still-*")) or list(folder.iterdir())
            of.setdefault(person.name, []).extend(spread(found, count))
    others = data / "other_signers"
    for name, root, count in (
        ("phone", others / "phone", 15),
        ("homes", others / "homes", 9),
        ("massey", others / "massey", 45),
        ("asl", data / "asl_alphabet_train", 12),
    ):
        for folder in sorted(path for path in root.rglob("*") if path.name in CLASSES and path.name != "nothing"):
            for path in spread(list(folder.iterdir()), count):
                hand = path.name.split("_")[0] if name == "massey" else ""
                letters.setdefault(name + hand, []).append(path)
    return letters, none


def of_photos(paths: list[Path]) -> Rows:
    """Features of the hands that are found."""
    found = []
    for path in paths:
        record = shared_finder().find(decode_photo(path.read_bytes(), LOOK_PX))
        if record["found"]:
            found.append(features(record["world"], bool(record["right"])))
    return np.array(found, np.float32).reshape(-1, 63)


def of_film(frames: Iterator[DrawnFrame], *, held: bool) -> Rows:
    """Features of the hand in a film: of all frames, or of those in which a letter is held."""
    tracker, found, due_s = Tracker(HandNetwork()), [], 0.0
    for frame in frames:
        if frame.time_s < due_s:
            continue
        due_s = frame.time_s + _FRAME_S
        seen = tracker.see(frame.pixels, frame.time_s)
        if seen.world is not None and (frame.label is not None or not held):
            found.append(features(seen.world, seen.right))
    tracker.close()
    return np.array(found, np.float32).reshape(-1, 63)


def words(count: int, seed: int) -> list[str]:
    """Frequent words of three to eight letters."""
    known = [word.upper() for word in frequent_words(3000) if 3 <= len(word) <= 8]
    return random.Random(seed).sample(known, count)


def spelled(seed: int) -> Rows:
    """A drawn signer who spells three words."""
    return of_film(film_frames(FilmSpec(" ".join(words(3, seed)), seed=seed)), held=True)


def idling(seed: int) -> Rows:
    """A drawn hand that signs nothing."""
    return of_film(idle_frames(seed, IDLE_S), held=False)


def random_poses(count: int) -> Rows:
    """Hands bent and turned at random, that are far from every letter."""
    rng = np.random.default_rng(0)
    letters = np.array([features(sign_joints(pose), right=True) for name, pose in POSES.items() if name != "nothing"])
    found: list[Rows] = []
    while len(found) < count:
        row = features(sign_joints(_random_pose(rng)), right=True)
        away = ((letters - row) ** 2).reshape(len(letters), 21, 3).sum(2).mean(1)
        if np.sqrt(away.min()) > _FAR:
            found.append(row)
    return np.array(found)


def _random_pose(rng: np.random.Generator) -> Pose:
    """A third each: fingers bent one by one, all alike, and an open hand."""
    kind = rng.integers(3)
    bends = rng.uniform(-5, 95, 4) if kind == 0 else rng.uniform(0, 80 if kind == 1 else 15) + rng.normal(0, 8, 4)
    spreads = rng.normal((10, 2, -4, -12) if kind < 2 else (14, 4, -6, -19), 4)
    fingers = [
        (spread, bend * rng.uniform(0.5, 1), bend * rng.uniform(0.8, 1.15), bend * rng.uniform(0.4, 0.7))
        for spread, bend in zip(spreads, np.clip(bends, -5, 95), strict=True)
    ]
    thumb = tuple(rng.uniform((10 if kind < 2 else 40, 0, -10, 0, 0), (60, 45, 50, 40, 50)))
    reach = np.array([180, 80, 180]) if rng.random() < 0.5 else np.array([60, 80, 60])
    view = tuple(rng.uniform(np.array([-1, -0.6, -1]) * reach, reach))
    index, middle, ring, pinky = fingers
    return Pose(thumb, index, middle, ring, pinky, view)


def gather(data: Path, work: Path) -> tuple[Groups, Groups]:
    """All groups: of letters, and of none. What is in `work` is not made again."""
    work.mkdir(parents=True, exist_ok=True)
    letters, none = people(data)
    jobs: dict[str, Callable[[], Rows]] = {f"letters {name}": partial(of_photos, of) for name, of in letters.items()}
    jobs |= {f"none {name}": partial(of_photos, of) for name, of in none.items()}
    jobs |= {f"letters drawn {seed}": partial(spelled, seed) for seed in range(SPELLED)}
    jobs |= {f"none idle {seed}": partial(idling, seed) for seed in range(IDLE)}
    jobs |= {"none random": partial(random_poses, 3000)}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        left = {name: pool.submit(job) for name, job in jobs.items() if not (work / f"{name}.npy").exists()}
        for name, rows in left.items():
            np.save(work / f"{name}.npy", rows.result())
            print(f"{name}: {len(rows.result())} hands", flush=True)
    groups = {name: np.load(work / f"{name}.npy") for name in jobs}
    groups = {name: rows for name, rows in groups.items() if len(rows)}
    return (
        {name.removeprefix("letters "): rows for name, rows in groups.items() if name.startswith("letters ")},
        {name.removeprefix("none "): rows for name, rows in groups.items() if name.startswith("none ")},
    )


def train(letters: Groups, none: Groups) -> Layers:
    """A perceptron of two hidden layers; each group weighs the same but for `_DRAWN` and `_ARDA`."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        *(torch.nn.Linear(63, WIDTH), torch.nn.ReLU(), torch.nn.Dropout(0.2)),
        *(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Dropout(0.2)),
        torch.nn.Linear(WIDTH, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    target = torch.cat([torch.full((HALF_BATCH,), 0.98), torch.full((HALF_BATCH,), 0.02)])
    pools = _weighed(letters, none)
    for _ in range(STEPS):
        rows = np.concatenate([_drawn(pool, rng) for pool in pools])
        logits = network(torch.from_numpy(_varied(rows, rng)))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    return [(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy()) for layer in linear]


def _weighed(letters: Groups, none: Groups) -> tuple[list[Rows], list[Rows]]:
    drawn = [rows for name, rows in letters.items() if name.startswith("drawn")]
    others = [rows for name, rows in letters.items() if not name.startswith("drawn")]
    arda = [none["arda"]] * (_ARDA - 1) if "arda" in none else []
    return [*others, *_DRAWN * [np.concatenate(drawn)]], [*none.values(), *arda]


def _drawn(pool: list[Rows], rng: np.random.Generator) -> Rows:
    at = rng.integers(len(pool), size=HALF_BATCH)
    return np.stack([pool[group][rng.integers(len(pool[group]))] for group in at])


def _varied(rows: Rows, rng: np.random.Generator) -> Rows:
    """Turned a little about each axis, and with the finder's noise."""
    joints = rows.reshape(-1, 21, 3).astype(np.float64)
    angles = rng.normal(0.0, np.radians(_TURN_DEGREES), (len(rows), 3))
    for one, other, angle in ((1, 2, angles[:, :1]), (0, 2, angles[:, 1:2]), (0, 1, angles[:, 2:])):
        first, second = joints[:, :, one].copy(), joints[:, :, other].copy()
        joints[:, :, one] = np.cos(angle) * first - np.sin(angle) * second
        joints[:, :, other] = np.sin(angle) * first + np.cos(angle) * second
    return np.asarray(joints + rng.normal(0.0, _NOISE, joints.shape), np.float32).reshape(-1, 63)


def main() -> None:
    """Gather, judge by thirds, train on all, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of all photos")
    parser.add_argument("--work", type=Path, default=Path("runs/letter_gate"))
    parser.add_argument("--out", type=Path, default=FILE, help="the file of the weights")
    options = parser.parse_args()
    letters, none = gather(options.data, options.work)
    for fold in range(FOLDS):
        _judge(letters, none, fold, options.work)
    save(options.out, train(letters, none))
    print(f"wrote {options.out}")


def gate_without(person: str, work: Path) -> Path:
    """The weights, of those that `_judge` left in `--work`, in whose training this person's letters were not."""
    names = sorted(path.stem.removeprefix("letters ") for path in work.glob("letters *.npy"))
    if person not in names:
        raise SystemExit(f"{work} holds no gates without {person}: run `python -m benchmarks.letter_gate` first")
    return work / f"fold{names.index(person) % FOLDS}.npz"


def _judge(letters: Groups, none: Groups, fold: int, work: Path) -> None:
    """Without every third group: how many of its hands pass as letters (at a probability of one half)."""
    held = {*sorted(letters)[fold::FOLDS], *sorted(name for name in none if name.startswith("idle"))[fold::FOLDS]}
    kept = {name: rows for name, rows in letters.items() if name not in held}
    layers = train(kept, {name: rows for name, rows in none.items() if name not in held})
    save(work / f"fold{fold}.npz", layers)
    for groups, what in ((letters, "letters kept"), (none, "taken for letters")):
        shares = {name: float((probabilities(groups[name], layers) > 0.5).mean()) for name in groups if name in held}
        shown = ", ".join(f"{name} {100 * share:.0f}" for name, share in shares.items())
        print(f"fold {fold}: % {what} (bias {BIAS}): {shown}", flush=True)


if __name__ == "__main__":
    main()
