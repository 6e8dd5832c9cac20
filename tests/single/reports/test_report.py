"""The report: what it says is in the scores, its pictures show something, its page is whole."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from horovod_asl.labels import CLASSES, NUM_CLASSES
from horovod_asl.metrics.metrics import MetricAccumulator
from horovod_asl.reports.plots import most_confused, plot_comparison, plot_confusion
from horovod_asl.reports.run_report import write_report
from horovod_asl.reports.score_tables import matrix
from horovod_asl.reports.web_page import _DARK, _LIGHT, contrast, page, picture, table
from horovod_asl.runs.run_folder import RunFolder


def make_scores(seed: int, n: int = 400) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, NUM_CLASSES, (n,), generator=generator)
    logits = torch.randn(n, NUM_CLASSES, generator=generator)
    logits[torch.arange(n), labels] += 1.5
    tally = MetricAccumulator(NUM_CLASSES, torch.device("cpu"))
    tally.add(logits, labels)
    return tally.scores(torch.clone).as_dict(CLASSES)


def make_run(
    path: Path, splits: tuple[str, ...] = ("train", "validation", "test"), rule: str = "recording"
) -> RunFolder:
    path.mkdir()
    folder = RunFolder(path)
    history: list[dict[str, Any]] = []
    for epoch in (1, 2, 3):
        row = {"epoch": epoch, "step": 9 * epoch, "train_loss": 3.0 / epoch, "train_top1": 0.2 * epoch}
        history.append(
            row | ({"validation_top1": 0.1, "validation_nll": 3.0} if "validation" in splits else {})
        )
    folder.write_metrics(history)
    scores = {split: make_scores(index) for index, split in enumerate(splits)}
    folder.write_result({"seconds": 12.0, "epoch": 3, "scores": scores})
    facts = {
        "model": "small_cnn",
        "split_rule": {"kind": rule},
        "trained_on": ["asl <1>/first", "asl <1>/second"],
        "settings": {"backend": "serial", "world_size": 1},
        "versions": {"torch": "2.13.0"},
    }
    folder.write_facts(facts)
    return folder


class Page(HTMLParser):
    """What a reader of a page sees: its words, its pictures, the tables' cells; every tag must be closed."""

    WITHOUT_END = ("meta", "img", "source")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.pictures: list[str] = []
        self.cells: list[str] = []
        self.references: list[str] = []
        self.meta: list[str] = []
        self.bare_tables = 0
        self.without_alt = 0
        self._boxes: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.references += [known[name] or "" for name in ("src", "srcset", "href", "data") if name in known]
        if tag == "img":
            self.pictures.append(known["src"] or "")
            self.without_alt += not known.get("alt")
        elif tag == "meta":
            self.meta.append(f"{known.get('name')} {known.get('content')}")
        if tag == "table":
            self.bare_tables += not {"scroll", "matrix"} & {*self._boxes}
        if tag not in self.WITHOUT_END:
            self.open.append(tag)
            self._boxes.append(known.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._boxes.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def assert_is_one_file_for_any_screen(text: str) -> None:
    """Nothing comes from elsewhere, pictures have a text, tables scroll by themselves, light and dark are there."""
    page = Page(text)
    assert page.open == []
    assert all(reference.startswith("data:image/") for reference in page.references), page.references
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert "viewport width=device-width, initial-scale=1" in page.meta
    assert (page.bare_tables, page.without_alt) == (0, 0)
    assert "prefers-color-scheme: dark" in text


def assert_shows_something(path: Path) -> None:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert 0.01 < (pixels < 250).any(2).mean() < 0.9


def test_the_page_holds_every_split_s_scores_and_every_picture_is_there(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    path = write_report(folder)
    page, text = Page(path.read_text()), path.read_text()
    assert page.open == []
    result = json.loads((folder.path / "result.json").read_text())
    for scores in result["scores"].values():
        for shown in (
            f"{scores['n']:,}",
            f"{scores['top1']:.2%}",
            f"{scores['top3']:.2%}",
            f"{scores['ece']:.3f}",
        ):
            assert shown in page.cells
    assert len(page.pictures) == 2
    assert_is_one_file_for_any_screen(text)
    for name in ("curves.png", "per_class.png", "confusion.png"):
        assert_shows_something(folder.path / name)
    scores = result["scores"]["test"]
    for name, row in scores["per_class"].items():
        assert {name, f"{row['recall']:.1%}", f"{row['precision']:.1%}"} <= {*page.cells}
    assert "asl <1>/first, asl <1>/second" in "".join(page.words)
    assert "$" not in text
    assert "{" not in "".join(page.words).split("}")[-1]


def test_the_page_is_about_the_hardest_split_that_there_is(tmp_path: Path) -> None:
    for splits, title in (
        (("train", "validation", "test"), "held-out recordings"),
        (("train", "validation"), "validation"),
        (("train",), "training recordings"),
    ):
        page = Page(write_report(make_run(tmp_path / splits[-1], splits)).read_text())
        assert f"Class by class ({title})" in page.words


def test_a_random_split_is_called_what_it_is(tmp_path: Path) -> None:
    honest = "".join(Page(write_report(make_run(tmp_path / "a")).read_text()).words)
    loose = "".join(Page(write_report(make_run(tmp_path / "b", rule="random")).read_text()).words)
    assert "No recording is on two sides" in honest
    assert "says nothing about other people" in loose
    assert "No recording is on two sides" not in loose
    given = "".join(Page(write_report(make_run(tmp_path / "c", rule="folders")).read_text()).words)
    assert "they do not say whether the same people are on two sides" in given
    assert "No recording is on two sides" not in given


def test_a_score_on_photos_that_the_first_weights_have_seen_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    folder.write_result(folder.result() | {"held_out_in_training": {"test": 7}})
    words = "".join(Page(write_report(folder).read_text()).words)
    assert "classified correctly (held-out recordings, seen in training)" in words
    assert "7 of the photos that were held out were in the training" in words


def test_writing_the_report_again_gives_the_same_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    first = write_report(folder).read_text()
    assert write_report(folder).read_text() == first


def test_the_most_confused_pairs_are_those_of_a_long_hand_count() -> None:
    scores = make_scores(5)
    confusion = scores["confusion"]
    pairs = [
        (CLASSES[i], CLASSES[j], confusion[i][j], sum(confusion[i]))
        for i in range(NUM_CLASSES)
        for j in range(NUM_CLASSES)
        if i != j and confusion[i][j] > 0
    ]
    found = most_confused(scores, count=10)
    assert [pair[2] for pair in found] == sorted((pair[2] for pair in pairs), reverse=True)[:10]
    assert len(set(found)) == 10
    assert set(found) <= set(pairs)


def test_a_faultless_score_confuses_nothing() -> None:
    scores = {"confusion": np.diag([3, 2, 5]).tolist(), "classes": ["A", "B", "C"]}
    assert most_confused(scores) == []


def test_the_confusion_matrix_is_dark_where_the_photos_are(tmp_path: Path) -> None:
    """All of A read as B, all of B as B: the second column is dark, the rest light."""
    scores = {"confusion": [[0, 4], [0, 9]], "classes": ["A", "B"]}
    plot_confusion(scores, "title", tmp_path / "c.png")
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("L")).astype(float)
    height, width = pixels.shape
    inside = pixels[int(0.2 * height) : int(0.8 * height), int(0.15 * width) : int(0.75 * width)]
    left, right = np.array_split(inside, 2, axis=1)
    assert left.mean() > right.mean() + 100


@pytest.mark.parametrize("count", [1, 4])
def test_a_comparison_is_drawn_for_any_number_of_backends(count: int, tmp_path: Path) -> None:
    rows = [
        {"backend": name, "replicas": 2, "photos_per_second": 100.0, "top1": 0.5, "scored_split": "test"}
        for name in ("serial", "dp", "ddp", "horovod")[:count]
    ]
    plot_comparison(rows, tmp_path / "compare.png")
    assert_shows_something(tmp_path / "compare.png")


def test_the_matrix_holds_the_shares_of_a_long_hand_count() -> None:
    counts = [[3, 1, 0], [0, 0, 0], [1, 0, 999]]
    cells = Page(matrix({"confusion": counts, "classes": ["A", "B", "<C>"]}))
    assert cells.cells == ["75", "25", "·", "100"]
    assert "<C>" in cells.words


def test_text_stands_out_from_what_is_behind_it_in_the_light_and_in_the_dark() -> None:
    """AA of WCAG: 4.5 for text, here of every rule that the page's own style sheet holds."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for colours in (_LIGHT, _DARK):
        for text in ("ink", "quiet"):
            assert contrast(colours[text], colours["paper"]) >= 4.5
        assert contrast(colours["accent"], colours["paper"]) >= 3  # of a bar
    rules = re.findall(r"background: (#\w{6}); color: (#\w{6})", page("", "", ""))
    assert len(rules) == 20
    assert min(contrast(*rule) for rule in rules) >= 4.5


def test_pieces_of_a_page_are_plain_text_and_carry_their_pictures() -> None:
    assert_is_one_file_for_any_screen(
        page("<b>", "&", table(("a<", "n"), [("x", "1")]) + picture(b"png", "image/png", '"alt"', dark=b"other"))
    )
    numbers = Page(table(("", ""), [("key", "12")]))
    assert numbers.cells == ["key", "12"]
    assert 'class="n"' not in table(("", ""), [("key", "12")])
    assert '<td class="n">12</td>' in table(("key", "value"), [("key", "12")])
