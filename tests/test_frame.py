"""Frame: shapes, messages, the lease."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import InputError
from edgeseg.frame import Frame


@pytest.mark.parametrize(
    ("shape", "pixel_format", "size_hw"),
    [
        ((4, 6, 3), "rgb8", (4, 6)),
        ((4, 6, 3), "bgr8", (4, 6)),
        ((4, 6, 4), "rgba8", (4, 6)),
        ((4, 6, 4), "bgra8", (4, 6)),
        ((4, 6), "mono8", (4, 6)),
        ((4, 6, 2), "yuyv", (4, 6)),
        ((4, 6, 2), "uyvy", (4, 6)),
        ((6, 6), "nv12", (4, 6)),
        ((1, 10000, 3), "bgr8", (1, 10000)),
    ],
)
def test_size(shape: tuple[int, ...], pixel_format: Any, size_hw: tuple[int, int]) -> None:
    frame = Frame(np.zeros(shape, np.uint8), pixel_format)
    assert (frame.height, frame.width) == size_hw


@pytest.mark.parametrize(
    ("pixels", "pixel_format", "message"),
    [
        (np.zeros((4, 6), np.uint8), "bgr8", "got pixels uint8 (4, 6) for bgr8; wanted uint8"),
        (np.zeros((4, 6, 3)), "bgr8", "got pixels float64 (4, 6, 3) for bgr8; wanted uint8"),
        (np.zeros((4, 6), np.uint16), "mono8", "got pixels uint16 (4, 6) for mono8; wanted uint8"),
        (np.zeros((0, 6, 3), np.uint8), "rgb8", "with no empty side; check the camera's format"),
        (np.zeros((4, 6, 3), np.uint8), "rgba8", "wanted uint8 (H, W, 4)"),
        (np.zeros((4, 5, 2), np.uint8), "yuyv", "wanted uint8 (H, W, 2), W even"),
        (np.zeros((4, 6), np.uint8), "nv12", "wanted uint8 (H*3/2, W), W even"),
        (np.zeros((6, 5), np.uint8), "nv12", "wanted uint8 (H*3/2, W), W even"),
        (np.zeros((4, 6, 3), np.uint8), "bgr16", "got pixel format 'bgr16'; wanted one of rgb8,"),
        ([[0, 0]], "mono8", "got pixels of type list; wanted a numpy array of uint8"),
    ],
)  # fmt: skip
def test_wrong_pixels(pixels: Any, pixel_format: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Frame(pixels, pixel_format)
    assert "\n" not in str(caught.value)


def test_lease_ends_once() -> None:
    released: list[int] = []
    with Frame(np.zeros((2, 2), np.uint8), "mono8", on_release=lambda: released.append(1)) as frame:
        assert not released
    frame.release()
    assert released == [1]


def test_repr_shows_no_pixels() -> None:
    frame = Frame(np.zeros((480, 640, 3), np.uint8), "bgr8", stamp_ns=7, sequence=3)
    assert repr(frame) == "Frame(640x480 bgr8, sequence=3, stamp_ns=7, frame_id='camera')"
