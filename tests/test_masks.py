"""Packed masks and COCO's run-length codes, checked against the COCO API's own."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco
from numpy.typing import NDArray

from edgeseg import masks
from edgeseg.errors import InputError

Mask = NDArray[np.bool_]


def noise(height: int, width: int, share: float, seed: int = 0) -> Mask:
    return np.random.default_rng(seed).random((height, width)) < share


def disc(height: int, width: int) -> Mask:
    y, x = np.mgrid[:height, :width]
    return np.asarray(np.hypot(y - height / 2, x - width / 2) < min(height, width) / 3)


def marked(height: int, width: int, *places: tuple[Any, Any]) -> Mask:
    mask = np.zeros((height, width), np.bool_)
    for place in places:
        mask[place] = True
    return mask


ALL = slice(None)
MASKS = {
    "empty": marked(5, 7),
    "full": marked(5, 7, (ALL, ALL)),
    "1x1 empty": marked(1, 1),
    "1x1 full": marked(1, 1, (0, 0)),
    "first pixel": marked(6, 9, (0, 0)),
    "last pixel": marked(6, 9, (5, 8)),
    "corners": marked(6, 9, (0, 0), (5, 8), (0, 8), (5, 0)),
    "whole columns": marked(6, 20, (ALL, slice(3, 14))),
    "whole columns and more": marked(6, 20, (ALL, slice(3, 9)), (0, 9), (5, 11), (2, 14)),
    "column ends meet": marked(4, 4, (slice(2, 4), 1), (slice(0, 2), 2)),
    "border": ~marked(8, 21, (slice(1, 7), slice(1, 20))),
    "row": marked(1, 1000, (0, slice(10, 900))),
    "column": marked(1000, 1, (slice(10, 900), 0)),
    "noise": noise(37, 53, 0.5),
    "sparse noise": noise(64, 64, 0.02),
    "disc": disc(480, 640),
    "wide": disc(3, 10000),
}
# Of 6x9, for masks beside each other.
PLACES: list[list[tuple[Any, Any]]] = [
    [(5, 8)],
    [(0, 0)],
    [],
    [(ALL, slice(3, 9))],
    [(ALL, ALL)],
    [(ALL, slice(0, 4))],
    [],
    [(0, 0), (5, 8), (0, 8), (5, 0)],
]
CASES = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@CASES
def test_encode_is_what_the_coco_api_writes(mask: Mask) -> None:
    wanted = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = wanted["counts"]
    assert masks.encode(mask) == {
        "size": list(mask.shape),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


@CASES
def test_decode_undoes_encode(mask: Mask) -> None:
    np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)


@CASES
def test_pack_and_unpack(mask: Mask) -> None:
    (x0, y0, x1, y1), bits = masks.pack(mask)
    whole = np.zeros_like(mask)
    whole[y0:y1, x0:x1] = masks.unpack(bits, x1 - x0)
    np.testing.assert_array_equal(whole, mask)
    assert masks.area(bits) == mask.sum()
    assert bits.size <= mask.shape[0] * -(-mask.shape[1] // 8)


@pytest.mark.parametrize("seed", range(20))
def test_codes_of_random_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = noise(*rng.integers(1, 90, 2), rng.uniform(0, 1), seed)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert masks.encode(mask)["counts"].encode() == theirs["counts"]
    np.testing.assert_array_equal(masks.decode(theirs), mask)


def test_run_lengths_of_a_loose_crop() -> None:
    mask = disc(40, 60)
    box = (3, 2, 59, 40)
    bits = np.packbits(mask[2:40, 3:59], axis=1)
    counts, starts = masks.run_lengths([bits], np.array([box]), (40, 60))
    assert masks.compress(counts) == masks.encode(mask)["counts"]
    assert counts.sum() == 40 * 60
    assert starts.tolist() == [0]


def test_run_lengths_of_many_masks_are_those_of_each() -> None:
    """Whole columns, corners and nothing at all beside each other: no run goes from one to next."""
    same_size = [marked(6, 9, *places) for places in PLACES] + [noise(6, 9, 0.5)]
    packed = [masks.pack(mask) for mask in same_size]
    boxes = np.array([box for box, _ in packed])
    counts, starts = masks.run_lengths([bits for _, bits in packed], boxes, (6, 9))
    runs = np.split(counts, starts[1:])
    assert [masks.compress(one) for one in runs] == [masks.encode(m)["counts"] for m in same_size]
    assert [int(one.sum()) for one in runs] == [54] * len(same_size)


def test_run_lengths_of_no_mask() -> None:
    counts, starts = masks.run_lengths([], np.zeros((0, 4), np.int32), (6, 9))
    assert (counts.tolist(), starts.tolist()) == ([], [])


@pytest.mark.parametrize(
    "counts",
    [[0], [35], [0, 35], [3, 1, 31], [15, 16, 15, 17, 16, 1, 900, 900, 900], [0, 2**31, 5, 2**31]],
)
def test_compress_and_decompress(counts: list[int]) -> None:
    text = masks.compress(np.array(counts))
    assert masks.decompress(text).tolist() == counts
    assert text.isascii()


def test_decode_reads_plain_counts_and_bytes() -> None:
    mask = MASKS["noise"]
    rle = masks.encode(mask)
    counts = masks.decompress(rle["counts"])
    for other in (counts.tolist(), rle["counts"].encode()):
        np.testing.assert_array_equal(masks.decode({"size": [37, 53], "counts": other}), mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 2], "counts": [1, 2]}, "got RLE runs of 3 pixels for 2x2; wanted 4; check"),
        ({"size": [2, 2], "counts": [5, -1]}, "got RLE runs of 4 pixels for 2x2"),
        ({"size": [2, 2], "counts": ""}, "got RLE counts ''; wanted COCO's compressed text"),
        ({"size": [2, 2], "counts": "\x01"}, "wanted COCO's compressed text; check the annotat"),
        ({"size": [2, 2], "counts": "PPé"}, "wanted COCO's compressed text; check the annotat"),
        ({"size": [2, 2], "counts": "o"}, "wanted COCO's compressed text; check the annotations"),
        ({"size": [2, 2], "counts": "o" * 20 + "0"}, "wanted runs that fit 60 bits"),
    ],
)
def test_damaged_codes(rle: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        masks.decode(rle)
    assert "\n" not in str(caught.value)


def test_polygons_outline_each_part() -> None:
    crop = marked(9, 14, (slice(1, 4), slice(2, 6)), (6, 12))
    outlines = sorted(masks.polygons(crop, (100, 50)), key=len)
    assert [outline.dtype for outline in outlines] == [np.int32, np.int32]
    assert outlines[0].tolist() == [[112, 56]]
    assert sorted(outlines[1].tolist()) == [[102, 51], [102, 53], [105, 51], [105, 53]]
    assert masks.polygons(marked(3, 3), (0, 0)) == []


def test_paint_writes_only_where_true() -> None:
    target = np.full((4, 5), 7, np.uint8)
    masks.paint(target, np.array([[True, False], [False, True]]), (2, 1, 4, 3), 9)
    assert (target == 9).sum() == 2
    assert target[1, 2] == target[2, 3] == 9
    assert (target == 7).sum() == 18


@pytest.mark.parametrize(
    ("name", "box"),
    [("empty", (0, 0, 0, 0)), ("full", (0, 0, 7, 5)), ("last pixel", (8, 5, 9, 6)),
     ("column ends meet", (1, 0, 3, 4))],
)  # fmt: skip
def test_tight_box(name: str, box: masks.Box) -> None:
    assert masks.tight_box(MASKS[name]) == box
