"""What tells letters from hands that sign nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from horovod_asl.live import letter_gate
from horovod_asl.live.reader import HandNetwork
from horovod_asl.live.translator import Translator
from horovod_asl.reports.sign_pictures import sign_joints
from horovod_asl.synthetic.film import idle_frames
from horovod_asl.synthetic.pose import POSES, Pose

FLAT = Pose((50, 15, 0, 2, 2), (13, 4, 8, 5), (3, 4, 8, 5), (-6, 5, 8, 5), (-18, 5, 8, 5))


def probability(pose: Pose) -> float:
    row = letter_gate.features(sign_joints(pose), right=True)
    return float(letter_gate.probabilities(row[None], letter_gate.load(letter_gate.FILE))[0])


def test_drawn_signs_are_letters() -> None:
    refused = [name for name, pose in POSES.items() if name != "nothing" and probability(pose) < 0.5]
    assert refused == []


@pytest.mark.parametrize("view", [(0, 0, 0), (90, 0, 0), (0, 70, 10), (-20, 10, 90)])
def test_an_open_hand_is_none(view: tuple[float, float, float]) -> None:
    assert probability(replace(FLAT, view=view)) < 0.5


def test_the_side_the_place_and_the_unit_do_not_matter() -> None:
    world = sign_joints(POSES["K"])
    row = letter_gate.features(world, right=True)
    np.testing.assert_allclose(letter_gate.features(0.1 * world + [0.3, -0.2, 1.0], right=True), row, atol=1e-6)
    np.testing.assert_allclose(letter_gate.features(world * [-1, 1, 1], right=False), row, atol=1e-6)
    turned = letter_gate.features(world @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], right=True)
    assert not np.allclose(turned, row, atol=0.1)


def test_it_is_the_perceptron_that_torch_computes_and_comes_back_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = [torch.nn.Linear(63, 8), torch.nn.Linear(8, 5), torch.nn.Linear(5, 1)]
    layers = [(one.weight.detach().numpy().T, one.bias.detach().numpy()) for one in linear]
    letter_gate.save(tmp_path / "gate.npz", layers)
    rows = torch.randn(20, 63)
    with torch.no_grad():
        logits = torch.nn.Sequential(linear[0], torch.nn.ReLU(), linear[1], torch.nn.ReLU(), linear[2])(rows)
    expected = torch.sigmoid(logits[:, 0] + letter_gate.BIAS).numpy()
    found = letter_gate.probabilities(rows.numpy(), letter_gate.load(tmp_path / "gate.npz"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.timeout(200)
def test_a_hand_that_signs_nothing_writes_nothing_to_speak_of() -> None:
    """A film whose seed was not in the gate's training; without the gate it is read as some ten letters."""
    translator, due_s = Translator(HandNetwork()), 0.0
    for frame in idle_frames(seed=1000, seconds=20):
        if frame.time_s >= due_s:
            due_s = frame.time_s + 0.08
            translator.see(frame.pixels, frame.time_s)
    translator.finish()
    translator.close()
    assert len(translator.letters) <= 1
