"""How large a tensor gets on real pictures, and which part of that an INT8 scale should cover.

Symmetric INT8 has one number per tensor: the magnitude that becomes 127. `Histogram` remembers how
often each magnitude came; a method then chooses:

- ``minmax``: the largest that was seen; nothing is cut off, small values get coarse steps
- ``percentile``: the 99.99th percentile
- ``mse``: the least mean squared error of the rounded and cut values (the default)
- ``entropy``: the least Kullback-Leibler divergence of the rounded distribution (as TensorRT's
  entropy calibration, on bins finer than the 128 levels)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BINS = 4096
LEVELS = 127
PERCENT = 99.99
CANDIDATES = 96
LEAST_SHARE = 0.2


class Histogram:
    """Magnitudes of one tensor over many pictures, in bins of equal width from 0.

    Attributes:
        largest: magnitude that was seen.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(BINS)
        self._top = 0.0
        self.largest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one picture; bins are merged in pairs when a larger one comes."""
        magnitudes = np.abs(values).reshape(-1)
        most = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, most)
        if most == 0.0:
            self._counts[0] += magnitudes.size
            return
        if self._top == 0.0:
            self._top = most
        while most > self._top:
            pairs = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.concatenate([pairs, np.zeros(BINS // 2)])
            self._top *= 2
        self._counts += np.histogram(magnitudes, BINS, (0.0, self._top))[0]

    def magnitude(self, method: str) -> float:
        """The magnitude that becomes 127, by one of `METHODS`; 1 for a tensor that is always 0."""
        return METHODS[method](self) if self.largest > 0 else 1.0

    @property
    def centres(self) -> NDArray[np.floating]:
        """Middle of each bin."""
        return (np.arange(BINS) + 0.5) * (self._top / BINS)

    @property
    def counts(self) -> NDArray[np.float64]:
        """How often each bin was met."""
        return self._counts

    def candidates(self) -> list[float]:
        """Magnitudes to choose among, from a fifth of the largest that was seen up to it."""
        return np.linspace(LEAST_SHARE * self.largest, self.largest, CANDIDATES).tolist()


def _percentile(histogram: Histogram) -> float:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    return min(float(histogram.centres[np.searchsorted(share, PERCENT / 100)]), histogram.largest)


def _mse(histogram: Histogram) -> float:
    """Cutting costs much for few values, coarse steps cost little for all: the least sum wins."""
    centres, counts = histogram.centres, histogram.counts

    def error(most: float) -> float:
        step = most / LEVELS
        rounded = np.minimum(np.round(centres / step), LEVELS) * step
        return float(counts @ np.square(rounded - centres))

    return min(histogram.candidates(), key=error)


def _entropy(histogram: Histogram) -> float:
    """The cut whose 128 levels, spread over the bins they stand for, tell least apart."""
    counts = histogram.counts.copy()
    counts[0] = 0  # the zeros behind a ReLU say nothing of the range
    if not counts.any():
        return histogram.largest
    width = histogram.centres[0] * 2

    def divergence(most: float) -> float:
        bins = max(LEVELS + 1, min(BINS, round(most / width)))
        wanted = counts[:bins].copy()
        level = np.minimum(np.arange(bins) * (LEVELS + 1) // bins, LEVELS)
        present = wanted > 0
        mass = np.bincount(level, wanted, LEVELS + 1)
        places = np.bincount(level, present, LEVELS + 1)
        got = np.where(present, mass[level] / np.maximum(places[level], 1), 0.0)
        wanted[-1] += counts[bins:].sum()
        got[-1] = max(got[-1], 1e-9 * counts.sum())
        p, q = wanted / wanted.sum(), got / got.sum()
        used = p > 0
        return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))).sum())

    return min(reversed(histogram.candidates()), key=divergence)  # of equals the largest


METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": lambda histogram: histogram.largest,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
