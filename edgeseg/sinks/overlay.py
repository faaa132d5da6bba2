"""Draw instances over a picture: tinted masks, thin outlines, names and scores."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN = 0.618033988749895
# Hue shift, saturation, value: neighbours of one class differ, and still look like that class.
VARIANTS = ((0.0, 0.85, 1.0), (0.045, 0.6, 1.0), (-0.045, 0.95, 0.75), (0.02, 0.4, 0.9))

_TO_BGR = {
    "rgb8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGBA2BGR,
    "bgra8": cv2.COLOR_BGRA2BGR,
    "mono8": cv2.COLOR_GRAY2BGR,
    "nv12": cv2.COLOR_YUV2BGR_NV12,
    "yuyv": cv2.COLOR_YUV2BGR_YUYV,
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

    Each pixel is tinted at most once, for the best instance that covers it, and only pixels inside
    the boxes are looked at: a map of the pixels already taken stands in for N full-size masks.

    Args:
        classes: name of each label; a label without one shows its number.
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self._classes = tuple(classes)
        self._taken = np.zeros((0, 0), np.uint8)
        self._tint = np.zeros(0, np.uint8)

    def draw(self, bgr: NDArray[np.uint8], instances: Instances) -> None:
        """Draw masks, outlines and text into ``bgr``, in place; see `draw`."""
        self._check(bgr, instances)
        palette = colours(instances)
        self.fill(bgr, instances, palette)
        self._write_labels(bgr, instances, palette)

    def fill(self, bgr: NDArray[np.uint8], instances: Instances, palette: Sequence[Colour]) -> None:
        """Tint the masks half and half with their colours, and outline them, in place."""
        self._taken.fill(0)
        radius = 1 if min(bgr.shape[:2]) < 900 else 2
        kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * radius + 1, 2 * radius + 1))
        for i, (x0, y0, x1, y1) in enumerate(instances.mask_boxes.tolist()):
            mask, taken = instances.crop(i).view(np.uint8), self._taken[y0:y1, x0:x1]
            cv2.subtract(mask, taken, mask)  # 0/1 and saturating: what nobody better has taken
            cv2.bitwise_or(taken, mask, taken)
            picture = bgr[y0:y1, x0:x1]
            rows = self._tint[: picture.size].reshape(y1 - y0, -1)
            tint = rows.reshape(picture.shape)
            colour = np.tile(np.array(palette[i], np.uint8), x1 - x0)
            np.right_shift(picture.reshape(rows.shape), 1, out=rows)
            np.add(rows, colour >> 1, out=rows)
            cv2.copyTo(tint, mask, picture)
            inside = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
            np.copyto(rows, colour)
            cv2.copyTo(tint, cv2.subtract(mask, inside, inside), picture)

    def _check(self, bgr: NDArray[np.uint8], instances: Instances) -> None:
        size = instances.height, instances.width
        if bgr.dtype != np.uint8 or bgr.shape != (*size, 3) or bgr.strides[1:] != (3, 1):
            raise InputError(
                f"got a picture {bgr.dtype} {bgr.shape} to draw on; wanted uint8 {(*size, 3)} with "
                "whole rows in memory; give the picture that the instances were seen in"
            )
        if self._taken.shape != size:
            self._taken = np.zeros(size, np.uint8)
            self._tint = np.empty(bgr.size, np.uint8)

    def _write_labels(
        self, bgr: NDArray[np.uint8], instances: Instances, palette: Sequence[Colour]
    ) -> None:
        scale = min(1.2, max(0.4, min(bgr.shape[:2]) / 1400 + 0.05))
        placed: list[Box] = []
        for i, box in enumerate(instances.mask_boxes.tolist()):
            text = f"{self._name(int(instances.labels[i]))} {instances.scores[i]:.2f}"
            (width, height), below = cv2.getTextSize(text, FONT, scale, 1)
            x, y = _place(box, (width + 4, height + below + 2), bgr.shape[:2], placed)
            cv2.rectangle(bgr, (x, y), (x + width + 3, y + height + below + 1), palette[i], -1)
            ink = (0, 0, 0) if _brightness(palette[i]) > 120 else (255, 255, 255)
            cv2.putText(bgr, text, (x + 2, y + height + 1), FONT, scale, ink, 1, cv2.LINE_AA)

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
def _colour(label: int, variant: int) -> Colour:
    shift, saturation, value = VARIANTS[variant]
    red, green, blue = hsv_to_rgb((label * GOLDEN + shift) % 1.0, saturation, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def _brightness(colour: Colour) -> float:
    return 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]


def _place(
    box: Sequence[int], size: tuple[int, int], frame_hw: Sequence[int], placed: list[Box]
) -> tuple[int, int]:
    """Left top of a text of ``size``: above its box, else inside, else below; remembered."""
    width, height = size
    x = max(0, min(box[0], frame_hw[1] - width))
    spots = [box[1] - height, box[1], box[1] + height, box[3] - height, box[3]]
    spots = [y for y in spots if 0 <= y <= frame_hw[0] - height] or [0]
    free = (y for y in spots if not any(_meet((x, y, x + width, y + height), b) for b in placed))
    y = next(free, spots[0])
    placed.append((x, y, x + width, y + height))
    return x, y


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
