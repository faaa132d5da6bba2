"""Letterbox geometry, and the resize matrices against the resizes they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.letterbox import Axis, axes, bilinear, fit


@pytest.mark.parametrize(
    ("frame_hw", "input_hw", "scaled_hw"),
    [
        ((480, 640), (240, 320), (240, 320)),
        ((720, 1280), (240, 320), (180, 320)),
        ((1280, 720), (240, 320), (240, 135)),
        ((720, 1280), (640, 640), (360, 640)),
        ((10, 10), (240, 320), (240, 240)),  # a small picture is enlarged to the input
        ((1, 1), (240, 320), (240, 240)),
        ((1, 10000), (240, 320), (1, 320)),  # never less than one pixel
        ((10000, 1), (240, 320), (240, 1)),
        ((479, 640), (240, 320), (240, 320)),  # half a pixel rounds up
    ],
)
def test_fit(
    frame_hw: tuple[int, int], input_hw: tuple[int, int], scaled_hw: tuple[int, int]
) -> None:
    geometry = fit(frame_hw, input_hw)
    assert geometry.scaled_hw == scaled_hw
    assert (geometry.frame_hw, geometry.input_hw) == (frame_hw, input_hw)


@pytest.mark.parametrize("frame_hw", [(0, 640), (480, 0), (-1, 5)])
def test_fit_refuses_empty_frames(frame_hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"got a frame of .*; wanted sides of 1 or more; check"):
        fit(frame_hw, (240, 320))


def by_hand(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Bilinear resize of a row, one pixel at a time, by its definition."""
    result = np.empty(size)
    for i in range(size):
        centre = max((i + 0.5) * len(values) / size - 0.5, 0.0)
        low = int(centre)
        high = min(low + 1, len(values) - 1)
        result[i] = values[low] + (values[high] - values[low]) * (centre - low)
    return result


@pytest.mark.parametrize(("source", "target"), [(5, 5), (4, 9), (9, 4), (1, 7), (7, 1), (60, 181)])
def test_bilinear(source: int, target: int) -> None:
    values = np.random.default_rng(0).normal(size=source)
    np.testing.assert_allclose(bilinear(values, target), by_hand(values, target), atol=1e-12)
    several = bilinear(np.stack((values, -values), 1), target)
    np.testing.assert_array_equal(several[:, 0], -several[:, 1])


SIZES = [(60, 240, 240, 480), (60, 240, 180, 720), (160, 640, 360, 720), (80, 640, 640, 480),
         (60, 240, 1, 1), (80, 320, 320, 10000), (60, 240, 240, 7), (1, 4, 3, 50)]  # fmt: skip


@pytest.mark.parametrize(("logits", "padded", "scaled", "pixels"), SIZES)
def test_axis_is_resize_crop_resize(logits: int, padded: int, scaled: int, pixels: int) -> None:
    values = np.random.default_rng(1).normal(size=logits)
    wanted = by_hand(by_hand(values, padded)[:scaled], pixels)
    axis = Axis(logits, padded, scaled, pixels)
    np.testing.assert_allclose(axis.weights @ values, wanted, atol=1e-5)
    assert (axis.weights >= 0).all()


@pytest.mark.parametrize(("logits", "padded", "scaled", "pixels"), SIZES)
def test_axis_knows_its_band(logits: int, padded: int, scaled: int, pixels: int) -> None:
    axis = Axis(logits, padded, scaled, pixels)
    assert axis.first == sorted(axis.first)
    assert axis.last == sorted(axis.last)
    for pixel, row in enumerate(axis.weights):
        used = np.flatnonzero(row)
        assert (axis.first[pixel], axis.last[pixel]) == (used[0], used[-1])


def test_axes_are_rows_then_columns() -> None:
    rows, columns = axes(fit((720, 1280), (240, 320)), (60, 80))
    assert rows.weights.shape == (720, 60)
    assert columns.weights.shape == (1280, 80)
