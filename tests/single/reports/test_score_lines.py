"""What `evaluate` prints, with the eyes of somebody who sees it for the first time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from horovod_asl.commands import evaluate
from horovod_asl.reports.score_lines import lines_of
from tests.conftest import draw_photo
from tests.single.reports.test_example_sheets import make_run

ANSWER: dict[str, Any] = {
    "scored": ["homes/all"],
    "trained_on": ["asl/1"],
    "seen_in_training": [],
    "photos_known_in_training": 0,
    "in_training_unknown_because": None,
    "split_rule": "recording",
    "n": 1000,
    "correct": 970,
    "top1": 0.97,
    "top3": 0.99,
    "macro_f1": 0.9666,
    "without_j_z": {"top1": 0.98, "n": 930, "macro_f1": 0.975},
    "temperature": 0.5,
    "nll": 0.2,
    "nll_calibrated": 0.1,
    "ece": 0.05,
    "ece_calibrated": 0.01,
    "at_accuracy": {
        "0.95": {"threshold": 0.12, "coverage": 1.0, "accuracy": 0.97},
        "0.98": {"threshold": 0.4216, "coverage": 0.995, "accuracy": 0.98},
        "0.99": None,
    },
}


def test_each_line_says_what_it_is_about() -> None:
    assert lines_of(ANSWER) == [
        "scored     homes/all",
        "trained on asl/1",
        "0 of 1,000 photos were in training",
        "970 of 1,000 photos classified correctly: 97.00% (top-1)",
        "the right class is among the three likeliest for 99.00% of the photos (top-3)",
        "macro F1, which counts every class alike: 96.66%",
        "without J and Z, which are movements: 98.00% of 930 photos classified correctly, macro F1 97.50%",
        "negative log-likelihood (nll): 0.2000, 0.1000 at the run's temperature of 0.500",
        "calibration error (ece): 0.0500, 0.0100 at the run's temperature of 0.500",
        "to be 95% right, answer all photos (97.0% of the answers are right)",
        "to be 98% right, answer 99.5% of the photos (abstain below 0.422)",
        "to be 99% right, no confidence is high enough here",
    ]


def test_targets_that_need_the_same_are_one_line() -> None:
    point = {"threshold": 0.968, "coverage": 0.737, "accuracy": 1.0}
    lines = lines_of(ANSWER | {"at_accuracy": dict.fromkeys(("0.95", "0.98", "0.99"), point), "temperature": 1})
    assert lines[-1] == "to be 95% or 98% or 99% right, answer 73.7% of the photos (abstain below 0.968)"
    assert lines[-2] == "calibration error (ece): 0.0500"


def test_many_recordings_fit_a_terminal() -> None:
    names = [f"source{number}/first" for number in range(9)]
    lines = "\n".join(lines_of(ANSWER | {"trained_on": names})).splitlines()
    assert max(map(len, lines[:4])) <= 80
    assert all(line.startswith(("trained on", " " * 11)) for line in lines[1:3])


def test_of_many_photos_that_cannot_be_read_a_few_are_named_and_the_rest_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And those of a misspelt folder are one line."""
    run, photos = make_run(tmp_path / "run", 32), tmp_path / "photos"
    for folder, count in (("A", 2), ("spcae", 30)):
        (photos / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (9, 9)).save(photos / folder / f"{number}.png")
    draw_photo(1).save(photos / "A" / "drawn.png")
    for number in range(40):
        (photos / "A" / f"wreck{number:02}.jpg").write_bytes(b"wreck")
    scores = tmp_path / "scores.json"
    assert evaluate.main([str(run), str(photos), "--device", "cpu", "--json", str(scores)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert lines == [
        *(f"left out {photos}/A/wreck{number:02}.jpg: not a picture" for number in range(5)),
        f"left out 35 more photos that cannot be read ({scores} lists all)",
        f"left out: {photos}: folder spcae (30 photos) is no class (did you mean space?); rename what is to "
        "be scored",
    ]
