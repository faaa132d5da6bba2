"""Instances: what was seen in one frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Instances:
    """N instances of one frame, best score first. Owns its arrays; may be kept.

    Attributes:
        height, width: size of the frame, pixels.
        boxes_xyxy: float32 (N, 4), tight box of each mask, pixels, right and bottom exclusive.
        scores: float32 (N,), 0..1.
        labels: int32 (N,), index into the bundle's classes.
        mask_boxes: int32 (N, 4), x0 y0 x1 y1 of the stored crop, right and bottom exclusive.
        mask_bits: N arrays uint8 (y1 - y0, ceil((x1 - x0) / 8)): one bit per pixel inside the
            crop, rows packed as by ``np.packbits(..., axis=1)``. Never a full frame per instance.
        stamp_ns, sequence: copied from the frame.

    Views on request: ``label_map() -> uint8/uint16 (H, W)`` with 0 = background and value =
    index + 1 (a better score is painted over a worse one), ``rle(i)`` COCO RLE, ``polygons(i)``,
    ``mask(i)`` bool (H, W), ``crop(i)`` bool of the stored box. ``instances[keep]`` (bool mask or
    indices) gives Instances.
    """

    height: int
    width: int
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    mask_boxes: NDArray[np.int32]
    mask_bits: tuple[NDArray[np.uint8], ...]
    stamp_ns: int = 0
    sequence: int = 0
