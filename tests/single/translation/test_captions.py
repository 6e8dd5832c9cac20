"""Letters → words, against a keyboard; words → captions, against a parser of our own."""

from __future__ import annotations

import random
import re

import pytest

from horovod_asl.live.speller import Letter
from horovod_asl.translation.captions import Word, srt, words_of


def letters(labels: str) -> list[Letter]:
    """`_` is the space, `<` the sign del; a letter each half second, held for 0.4 s."""
    names = {"_": "space", "<": "del"}
    return [Letter(names.get(one, one), i / 2, i / 2 + 0.4, 0.9) for i, one in enumerate(labels)]


def parsed(text: str) -> list[tuple[float, float, str]]:
    """SubRip: blocks set apart by an empty line; a number from 1 on, `from --> to`, and lines of text."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")] if text.strip() else []
    captions = []
    for number, (counter, times, *lines) in enumerate(blocks, 1):
        assert counter == str(number)
        match = re.fullmatch(r"(\d\d):(\d\d):(\d\d),(\d{3}) --> (\d\d):(\d\d):(\d\d),(\d{3})", times)
        assert match
        h, m, s, ms, *end = map(int, match.groups())
        start_s, end_s = (((a * 60 + b) * 60 + c) + d / 1000 for a, b, c, d in ((h, m, s, ms), end))
        captions.append((start_s, end_s, "\n".join(lines)))
    return captions


def test_a_caption_is_a_word_with_its_times() -> None:
    words = words_of(letters("HELLO_WORLD"))
    assert words == [Word("HELLO", 0.0, 2.4), Word("WORLD", 3.0, 5.4)]
    assert parsed(srt(words)) == [(0.0, 2.4, "HELLO"), (3.0, 5.4, "WORLD")]


def test_long_films_and_short_letters() -> None:
    captions = parsed(srt([Word("A", 3599.9996, 3599.9996), Word("I", 86_399.5, 86_400.0)]))
    assert captions[0] == (3600.0, pytest.approx(3600.2), "A")
    assert captions[1] == (86_399.5, 86_400.0, "I")
    assert srt([]) == ""


def typed(labels: str) -> str:
    """What a keyboard makes of it, where a space at the beginning or after another does nothing."""
    text = ""
    for label in labels:
        if label == "<":
            text = text[:-1]
        elif label != "_" or (text and text[-1] != " "):
            text += label.replace("_", " ")
    return text


def test_words_are_those_of_the_text_also_where_spaces_and_letters_are_taken_back() -> None:
    rng = random.Random(0)
    for _ in range(500):
        labels = "".join(rng.choices("AB_<", (3, 3, 2, 2), k=rng.randrange(12)))
        assert [word.text for word in words_of(letters(labels))] == typed(labels).split(), labels
