"""ROS messages as edgeseg sees them: an image becomes a Frame, Instances become flat arrays.

Works on anything with the fields of ``sensor_msgs/Image`` and ``edgeseg_msgs/InstanceArray``: the
messages of rclpy, those of a bag, and plain objects. Needs no ROS.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.frame import CHANNELS, MAX_PIXELS, MAX_SIDE, Frame, PixelFormat
from edgeseg.instances import Instances
from edgeseg.masks import run_lengths

ENCODINGS: dict[str, PixelFormat] = {
    "rgb8": "rgb8",
    "bgr8": "bgr8",
    "rgba8": "rgba8",
    "bgra8": "bgra8",
    "mono8": "mono8",
    "8UC1": "mono8",
    "8UC3": "bgr8",
    "8UC4": "bgra8",
    "nv12": "nv12",
    "yuyv": "yuyv",
    "yuv422_yuy2": "yuyv",
    "uyvy": "uyvy",
    "yuv422": "uyvy",
}
"""Encoding of ``sensor_msgs/Image`` -> format of a Frame."""


def frame(image: Any, *, stamp_ns: int = 0, sequence: int = 0) -> Frame:
    """The picture of an image message, without a copy.

    Args:
        image: a ``sensor_msgs/Image``, or anything with ``header height width encoding step data``;
            ``data`` is uint8 in any form that numpy reads without a copy.
        stamp_ns: when it came, CLOCK_MONOTONIC nanoseconds.
        sequence: its number.

    Returns:
        A view of the message's own bytes, which it keeps alive; padded rows stay padded. Its
        ``header`` is the message's.

    Raises:
        InputError: no pixel or too many of them, an encoding that isn't read (16 bits among them),
            a step too short for a row, or another number of bytes than ``step * height``.
    """
    height, width, step = int(image.height), int(image.width), int(image.step)
    pixel_format = _format(image.encoding)
    if min(height, width) < 1 or max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise InputError(
            f"got an image of {width}x{height}; wanted sides of 1 to {MAX_SIDE} and at most "
            f"{MAX_PIXELS} pixels; check the publisher"
        )
    channels = CHANNELS.get(pixel_format, 1)
    if step < width * channels:
        raise InputError(
            f"got step {step} for {width} pixels of {image.encoding}; wanted at least "
            f"{width * channels} bytes a row; check the publisher"
        )
    data = np.frombuffer(image.data, np.uint8)
    rows = height * 3 // 2 if pixel_format == "nv12" else height
    if data.size != rows * step:
        raise InputError(
            f"got {data.size} bytes for {width}x{height} {image.encoding} with step {step}; "
            f"wanted {rows * step}; check the publisher"
        )
    pixels = data.reshape(rows, step)[:, : width * channels]
    if channels > 1:
        pixels = pixels.reshape(rows, width, channels)
    return Frame(
        pixels,
        pixel_format,
        stamp_ns=stamp_ns,
        sequence=sequence,
        frame_id=image.header.frame_id,
        header=image.header,
    )


def arrays(instances: Instances) -> dict[str, NDArray[Any]]:
    """The arrays of an ``edgeseg_msgs/InstanceArray``; its message file says what each means.

    Returns:
        ``ids class_ids`` int32 (N,), ``scores`` float32 (N,), ``boxes_xyxy`` float32 (4 N,),
        ``mask_starts`` uint32 (N,), ``mask_counts`` uint32 (R,).
    """
    size_hw = instances.height, instances.width
    counts, starts = run_lengths(instances.mask_bits, instances.mask_boxes, size_hw)
    return {
        "ids": np.arange(len(instances), dtype=np.int32),
        "class_ids": instances.labels,
        "scores": instances.scores,
        "boxes_xyxy": instances.boxes_xyxy.reshape(-1),
        "mask_starts": starts.astype(np.uint32),
        "mask_counts": counts.astype(np.uint32),
    }


def masks(message: Any) -> NDArray[np.bool_]:
    """The masks of an ``edgeseg_msgs/InstanceArray``, bool (N, height, width).

    Raises:
        InputError: the runs of a mask don't add up to the size of the image.
    """
    height, width = int(message.height), int(message.width)
    starts = [*map(int, message.mask_starts), len(message.mask_counts)]
    counts = np.asarray(message.mask_counts, np.int64)
    result = np.zeros((len(starts) - 1, width, height), np.bool_)
    for mask, start, stop in zip(result, starts, starts[1:], strict=False):
        runs = counts[start:stop]
        if runs.sum() != height * width:
            raise InputError(
                f"got runs of {runs.sum()} pixels for a mask of {width}x{height}; wanted "
                f"{height * width}; check the publisher"
            )
        mask.reshape(-1)[:] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    upright: NDArray[np.bool_] = result.transpose(0, 2, 1)
    return upright


def _format(encoding: str) -> PixelFormat:
    """The pixel format of an encoding."""
    if encoding in ENCODINGS:
        return ENCODINGS[encoding]
    other = re.search("16|32|64|bayer", encoding)
    advice = "convert it to 8 bits of colour first" if other else "set the publisher to one of them"
    raise InputError(f"got encoding {encoding!r}; wanted one of {', '.join(ENCODINGS)}; {advice}")
