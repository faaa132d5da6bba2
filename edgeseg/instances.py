"""Instances: what was seen in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg import masks
from edgeseg.errors import InputError

LABEL_MAP_UINT8_MAX = 254


@dataclass(frozen=True, slots=True, eq=False, repr=False)
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

    Raises:
        InputError: the arrays are not all of N rows, or bits don't fit their boxes.

    Views are made on request and belong to the caller: `label_map`, `rle`, `polygons`, `mask`,
    `crop`. ``instances[keep]`` (bool mask, indices, slice or one index) gives Instances of the
    same frame.

    >>> square = np.zeros((1, 480, 640), bool)
    >>> square[0, 100:200, 50:150] = True
    >>> instances = from_masks(square, scores=[0.9], labels=[3])
    >>> instances
    Instances(1 in 640x480, labels=[3], scores=[0.9], sequence=0, stamp_ns=0)
    >>> instances.boxes_xyxy.tolist(), instances.area(0)
    ([[50.0, 100.0, 150.0, 200.0]], 10000)
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

    def __post_init__(self) -> None:
        count = len(self.mask_bits)
        shapes = [a.shape for a in (self.boxes_xyxy, self.scores, self.labels, self.mask_boxes)]
        if shapes != [(count, 4), (count,), (count,), (count, 4)]:
            raise InputError(
                f"got boxes, scores, labels and mask boxes of shapes {shapes} for {count} masks; "
                "wanted (N, 4), (N,), (N,), (N, 4); give one row per mask"
            )
        for bits, (x0, y0, x1, y1) in zip(self.mask_bits, self.mask_boxes.tolist(), strict=True):
            if bits.shape != (y1 - y0, (x1 - x0 + 7) // 8):
                raise InputError(
                    f"got mask bits {bits.shape} for the box {(x0, y0, x1, y1)}; wanted "
                    f"{(y1 - y0, (x1 - x0 + 7) // 8)}; pack the rows of the box's crop"
                )

    def __len__(self) -> int:
        return len(self.mask_bits)

    def __getitem__(
        self, keep: NDArray[np.bool_] | NDArray[np.integer] | Sequence[int] | slice | int
    ) -> Instances:
        index = np.arange(len(self))[keep].reshape(-1)
        return Instances(
            height=self.height,
            width=self.width,
            boxes_xyxy=self.boxes_xyxy[index],
            scores=self.scores[index],
            labels=self.labels[index],
            mask_boxes=self.mask_boxes[index],
            mask_bits=tuple(self.mask_bits[i] for i in index),
            stamp_ns=self.stamp_ns,
            sequence=self.sequence,
        )

    def crop(self, i: int) -> NDArray[np.bool_]:
        """Mask of instance ``i`` inside its ``mask_boxes[i]``, bool (y1 - y0, x1 - x0)."""
        x0, _, x1, _ = self.mask_boxes[i].tolist()
        return masks.unpack(self.mask_bits[i], x1 - x0)

    def mask(self, i: int) -> NDArray[np.bool_]:
        """Mask of instance ``i`` in the whole frame, bool (height, width)."""
        full = np.zeros((self.height, self.width), np.bool_)
        x0, y0, x1, y1 = self.mask_boxes[i].tolist()
        full[y0:y1, x0:x1] = self.crop(i)
        return full

    def area(self, i: int) -> int:
        """Number of pixels of instance ``i``."""
        return masks.area(self.mask_bits[i])

    def label_map(
        self, out: NDArray[np.uint8] | NDArray[np.uint16] | None = None
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """All instances in one picture: 0 is background, index + 1 an instance.

        Where instances overlap, the better score lies above. uint8 (height, width) up to 254
        instances, uint16 above.

        Args:
            out: array of that shape and type to paint into and return; made when left out.

        Raises:
            InputError: ``out`` has another shape or type.
        """
        dtype = np.uint8 if len(self) <= LABEL_MAP_UINT8_MAX else np.uint16
        shape = (self.height, self.width)
        if out is None:
            out = np.zeros(shape, dtype)
        elif out.shape == shape and out.dtype in (dtype, np.uint16):
            out.fill(0)
        else:
            raise InputError(
                f"got a label map {out.dtype} {out.shape}; wanted {np.dtype(dtype)} {shape}; make "
                "it anew when the frame's size changes"
            )
        for i in reversed(range(len(self))):
            masks.paint(out, self.crop(i), masks.as_box(self.mask_boxes[i].tolist()), i + 1)
        return out

    def rle(self, i: int) -> masks.Rle:
        """COCO run-length code of instance ``i``: ``{"size": [height, width], "counts": text}``."""
        size_hw = (self.height, self.width)
        counts, _ = masks.run_lengths([self.mask_bits[i]], self.mask_boxes[i][None], size_hw)
        return {"size": [self.height, self.width], "counts": masks.compress(counts)}

    def polygons(self, i: int) -> list[NDArray[np.int32]]:
        """Outer outlines of instance ``i``: int32 (K, 2) arrays of x, y, pixels of the frame."""
        x0, y0, _, _ = self.mask_boxes[i].tolist()
        return masks.polygons(self.crop(i), (x0, y0))

    def __repr__(self) -> str:
        scores = [round(score, 3) for score in self.scores.tolist()]
        return (
            f"Instances({len(self)} in {self.width}x{self.height}, "
            f"labels={self.labels.tolist()}, scores={scores}, "
            f"sequence={self.sequence}, stamp_ns={self.stamp_ns})"
        )


def from_masks(
    full: NDArray[np.bool_],
    scores: Sequence[float] | NDArray[np.float32],
    labels: Sequence[int] | NDArray[np.int32],
    *,
    stamp_ns: int = 0,
    sequence: int = 0,
) -> Instances:
    """Instances of bool (N, H, W) masks, sorted by score; empty masks are dropped.

    For tests, annotations and tools: on the way of a frame no full-size masks are built.
    """
    score_array = np.asarray(scores, np.float32)
    order = [int(i) for i in np.argsort(-score_array, kind="stable") if full[i].any()]
    packed = [masks.pack(full[i]) for i in order]
    boxes = np.array([box for box, _ in packed], np.int32).reshape(-1, 4)
    return Instances(
        height=full.shape[1],
        width=full.shape[2],
        boxes_xyxy=boxes.astype(np.float32),
        scores=score_array[order],
        labels=np.asarray(labels, np.int32)[order],
        mask_boxes=boxes,
        mask_bits=tuple(bits for _, bits in packed),
        stamp_ns=stamp_ns,
        sequence=sequence,
    )
