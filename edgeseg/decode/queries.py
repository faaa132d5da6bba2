"""Outputs of query networks (FastInst, K-Net, MaskFormer) to Instances.

A mask pixel is true where the mask logit is above 0 after the official two bilinear resizes
(`edgeseg.letterbox`). The sigmoid is monotone, so it is never computed; converted K-Nets, whose
official code resizes probabilities, give those less one half as their logits. Only kept masks are
looked at, and only inside the box of their positive logits: outside it no weighted mean of the
logits can be above 0, because no weight is negative.

The networks of a bundle for frames of one size (`edgeseg.export.frame`) do all that themselves; of
their masks only the empty margins are cut off.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.errors import InputError, unknown
from edgeseg.instances import Instances
from edgeseg.letterbox import Axis, Geometry, axes
from edgeseg.masks import Box

# The resize matrices are bands: products of small tiles skip their zeros, stay in the cache, and
# are too small for a BLAS to wake its threads, which would spin on the cores of the network.
_TILE_COLUMNS, _TILE_ROWS, _TILE_PIXELS = 128, 64, 20_480
_LOGIT_LIMIT = 1e4


class QueryDecoder:
    """Turns a network's ``scores (M,)``, ``labels (M,)`` and ``masks`` into Instances.

    Keeps the resize matrices and the scratch of the last geometry, so a steady stream of frames
    allocates only its results. Not to be shared between threads, but for `choose`.

    Args:
        spec: says the classes and the default threshold.
        choice: what to keep, as `choose` takes it.

    Raises:
        InputError: see `choose`.
    """

    def __init__(self, spec: ModelSpec, **choice: Any) -> None:
        self._spec = spec
        self._key: tuple[Geometry, tuple[int, ...]] | None = None
        self.choose(**choice)

    def choose(
        self,
        *,
        score_threshold: float | None = None,
        classes: Sequence[str] | None = None,
        max_instances: int | None = None,
    ) -> None:
        """Say anew which instances are kept, from the next frame on; from any thread.

        Args:
            score_threshold: least score, 0..1; the spec's own when left out.
            classes: names of the classes to keep; all when left out.
            max_instances: most instances of a frame, the best ones; all when left out.

        Raises:
            InputError: a threshold outside 0..1, an unknown class, or fewer than 1 instance; then
                nothing changes.
        """
        limit = self._spec.max_instances if max_instances is None else max_instances
        if limit < 1:
            raise InputError(f"got max_instances {limit}; wanted 1 or more; leave it out for all")
        threshold = _threshold(self._spec, score_threshold)
        self._choice = (threshold, _wanted(self._spec, classes), limit)

    def __call__(
        self,
        outputs: Mapping[str, NDArray[np.generic]],
        geometry: Geometry,
        *,
        stamp_ns: int = 0,
        sequence: int = 0,
    ) -> Instances:
        """The instances of one frame, best score first, masks in pixels of the frame.

        Args:
            outputs: ``scores`` float32 (M,), ``labels`` int32 (M,), ``masks`` float32 (M, h, w)
                logits, or uint8 (M, H, ceil(W / 8)) bits where the spec has a ``frame_hw``; only
                read, so they may be the engine's own arrays.
            geometry: where the frame lay in the network's input.
            stamp_ns: copied into the result.
            sequence: copied into the result.

        Scores that are not numbers, labels outside the bundle's classes and masks without a pixel
        are dropped; logits that are not numbers count as background.

        Raises:
            InputError: a frame of another size than the spec's ``frame_hw``.
        """
        scores = np.asarray(outputs["scores"], np.float32)
        labels = np.asarray(outputs["labels"], np.int32)
        read = self._reader(outputs["masks"], geometry)
        found = [(i, read(i)) for i in self._keep(scores, labels)]
        kept = [i for i, mask in found if mask is not None]
        crops = [mask for _, mask in found if mask is not None]
        return Instances(
            height=geometry.frame_hw[0],
            width=geometry.frame_hw[1],
            boxes_xyxy=np.array([tight for tight, _, _ in crops], np.float32).reshape(-1, 4),
            scores=scores[kept],
            labels=labels[kept],
            mask_boxes=np.array([stored for _, stored, _ in crops], np.int32).reshape(-1, 4),
            # Of a generator, tuple() would give CPython one more free tuple to keep, each time.
            mask_bits=tuple([bits for _, _, bits in crops]),
            stamp_ns=stamp_ns,
            sequence=sequence,
        )

    def _keep(self, scores: NDArray[np.float32], labels: NDArray[np.int32]) -> list[int]:
        """Indices of the queries to keep, best score first."""
        threshold, wanted, limit = self._choice
        kept = np.flatnonzero(scores >= threshold)
        order = kept[np.argsort(-scores[kept], kind="stable")]
        return [i for i in order.tolist() if labels[i] in wanted][:limit]

    def _reader(
        self, masks: NDArray[np.generic], geometry: Geometry
    ) -> Callable[[int], tuple[Box, Box, NDArray[np.uint8]] | None]:
        """What gives mask i in the frame as `_trim` does: of logits, or of bits."""
        if self._spec.frame_hw is None:
            logits = np.asarray(masks, np.float32)
            self._prepare(geometry, logits.shape[1:])
            return lambda i: self._mask(logits[i])
        if geometry.frame_hw != self._spec.frame_hw:
            raise _other_frame(geometry.frame_hw, self._spec.frame_hw)
        bits = np.asarray(masks, np.uint8)
        frame = (0, 0, geometry.frame_hw[1], geometry.frame_hw[0])
        return lambda i: _trim(bits[i], frame)

    def _prepare(self, geometry: Geometry, logits_hw: tuple[int, ...]) -> None:
        """Make the matrices and the scratch for this geometry, unless they stand."""
        if self._key == (geometry, logits_hw):
            return
        self._rows, self._columns = axes(geometry, (logits_hw[0], logits_hw[1]))
        self._across = np.ascontiguousarray(self._columns.weights.T)
        width = geometry.frame_hw[1]
        self._wide = np.empty(logits_hw[0] * width, np.float32)
        self._tile = np.empty(max(_TILE_PIXELS, width), np.float32)
        self._true = np.empty(self._tile.size, np.bool_)
        self._key = (geometry, logits_hw)

    def _mask(self, logits: NDArray[np.float32]) -> tuple[Box, Box, NDArray[np.uint8]] | None:
        """One mask (h, w) in the frame as `_trim` gives it, or None where it has no pixel."""
        x, y, width, height = cv2.boundingRect((logits > 0).view(np.uint8))
        if width == 0:
            return None
        top, bottom = _reach(self._rows, y, y + height)
        left, right = _reach(self._columns, x, x + width)
        if top >= bottom or left >= right:
            return None
        bits = self._bits(logits, (left, top, right, bottom))
        return _trim(bits, (left, top, right, bottom))

    def _bits(self, logits: NDArray[np.float32], box: Box) -> NDArray[np.uint8]:
        """Packed bits of the frame's ``box``: rows @ logits @ columns > 0, tile by tile."""
        left, top, right, bottom = box
        width, rows = right - left, self._rows
        first = rows.first[top]
        wide = self._widen(logits[first : rows.last[bottom - 1] + 1], left, right)
        bits = np.empty((bottom - top, (width + 7) // 8), np.uint8)
        step = min(_TILE_ROWS, max(1, _TILE_PIXELS // width))
        for start in range(top, bottom, step):
            stop = min(start + step, bottom)
            a, b = rows.first[start], rows.last[stop - 1] + 1
            tile = self._tile[: (stop - start) * width].reshape(-1, width)
            true = self._true[: tile.size].reshape(-1, width)
            np.matmul(rows.weights[start:stop, a:b], wide[a - first : b - first], out=tile)
            np.greater(tile, 0, out=true)
            bits[start - top : stop - top] = np.packbits(true, axis=1)
        return bits

    def _widen(self, logits: NDArray[np.float32], left: int, right: int) -> NDArray[np.float32]:
        """Some rows of logits (n, w) resized to the frame's columns ``left`` to ``right``."""
        columns = self._columns
        first = columns.first[left]
        crop = _finite(logits[:, first : columns.last[right - 1] + 1])
        wide = self._wide[: len(crop) * (right - left)].reshape(len(crop), -1)
        for start in range(left, right, _TILE_COLUMNS):
            stop = min(start + _TILE_COLUMNS, right)
            a, b = columns.first[start], columns.last[stop - 1] + 1
            out = wide[:, start - left : stop - left]
            np.matmul(crop[:, a - first : b - first], self._across[a:b, start:stop], out=out)
        return wide


def _threshold(spec: ModelSpec, asked: float | None) -> float:
    """The score threshold to use, checked."""
    threshold = spec.score_threshold if asked is None else asked
    if not 0 <= threshold <= 1:
        raise InputError(
            f"got score threshold {threshold}; wanted a number from 0 to 1; 0.5 is a usual choice"
        )
    return threshold


def _wanted(spec: ModelSpec, names: Sequence[str] | None) -> frozenset[int]:
    """Labels to keep."""
    chosen = spec.classes if names is None else names
    for name in chosen:
        if name not in spec.classes:
            raise unknown("class", name, spec.classes)
    return frozenset(spec.classes.index(name) for name in chosen)


def _other_frame(got_hw: tuple[int, int], wanted_hw: tuple[int, int]) -> InputError:
    got, wanted = (f"{width}x{height}" for height, width in (got_hw, wanted_hw))
    return InputError(
        f"got a frame of {got}; wanted {wanted}, the one size that this bundle is for; set the "
        f"camera to it, or run: edgeseg build MODEL --frame {got} --out BUNDLE"
    )


def _reach(axis: Axis, start: int, stop: int) -> tuple[int, int]:
    """The pixels that depend on one of the logits from ``start`` up to ``stop``, as a range."""
    return bisect_left(axis.last, start), bisect_right(axis.first, stop - 1)


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits, made finite: one that is not would spoil its whole row in a product."""
    if np.isfinite(logits).all():
        return logits
    return np.nan_to_num(logits, nan=-_LOGIT_LIMIT, posinf=_LOGIT_LIMIT, neginf=-_LOGIT_LIMIT)


def _trim(bits: NDArray[np.uint8], box: Box) -> tuple[Box, Box, NDArray[np.uint8]] | None:
    """The tight box of the true pixels, the box of the bytes that hold them, and these bytes.

    None where no pixel is true.
    """
    x, y, columns, height = cv2.boundingRect(bits)
    if columns == 0:
        return None
    kept = bits[y : y + height, x : x + columns].copy()  # small, and the result's own
    left, top = box[0] + 8 * x, box[1] + y
    stored = (left, top, min(left + 8 * columns, box[2]), top + height)
    first = int(np.bitwise_or.reduce(kept[:, 0]))
    last = int(np.bitwise_or.reduce(kept[:, -1]))
    unused = (last & -last).bit_length() - 1
    tight = (left + 8 - first.bit_length(), top, left + 8 * columns - unused, top + height)
    return tight, stored, kept
