"""Letterbox: from the picture to the network's input, and from its mask logits back.

The picture is resized with its aspect kept, put into the top left corner, and the rest to the
right and below is padding. The way back is the official one of FastInst: mask logits are resized
bilinearly to the padded input, cropped to the picture, and resized bilinearly to the frame. Both
resizes are linear and act on one axis at a time, so together they are one matrix per axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a picture lies in the network's input. Sizes are (height, width), pixels.

    Attributes:
        frame_hw: size of the picture as the camera gave it.
        input_hw: size of the network's input.
        scaled_hw: size of the resized picture in the top left corner of the input; at least 1x1.
    """

    frame_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scaled_hw: tuple[int, int]


def fit(frame_hw: tuple[int, int], input_hw: tuple[int, int]) -> Geometry:
    """The largest picture of the frame's aspect that fits into the input.

    Raises:
        InputError: a side is below 1.

    >>> fit((720, 1280), (240, 320)).scaled_hw
    (180, 320)
    """
    if min(*frame_hw, *input_hw) < 1:
        raise InputError(
            f"got a frame of {frame_hw} for an input of {input_hw} (height, width); wanted sides "
            "of 1 or more; check the camera"
        )
    scale = min(input_hw[0] / frame_hw[0], input_hw[1] / frame_hw[1])
    height, width = (
        min(max(int(side * scale + 0.5), 1), limit)
        for side, limit in zip(frame_hw, input_hw, strict=True)
    )
    return Geometry(frame_hw, input_hw, (height, width))


def bilinear(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Bilinear resize of the first axis to ``size``, ``align_corners=False``, never smoothing.

    >>> bilinear(np.array([0.0, 4.0]), 4).tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    count = len(values)
    centre = np.maximum((np.arange(size) + 0.5) * (count / size) - 0.5, 0.0)
    low = np.minimum(centre.astype(np.int64), count - 1)
    high = np.minimum(low + 1, count - 1)
    share = (centre - low).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(values[low] * (1.0 - share) + values[high] * share)


class Axis:
    """One axis of the way from mask logits to frame pixels.

    Attributes:
        weights: float32 (pixels, logits); row p holds the weights of pixel p, none negative.
        first, last: index of the first and last logit that pixel p depends on, per pixel; neither
            ever falls from one pixel to the next.
    """

    __slots__ = ("first", "last", "weights")

    def __init__(self, logits: int, padded: int, scaled: int, pixels: int) -> None:
        unit = np.eye(logits)  # a linear map is what it does to the unit vectors
        resized = bilinear(bilinear(unit, padded)[:scaled], pixels)
        self.weights: NDArray[np.float32] = resized.astype(np.float32)
        touched = self.weights > 0
        self.first: list[int] = touched.argmax(axis=1).tolist()
        self.last: list[int] = (logits - 1 - touched[:, ::-1].argmax(axis=1)).tolist()


def axes(geometry: Geometry, logits_hw: tuple[int, int]) -> tuple[Axis, Axis]:
    """The vertical and the horizontal `Axis` from mask logits of ``logits_hw`` to the frame."""
    rows, columns = (
        Axis(*sizes)
        for sizes in zip(
            logits_hw, geometry.input_hw, geometry.scaled_hw, geometry.frame_hw, strict=True
        )
    )
    return rows, columns
