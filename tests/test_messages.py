"""ROS messages without ROS: what becomes a Frame, what is refused, masks there and back."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import InputError
from edgeseg.instances import from_masks
from edgeseg.messages import arrays, frame, masks

HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=-1, nanosec=2**32 - 1), frame_id="left_optical")


def image(**fields: Any) -> Any:
    """A good 6x4 bgr8 image message, but for the fields given."""
    good = {
        "header": HEADER,
        "height": 4,
        "width": 6,
        "encoding": "bgr8",
        "step": 18,
        "is_bigendian": 0,
        "data": array("B", range(72)),
    }
    return SimpleNamespace(**good | fields)


@pytest.mark.parametrize(
    ("encoding", "step", "pixel_format", "shape"),
    [
        ("rgb8", 18, "rgb8", (4, 6, 3)),
        ("bgr8", 18, "bgr8", (4, 6, 3)),
        ("8UC3", 18, "bgr8", (4, 6, 3)),
        ("rgba8", 24, "rgba8", (4, 6, 4)),
        ("bgra8", 24, "bgra8", (4, 6, 4)),
        ("8UC4", 24, "bgra8", (4, 6, 4)),
        ("mono8", 6, "mono8", (4, 6)),
        ("8UC1", 6, "mono8", (4, 6)),
        ("yuyv", 12, "yuyv", (4, 6, 2)),
        ("yuv422_yuy2", 12, "yuyv", (4, 6, 2)),
        ("uyvy", 12, "uyvy", (4, 6, 2)),
        ("yuv422", 12, "uyvy", (4, 6, 2)),
        ("nv12", 6, "nv12", (6, 6)),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_encoding_is_a_view(
    encoding: str, step: int, pixel_format: str, shape: tuple[int, ...], padding: int
) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (shape[0], step + padding), np.uint8)
    data = array("B", rows.tobytes())
    got = frame(image(encoding=encoding, step=step + padding, data=data), stamp_ns=7, sequence=3)
    assert (got.format, got.height, got.width) == (pixel_format, 4, 6)
    assert got.pixels.shape == shape
    assert np.array_equal(got.pixels.reshape(shape[0], -1), rows[:, :step])
    assert np.shares_memory(got.pixels, np.frombuffer(data, np.uint8))
    assert got.header is HEADER
    assert (got.frame_id, got.stamp_ns, got.sequence) == ("left_optical", 7, 3)


@pytest.mark.parametrize("data", [bytes(72), bytearray(72), np.zeros(72, np.uint8)])
def test_data_of_every_kind(data: Any) -> None:
    assert frame(image(data=data)).pixels.shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"height": 0}, "got an image of 6x0; wanted sides of 1"),
        ({"width": 0, "step": 0, "data": b""}, "got an image of 0x4; wanted sides of 1"),
        ({"height": 2**31, "width": 2**31, "data": bytes(10)}, "got an image of 2147483648x2147"),
        ({"height": 9000, "width": 9000}, "and at most 64000000 pixels"),
        ({"step": 17}, "got step 17 for 6 pixels of bgr8; wanted at least 18 bytes a row"),
        ({"step": 0}, "got step 0 for 6 pixels"),
        ({"data": bytes(71)}, "got 71 bytes for 6x4 bgr8 with step 18; wanted 72"),
        ({"data": bytes(73)}, "got 73 bytes for 6x4 bgr8 with step 18; wanted 72"),
        ({"data": b""}, "got 0 bytes for 6x4"),
        ({"step": 20}, "got 72 bytes for 6x4 bgr8 with step 20; wanted 80"),
        ({"encoding": "nv12", "step": 6}, "got 72 bytes for 6x4 nv12 with step 6; wanted 36"),
        ({"encoding": "mono16"}, "got encoding 'mono16'; wanted one of rgb8"),
        ({"encoding": "16UC1"}, "convert it to 8 bits of colour first"),
        ({"encoding": "32FC1"}, "convert it to 8 bits of colour first"),
        ({"encoding": "bayer_rggb8"}, "convert it to 8 bits of colour first"),
        ({"encoding": ""}, "got encoding ''; wanted one of rgb8"),
        ({"encoding": "RGB8"}, "set the publisher to one of them"),
        (
            {"encoding": "yuyv", "width": 5, "step": 10, "data": bytes(40)},
            "got pixels uint8 (4, 5, 2) for yuyv",
        ),
    ],
)
def test_what_is_no_image(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        frame(image(**fields))
    assert text in str(caught.value)


def test_masks_there_and_back() -> None:
    rng = np.random.default_rng(1)
    full = np.zeros((4, 30, 41), np.bool_)
    full[0] = rng.random((30, 41)) < 0.3
    full[1, 0, 0] = True
    full[2] = True
    full[3, 10:20, 5:41] = True
    seen = from_masks(full, scores=[0.9, 0.8, 0.7, 0.6], labels=[3, 1, 2, 0])
    flat = arrays(seen)
    assert {name: values.dtype.name for name, values in flat.items()} == {
        "ids": "int32",
        "class_ids": "int32",
        "scores": "float32",
        "boxes_xyxy": "float32",
        "mask_starts": "uint32",
        "mask_counts": "uint32",
    }
    assert flat["class_ids"].tolist() == [3, 1, 2, 0]
    assert flat["boxes_xyxy"].reshape(-1, 4)[3].tolist() == [5, 10, 41, 20]
    back = masks(SimpleNamespace(height=30, width=41, **flat))
    assert np.array_equal(back, full)


def test_nothing_seen() -> None:
    flat = arrays(from_masks(np.zeros((0, 30, 41), np.bool_), [], []))
    assert all(values.size == 0 for values in flat.values())
    assert masks(SimpleNamespace(height=30, width=41, **flat)).shape == (0, 30, 41)


def test_runs_of_another_size_are_refused() -> None:
    flat = arrays(from_masks(np.ones((1, 30, 41), np.bool_), [0.9], [0]))
    with pytest.raises(InputError, match=r"got runs of 1230 pixels for a mask of 41x31; wanted"):
        masks(SimpleNamespace(height=31, width=41, **flat))
