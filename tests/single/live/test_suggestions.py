"""Suggestions against a search through all words by an edit distance of our own."""

from __future__ import annotations

import sys
import threading

import pytest

from horovod_asl.errors import UserError
from horovod_asl.live import suggestions
from horovod_asl.live.suggestions import Suggester, Suggestions, frequent_words

pytest.importorskip("symspellpy", reason="needs the extra live")


def edits(one: str, other: str) -> int:
    """Letters wrong, missing or too many, and neighbours that changed places, by the table of all prefixes."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            wrong = one[i - 1] != other[j - 1]
            best = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + wrong)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                best = min(best, table[i - 2][j - 2] + 1)
            table[i][j] = best
    return table[-1][-1]


@pytest.fixture(scope="module")
def words() -> dict[str, int]:
    return frequent_words(2000)


@pytest.fixture(scope="module")
def suggester(words: dict[str, int]) -> Suggester:
    return Suggester(words)


@pytest.mark.parametrize("typed", ["helo", "wrld", "informatoin", "pleese", "teh", "xqzt", "schol", "universitty"])
def test_neighbours_are_those_of_a_search_through_all(
    suggester: Suggester, words: dict[str, int], typed: str
) -> None:
    most = 2 if len(typed) >= 6 else 1
    near = {word: distance for word in words if (distance := edits(typed, word)) <= most}
    assert dict(suggester.near(typed)) == near


@pytest.mark.parametrize("typed", ["h", "he", "inter", "world", "zz"])
def test_completions_are_those_of_a_search_through_all(
    suggester: Suggester, words: dict[str, int], typed: str
) -> None:
    assert set(suggester.completions(typed)) == {word for word in words if word.startswith(typed)}


def test_the_first_is_the_likeliest_and_nothing_else_is_suggested() -> None:
    made_up = {"cat": 900, "cart": 500, "carts": 10, "dog": 2000, "bookkeeper": 3, "hat": 100_000}
    suggester = Suggester(made_up)
    assert suggester.suggest("CAR") == ["CART", "CARTS", "CAT"]  # CAT is frequent, but has a wrong letter
    assert suggester.suggest("THE CA") == ["CAT", "CART", "CARTS"]
    assert suggester.suggest("CAT") == []  # HAT is frequent, but less than a letter that is read wrongly is rare
    assert suggester.suggest("DAG") == ["DOG"]
    assert suggester.suggest("BOKEPER") == ["BOOKKEEPER"]  # three double letters that were read once
    assert suggester.suggest("CAT ") == suggester.suggest("") == suggester.suggest("CAFÉ") == []


@pytest.mark.timeout(120)
def test_the_dictionary_is_read_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def late() -> dict[str, int]:
        asked.wait(60)
        return frequent_words()

    monkeypatch.setattr(suggestions, "frequent_words", late)
    suggest = Suggestions()
    assert suggest("HELO") == []  # at once
    asked.set()
    suggest.wait()
    assert suggest("HELO")[0] == "HELLO"
    assert "WORLD" in suggest("HELLO WOR")
    assert all(len(suggest(text)) == 3 for text in ("A", "TH", "QU"))


def test_without_symspellpy_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "symspellpy", None)
    with pytest.raises(UserError, match=r"pip install 'horovod_asl\[live\]'"):
        suggestions.Suggestions()
