"""Rings and stages."""

from __future__ import annotations

import math
import time
import tracemalloc

import pytest

from edgeseg.errors import InputError
from edgeseg.timing import Ring, Stages


def filled(*milliseconds: float, capacity: int = 4096) -> Ring:
    ring = Ring(capacity)
    for value in milliseconds:
        ring.add(int(value * 1e6))
    return ring


@pytest.mark.parametrize(
    ("ring", "p50", "p90", "p99", "count"),
    [
        (filled(*range(101)), 50.0, 90.0, 99.0, 101),
        (filled(5), 5.0, 5.0, 5.0, 1),
        (filled(1000, 1000, 1, 2, 3, capacity=3), 2.0, 2.8, 2.98, 5),
    ],
)
def test_percentiles_of_the_newest(
    ring: Ring, p50: float, p90: float, p99: float, count: int
) -> None:
    assert (ring.p50, ring.p90, ring.p99) == pytest.approx((p50, p90, p99))
    assert ring.count == count


def test_empty_ring_has_no_percentile() -> None:
    ring = filled(3)
    ring.clear()
    assert math.isnan(ring.p50)
    assert ring.count == 0


def test_ring_does_not_grow() -> None:
    ring = Ring(64)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(10_000):
        ring.add(1_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1_000


def test_ring_of_nothing() -> None:
    with pytest.raises(InputError, match="got ring capacity 0; wanted 1 or more"):
        Ring(0)


def test_stages_measure_wall_time() -> None:
    stages = Stages("preprocess", "network")
    with stages("network"):
        time.sleep(0.005)
    assert stages["network"].count == 1
    assert 4.9 < stages["network"].p50 < 500
    assert list(stages) == ["preprocess", "network"]
    assert list(stages.summary()) == ["network"]
    assert stages.summary()["network"]["count"] == 1


def test_a_stage_that_raises_is_not_counted() -> None:
    stages = Stages("decode")
    with pytest.raises(ZeroDivisionError), stages("decode"):
        1 / 0  # noqa: B018
    assert stages["decode"].count == 0


def test_stages_join_and_clear() -> None:
    stages = Stages("one")
    with stages("two"):
        pass
    assert len(stages) == 2
    stages.clear()
    assert [ring.count for _, ring in stages.items()] == [0, 0]
