"""Learning rates against torch's own schedulers and formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod_asl.schedule import batch_scaling_factor, learning_rate


def rates(kind: str, *, total: int, warmup: int = 0, replicas: int = 1, peak: float = 1.0) -> list[float]:
    return [
        learning_rate(step, peak=peak, kind=kind, total_steps=total, warmup_steps=warmup, replicas=replicas)
        for step in range(total)
    ]


def torch_rates(
    total: int, scheduler: type[torch.optim.lr_scheduler.LRScheduler], **options: object
) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = scheduler(optimizer, **options)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_cosine_is_torch_s_cosine() -> None:
    expected = torch_rates(50, torch.optim.lr_scheduler.CosineAnnealingLR, T_max=50)
    assert rates("cosine", total=50, peak=0.3) == pytest.approx(expected)


def test_steps_are_torch_s_multi_step() -> None:
    expected = torch_rates(40, torch.optim.lr_scheduler.MultiStepLR, milestones=[20, 30], gamma=0.1)
    assert rates("step", total=40, peak=0.3) == pytest.approx(expected)


def test_constant_is_constant() -> None:
    assert set(rates("constant", total=9, peak=0.3)) == {0.3}


def test_warm_up_is_a_straight_line_from_one_replica_s_rate_to_the_peak() -> None:
    seen = rates("constant", total=100, warmup=9, replicas=20, peak=1.0)
    line = [1 / 20 + (1 - 1 / 20) * k / 10 for k in range(1, 11)]
    assert seen[:10] == pytest.approx(line)
    assert seen[9] == 1.0


def test_a_few_replicas_warm_up_from_a_tenth() -> None:
    assert rates("constant", total=100, warmup=9, replicas=2)[0] == pytest.approx(0.1 + 0.9 / 10)


def test_after_the_warm_up_the_cosine_runs_over_what_is_left() -> None:
    assert rates("cosine", total=50, warmup=10)[10:] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * k / 40)) for k in range(40)]
    )


def test_warm_up_takes_at_most_a_quarter_of_the_run() -> None:
    assert rates("cosine", total=40, warmup=1000) == rates("cosine", total=40, warmup=10)


@given(
    st.sampled_from(["cosine", "step", "constant"]),
    st.integers(1, 300),
    st.integers(0, 400),
    st.integers(1, 64),
)
@settings(deadline=None, max_examples=60)
def test_a_rate_is_positive_and_never_above_its_peak(
    kind: str, total: int, warmup: int, replicas: int
) -> None:
    seen = rates(kind, total=total, warmup=warmup, replicas=replicas, peak=2.0)
    assert all(0 < rate <= 2.0 for rate in seen)
    peak_at = min(warmup, total // 4)
    assert seen[:peak_at] == sorted(seen[:peak_at])
    assert seen[peak_at:] == sorted(seen[peak_at:], reverse=True)


@pytest.mark.parametrize(
    ("rule", "optimizer", "factor"),
    [
        ("linear", "adamw", 16.0),
        ("sqrt", "sgd", 4.0),
        ("none", "sgd", 1.0),
        ("auto", "sgd", 16.0),
        ("auto", "adamw", 4.0),
        ("auto", "adam", 4.0),
    ],
)
def test_the_rate_grows_with_the_global_batch_by_the_rule_of_the_optimizer(
    rule: str, optimizer: str, factor: float
) -> None:
    assert batch_scaling_factor(rule, 16, optimizer=optimizer) == pytest.approx(factor)
