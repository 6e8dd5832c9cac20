"""The optimizers beside torch's own: equal to the bit, also from a saved state, and blind to the compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from horovod_asl.engine import optimizers

OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9, "nesterov": True}, "Adam": {}, "AdamW": {}}


def trained(kind: type[torch.optim.Optimizer], saved_after: int, **options: Any) -> torch.Tensor:
    """A layer's weights after six steps, interrupted by a save and a load into a new optimizer."""
    torch.manual_seed(0)
    layer, photos = torch.nn.Linear(5, 3), torch.randn(7, 5)
    groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}]
    optimizer = kind(groups, lr=0.01, **options)
    for step in range(6):
        if step == saved_after:
            state = optimizer.state_dict()
            optimizer = kind([{"params": [layer.weight]}, {"params": [layer.bias]}], lr=1.0)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        layer(photos).square().sum().backward()
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_they_do_what_torch_s_do(name: str, fused: bool) -> None:
    own, reference = getattr(optimizers, name), getattr(torch.optim, name)
    options = OPTIONS[name] | {"fused": fused}
    assert torch.equal(trained(own, 3, **options), trained(reference, 3, **options))
    assert torch.equal(trained(own, 3, **options), trained(own, 100, **options))
