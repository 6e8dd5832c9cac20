"""The cost model of a ring: what it is made of comes back from it, and it says no more than its formula."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scaling.ring import Observation, Ring, fit, held_back_errors

NETWORK = Ring(latency_seconds=50e-6, bandwidth_bytes_per_second=3e9)


def observed(ring: Ring, *, noise: float = 0.0) -> list[Observation]:
    generator = np.random.default_rng(0)
    return [
        Observation(
            model,
            ranks,
            size,
            compute,
            (compute + ring.seconds(ranks, size)) * float(1 + noise * generator.standard_normal()),
        )
        for model, size, compute in (("small", 5e6, 0.05), ("large", 5e7, 0.4))
        for ranks in (1, 2, 4, 8)
    ]


def test_the_ring_s_seconds_are_its_messages_and_its_bytes() -> None:
    """Four ranks: six messages, and 6/4 of the bytes through each link."""
    assert NETWORK.seconds(4, 1e9) == pytest.approx(6 * 50e-6 + 1.5 * 1e9 / 3e9)
    assert NETWORK.seconds(1, 1e9) == 0.0
    assert NETWORK.efficiency(1, 1e9, 0.1) == 1.0
    # Many ranks send each byte twice, and no more.
    assert Ring(0.0, 1e9).seconds(10_000, 1e9) == pytest.approx(2.0, rel=1e-3)


def test_a_fit_finds_what_the_times_were_made_with() -> None:
    found = fit(observed(NETWORK))
    assert found.latency_seconds == pytest.approx(NETWORK.latency_seconds, rel=1e-6)
    assert found.bandwidth_bytes_per_second == pytest.approx(NETWORK.bandwidth_bytes_per_second, rel=1e-6)


@pytest.mark.parametrize("true", [Ring(0.0, 2e9), Ring(1e-3, float("inf"))])
def test_a_cost_that_is_not_there_is_found_to_be_none(true: Ring) -> None:
    found = fit(observed(true))
    assert found.latency_seconds == pytest.approx(true.latency_seconds, abs=1e-9)
    assert found.seconds(8, 1e8) == pytest.approx(true.seconds(8, 1e8), rel=1e-6)


def test_ranks_that_are_quicker_than_alone_cost_nothing_rather_than_less() -> None:
    found = fit([Observation("m", n, 1e7, 0.5, 0.4) for n in (2, 4)])
    assert found.seconds(64, 1e7) == 0.0


def test_points_held_back_are_predicted_as_well_as_the_noise_allows() -> None:
    exact = held_back_errors(observed(NETWORK))
    assert len(exact) == 6  # of the eight, two are of one rank
    assert max(map(abs, exact)) < 1e-9
    noisy = held_back_errors(observed(NETWORK, noise=0.01))
    assert 1e-4 < max(map(abs, noisy)) < 0.1
    assert held_back_errors([Observation("m", 2, 1e7, 0.1, 0.2)]) == []


def test_one_rank_alone_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="more than one rank"):
        fit([Observation("m", 1, 1e7, 0.1, 0.1)])
