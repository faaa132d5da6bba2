"""Each method of choosing a range, against a plain computation on the values themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeseg.export.ranges import BINS, LEVELS, METHODS, Histogram

Values = np.ndarray[Any, np.dtype[np.float32]]
BIN = 2 / BINS
"""A range is known to one bin; the largest value fills at least half of them."""


def normal(count: int = 60_000, seed: int = 0) -> Values:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def outlier() -> Values:
    """A bell curve, and one value far outside."""
    return np.append(normal(600_000), np.float32(40))


SHAPES: dict[str, Callable[[], Values]] = {
    "bell": normal,
    "behind a ReLU": lambda: np.maximum(normal(), 0),
    "flat": lambda: np.random.default_rng(0).random(60_000, np.float32) * 3 - 1,
    "long tail": lambda: np.random.default_rng(0).laplace(size=60_000).astype(np.float32) * 1e-3,
    "outlier": outlier,
    "two values": lambda: np.tile(np.float32([0.25, -8]), 500),
}


def histogram(*parts: Values) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(part)
    return found


def rounding_error(values: Values, most: float) -> float:
    """Mean squared error of values in INT8."""
    step = most / LEVELS
    whole = np.clip(np.round(values / step), -LEVELS, LEVELS)
    return float(np.mean(np.square(whole * step - values), dtype=np.float64))


def divergence(values: Values, most: float, width: float) -> float:
    """Kullback-Leibler divergence of values (bins of ``width``) from what 128 levels keep.

    As in NVIDIA's "8-bit inference with TensorRT": the reference gets what is cut off in its last
    bin; each level spreads its count over those of its bins that hold anything.
    """
    magnitudes = np.abs(values[np.abs(values) >= width])  # zeros say nothing
    bins = max(LEVELS + 1, round(most / width))
    reference = np.zeros(bins)
    for value in np.minimum(magnitudes / width, BINS - 1).astype(int):
        if value < bins:
            reference[value] += 1
    cut = len(magnitudes) - reference.sum()
    kept = np.zeros(bins)
    for level in range(LEVELS + 1):
        mine = [i for i in range(bins) if min(i * (LEVELS + 1) // bins, LEVELS) == level]
        full = [i for i in mine if reference[i] > 0]
        for i in full:
            kept[i] = sum(reference[mine]) / len(full)
    reference[-1] += cut
    p, q = reference / reference.sum(), np.maximum(kept / kept.sum(), 1e-12)
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


@pytest.mark.parametrize("shape", SHAPES)
def test_minmax_is_the_largest_magnitude(shape: str) -> None:
    values = SHAPES[shape]()
    assert histogram(values).magnitude("minmax") == np.abs(values).max()


@pytest.mark.parametrize("shape", set(SHAPES) - {"two values"})
def test_percentile_leaves_one_in_ten_thousand_outside(shape: str) -> None:
    values = np.abs(SHAPES[shape]())
    got = histogram(values).magnitude("percentile")
    wanted = np.sort(values)[int(np.ceil(0.9999 * len(values))) - 1]
    assert abs(got - wanted) <= BIN * values.max()


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_loses_least_of_all_ranges(shape: str) -> None:
    """Within a thousandth of what the best of 500 ranges loses on the values themselves."""
    values = SHAPES[shape]()
    found = histogram(values)
    got = rounding_error(values, found.magnitude("mse"))
    tried = np.linspace(0.2, 1, 500) * found.largest
    best = min(rounding_error(values, float(most)) for most in tried)
    assert got <= 1.02 * best + 1e-3 * rounding_error(values, found.largest)


@pytest.mark.parametrize("shape", ["bell", "behind a ReLU", "long tail"])
def test_entropy_diverges_least_of_its_candidates(shape: str) -> None:
    values = SHAPES[shape]()[:6000]
    found = histogram(values)
    width = float(found.centres[0]) * 2
    candidates = [*found.candidates()[::8], found.magnitude("entropy")]
    losses = [divergence(values, most, width) for most in candidates]
    assert losses[-1] <= min(losses) + 1e-6


@pytest.mark.parametrize("method", ["mse", "percentile"])
def test_one_outlier_is_cut_off(method: str) -> None:
    found = histogram(outlier())
    assert found.magnitude(method) < 0.3 * found.magnitude("minmax") == 0.3 * 40


def test_entropy_and_percentile_are_not_minmax() -> None:
    """As in ONNX Runtime, whose entropy has as many bins as levels."""
    found = histogram(SHAPES["long tail"]())
    for method in ("entropy", "percentile"):
        assert 0.3 * found.largest < found.magnitude(method) < 0.9 * found.largest, method


def test_flat_values_are_not_cut() -> None:
    values = np.linspace(-3, 3, 50_001, dtype=np.float32)
    for method in METHODS:
        assert histogram(values).magnitude(method) >= 0.97 * 3, method


# Growing.


def test_a_growing_range_merges_bins() -> None:
    found = histogram(np.float32([0.5, 1.0]))
    before = found.counts.copy()
    found.add(np.float32([-3.5]))
    assert found.largest == 3.5
    assert found.counts.sum() == 3
    assert found.centres[-1] == pytest.approx(4, rel=1e-3), "doubled twice"
    merged = before.reshape(-1, 4).sum(1)
    assert found.counts[: BINS // 4].tolist() == merged.tolist()
    assert np.flatnonzero(found.counts).tolist() == [BINS // 8, BINS // 4 - 1, BINS * 7 // 8]


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_pictures_counts_little(method: str) -> None:
    parts = [normal(20_000, seed) * scale for seed, scale in enumerate((0.01, 1.0, 0.3, 2.0))]
    up, down = (histogram(*order).magnitude(method) for order in (parts, parts[::-1]))
    assert up == pytest.approx(down, rel=0.08)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_values_give_the_same_range(method: str) -> None:
    parts = [normal(5000, seed) for seed in range(4)]
    first, second = (histogram(*parts).magnitude(method) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("method", METHODS)
def test_the_range_scales_with_the_values(method: str) -> None:
    values = normal()
    small, large = (histogram(values * np.float32(s)).magnitude(method) for s in (2**-20, 2**20))
    assert large == pytest.approx(small * 2**40, rel=1e-6)


# Odd tensors.


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_is_always_zero_has_range_1(method: str) -> None:
    zeros = np.zeros((1, 3, 4, 4), np.float32)
    assert histogram(zeros, zeros).magnitude(method) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_zeros_first_then_values(method: str) -> None:
    zeros = np.zeros(1000, np.float32)
    found = histogram(zeros, normal(), zeros)
    assert found.counts.sum() == 62_000
    assert 1 < found.magnitude(method) <= found.largest


@pytest.mark.parametrize("method", METHODS)
def test_one_value_is_its_own_range(method: str) -> None:
    got = histogram(np.full(100, -0.75, np.float32)).magnitude(method)
    assert got == pytest.approx(0.75, rel=0.01)
