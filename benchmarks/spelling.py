"""How well films are spelled, `python -m benchmarks.spelling`: drawn hands, people, a hand that signs nothing.

The character error rate is Levenshtein's distance ÷ the characters of the text. Drawn films have seeds that were not
used to set the speller's prices or to train the letter gate (those were below 1000), and two frequent words each.
People: each spells the words of which all letters have photos. Their letters were in training neither of the network
nor of the gate: one that `python -m benchmarks.letter_gate` trained without them is used. The prices were set
on words of these people, too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from benchmarks.letter_gate import gate_without, words
from benchmarks.real_films import RealFrame, real_film
from horovod_asl.errors import UserError
from horovod_asl.live.reader import HandNetwork
from horovod_asl.live.translator import Translator
from horovod_asl.synthetic.film import DrawnFrame, FilmSpec, film_frames, idle_frames
from horovod_asl.translation.source import thinned

SPEEDS = (1.0, 2.0, 3.5)
PEOPLE = ("guns", "hawk", "lolz", "long", "meyy", "nik1", "nik2", "nik4", "t32")
WORDS = (
    *("THE", "QUICK", "BROWN", "FOX", "LAMPS", "OVER", "WATCH", "MONEY", "PHONE", "QUIET", "RADIO", "KNIFE"),
    *("PLANT", "WORD", "NIGHT"),
)


@dataclass(frozen=True)
class Reading:
    """What was read of a film, the time of each frame, and that from the first hold to the first letter."""

    text: str
    took_ms: list[float]
    first_s: float | None


def read(film: Iterable[DrawnFrame | RealFrame], network: HandNetwork) -> Reading:
    """The film as `live` reads it, but that no frame is late."""
    translator, took = Translator(network), []
    held_s = first_s = None
    for frame in thinned(iter(film)):
        if held_s is None and frame.label is not None:
            held_s = frame.time_s
        begun = time.perf_counter()
        seen = translator.see(frame.pixels, frame.time_s)
        took.append((time.perf_counter() - begun) * 1e3)
        if first_s is None and seen.taken and held_s is not None:
            first_s = frame.time_s - held_s
    translator.finish()
    translator.close()
    return Reading(translator.text.strip(), took, first_s)


def drawn(network: HandNetwork, films: int, first_seed: int) -> dict[str, Any]:
    """Character error rate by letters a second."""
    rows = {}
    for speed in SPEEDS:
        pairs: list[tuple[str, Reading]] = []
        for seed in range(first_seed, first_seed + films):
            text = " ".join(words(2, seed))
            found = read(film_frames(FilmSpec(text, seed=seed, letters_per_second=speed)), network)
            pairs.append((text, found))
            print(f"{speed:g}/s {seed} {text} > {found.text}", flush=True)
        rows[f"{speed:g} letters a second"] = _row(pairs)
    return rows


def people(folder: Path, gates: Path) -> dict[str, Any]:
    """Character error rate by person."""
    rows = {}
    for person in PEOPLE:
        network, pairs = HandNetwork(gate=gate_without(person, gates)), list[tuple[str, Reading]]()
        for word in WORDS:
            try:
                film = list(real_film(folder / person, word))
            except UserError:
                continue  # a letter of which this person has no photo
            pairs.append((word, read(film, network)))
        rows[person] = _row(pairs)
        misread = [f"{word} > {found.text}" for word, found in pairs if word != found.text]
        print(person, rows[person], misread, flush=True)
    return rows


def idle(network: HandNetwork, films: int, first_seed: int) -> list[str]:
    """What is read of a minute in which nothing is signed."""
    found = []
    for seed in range(first_seed, first_seed + films):
        found.append(read(idle_frames(seed, 60), network).text)
        print("idle", seed, repr(found[-1]), flush=True)
    return found


def _row(pairs: list[tuple[str, Reading]]) -> dict[str, Any]:
    total = sum(len(text) for text, _ in pairs)
    wrong = sum(Levenshtein.distance(text, found.text) for text, found in pairs)
    took = [took_ms for _, found in pairs for took_ms in found.took_ms]
    first = [found.first_s for _, found in pairs if found.first_s is not None]
    return {
        "characters": total,
        "wrong": wrong,
        "error_percent": round(100 * wrong / max(total, 1), 1),
        "first_letter_s_median": round(float(np.median(first)), 2) if first else None,
        "frame_ms_median": round(float(np.median(took)), 1),
        "frame_ms_p95": round(float(np.percentile(took, 95)), 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=100, help="drawn films a speed, of two words each")
    parser.add_argument("--idle", type=int, default=5, help="minutes in which nothing is signed, a film each")
    parser.add_argument("--people", type=Path, help="the folder `webcam` of photos by person")
    parser.add_argument("--gates", type=Path, default=Path("runs/letter_gate"), help="`--work` of letter_gate")
    parser.add_argument("--seed", type=int, default=1000, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path("runs/spelling.json"))
    options = parser.parse_args()
    network = HandNetwork()
    results: dict[str, Any] = {"seed": options.seed}
    results["idle"] = idle(network, options.idle, options.seed)
    results["drawn"] = drawn(network, options.films, options.seed)
    if options.people:
        results["people"] = people(options.people, options.gates)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
