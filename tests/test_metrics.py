"""Mask IoU and COCO mask AP, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.metrics import coco_ap, complete, mask_iou

SIZE_HW = (20, 100)


def strip(row: int, start: int, stop: int) -> NDArray[np.bool_]:
    """A mask of one row."""
    mask = np.zeros(SIZE_HW, bool)
    mask[row, start:stop] = True
    return mask


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    from faster_coco_eval import mask as library

    counts = library.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return {"size": list(mask.shape), "counts": counts.decode()}


def truth(*objects: tuple[int, int, NDArray[np.bool_]]) -> dict[str, Any]:
    """COCO table of (image, category, mask); images 1 and 2, categories 1 to 3."""
    return {
        "images": [{"id": k, "height": SIZE_HW[0], "width": SIZE_HW[1]} for k in (1, 2)],
        "categories": [{"id": k, "name": name} for k, name in enumerate("abc", start=1)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "segmentation": rle(mask),
                "area": int(mask.sum()),
                "bbox": [0, 0, 1, 1],
            }
            for number, (image, category, mask) in enumerate(objects, start=1)
        ],
    }


def found(image: int, category: int, mask: NDArray[np.bool_], score: float) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": rle(mask),
        "score": score,
    }


FULL = strip(0, 0, 100)
ONE = truth((1, 1, FULL))
TWO = truth((1, 1, FULL), (2, 1, FULL))
CASES = {
    "perfect": (ONE, [found(1, 1, FULL, 0.9)], 1.0, 1.0, 1.0),
    # IoU 0.62 passes 0.50, 0.55 and 0.60.
    "loose": (ONE, [found(1, 1, strip(0, 0, 62), 0.9)], 0.3, 1.0, 0.0),
    # IoU 0.77 passes 0.50 to 0.75.
    "near": (ONE, [found(1, 1, strip(0, 0, 77), 0.9)], 0.6, 1.0, 1.0),
    # Recall reaches 0.5: 51 of the 101 levels.
    "half found": (TWO, [found(1, 1, FULL, 0.9)], 51 / 101, 51 / 101, 51 / 101),
    "false one above": (ONE, [found(2, 1, FULL, 0.9), found(1, 1, FULL, 0.8)], 0.5, 0.5, 0.5),
    "false one below": (ONE, [found(2, 1, FULL, 0.7), found(1, 1, FULL, 0.8)], 1.0, 1.0, 1.0),
    "found twice": (
        TWO,
        [*[found(1, 1, FULL, 0.9)] * 2, found(2, 1, FULL, 0.8)],
        0.835,
        0.835,
        0.835,
    ),
    "wrong class": (ONE, [found(1, 2, FULL, 0.9)], 0.0, 0.0, 0.0),
    "nothing": (ONE, [], 0.0, 0.0, 0.0),
    "nothing there": (truth(), [found(1, 1, FULL, 0.9)], None, None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_coco_ap_is_what_the_hand_works_out(name: str) -> None:
    table, detections, ap, ap50, ap75 = CASES[name]
    result = coco_ap(table, detections)
    for got, wanted in zip(
        (result["AP"], result["AP50"], result["AP75"]), (ap, ap50, ap75), strict=True
    ):
        assert got == (None if wanted is None else pytest.approx(wanted, abs=1e-3))


def test_coco_ap_is_the_mean_over_classes_that_are_there() -> None:
    table = truth((1, 1, FULL), (1, 2, strip(3, 0, 50)))
    result = coco_ap(table, [found(1, 1, FULL, 0.9)])
    assert result["per_class"] == {"a": 1.0, "b": 0.0, "c": None}
    assert result["AP"] == 0.5
    assert result["instances"] == 2
    assert coco_ap(table, [])["per_class"] == {"a": 0.0, "b": 0.0, "c": None}


def test_small_objects_neither_help_nor_hurt_the_large_subset() -> None:
    small, large = strip(5, 0, 20), strip(0, 0, 80)
    table = truth((1, 1, large), (1, 1, small), (2, 1, small))
    detections = [
        found(1, 1, large, 0.5),
        found(1, 1, small, 0.9),
        found(2, 1, strip(9, 0, 9), 0.8),
    ]
    assert coco_ap(table, detections)["AP"] < 1.0
    subset = coco_ap(table, detections, min_area=50)
    assert subset["AP"] == 1.0
    assert subset["instances"] == 1
    rest = coco_ap(table, detections, max_area=49)
    assert rest["AP"] < 1.0
    assert rest["instances"] == len(table["annotations"]) - 1


def test_coco_ap_leaves_its_arguments_alone() -> None:
    detections = [found(1, 1, FULL, 0.9)]
    table, before = truth((1, 1, FULL)), truth((1, 1, FULL))
    coco_ap(table, detections)
    assert table == before
    assert detections == [found(1, 1, FULL, 0.9)]


SQUARE = [[10, 2, 20, 2, 20, 12, 10, 12]]


@pytest.mark.parametrize(
    ("segmentation", "area"),
    [
        (rle(strip(0, 0, 62)), 62),
        ({"size": list(SIZE_HW), "counts": rle(strip(0, 0, 62))["counts"].encode()}, 62),
        ({"size": list(SIZE_HW), "counts": [0, 40, 1960]}, 40),
        (SQUARE, 100),
    ],
)
def test_what_an_annotation_leaves_out_is_found(segmentation: Any, area: int) -> None:
    table = truth((1, 1, FULL))
    table["annotations"] = [{"image_id": 1, "category_id": 1, "segmentation": segmentation}]
    (one,) = complete(table)["annotations"]
    assert (one["area"], one["iscrowd"], one["id"]) == (area, 0, 1)
    assert coco_ap(table, [], min_area=area + 1)["instances"] == 0
    assert coco_ap(table, [], min_area=area)["instances"] == 1


def test_polygons_are_measured_as_masks() -> None:
    table = truth((1, 1, FULL))
    table["annotations"] = [{"image_id": 1, "category_id": 1, "segmentation": SQUARE}]
    square = np.zeros(SIZE_HW, bool)
    square[2:12, 10:20] = True
    assert coco_ap(table, [found(1, 1, square, 0.9)])["AP"] == 1.0


def damaged(kind: str, **changes: Any) -> dict[str, Any]:
    """The table of one object with changes in the first row of a kind; ... takes a field away."""
    table = truth((1, 1, FULL))
    row = {**table[kind][0], **changes}
    table[kind][0] = {name: value for name, value in row.items() if value is not ...}
    return table


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({**ONE, "categories": [3]}, "got categories[0] '3'; wanted a table with id, name;"),
        (damaged("categories", name=...), "got categories[0] without 'name'; wanted a table"),
        (damaged("images", id="a"), "got images[0] with id 'a'; wanted a whole number;"),
        (damaged("images", id=2), "got images of which two have one id; wanted a different"),
        (damaged("images", height=...), "got images[0] without 'height'; wanted a table with id"),
        (damaged("annotations", image_id=7), "got annotations[0] with image_id 7; wanted one that"),
        (damaged("annotations", category_id=9), "got annotations[0] with category_id 9; wanted"),
        (damaged("annotations", segmentation=None), "got annotations[0] with segmentation 'None'"),
        *(
            (
                damaged("annotations", segmentation=segmentation),
                "got annotations[0] whose segmentation can't be read; wanted RLE or polygons of "
                "20x100 pixels; correct the annotations",
            )
            for segmentation in (
                [],
                {},
                [[1, 2, 3, 4]],
                [[1, 2, 3, 4, 5, float("nan")]],
                [["a"] * 6],
                {"size": [100, 20], "counts": [2000]},
                {"size": [20, 100], "counts": [1, 2]},
                {"size": [20, 100], "counts": "~~~"},
            )
        ),
    ],
)
def test_a_table_that_is_no_coco_is_refused(table: dict[str, Any], text: str) -> None:
    for use in (complete, lambda bad: coco_ap(bad, [found(1, 1, FULL, 0.9)])):
        with pytest.raises(InputError) as error:
            use(table)
        assert str(error.value).startswith(text)
        assert str(error.value).count(";") == 2


@pytest.mark.parametrize(
    ("detection", "text"),
    [
        ({"image_id": 1}, "got detection 0 without 'category_id'; wanted image_id, category_id"),
        (
            found(7, 1, FULL, 0.5),
            "got detection 0 with image_id 7; wanted one that the ground truth",
        ),
        (found(1, 9, FULL, 0.5), "got detection 0 with category_id 9; wanted one that the ground"),
    ],
)
def test_a_detection_of_another_dataset_is_refused(detection: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as error:
        coco_ap(ONE, [detection])
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (strip(0, 0, 10), strip(0, 0, 10), 1.0),
        (strip(0, 0, 10), strip(1, 0, 10), 0.0),
        (strip(0, 0, 10), strip(0, 5, 15), 1 / 3),
        (strip(0, 0, 0), strip(0, 0, 0), 1.0),
    ],
)
def test_mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_], wanted: float) -> None:
    assert mask_iou(one, other) == pytest.approx(wanted)


def test_mask_iou_refuses_two_shapes() -> None:
    with pytest.raises(InputError, match=r"got masks of \(2, 3\) and \(3, 2\); wanted one shape"):
        mask_iou(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
