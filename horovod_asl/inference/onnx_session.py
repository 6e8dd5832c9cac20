"""ONNX Runtime: the only file that imports it. No torch here, so that a program which only reads starts fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from horovod_asl.errors import UserError


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        threads: within one operator; None: one per core.

    Raises:
        UserError: ONNX Runtime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{path.name} needs onnxruntime, not installed here: run `make setup`, or pip install "
            "'horovod_asl[export]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class but this
        raise UserError(f"{path} cannot be read by ONNX Runtime: {str(error).splitlines()[0]}") from error
