"""Words for what is being spelled: its completions and its corrections, the likeliest first.

The dictionary of symspellpy, its most frequent words, is indexed in a thread: 2 s in which nothing is suggested.

A word scores by the logarithm of its frequency, as if the signer had drawn it from the dictionary, less a price for
each letter that was read wrongly (the noisy channel of Kernighan, Church and Gale, 1990). A double letter that was
read once costs less: on the hand it is one slide. A correction must be likelier than the word as it stands.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby
from math import inf, log
from typing import Any

from horovod_asl.errors import UserError

MOST_WORDS = 30_000
"""Of the dictionary; the rest is rare, and takes time to index."""
MOST_SUGGESTIONS = 3
_EDIT_PRICE, _DOUBLE_PRICE = log(400), log(8)
"""How unlikely it is that a letter is read wrongly, and that a double letter is read once."""
_LONG = 6
"""Letters of a word in which two may be wrong; of shorter words half the dictionary would be near."""


class Suggester:
    """Completions and corrections among these words.

    Args:
        words: their frequencies; ASCII letters alone, in lower case.

    Raises:
        UserError: symspellpy is missing.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        self._index = _symspell().SymSpell(max_dictionary_edit_distance=2, prefix_length=6)
        self._log_frequencies = {word: log(frequency) for word, frequency in words.items()}
        self._sorted = sorted(words)
        self._by_runs: dict[str, list[str]] = defaultdict(list)
        for word, frequency in words.items():
            self._index.create_dictionary_entry(word, frequency)
            self._by_runs[_singled(word)].append(word)

    def suggest(self, text: str) -> list[str]:
        """For the last word of `text`, at most `MOST_SUGGESTIONS`, upper case; none after a space."""
        typed = text[text.rfind(" ") + 1 :].lower()
        if not (typed.isascii() and typed.isalpha()):
            return []
        logs = self._log_frequencies
        scores = {word: logs[word] - price for word, price in self._corrections(typed).items()}
        scores = {word: score for word, score in scores.items() if score > logs.get(typed, -inf)}
        scores.update((word, logs[word]) for word in self.completions(typed))
        scores.pop(typed, None)
        return [word.upper() for word in heapq.nlargest(MOST_SUGGESTIONS, scores, key=lambda w: (scores[w], w))]

    def completions(self, typed: str) -> list[str]:
        """All words that begin with `typed`, itself included."""
        first = bisect_left(self._sorted, typed)
        last = bisect_left(self._sorted, typed + "\x7f")
        return self._sorted[first:last]

    def near(self, typed: str) -> list[tuple[str, int]]:
        """The words within one edit of `typed` (from `_LONG` letters on: two), with the number of edits.

        An edit is a letter that is wrong, missing or too many, or two neighbours in the wrong order. Words of one or
        two letters have no neighbours, being near to everything.
        """
        if len(typed) < 3:
            return []
        found = self._index.lookup(typed, _symspell().Verbosity.ALL, max_edit_distance=1 + (len(typed) >= _LONG))
        return [(item.term, item.distance) for item in found]

    def _corrections(self, typed: str) -> dict[str, float]:
        """Words that may have been read as `typed`, each with the price of that."""
        prices = {word: edits * _EDIT_PRICE for word, edits in self.near(typed)}
        for word in self._by_runs.get(_singled(typed), ()):
            prices[word] = abs(len(word) - len(typed)) * _DOUBLE_PRICE
        return prices


class Suggestions:
    """The words of the dictionary that comes with symspellpy, indexed in the background: may be called at once.

    Raises:
        UserError: symspellpy is missing.
    """

    def __init__(self) -> None:
        _symspell()
        self._suggester: Suggester | None = None
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def __call__(self, text: str) -> list[str]:
        """As `Suggester.suggest`; nothing until the dictionary is there."""
        return [] if self._suggester is None else self._suggester.suggest(text)

    def wait(self) -> None:
        """Until the dictionary is there."""
        self._thread.join()

    def _load(self) -> None:
        self._suggester = Suggester(frequent_words())


def frequent_words(most: int = MOST_WORDS) -> dict[str, int]:
    """The most frequent words of the dictionary, ASCII letters alone, with their frequencies."""
    from importlib.resources import files

    file = files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    counts: dict[str, int] = {}
    for line in file.read_text("utf-8-sig").splitlines():  # most frequent first
        word, count = line.split()
        if word.isascii() and word.isalpha():
            counts[word] = int(count)
        if len(counts) == most:
            break
    return counts


def _singled(word: str) -> str:
    """With each run of a letter as one."""
    return "".join(letter for letter, _ in groupby(word))


def _symspell() -> Any:
    try:
        import symspellpy  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(
            "word suggestions need symspellpy, not installed here: pip install 'horovod_asl[live]', or in a checkout "
            "`make setup`"
        ) from error
    return symspellpy
