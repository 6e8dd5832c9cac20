"""`import torchvision` where its compiled operators do not fit torch: declare the two that its import needs.

A CPU torch beside a torchvision built for CUDA dies with "operator torchvision::nms does not exist"
(pytorch/vision#9085). Models and transforms need none of the operators, only their schemas.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # the declarations live as long as this reference


def torchvision_models() -> ModuleType:
    """The module `torchvision.models`, imported in spite of missing compiled operators."""
    global _library
    try:
        import torchvision.models as models
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            _library.define(schema)
        import torchvision.models as models
    return models  # type: ignore[no-any-return]
