"""Draw instances over a picture: tinted masks, thin outlines, names and scores."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg import masks
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN = 0.618033988749895
# Hue shift, saturation, value: neighbours of one class differ, and still look like that class.
VARIANTS = ((0.0, 0.85, 1.0), (0.045, 0.6, 1.0), (-0.045, 0.95, 0.75), (0.02, 0.4, 0.9))

KERNELS = [cv2.getStructuringElement(cv2.MORPH_CROSS, (size, size)) for size in (3, 5)]

_TO_BGR = {
    "rgb8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGBA2BGR,
    "bgra8": cv2.COLOR_BGRA2BGR,
    "mono8": cv2.COLOR_GRAY2BGR,
    "nv12": cv2.COLOR_YUV2BGR_NV12,
    "yuyv": cv2.COLOR_YUV2BGR_YUYV,
    "uyvy": cv2.COLOR_YUV2BGR_UYVY,
}

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


def to_bgr(frame: Frame, out: NDArray[np.uint8]) -> None:
    """Copy a frame of any format into ``out``, uint8 (H, W, 3) in BGR order."""
    if frame.format == "bgr8":
        np.copyto(out, frame.pixels)
    else:
        cv2.cvtColor(frame.pixels, _TO_BGR[frame.format], out)


def draw(bgr: NDArray[np.uint8], instances: Instances, classes: Sequence[str] = ()) -> None:
    """Draw the instances into ``bgr``, in place; see `Overlay`, which reuses its memory.

    Args:
        bgr: uint8 (H, W, 3), the picture that the instances were seen in.
        instances: what to draw.
        classes: name of each label; a label without one shows its number.

    Raises:
        InputError: the picture has another shape or type.
    """
    Overlay(classes).draw(bgr, instances)


class Overlay:
    """Draws instances, frame after frame, with its own reused scratch memory.

    Only pixels inside the boxes are looked at, and each is tinted at most once, for the best
    instance that covers it: one label map stands in for N full-size masks, and gives the outlines
    of all of them in one pass.

    Args:
        classes: name of each label; a label without one shows its number.
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self._classes = tuple(classes)
        nothing: NDArray[np.uint8] = np.zeros((0, 0), np.uint8)
        self._map = self._edges = self._tint = nothing

    def draw(self, bgr: NDArray[np.uint8], instances: Instances) -> None:
        """Draw masks, outlines and text into ``bgr``, in place; see `draw`."""
        palette = colours(instances)
        self.fill(bgr, instances, palette)
        self._write_labels(bgr, instances, palette)

    def fill(self, bgr: NDArray[np.uint8], instances: Instances, palette: Sequence[Colour]) -> None:
        """Tint the masks half and half with their colours, and outline them, in place."""
        self._prepare(bgr, instances)
        boxes = instances.mask_boxes.tolist()
        self._map.fill(0)
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            mask = masks.unpack(instances.mask_bits[i], x1 - x0).view(np.uint8)
            map_ = self._map[y0:y1, x0:x1]
            # Better instances come first and get higher values, so that the saturating difference
            # is 0 where one of them lies.
            np.multiply(mask, max(1, 255 - i), out=mask)
            cv2.subtract(mask, map_, mask)
            cv2.bitwise_or(map_, mask, map_)
            picture = bgr[y0:y1, x0:x1]
            rows = self._tint[: picture.size].reshape(y1 - y0, -1)
            np.right_shift(picture.reshape(rows.shape), 1, out=rows)
            np.add(rows, _half_row(palette[i], bgr.shape[1])[: rows.shape[1]], out=rows)
            cv2.copyTo(rows.reshape(picture.shape), mask, picture)
        kernel = KERNELS[min(bgr.shape[:2]) >= 900]
        edges = cv2.subtract(self._map, cv2.erode(self._map, kernel, self._edges), self._edges)
        sizes = [3 * (x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
        self._tint[: max(sizes, default=0)] = 255
        for size, (x0, y0, x1, y1) in zip(sizes, boxes, strict=True):
            picture = bgr[y0:y1, x0:x1]
            white = self._tint[:size].reshape(picture.shape)
            cv2.copyTo(white, edges[y0:y1, x0:x1], picture)

    def _prepare(self, bgr: NDArray[np.uint8], instances: Instances) -> None:
        size = instances.height, instances.width
        if bgr.dtype != np.uint8 or bgr.shape != (*size, 3) or bgr.strides[1:] != (3, 1):
            raise InputError(
                f"got a picture {bgr.dtype} {bgr.shape} to draw on; wanted uint8 {(*size, 3)} with "
                "whole rows in memory; give the picture that the instances were seen in"
            )
        if self._map.shape != size:
            self._map, self._edges = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
            self._tint = np.empty(bgr.size, np.uint8)

    def _write_labels(
        self, bgr: NDArray[np.uint8], instances: Instances, palette: Sequence[Colour]
    ) -> None:
        scale = round(min(1.2, max(0.4, min(bgr.shape[:2]) / 1400 + 0.05)), 2)
        placed: list[Box] = []
        for i, box in enumerate(instances.mask_boxes.tolist()):
            text = f"{self._name(int(instances.labels[i]))} {instances.scores[i]:.2f}"
            sign = _sign(text, palette[i], scale)
            x, y = _place(box, sign.shape[:2], bgr.shape[:2], placed)
            spot = bgr[y : y + sign.shape[0], x : x + sign.shape[1]]
            spot[:] = sign[: spot.shape[0], : spot.shape[1]]

    def _name(self, label: int) -> str:
        return self._classes[label] if 0 <= label < len(self._classes) else str(label)


def colours(instances: Instances) -> list[Colour]:
    """A BGR colour per instance: the hue says the class, a shade tells neighbours apart.

    Instances of one class take the shades from left to right, so that a steady scene keeps them.
    """
    seen: dict[int, int] = {}
    result: list[Colour] = [(0, 0, 0)] * len(instances)
    for i in np.argsort(instances.mask_boxes[:, 0], kind="stable").tolist():
        label = int(instances.labels[i])
        seen[label] = seen.get(label, -1) + 1
        result[i] = _colour(label, seen[label] % len(VARIANTS))
    return result


@lru_cache(maxsize=1024)
def _sign(text: str, colour: Colour, scale: float) -> NDArray[np.uint8]:
    """A small BGR picture of a text on its colour; kept, as the same few texts come again."""
    (width, height), below = cv2.getTextSize(text, FONT, scale, 1)
    sign: NDArray[np.uint8] = np.empty((height + below + 2, width + 4, 3), np.uint8)
    sign[:] = colour
    ink = (0, 0, 0) if _brightness(colour) > 120 else (255, 255, 255)
    cv2.putText(sign, text, (2, height + 1), FONT, scale, ink, 1, cv2.LINE_AA)
    return sign


@lru_cache(maxsize=256)
def _half_row(colour: Colour, width: int) -> NDArray[np.uint8]:
    """Half of a colour, side by side for a row of ``width`` pixels."""
    return np.tile(np.array(colour, np.uint8) >> 1, width)


@lru_cache(maxsize=1024)
def _colour(label: int, variant: int) -> Colour:
    shift, saturation, value = VARIANTS[variant]
    red, green, blue = hsv_to_rgb((label * GOLDEN + shift) % 1.0, saturation, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def _brightness(colour: Colour) -> float:
    return 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]


def _place(
    box: Sequence[int], size_hw: Sequence[int], frame_hw: Sequence[int], placed: list[Box]
) -> tuple[int, int]:
    """Left top of a sign: above its box, else inside, else below, free of others; remembered."""
    height, width = size_hw
    x = max(0, min(box[0], frame_hw[1] - width))
    spots = [box[1] - height, box[1], box[1] + height, box[3] - height, box[3]]
    spots = [y for y in spots if 0 <= y <= frame_hw[0] - height] or [0]
    free = (y for y in spots if not any(_meet((x, y, x + width, y + height), b) for b in placed))
    y = next(free, spots[0])
    placed.append((x, y, x + width, y + height))
    return x, y


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
