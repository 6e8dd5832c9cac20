"""`predict --abstain`: no answer below a confidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from horovod_asl.commands import predict
from horovod_asl.errors import UserError
from horovod_asl.inference.classifier import Classifier
from tests.conftest import draw_photo
from tests.single.inference.test_classifier import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    draw_photo(1).save(path)
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert predict.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_below_the_confidence_there_is_no_answer(
    run: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = json.loads(said(capsys, run, photo, "--json"))
    best, confidence = answer["top"][0]["class"], answer["top"][0]["probability"]
    assert answer["class"] == best
    assert json.loads(said(capsys, run, photo, "--json", "--abstain", str(confidence)))["class"] == best
    above = str(confidence + 1e-6)
    assert json.loads(said(capsys, run, photo, "--json", "--abstain", above)) == answer | {"class": None}
    assert said(capsys, run, photo, "--abstain", above).split() == [
        str(photo),
        "?",
        f"({best}",
        f"{confidence:.1%})",
    ]
    assert said(capsys, run, photo).split() == [str(photo), best, f"{confidence:.1%}"]


def test_a_temperature_changes_when_it_abstains(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    confidence = json.loads(said(capsys, run, photo, "--json"))["top"][0]["probability"]
    epoch = Classifier.from_run(run).epoch
    (run / "result.json").write_text(json.dumps({"epoch": epoch, "temperature": 3.0}))
    assert json.loads(said(capsys, run, photo, "--json", "--abstain", str(confidence)))["class"] is None


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan"])
def test_what_is_no_probability_is_refused(value: str, run: Path, photo: Path) -> None:
    with pytest.raises(UserError, match=r"--abstain .* between 0 and 1"):
        predict.main([str(run), str(photo), f"--abstain={value}"])
