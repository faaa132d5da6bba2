"""Fixed rings of durations: percentiles without growth."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns
from types import TracebackType

import numpy as np

from edgeseg.errors import InputError


class Ring:
    """The last ``capacity`` durations, nanoseconds; memory is fixed at construction.

    Attributes:
        count: durations ever added; the percentiles see only the last ``capacity`` of them.

    Raises:
        InputError: the capacity is below 1.

    >>> ring = Ring()
    >>> for milliseconds in (1, 2, 3):
    ...     ring.add(milliseconds * 1_000_000)
    >>> ring.p50, ring.count
    (2.0, 3)
    """

    __slots__ = ("_ns", "count")

    def __init__(self, capacity: int = 4096) -> None:
        if capacity < 1:
            raise InputError(f"got ring capacity {capacity}; wanted 1 or more; leave the default")
        self._ns = np.zeros(capacity, np.int64)
        self.count = 0

    def add(self, ns: int) -> None:
        """Remember one duration, nanoseconds; the oldest one gives way when the ring is full."""
        self._ns[self.count % len(self._ns)] = ns
        self.count += 1

    def clear(self) -> None:
        """Forget everything, e.g. after a warm-up."""
        self.count = 0

    def percentile(self, percent: float) -> float:
        """The ``percent``-th percentile (0..100) of the remembered durations, milliseconds.

        NaN where nothing has been added.
        """
        if self.count == 0:
            return float("nan")
        return float(np.percentile(self._ns[: min(self.count, len(self._ns))], percent)) / 1e6

    @property
    def p50(self) -> float:
        """Median, milliseconds."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """90th percentile, milliseconds."""
        return self.percentile(90)

    @property
    def p99(self) -> float:
        """99th percentile, milliseconds."""
        return self.percentile(99)

    def __repr__(self) -> str:
        return f"Ring(count={self.count}, p50={self.p50:.3f} ms, p99={self.p99:.3f} ms)"


class _Stage:
    """Measures the wall time of a ``with`` block into a ring; reused, so not re-entrant."""

    __slots__ = ("_ring", "_start_ns")

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._start_ns = 0

    def __enter__(self) -> None:
        self._start_ns = perf_counter_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._ring.add(perf_counter_ns() - self._start_ns)


class Stages:
    """One `Ring` per named stage of a frame, in the order given (later names join at the end).

    A block that raises is not counted. One thread at a time may be inside a stage.

    >>> stages = Stages("preprocess", "network")
    >>> with stages("network"):
    ...     pass
    >>> [(name, ring.count) for name, ring in stages.items()]
    [('preprocess', 0), ('network', 1)]
    """

    def __init__(self, *names: str, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._rings: dict[str, Ring] = {}
        self._stages: dict[str, _Stage] = {}
        for name in names:
            self(name)

    def __call__(self, name: str) -> _Stage:
        """The context manager that measures one run of stage ``name``."""
        if name not in self._stages:
            self._rings[name] = Ring(self._capacity)
            self._stages[name] = _Stage(self._rings[name])
        return self._stages[name]

    def __getitem__(self, name: str) -> Ring:
        return self._rings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rings)

    def __len__(self) -> int:
        return len(self._rings)

    def items(self) -> Iterator[tuple[str, Ring]]:
        """Pairs of stage name and ring."""
        return iter(self._rings.items())

    def clear(self) -> None:
        """Forget all durations, e.g. after a warm-up."""
        for ring in self._rings.values():
            ring.clear()

    def summary(self) -> dict[str, dict[str, float]]:
        """JSON-ready: stage -> ``count p50_ms p90_ms p99_ms``, stages without a run left out."""
        return {
            name: {
                "count": ring.count,
                "p50_ms": ring.p50,
                "p90_ms": ring.p90,
                "p99_ms": ring.p99,
            }
            for name, ring in self._rings.items()
            if ring.count
        }
