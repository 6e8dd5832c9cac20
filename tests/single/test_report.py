"""The report: what it says is in the scores, its pictures show something, its page is whole."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from horovod_asl.labels import CLASSES, NUM_CLASSES
from horovod_asl.metrics import Tally
from horovod_asl.report import most_confused, plot_comparison, plot_confusion, write_report
from horovod_asl.runfolder import RunFolder


def make_scores(seed: int, n: int = 400) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, NUM_CLASSES, (n,), generator=generator)
    logits = torch.randn(n, NUM_CLASSES, generator=generator)
    logits[torch.arange(n), labels] += 1.5
    tally = Tally(NUM_CLASSES, torch.device("cpu"))
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

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.pictures: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attributes)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


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
    assert page.pictures == ["curves.png", "per_class.png", "confusion.png"]
    for picture in page.pictures:
        assert_shows_something(folder.path / picture)
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
