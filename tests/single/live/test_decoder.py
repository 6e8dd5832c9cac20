"""Viterbi's search against all paths, tried one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from horovod_asl.live.decoder import Frame, Search

SYMBOLS = 3


def drawn(seed: int, frames: int) -> tuple[np.ndarray, np.ndarray, list[Frame]]:
    rng = np.random.default_rng(seed)
    language = np.log(rng.dirichlet(np.ones(SYMBOLS), (SYMBOLS + 1, SYMBOLS + 1)))
    entry = rng.uniform(0, 2, SYMBOLS)
    film = [
        Frame(rng.normal(0, 2, SYMBOLS), float(rng.normal(0, 1)), float(rng.uniform(-1, 3)))
        for _ in range(frames)
    ]
    return language, entry, film


def paths(frames: int) -> Iterator[tuple[tuple[int, bool], ...]]:
    """Every path: per frame the symbol or SYMBOLS for between, and whether the symbol begins there."""
    for states in itertools.product(range(SYMBOLS + 1), repeat=frames):
        before = SYMBOLS
        path = []
        for state in states:
            path.append((state, state < SYMBOLS and state != before))
            before = state
        yield tuple(path)


def price(path: tuple[tuple[int, bool], ...], language: np.ndarray, entry: np.ndarray, film: list[Frame]) -> float:
    total, context = 0.0, (SYMBOLS, SYMBOLS)
    for (state, begins), frame in zip(path, film, strict=True):
        if state == SYMBOLS:
            total += frame.between
            continue
        if begins:
            total += language[context][state] - entry[state] - (frame.again if context[1] == state else 0.0)
            context = context[1], state
        total += frame.within[state]
    return total


@pytest.mark.parametrize("seed", range(12))
def test_the_path_found_is_the_best_of_all(seed: int) -> None:
    language, entry, film = drawn(seed, 5)
    search = Search(language, entry)
    for frame in film:
        search.extend(frame)
    best = max(paths(len(film)), key=lambda path: price(path, language, entry, film))
    begun = [(state, number) for number, (state, begins) in enumerate(best) if begins]
    segments, within = search.segments()
    assert [(segment.symbol, segment.first) for segment in segments] == begun
    assert within == (best[-1][0] < SYMBOLS)
    for segment in segments:
        assert all(best[number][0] == segment.symbol for number in range(segment.first, segment.last + 1))


def test_a_search_that_was_rewound_is_one_that_never_went_further() -> None:
    language, entry, film = drawn(3, 8)
    one, other = Search(language, entry), Search(language, entry)
    for frame in film:
        one.extend(frame)
    one.rewind(4)
    for frame in film[:4]:
        other.extend(frame)
    for frame in film[6:]:
        one.extend(frame)
        other.extend(frame)
    assert one.segments() == other.segments()


def test_a_letter_that_is_held_on_costs_nothing_anew() -> None:
    language, entry, _ = drawn(0, 1)
    search = Search(language, entry)
    search.restart((SYMBOLS, 1), within=True)
    search.extend(Frame(np.array([-9.0, 0.0, -9.0]), -9.0, 9.0))
    segments, within = search.segments()
    assert [(segment.symbol, segment.first) for segment in segments] == [(1, -1)]
    assert within
