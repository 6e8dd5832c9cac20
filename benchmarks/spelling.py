"""How well films are spelled, `python -m benchmarks.spelling`: drawn hands, people, a hand that signs nothing.

The character error rate is Levenshtein's distance ÷ the characters of the text. Drawn films have seeds that were not
used to set the speller's prices (those were 0 to 18), and two frequent words each. People: each spells the words of
which all letters have photos; their photos are not in the training set, but the prices were set on words of these
people, too.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_films import real_film
from horovod_asl.errors import UserError
from horovod_asl.hands.record import Pixels
from horovod_asl.live.reader import HandNetwork
from horovod_asl.live.suggestions import frequent_words
from horovod_asl.live.translator import Translator
from horovod_asl.synthetic.film import FilmSpec, film_frames, idle_frames
from horovod_asl.translation.source import MOST_FPS

SPEEDS = (1.0, 2.0, 3.5)
PEOPLE = ("guns", "hawk", "lolz", "long", "meyy", "nik1", "nik2", "nik4", "t32")
WORDS = (
    *("THE", "QUICK", "BROWN", "FOX", "LAMPS", "OVER", "WATCH", "MONEY", "PHONE", "QUIET", "RADIO", "KNIFE"),
    *("PLANT", "WORD", "NIGHT"),
)


def words(count: int, seed: int) -> list[str]:
    """Frequent words of three to eight letters."""
    known = [word.upper() for word in frequent_words(3000) if 3 <= len(word) <= 8]
    return random.Random(seed).sample(known, count)


def read(frames: Iterable[tuple[float, Pixels]], network: HandNetwork) -> tuple[str, list[float]]:
    """The text of a film, and how long each frame took, in milliseconds."""
    translator, took, due_s = Translator(network), [], -1.0
    for time_s, pixels in frames:
        if time_s < due_s:
            continue
        due_s = time_s + 0.9 / MOST_FPS
        begun = time.perf_counter()
        translator.see(pixels, time_s)
        took.append((time.perf_counter() - begun) * 1e3)
    translator.finish()
    translator.close()
    return translator.text.strip(), took


def distance(text: str, other: str) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, one in enumerate(text, 1):
        before, row[0] = row[0], i
        for j, two in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != two))
    return row[-1]


def drawn(network: HandNetwork, films: int, first_seed: int) -> dict[str, Any]:
    """Character error rate by letters a second."""
    rows = {}
    for speed in SPEEDS:
        wrong = total = 0
        took: list[float] = []
        for seed in range(first_seed, first_seed + films):
            text = " ".join(words(2, seed))
            film = film_frames(FilmSpec(text, seed=seed, letters_per_second=speed))
            spelled, times = read(((frame.time_s, frame.pixels) for frame in film), network)
            wrong, total, took = wrong + distance(text, spelled), total + len(text), took + times
            print(f"{speed:g}/s {seed} {text} > {spelled}", flush=True)
        rows[f"{speed:g} letters a second"] = _row(wrong, total, took)
    return rows


def people(network: HandNetwork, folder: Path) -> dict[str, Any]:
    """Character error rate by person."""
    rows = {}
    for person in PEOPLE:
        wrong = total = 0
        for word in WORDS:
            try:
                film = [(frame.time_s, frame.pixels) for frame in real_film(folder / person, word)]
            except UserError:
                continue  # a letter of which this person has no photo
            spelled, _ = read(film, network)
            wrong, total = wrong + distance(word, spelled), total + len(word)
        rows[person] = _row(wrong, total, [])
        print(person, rows[person], flush=True)
    return rows


def idle(network: HandNetwork, films: int, first_seed: int) -> list[str]:
    """What is read of a minute in which nothing is signed."""
    found = []
    for seed in range(first_seed, first_seed + films):
        film = ((frame.time_s, frame.pixels) for frame in idle_frames(seed, 60))
        found.append(read(film, network)[0])
        print("idle", seed, repr(found[-1]), flush=True)
    return found


def _row(wrong: int, total: int, took: list[float]) -> dict[str, Any]:
    percent = round(100 * wrong / max(total, 1), 1)
    row: dict[str, Any] = {"characters": total, "wrong": wrong, "error_percent": percent}
    if took:
        row |= {"frame_ms_median": round(float(np.median(took)), 1)}
        row |= {"frame_ms_p95": round(float(np.percentile(took, 95)), 1)}
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=100, help="drawn films a speed, of two words each")
    parser.add_argument("--idle", type=int, default=5, help="minutes in which nothing is signed, a film each")
    parser.add_argument("--people", type=Path, help="the folder `webcam` of photos by person")
    parser.add_argument("--seed", type=int, default=1000, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path("runs/spelling.json"))
    options = parser.parse_args()
    network = HandNetwork()
    results: dict[str, Any] = {"seed": options.seed}
    results["idle"] = idle(network, options.idle, options.seed)
    results["drawn"] = drawn(network, options.films, options.seed)
    if options.people:
        results["people"] = people(network, options.people)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
