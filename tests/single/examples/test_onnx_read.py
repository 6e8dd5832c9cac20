"""examples/onnx_read.py, which knows the ONNX file by its documentation alone, against the package's own reading."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import horovod_asl
from horovod_asl.hands.bundle import find_bundle
from horovod_asl.inference.classifier import Classifier
from horovod_asl.inference.onnx_metadata import metadata
from horovod_asl.runs.bundled_model import BUNDLE
from horovod_asl.synthetic.render import SampleSpec, render_spec
from tests.launching import ROOT

EXAMPLE = ROOT / "examples" / "onnx_read.py"


def photo(path: Path, label: str, *, light: float = 1.0, wide: int = 0, **options: object) -> Path:
    pixels = render_spec(SampleSpec(seed=3, label=label, recording=1, index=0), 256)
    pixels = np.pad((pixels * light).astype(np.uint8), ((0, 0), (wide, 0), (0, 0)), mode="edge")
    picture = Image.fromarray(pixels)
    if path.suffix == ".jpg":
        picture = picture.resize((picture.width * 5, picture.height * 5), Image.Resampling.BICUBIC)
    picture.save(path, **options)
    return path


def read_by_example(photos: list[Path]) -> list[dict[str, object]]:
    words = [sys.executable, EXAMPLE, BUNDLE / "model.onnx", find_bundle(), *photos]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_agrees(photos: list[Path]) -> None:
    readings = horovod_asl.load(device="cpu").read(photos)
    for answer, reading in zip(read_by_example(photos), readings, strict=True):
        assert (answer["class"], answer["hand"]) == (reading.letter, reading.hand is not None)
        assert answer["probabilities"] == pytest.approx(reading.probabilities, abs=1e-3)


def test_it_reads_drawn_photos_as_the_package_does(tmp_path: Path) -> None:
    """One, wide; one turned by EXIF and large; a dark one; one that needs a later look; and none."""
    exif = Image.Exif()
    exif[0x0112] = 3
    assert_agrees(
        [
            photo(tmp_path / "wide.png", "Y", wide=100),
            photo(tmp_path / "turned.jpg", "V", exif=exif.tobytes(), quality=95),
            photo(tmp_path / "dark.png", "W", light=0.1),
            photo(tmp_path / "fist.png", "S"),
            photo(tmp_path / "empty.png", "nothing"),
        ]
    )


def test_it_reads_real_photos_as_the_package_does(real_data: Path) -> None:
    assert_agrees(sorted((real_data / "asl_alphabet_test").rglob("*.jpg"))[::3][:8])


def test_it_needs_neither_torch_nor_this_package() -> None:
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(EXAMPLE.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {
        (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(EXAMPLE.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    assert names - set(sys.stdlib_module_names) == {"numpy", "PIL", "mediapipe", "onnxruntime"}


def test_the_file_that_ships_says_how_to_feed_it() -> None:
    session = onnxruntime.InferenceSession(BUNDLE / "model.onnx", providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts == metadata(Classifier.from_run(Path("default")))
    described = json.loads(facts["inputs"])
    for given in session.get_inputs():
        kind = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}[given.type]
        shape = ", ".join(["n", *map(str, given.shape[1:])])
        assert described.pop(given.name).startswith(f"{kind} ({shape}): ")
    assert described == {}
    assert json.loads(facts["outputs"])["logits"].startswith("float32 (n, 29): ")
    assert "384 pixels" in facts["square"]
    for key in facts:
        assert f"`{key}`" in (ROOT / "docs" / "onnx.md").read_text(), key


def test_the_card_names_the_file_that_ships() -> None:
    digest = hashlib.sha256((BUNDLE / "model.onnx").read_bytes()).hexdigest()
    assert digest in (BUNDLE / "MODEL_CARD.md").read_text()
