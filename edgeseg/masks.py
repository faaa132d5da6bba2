"""Pure functions on masks: packed bits, COCO run-length codes, boxes, polygons, painting.

A mask is stored as a crop: its box (x0, y0, x1, y1; right and bottom exclusive) in the frame and
its bits, uint8 (y1 - y0, ceil((x1 - x0) / 8)), rows packed as by ``np.packbits(..., axis=1)``.
Run-length codes are COCO's: column by column, first run background, text as in the COCO API.
Every function returns arrays of its own unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError

Box = tuple[int, int, int, int]


class Rle(TypedDict):
    """COCO run-length code: ``size`` is [height, width], ``counts`` the compressed ASCII text."""

    size: list[int]
    counts: str


def pack(mask: NDArray[np.bool_]) -> tuple[Box, NDArray[np.uint8]]:
    """The tight box of a bool (H, W) mask and the bits inside it; (0, 0, 0, 0) for an empty one."""
    box = tight_box(mask)
    return box, np.packbits(mask[box[1] : box[3], box[0] : box[2]], axis=1)


def unpack(bits: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Bits (h, ceil(width / 8)) as a bool (h, width) crop."""
    return np.unpackbits(bits, axis=1, count=width).view(np.bool_)


def tight_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around the true pixels of (H, W), or (0, 0, 0, 0) where there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def area(bits: NDArray[np.uint8]) -> int:
    """Number of true pixels, from packed bits."""
    return int(np.unpackbits(bits).sum(dtype=np.int64))


def run_lengths(
    bits: Sequence[NDArray[np.uint8]], boxes: NDArray[np.int32], frame_hw: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """COCO's uncompressed counts of crops within a frame, without building the frame.

    Args:
        bits: N crops.
        boxes: (N, 4), where they lie.
        frame_hw: height and width of the frame.

    Returns:
        int64 (R,), the counts of one mask after the other: lengths of alternating runs down the
        columns, the first one background (0 where the mask holds the top left pixel), which add up
        to height * width; and int64 (N,), where the counts of each mask begin.
    """
    height, width = frame_hw
    # The frames lie one behind the other, column by column, on one tape.
    borders = np.arange(len(bits) + 1) * (height * width)
    edges = [_edges(one) for one in bits]
    flat = np.concatenate([np.zeros(0, np.uint8), *edges])
    changed = np.flatnonzero(flat != 0)  # few bytes hold a change: unpack only them
    ends = np.array(list(accumulate(map(len, edges))), np.int64)
    which = np.searchsorted(ends, changed, side="right")
    widths = np.array([one.shape[1] for one in bits], np.int64)
    rows, columns = np.divmod(changed - ends[which], widths[which])  # rows from the last: below 0
    corners = np.array([x0 * height + y1 + 1 for x0, _, _, y1 in boxes.tolist()], np.int64)
    first = (corners + borders[:-1])[which] + 8 * height * columns + rows
    found = np.flatnonzero(np.unpackbits(flat[changed]).view(np.bool_))
    toggles = first[found >> 3] + height * (found & 7)
    if any(y1 == height and (y0 == 0 or x1 == width) for _, y0, x1, y1 in boxes.tolist()):
        ends_here = toggles == borders[which + 1][found >> 3]  # the end of its frame: no change
        toggles = _without_pairs(np.sort(toggles[~ends_here]))
    marks = np.sort(np.concatenate((toggles, borders)))
    return marks[1:] - marks[:-1], np.searchsorted(marks, borders[:-1])


def _edges(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flat bytes of a crop with a row more: where each row differs from the one above it."""
    edges = np.zeros((bits.shape[0] + 1, bits.shape[1]), np.uint8)
    edges[:-1] = bits
    edges[1:] ^= bits
    return edges.reshape(-1)


def _without_pairs(toggles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted positions less those that occur twice: a run that goes on in the next column."""
    twice = toggles[1:] == toggles[:-1]
    keep = np.ones(len(toggles), np.bool_)
    keep[1:] &= ~twice
    keep[:-1] &= ~twice
    return toggles[keep]


def compress(counts: NDArray[np.int64]) -> str:
    """Run lengths as COCO's text: differences to the run two before, 5 bits per character."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    size = values ^ (values >> 63)  # what a sign bit must be added to: x, or -x - 1
    places = np.arange(-(-(int(size.max()).bit_length() + 1) // 5))
    more = size[:, None] >= 1 << (5 * places + 4)
    characters = ((values[:, None] >> (5 * places)) & 31) + 48 + 32 * more
    used = np.ones_like(more)
    used[:, 1:] = more[:, :-1]
    return characters[used].astype(np.uint8).tobytes().decode("ascii")


def decompress(text: str) -> NDArray[np.int64]:
    """The run lengths of COCO's text.

    Raises:
        InputError: the text is not one that `compress` or the COCO API writes.
    """
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise InputError(
            f"got RLE counts {text[:40]!r}; wanted COCO's compressed text; check the annotations"
        )
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 11:
        raise InputError(
            f"got RLE counts {text[:40]!r}; wanted runs that fit 60 bits; check the annotations"
        )
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    values -= np.where(codes[ends] & 16, np.int64(1) << (5 * (places[ends] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def encode(mask: NDArray[np.bool_]) -> Rle:
    """COCO run-length code of a bool (H, W) mask."""
    box, bits = pack(mask)
    height, width = mask.shape
    return {
        "size": [height, width],
        "counts": compress(run_lengths([bits], np.array([box]), (height, width))[0]),
    }


def decode(rle: Rle | dict[str, Any]) -> NDArray[np.bool_]:
    """Bool (H, W) mask of a COCO run-length code; ``counts`` may be text, bytes or a list.

    Raises:
        InputError: the runs don't add up to the size.
    """
    height, width = (int(side) for side in rle["size"])
    counts = rle["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    runs = decompress(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise InputError(
            f"got RLE runs of {int(runs.sum())} pixels for {height}x{width}; wanted "
            f"{height * width}; check the annotations"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def polygons(crop: NDArray[np.bool_], corner_xy: tuple[int, int]) -> list[NDArray[np.int32]]:
    """Outer outlines of a bool crop whose top left pixel is ``corner_xy`` of the frame.

    Returns:
        One int32 (K, 2) array of x, y per connected part: centres of its border pixels, straight
        stretches given by their ends. Holes are not told. A part of one pixel has K = 1.
    """
    import cv2  # on use: this module is part of what `import edgeseg` may load

    outlines, _ = cv2.findContours(
        np.ascontiguousarray(crop).view(np.uint8),
        cv2.RETR_EXTERNAL,
        cv2.CHAIN_APPROX_SIMPLE,
        offset=corner_xy,
    )
    return [np.asarray(outline, np.int32).reshape(-1, 2) for outline in outlines]


def paint(
    target: NDArray[np.uint8] | NDArray[np.uint16], crop: NDArray[np.bool_], box: Box, value: int
) -> None:
    """Write ``value`` into ``target`` (H, W) where the crop of ``box`` is true; in place."""
    x0, y0, x1, y1 = box
    np.copyto(target[y0:y1, x0:x1], target.dtype.type(value), where=crop)


def as_box(row: Sequence[int] | NDArray[np.int32]) -> Box:
    """A row of four integers as a `Box` of plain ints."""
    x0, y0, x1, y1 = row
    return int(x0), int(y0), int(x1), int(y1)
