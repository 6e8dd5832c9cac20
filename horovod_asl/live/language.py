"""How likely a letter is after the two before it, counted in the words of a dictionary with frequencies.

The counts ship as `letters.npy`, so that no dictionary is read at the start. `python -m horovod_asl.live.language`
counts anew, in the dictionary of symspellpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from horovod_asl.labels import CLASSES

SYMBOLS: tuple[str, ...] = tuple(name for name in CLASSES if name != "nothing")
"""What can be spelled: the letters, `del` and `space`."""
SPACE, DELETE, START = SYMBOLS.index("space"), SYMBOLS.index("del"), len(SYMBOLS)
_FLATTENED = 0.5
"""A word counts by this power of its frequency: names and rare words are spelled more than they are said."""
_DELETED, _UNKNOWN = 0.005, 0.1
"""How often a letter is taken back, and how often a letter follows no rule at all."""
_ABSENT = 1e-6
_BACKED_OFF = 20.0
"""How many times a pair must have been seen for its own successors to count as much as those of its last letter."""


FILE = Path(__file__).with_name("letters.npy")


@lru_cache(maxsize=1)
def shipped_letter_model() -> NDArray[np.float64]:
    """`letter_model` of the dictionary of symspellpy, to three digits. Not to be changed."""
    return np.asarray(np.load(FILE), np.float64)


def letter_model(words: Mapping[str, int]) -> NDArray[np.float64]:
    """The logarithm of P(symbol | the two before), float64 (symbols + 1, symbols + 1, symbols).

    The last context is the start, which also stands for whatever lies before a word. Trigrams are interpolated with
    bigrams by Witten and Bell's idea, and with an even chance for every letter.

    Args:
        words: the frequency of each word, in lower case.
    """
    counts = _counts(words)
    pair = counts.sum(0)
    single = pair.sum(0)
    p1 = single / single.sum()
    p2 = _interpolated(pair, p1)
    p3 = _interpolated(counts, p2[None])
    p3[:, DELETE] = p3[:, SPACE] = p3[START, START]  # a new word, or one that is mended
    even = np.full(len(SYMBOLS), 1 / len(SYMBOLS))
    mixed = (1 - _UNKNOWN - _DELETED) * p3 + _UNKNOWN * even
    mixed[..., DELETE] += _DELETED
    mixed[START, START, [DELETE, SPACE]] = _ABSENT  # there is nothing to take back or to end
    same = np.arange(len(SYMBOLS))
    mixed[same, same, same] = _ABSENT  # no word has the same letter three times
    mixed /= mixed.sum(-1, keepdims=True)
    result: NDArray[np.float64] = np.log(mixed)
    return result


def _counts(words: Mapping[str, int]) -> NDArray[np.float64]:
    counts = np.zeros((START + 1, START + 1, len(SYMBOLS)))
    for word, frequency in words.items():
        if not (word.isascii() and word.isalpha()):
            continue
        spelled = [START, START, *(ord(letter) - ord("A") for letter in word.upper()), SPACE]
        weight = frequency**_FLATTENED
        for before, last, symbol in zip(spelled, spelled[1:], spelled[2:], strict=False):
            counts[before, last, symbol] += weight
    return np.asarray(counts / counts.sum() * 1e6)


def _interpolated(counts: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
    total = counts.sum(-1, keepdims=True)
    return np.asarray((counts + _BACKED_OFF * lower) / (total + _BACKED_OFF))


if __name__ == "__main__":
    from horovod_asl.live.suggestions import frequent_words

    np.save(FILE, letter_model(frequent_words(100_000)).astype(np.float16))
