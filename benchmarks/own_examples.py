"""What a person's own examples gain: `python -m benchmarks.own_examples FOLDER`, of a folder per person.

Of each letter the first four stills of a sitting give the examples, and the others are read. J and Z, which are
movements, are left out. Nobody in the folder is in the training set; the strength of the examples was set on the same
people.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.labels import CLASS_INDEX, MOVEMENTS
from horovod_asl.live.calibration import Examples
from horovod_asl.live.reader import HandNetwork, Read
from horovod_asl.photos.decode import decode_photo

PEOPLE = ("guns", "hawk", "lolz", "long", "meyy", "nik1", "nik2", "nik4", "t32")
GIVES, READ = 4, 8
Stills = dict[str, list[Read | None]]
"""By letter; None where no hand was found."""


def stills(person: Path, network: HandNetwork) -> Stills:
    """The first `READ` stills of each letter."""
    finder, found = shared_finder(), Stills()
    for folder in sorted(person.iterdir()):
        if len(folder.name) != 1 or folder.name in MOVEMENTS:
            continue
        found[folder.name] = []
        for path in sorted(folder.glob("still-*"))[:READ]:
            square = decode_photo(path.read_bytes(), LOOK_PX)
            record = finder.find(square)
            seen = record["found"] or record["doubtful"]
            found[folder.name].append(network.read(square, record) if seen else None)
    return found


def first(count: int) -> Callable[[str, list[Read]], list[Read]]:
    """So many examples of every letter."""
    return lambda letter, given: given[:count]


def of_misread(letter: str, given: list[Read]) -> list[Read]:
    """Three examples of a letter of which one was misread."""
    wrong = [read for read in given if read.logits.argmax() != CLASS_INDEX[letter]]
    return given[:3] if wrong else []


WAYS: Mapping[str, Callable[[str, list[Read]], list[Read]]] = {
    "none": first(0),
    "1 of every letter": first(1),
    "3 of every letter": first(3),
    "3 of the letters that were misread": of_misread,
}


def accuracy(person: Stills, examples: Examples, way: Callable[[str, list[Read]], list[Read]]) -> float:
    """Of the stills that gave no examples, the fraction that is classified correctly; no hand is a mistake."""
    for letter, reads in person.items():
        for read in way(letter, [read for read in reads[:GIVES] if read is not None]):
            examples.add(letter, read)
    correct = [
        read is not None and examples.adjusted(read).logits.argmax() == CLASS_INDEX[letter]
        for letter, reads in person.items()
        for read in reads[GIVES:]
    ]
    return float(np.mean(correct))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder per person, with a folder of stills per letter")
    folder, network = parser.parse_args().folder, HandNetwork()
    people = {name: stills(folder / name, network) for name in PEOPLE}
    with tempfile.TemporaryDirectory() as scratch:
        for name, way in WAYS.items():
            scores = [
                accuracy(person, Examples(Path(scratch) / "none.npz"), way) for person in people.values()
            ]
            print(f"{name}: mean {100 * np.mean(scores):.1f} %, worst person {100 * min(scores):.1f} %", flush=True)


if __name__ == "__main__":
    main()
