"""A run as an ONNX file, held against torch before it gets its name: the only file that imports onnx.

The graph begins where the run's `reader` ends (uint8 photos, hands, or both) and ends with logits, so what is done to
pixels on the way into the network is in the file. Weights that float16 holds exactly are stored so, and widened when
the file is loaded: half the size, the same numbers.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from horovod_asl import __version__
from horovod_asl.errors import UserError
from horovod_asl.inference.classifier import Classifier
from horovod_asl.inference.onnx_inputs import Inputs, drawn_inputs
from horovod_asl.inference.onnx_metadata import metadata
from horovod_asl.inference.onnx_session import open_session
from horovod_asl.inputs.pixels import to_input
from horovod_asl.models.hand_net import HandNet
from horovod_asl.models.one_pass import OnePass
from horovod_asl.models.registry import smallest_input_px
from horovod_asl.runs.compact import fits_half

if TYPE_CHECKING:
    import onnx

OUTPUT, EMBEDDING, AS_HELD = "logits", "embedding", "as_held"
TOLERANCE = 1e-4
"""How far logits may be from torch's; of logits beyond 10, a hundred-thousandth of the largest."""
_FEWEST_HALVED = 256  # a smaller tensor is not worth a node of its own
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter imports the last

@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written and checked.

    Attributes:
        inputs: by name, the type and shape of each as text, such as `uint8 (n, 64, 64, 3)`.
        checked: how many inputs were given to torch and to ONNX Runtime.
        difference: the largest, of any logit.
    """

    path: Path
    inputs: dict[str, str]
    checked: int
    difference: float


def export_onnx(
    classifier: Classifier,
    path: Path,
    *,
    batch: int | None = None,
    checked: int = 100,
    on_stage: Callable[[str], None] = lambda name: None,
) -> Exported:
    """Write the network of a predictor on the CPU as ONNX, opset 20, float32.

    Args:
        classifier: whose `reader` gives the graph's inputs, see `named_inputs`.
        batch: the fixed size of the first axis; None: any size.
        checked: how many drawn inputs are given to both before the file gets its name.
        on_stage: gets the name of what is done next.

    Raises:
        UserError: a package is missing, torch cannot export the network, `path` cannot be written, or the logits
            differ by more than `TOLERANCE`; no file is left.
    """
    inputs = drawn_inputs(classifier.reader, checked)
    network = _FromReader(classifier.model.eval(), smallest_input_px(classifier.facts["model"]))
    return _export(network, inputs, metadata(classifier), path, batch=batch, on_stage=on_stage)


def export_one_pass(
    classifier: Classifier,
    path: Path,
    *,
    checked: int = 100,
    on_stage: Callable[[str], None] = lambda name: None,
) -> Exported | None:
    """Write one pass of a `hand_net` as ONNX, see `OnePass`; None of any other network, which has no such pass.

    The graph takes `as_held` besides the inputs of `export_onnx`, and gives `embedding` besides the logits. Arguments
    and errors are those of `export_onnx`.
    """
    if not isinstance(classifier.model, HandNet):
        return None
    inputs = drawn_inputs(classifier.reader, checked)
    inputs[AS_HELD] = (np.arange(checked) % 2).astype(np.float32)
    network = _OnePassFromReader(classifier.model.eval())
    return _export(network, inputs, metadata(classifier), path, batch=None, on_stage=on_stage)


def _export(
    network: nn.Module,
    inputs: Inputs,
    facts: dict[str, str],
    path: Path,
    *,
    batch: int | None,
    on_stage: Callable[[str], None],
) -> Exported:
    require_onnx()
    on_stage("export: tracing the network")
    # Before the export: it fills the caches that tracing must not fill.
    expected = _torch_logits(network, inputs)
    graph = _traced(network, _sized(inputs, batch or 2), dynamic=batch is None)
    _tidy(graph, facts)
    _halve(graph)
    partial = _write_aside(graph, path)
    on_stage("export: comparing ONNX Runtime with torch")
    try:
        difference = _compare(partial, inputs, expected, batch)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    first = str(batch or "n")
    shapes = {name: f"{array.dtype} {_shape(first, array)}" for name, array in inputs.items()}
    return Exported(path, shapes, len(next(iter(inputs.values()))), difference)


def require_onnx() -> None:
    """UserError with the remedy where a package of the extra `export` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {', '.join(missing)}, not installed here: run `make setup`, or "
            "pip install 'horovod_asl[export]'"
        )


def run_onnx(path: Path, inputs: Inputs, *, batch: int | None = None) -> NDArray[np.float32]:
    """Logits float32 (n, classes) by ONNX Runtime on the CPU, in batches of `batch` (a short one is filled up)."""
    session = open_session(path)
    count = len(next(iter(inputs.values())))
    size = batch or max(count, 1)
    parts = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        (logits,) = session.run([OUTPUT], {name: array[rows] for name, array in inputs.items()})
        parts.append(logits[: count - start])
    return np.concatenate(parts)


class _FromReader(nn.Module):
    """The network and what is done to its input on the way."""

    def __init__(self, model: nn.Module, smallest_px: int) -> None:
        super().__init__()
        self.model = model
        self.smallest_px = smallest_px

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of one tensor, or of several as a tuple."""
        given: Any = inputs[0] if len(inputs) == 1 else inputs
        logits: Tensor = self.model(to_input(given, smallest_px=self.smallest_px))
        return logits


class _OnePassFromReader(nn.Module):
    """As `_FromReader`, of one pass."""

    def __init__(self, network: HandNet) -> None:
        super().__init__()
        self.one_pass = OnePass(network)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding of crop, hand, and `as_held`."""
        crop, hand, as_held = to_input(inputs)
        outputs: tuple[Tensor, Tensor] = self.one_pass((crop, hand), as_held)
        return outputs


@torch.no_grad()
def _torch_logits(network: nn.Module, inputs: Inputs) -> NDArray[np.float32]:
    outputs = network(*map(torch.from_numpy, inputs.values()))
    logits: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    result: NDArray[np.float32] = logits.float().numpy()
    return result


def _traced(network: nn.Module, inputs: Inputs, *, dynamic: bool) -> onnx.ModelProto:
    tensors = tuple(torch.from_numpy(array) for array in inputs.values())
    first = {0: torch.export.Dim("n")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about torch
            program = torch.onnx.export(
                network,
                tensors,
                dynamo=True,
                opset_version=20,
                input_names=list(inputs),
                output_names=[OUTPUT, EMBEDDING] if AS_HELD in inputs else [OUTPUT],
                dynamic_shapes=(tuple(first for _ in tensors),) if dynamic else None,
                verbose=False,
            )
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"torch cannot export this network to ONNX: {reason}") from error
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    return graph


def _tidy(graph: onnx.ModelProto, facts: dict[str, str]) -> None:
    """Leave out the exporter's notes, which hold stack traces with this machine's paths; add ours."""
    import onnx

    for part in (graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        del part.metadata_props[:]
    for value in (*graph.graph.input, *graph.graph.output):
        del value.metadata_props[:]
    graph.producer_name, graph.producer_version = "horovod_asl", __version__
    onnx.helper.set_model_props(graph, facts)


def _halve(graph: onnx.ModelProto) -> None:
    """Store float32 initialisers as float16 where that is exact; a Cast makes them what they were.

    The runtime computes a Cast of a constant once, as it loads the file.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _FEWEST_HALVED or not fits_half(values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _write_aside(graph: onnx.ModelProto, path: Path) -> Path:
    import onnx

    onnx.checker.check_model(graph)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # another export may be at work
    try:
        partial.write_bytes(graph.SerializeToString())
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
    return partial


def _compare(path: Path, inputs: Inputs, expected: NDArray[np.float32], batch: int | None) -> float:
    """The largest difference, over all and – where any size will do – one by one. UserError if it is too large."""
    sizes = [batch] if batch is not None else [None, 1]
    seen = [run_onnx(path, inputs, batch=size) for size in sizes]
    difference = max(float(np.abs(logits - expected).max()) for logits in seen)
    predictions = [logits.argmax(1) for logits in seen]
    allowed = max(TOLERANCE, TOLERANCE / 10 * float(np.abs(expected).max()))
    if not (difference <= allowed and all(np.array_equal(some, expected.argmax(1)) for some in predictions)):
        raise UserError(
            f"ONNX Runtime's logits differ from torch's by {difference:.2g} (allowed: {allowed:.2g}), so no file was "
            "written: this network's operators are not the same in both"
        )
    return difference


def _sized(inputs: Inputs, size: int) -> Inputs:
    return {name: np.resize(array, (size, *array.shape[1:])) for name, array in inputs.items()}


def _shape(first: str, array: NDArray[Any]) -> str:
    return f"({', '.join([first, *map(str, array.shape[1:])])})"
