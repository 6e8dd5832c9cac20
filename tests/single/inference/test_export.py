"""ONNX files against torch: the same logits and answers by ONNX Runtime, for any batch and for a fixed one."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from horovod_asl.commands import export
from horovod_asl.distributed.base import Serial
from horovod_asl.errors import UserError
from horovod_asl.hands.record import hand_arrays, no_hand
from horovod_asl.inference import onnx_export
from horovod_asl.inference.classifier import Classifier
from horovod_asl.inference.onnx_inputs import drawn_inputs
from horovod_asl.inference.readers import HandReader, PixelReader
from horovod_asl.inputs.pixels import to_input
from horovod_asl.labels import CLASSES, NUM_CLASSES
from horovod_asl.models.registry import build_model, head_of
from horovod_asl.networks import NETWORKS
from horovod_asl.runs.bundled_model import LARGEST_BYTES
from horovod_asl.runs.checkpoint import weights_digest
from horovod_asl.runs.compact import fits_half, load_compact, save_compact
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.synthetic.render import render_spec, sample_specs

SIZE = 32
INPUT = {"small_cnn": "photo", "resnet18": "photo", "landmark_mlp": "hand"}


def make_run(path: Path, model: str) -> Path:
    """A run of one epoch: statistics of BatchNorm as training would leave them, and answers that differ."""
    path.mkdir(parents=True)
    torch.manual_seed(1)
    network = build_model(model, num_classes=NUM_CLASSES).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what it has seen
    given = drawn_inputs(
        HandReader() if INPUT[model] == "hand" else PixelReader(SIZE), 64, seed=5
    )
    batch: Any = to_input(torch.from_numpy(given[INPUT[model]]))
    with torch.no_grad():
        network(batch)
        head = head_of(network)
        head.bias.sub_(network.eval()(batch).mean(0))
        scale = 10 / network(batch).abs().max()  # as large as a trained network's logits
        head.weight.mul_(scale)
        head.bias.mul_(scale)
    folder = RunFolder(path)
    input_type = "landmarks" if INPUT[model] == "hand" else "photos"
    facts = {
        "model": model,
        "input": input_type,
        "classes": list(CLASSES),
        "image_size": SIZE,
        "precision": "fp32",
    }
    folder.write_facts(facts)
    folder.save_best(1, 0.5, network.state_dict(), keep=1)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for model in INPUT:
        make_run(folder / model, model)
    return folder


@pytest.fixture(scope="module")
def drawn() -> npt.NDArray[np.uint8]:
    """A hundred drawn photos."""
    return np.stack([render_spec(spec, SIZE) for spec in sample_specs(7, 2, 2)[:100]])


def inputs_of(model: str, drawn: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    return drawn if INPUT[model] == "photo" else drawn_inputs(HandReader(), 100, seed=7)["hand"]


def by_torch(run: Path, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Logits by the network as it is, its input made by NumPy."""
    classifier = Classifier.from_run(run)
    if array.dtype == np.uint8:
        scaled = (array / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        array = scaled.transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = classifier.model(torch.from_numpy(array)).numpy()
    return logits


def by_onnx(path: Path, array: npt.NDArray[Any], size: int) -> npt.NDArray[np.float32]:
    """Logits by ONNX Runtime alone, as a user of the file calls it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    parts = [
        session.run(["logits"], {given.name: array[start : start + size]})[0]
        for start in range(0, len(array), size)
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("model", INPUT)
def test_any_batch_gives_torch_s_logits(
    model: str, runs: Path, drawn: npt.NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hand.onnx"
    assert export.main([str(runs / model), str(out)]) == 0
    said, stages = capsys.readouterr()
    assert f"hand.onnx: {INPUT[model]} " in said
    assert "export: tracing the network …\n" in stages
    assert "export: comparing ONNX Runtime with torch …\n" in stages
    assert list(tmp_path.iterdir()) == [out]
    array = inputs_of(model, drawn)
    expected = by_torch(runs / model, array)
    assert len(set(expected.argmax(1))) > 1
    for size in (100, 7, 1):
        logits = by_onnx(out, array, size)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        assert np.array_equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize(("model", "batch"), [("small_cnn", 1), ("resnet18", 20), ("landmark_mlp", 4)])
def test_a_fixed_batch_does_too_and_is_fixed(
    model: str, batch: int, runs: Path, drawn: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    out = tmp_path / "hand.onnx"
    onnx_export.export_onnx(Classifier.from_run(runs / model), out, batch=batch)
    array = inputs_of(model, drawn)
    expected = by_torch(runs / model, array)
    logits = by_onnx(out, array, batch)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.array_equal(logits.argmax(1), expected.argmax(1))
    (given,) = onnx.load(out).graph.input
    assert [axis.dim_value for axis in given.type.tensor_type.shape.dim] == [batch, *array.shape[1:]]


def test_a_short_batch_is_filled_up_and_a_network_enlarges_small_photos(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As alexnet does, which takes 64 px at least."""
    enlarging = dataclasses.replace(NETWORKS["small_cnn"], smallest_input_px=40)
    monkeypatch.setitem(NETWORKS, "small_cnn", enlarging)
    out = tmp_path / "hand.onnx"
    classifier = Classifier.from_run(runs / "small_cnn")
    exported = onnx_export.export_onnx(classifier, out, batch=3, checked=4)
    assert exported.checked == 4
    inputs = drawn_inputs(classifier.reader, 4, seed=1)
    logits = onnx_export.run_onnx(out, inputs, batch=3)
    np.testing.assert_allclose(logits, classifier.logits(inputs["photo"]), rtol=0, atol=1e-4)
    assert {node.op_type for node in onnx.load(out).graph.node} >= {"Resize"}


class SeesBoth(torch.nn.Module):
    """A network of two inputs, as one that sees crop and hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.joints = torch.nn.Linear(3, NUM_CLASSES), torch.nn.Linear(3, NUM_CLASSES)

    def forward(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        crops, hands = inputs
        logits: torch.Tensor = self.pixels(crops.mean((2, 3))) + self.joints(hands.mean(1))
        return logits


def test_a_record_of_fields_becomes_an_input_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    facts = {"model": "hand_net", "input": "both", "crop_size": 24, "precision": "fp32"}
    backend: Any = None
    classifier = Classifier(SeesBoth().eval(), CLASSES, SIZE, 1, facts, backend)
    out = tmp_path / "hand.onnx"
    exported = onnx_export.export_onnx(classifier, out, checked=8)
    assert list(exported.inputs) == ["crop", "hand"]
    assert exported.inputs["crop"] == "uint8 (n, 24, 24, 3)"
    assert [given.name for given in onnx.load(out).graph.input] == ["crop", "hand"]


@pytest.mark.long
def test_hand_net_rounded_to_halves_fits_a_box(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = build_model("hand_net", num_classes=NUM_CLASSES).eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    facts = {"model": "hand_net", "input": "both", "crop_size": 256, "precision": "fp32"}
    classifier = Classifier(network, CLASSES, SIZE, 1, facts, Serial(torch.device("cpu")))
    out, weights = tmp_path / "hand.onnx", tmp_path / "weights.safetensors"
    assert onnx_export.export_onnx(classifier, out, checked=8).difference < 1e-4
    save_compact(weights, network.state_dict())
    assert max(out.stat().st_size, weights.stat().st_size) < LARGEST_BYTES


def test_the_file_says_what_it_is_and_nothing_of_this_machine(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "hand.onnx"
    classifier = Classifier.from_run(runs / "small_cnn")
    onnx_export.export_onnx(classifier, out, batch=1)
    graph = onnx.load(out)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert (facts["image_size"], facts["model"], facts["epoch"]) == (str(SIZE), "small_cnn", "1")
    assert facts["weights_digest"] == weights_digest(dict(classifier.model.named_parameters()))
    assert float(facts["temperature"]) == 1.0
    data = out.read_bytes()
    assert str(Path(onnx_export.__file__).parent).encode() not in data
    assert b"site-packages" not in data


def test_weights_that_half_holds_are_stored_so_and_give_the_same_numbers(runs: Path, tmp_path: Path) -> None:
    classifier = Classifier.from_run(runs / "landmark_mlp")
    body = classifier.model.body
    for parameter in body.parameters():  # type: ignore[union-attr]
        parameter.data = parameter.data.half().float()
    onnx_export.export_onnx(classifier, tmp_path / "halves.onnx", batch=10)
    count = sum(parameter.numel() for parameter in classifier.model.parameters())
    assert (tmp_path / "halves.onnx").stat().st_size < 2.4 * count
    stored = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "halves.onnx").graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
    ]
    weight = body[1].weight.detach().numpy()  # type: ignore[index,union-attr]
    assert any(np.array_equal(half, weight) or np.array_equal(half, weight.T) for half in stored)


def test_compact_weights_come_back_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = {
        "trained": torch.randn(64, 64),
        "published": torch.randn(64, 64).half().float(),
        "zeros": torch.tensor([0.0, -0.0]),
        "large": torch.tensor([1e6, 1.0]),
        "tiny": torch.tensor([2.0**-24, 2.0**-25]),
        "count": torch.tensor(7),
        "strided": torch.randn(8, 4).half().float().T,
    }
    file = tmp_path / "weights.safetensors"
    save_compact(file, weights)
    (tmp_path / "other").write_text("")
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode
    back = load_compact(file)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name].signbit(), tensor.signbit())
        assert torch.equal(back[name], tensor)
    assert 64 * 64 * 6 < file.stat().st_size < 64 * 64 * 6 + 2000
    assert [name for name in ("trained", "large", "tiny") if fits_half(weights[name].numpy())] == []


def test_drawn_inputs_are_what_a_reader_gives() -> None:
    inputs = drawn_inputs(HandReader(), 16)
    assert inputs["hand"].dtype == np.float32
    assert inputs["hand"].shape == (16, *HandReader().shape)
    none = hand_arrays(np.array([no_hand()]))[0]
    assert [row for row in range(16) if np.array_equal(inputs["hand"][row], none)] == [0, 8]


def refused(*words: str | Path) -> str:
    with pytest.raises(UserError) as error:
        export.main([str(word) for word in words])
    message = str(error.value)
    assert "\n" not in message
    return message


def test_mistakes_are_one_line_with_a_remedy(runs: Path, tmp_path: Path) -> None:
    run, out = runs / "small_cnn", tmp_path / "hand.onnx"
    assert "name one of the two" in refused(run)
    assert "name one of the two" in refused(run, out, "--bundle", tmp_path)
    assert "end it with .onnx" in refused(run, tmp_path / "hand.pt")
    assert "--batch must be at least 1" in refused(run, out, "--batch", "0")
    assert "--batch is not for --bundle" in refused(run, "--bundle", tmp_path / "box", "--batch", "2")
    assert "name it with --bundle" in refused(run, out, "--notes", tmp_path / "notes.md")
    assert "there is no folder" in refused(run, tmp_path / "none" / "hand.onnx")
    assert "not a run folder" in refused(tmp_path, out)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    message = refused(runs / "small_cnn", tmp_path / "hand.onnx")
    assert message.startswith("ONNX needs onnxruntime, not installed here: run `make setup`")
    assert "horovod_asl[export]" in message


def test_a_file_that_does_not_agree_with_torch_is_not_left(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = onnx_export.run_onnx
    monkeypatch.setattr(onnx_export, "run_onnx", lambda *words, **more: honest(*words, **more) + 0.01)
    (tmp_path / "hand.onnx").write_text("an older one")
    assert "differ from torch's by 0.01" in refused(
        runs / "landmark_mlp", tmp_path / "hand.onnx", "--batch", "2"
    )
    assert (tmp_path / "hand.onnx").read_text() == "an older one"
    assert len(list(tmp_path.iterdir())) == 1


class Branches(torch.nn.Module):
    """What no graph can hold: a branch by the data."""

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        return photos.mean((2, 3)) if photos.sum() > 0 else photos.amax((2, 3))


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    facts = {"model": "small_cnn", "input": "photos", "precision": "fp32"}
    backend: Any = None
    classifier = Classifier(Branches(), CLASSES, SIZE, 1, facts, backend)
    with pytest.raises(UserError, match=r"^torch cannot export this network to ONNX: \S.*$"):
        onnx_export.export_onnx(classifier, tmp_path / "hand.onnx")
    assert list(tmp_path.iterdir()) == []
