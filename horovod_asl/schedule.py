"""Learning-rate schedules: pure functions of the step, so a resume needs no state of theirs."""

from __future__ import annotations

import math


def warmup_factor(step: int, *, warmup_steps: int, replicas: int) -> float:
    """Linear to 1 over `warmup_steps`, from 1/replicas, at most a tenth: gradual warm-up (Goyal et al. 2017,
    arXiv:1706.02677)."""
    if step >= warmup_steps:
        return 1.0
    start = 1.0 / max(replicas, 10)
    return start + (1.0 - start) * (step + 1) / (warmup_steps + 1)


def decay_factor(kind: str, progress: float) -> float:
    """The factor after warm-up, at `progress` in [0, 1).

    Args:
        kind: `cosine` to zero (SGDR without restarts, Loshchilov & Hutter 2017, arXiv:1608.03983),
            `step` (÷ 10 after 1/2 and after 3/4, as He et al. 2016 do for CIFAR), or `constant`.
    """
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if kind == "step":
        return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    return 1.0


def learning_rate(
    step: int, *, peak: float, kind: str, total_steps: int, warmup_steps: int, replicas: int
) -> float:
    """The learning rate of optimizer step `step` (from 0) out of `total_steps`."""
    warmup_steps = min(warmup_steps, total_steps // 4)
    if step < warmup_steps:
        return peak * warmup_factor(step, warmup_steps=warmup_steps, replicas=replicas)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * decay_factor(kind, progress)


def batch_scaling_factor(rule: str, growth: int, *, optimizer: str) -> float:
    """How many times the learning rate of one replica, for a global batch `growth` times that of one replica.

    Args:
        rule: `linear` (Goyal et al. 2017), `sqrt` (for Adam's relatives: Malladi et al. 2022, arXiv:2205.10287),
            `none`, or `auto`: the rule that was derived for the optimizer.
        optimizer: `sgd`, `adamw` or `adam`.
    """
    if rule == "auto":
        rule = "linear" if optimizer == "sgd" else "sqrt"
    return {"linear": float(growth), "sqrt": math.sqrt(growth), "none": 1.0}[rule]
