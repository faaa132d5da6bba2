"""Accuracy of instance masks: mask IoU, and COCO mask AP through faster-coco-eval.

COCO mask AP is the mean precision over 101 recall levels, 10 mask IoU thresholds (0.50 to 0.95)
and all classes, as in pycocotools; faster-coco-eval gives the same numbers bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError

MAX_DETECTIONS = 100
MAX_AREA = 1e10
_IOU_50, _IOU_75 = 0, 5  # rows of the precision table
_FIELDS = ("image_id", "category_id", "segmentation", "score")


def mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Shared area over joint area of two masks of the same (H, W); two empty masks give 1.

    Raises:
        InputError: the masks differ in shape.

    >>> half = np.array([[True, True, False, False]])
    >>> mask_iou(half, np.roll(half, 1))
    0.3333333333333333
    """
    if one.shape != other.shape:
        raise InputError(
            f"got masks of {one.shape} and {other.shape}; wanted one shape; "
            "bring both to the size of the frame"
        )
    joint = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / joint if joint else 1.0


def coco_ap(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    min_area: float | None = None,
) -> dict[str, Any]:
    """COCO mask AP of detections.

    Args:
        ground_truth: a COCO table (``images``, ``annotations``, ``categories``); not changed.
        detections: COCO results: ``image_id``, ``category_id``, ``segmentation`` (RLE), ``score``.
            At most the 100 best of each image count.
        min_area: leave true objects of fewer pixels out of the count, and detections that match
            none of the others and are smaller than this.

    Returns:
        ``AP AP50 AP75`` and ``AR`` (recall, 100 detections), all 0..1, ``per_class``: name -> AP,
        and ``instances``: true objects counted. None stands where there is nothing to find.

    Raises:
        InputError: a detection lacks a field, or is of an image or category that isn't in the
            ground truth.
    """
    _check(ground_truth, detections)
    names = {row["id"]: row["name"] for row in ground_truth["categories"]}
    counted = [one for one in ground_truth["annotations"] if one["area"] >= (min_area or 0)]
    if counted and detections:
        precision, recall = _tables(ground_truth, detections, min_area or 0)
    else:  # the library takes no empty lists
        present = {one["category_id"] for one in counted}
        found = [0.0 if key in present else -1.0 for key in sorted(names)]
        precision, recall = np.tile(found, (10, 101, 1)), np.tile(found, (10, 1))
    return {
        "AP": _mean(precision),
        "AP50": _mean(precision[_IOU_50]),
        "AP75": _mean(precision[_IOU_75]),
        "AR": _mean(recall),
        "per_class": {
            names[key]: _mean(precision[:, :, column]) for column, key in enumerate(sorted(names))
        },
        "instances": len(counted),
    }


def _tables(
    ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], min_area: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (10, 101, K) and recall (10, K) over IoU thresholds, recall levels and classes."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_owned(ground_truth), print_function=_quiet)
    found = truth.loadRes([dict(one) for one in detections])
    run = COCOeval_faster(truth, found, "segm", print_function=_quiet)
    run.params.areaRng = [[min_area, MAX_AREA]]
    run.params.areaRngLbl = ["all"]
    run.params.maxDets = [MAX_DETECTIONS]
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval["precision"], np.float64)[:, :, :, 0, -1]
    return precision, np.asarray(run.eval["recall"], np.float64)[:, :, 0, -1]


def _owned(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that the library may write into; crowds are none where nothing is said."""
    return {
        "info": {},
        "images": [dict(one) for one in ground_truth["images"]],
        "categories": [dict(one) for one in ground_truth["categories"]],
        "annotations": [{"iscrowd": 0, **one} for one in ground_truth["annotations"]],
    }


def _mean(table: NDArray[np.float64]) -> float | None:
    """Mean of what was measured; -1 marks classes without a true object."""
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else None


def _check(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> None:
    images = {one["id"] for one in ground_truth["images"]}
    categories = {one["id"] for one in ground_truth["categories"]}
    for number, one in enumerate(detections):
        for name in _FIELDS:
            if name not in one:
                raise InputError(
                    f"got detection {number} without {name!r}; wanted {', '.join(_FIELDS)}; add it"
                )
        for name, known in (("image_id", images), ("category_id", categories)):
            if one[name] not in known:
                raise InputError(
                    f"got detection {number} with {name} {one[name]!r}; wanted one that the "
                    "ground truth has; use the same dataset for both"
                )


def _quiet(*_: object) -> None:
    """Take the library's chatter."""
