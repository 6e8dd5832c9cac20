"""Letters with their times → words, and words → SubRip captions (.srt)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from horovod_asl.live.speller import Letter

_SHORTEST_S = 0.2
"""Players pass over a caption of no length: a letter that was seen in one frame."""


@dataclass(frozen=True)
class Word:
    """A word that was spelled, from its first letter to the end of its last, in seconds."""

    text: str
    start_s: float
    end_s: float


def words_of(letters: Iterable[Letter]) -> list[Word]:
    """The words that these letters spell: `space` ends one, `del` takes a letter back, or the space before it.

    Their texts, joined by spaces, are the text that a `Translator` makes of the same letters.
    """
    words: list[list[Letter]] = [[]]
    for letter in letters:
        if letter.label == "space":
            if words[-1]:
                words.append([])
        elif letter.label == "del":
            if words[-1]:
                words[-1].pop()
            elif len(words) > 1:
                words.pop()
        else:
            words[-1].append(letter)
    return [_word(spelled) for spelled in words if spelled]


def srt(words: Iterable[Word]) -> str:
    """The words as a SubRip file, a caption each; empty without words."""
    blocks = [
        f"{number}\n{_clock(word.start_s)} --> {_clock(max(word.end_s, word.start_s + _SHORTEST_S))}\n{word.text}\n"
        for number, word in enumerate(words, 1)
    ]
    return "\n".join(blocks)


def _word(letters: list[Letter]) -> Word:
    return Word("".join(letter.label for letter in letters), letters[0].start_s, letters[-1].end_s)


def _clock(time_s: float) -> str:
    """`01:02:03,004`."""
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02},{milliseconds:03}"
