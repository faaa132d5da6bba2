"""Instances and the views on them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from edgeseg import masks
from edgeseg.errors import InputError
from edgeseg.instances import Instances, from_masks

HW = (40, 60)


def squares(*corners: tuple[int, int], side: int = 10) -> np.ndarray[Any, np.dtype[np.bool_]]:
    full = np.zeros((len(corners), *HW), np.bool_)
    for mask, (x, y) in zip(full, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    return full


@pytest.fixture
def three() -> Instances:
    """Scores 0.9, 0.8, 0.7; the first two overlap; the third touches the last corner."""
    full = squares((50, 30), (5, 5), (10, 10))
    return from_masks(full, [0.7, 0.9, 0.8], [2, 0, 1], stamp_ns=11, sequence=4)


def test_best_score_first(three: Instances) -> None:
    assert three.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert three.labels.tolist() == [0, 1, 2]
    assert three.boxes_xyxy.tolist() == [[5, 5, 15, 15], [10, 10, 20, 20], [50, 30, 60, 40]]
    assert len(three) == 3


def test_types(three: Instances) -> None:
    assert three.boxes_xyxy.dtype == three.scores.dtype == np.float32
    assert three.labels.dtype == three.mask_boxes.dtype == np.int32
    assert all(bits.dtype == np.uint8 for bits in three.mask_bits)


def test_masks_of_one_instance(three: Instances) -> None:
    np.testing.assert_array_equal(three.mask(1), squares((10, 10))[0])
    assert three.crop(1).all()
    assert three.crop(1).shape == (10, 10)
    assert [three.area(i) for i in range(3)] == [100, 100, 100]


def test_label_map_paints_better_over_worse(three: Instances) -> None:
    labels = three.label_map()
    assert labels.dtype == np.uint8
    assert labels.shape == HW
    assert labels[12, 12] == 1
    assert np.bincount(labels.ravel()).tolist() == [40 * 60 - 275, 100, 75, 100]


def test_label_map_reuses_an_array(three: Instances) -> None:
    out = np.full(HW, 99, np.uint8)
    assert three.label_map(out) is out
    np.testing.assert_array_equal(out, three.label_map())


@pytest.mark.parametrize(
    "out", [np.zeros((40, 61), np.uint8), np.zeros(HW, np.int32), np.zeros(HW, np.bool_)]
)
def test_label_map_refuses_another_array(three: Instances, out: Any) -> None:
    with pytest.raises(InputError, match=r"got a label map .*; wanted uint8 \(40, 60\); make it"):
        three.label_map(out)


@pytest.mark.parametrize(("count", "dtype"), [(0, np.uint8), (254, np.uint8), (255, np.uint16)])
def test_label_map_widens_with_the_count(count: int, dtype: Any) -> None:
    full = np.zeros((count, 20, 20), np.bool_)
    for i in range(count):
        full[i, i // 20, i % 20] = True
    labels = from_masks(full, np.linspace(1, 0, count), np.zeros(count, np.int32)).label_map()
    assert labels.dtype == dtype
    assert labels.max(initial=0) == count
    assert (labels > 0).sum() == count


def test_rle_is_that_of_the_whole_mask(three: Instances) -> None:
    for i in range(3):
        assert three.rle(i) == masks.encode(three.mask(i))


def test_polygons_are_in_pixels_of_the_frame(three: Instances) -> None:
    (outline,) = three.polygons(2)
    assert sorted(outline.tolist()) == [[50, 30], [50, 39], [59, 30], [59, 39]]


@pytest.mark.parametrize(
    ("keep", "labels"),
    [
        (np.array([True, False, True]), [0, 2]),
        ([2, 1], [2, 1]),
        (slice(0, 2), [0, 1]),
        (1, [1]),
        ([], []),
        (np.zeros(3, np.bool_), []),
    ],
)
def test_indexing_gives_instances(three: Instances, keep: Any, labels: list[int]) -> None:
    some = three[keep]
    assert isinstance(some, Instances)
    assert some.labels.tolist() == labels
    assert len(some.mask_bits) == len(some.boxes_xyxy) == len(labels)
    assert (some.height, some.width, some.stamp_ns, some.sequence) == (40, 60, 11, 4)


def test_nothing_seen() -> None:
    nothing = from_masks(np.zeros((2, *HW), np.bool_), [0.9, 0.8], [0, 0])
    assert len(nothing) == 0
    assert nothing.boxes_xyxy.shape == nothing.mask_boxes.shape == (0, 4)
    assert not nothing.label_map().any()
    assert len(nothing[[]]) == 0


def test_repr_shows_no_pixels(three: Instances) -> None:
    assert repr(three) == (
        "Instances(3 in 60x40, labels=[0, 1, 2], scores=[0.9, 0.8, 0.7], sequence=4, stamp_ns=11)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(2, np.float32)}, "for 1 masks; wanted (N, 4), (N,), (N,), (N, 4)"),
        ({"boxes_xyxy": np.zeros(4, np.float32)}, "for 1 masks; wanted (N, 4), (N,), (N,)"),
        (
            {"mask_bits": (np.zeros((3, 1), np.uint8),)},
            "got mask bits (3, 1) for the box (0, 0, 9, 3); wanted (3, 2); pack the rows",
        ),
    ],
)
def test_rows_must_fit(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {
        "boxes_xyxy": np.zeros((1, 4), np.float32),
        "scores": np.zeros(1, np.float32),
        "labels": np.zeros(1, np.int32),
        "mask_boxes": np.array([[0, 0, 9, 3]], np.int32),
        "mask_bits": (np.zeros((3, 2), np.uint8),),
    }
    Instances(40, 60, **fields)
    with pytest.raises(InputError, match=re.escape(message)):
        Instances(40, 60, **(fields | changes))
