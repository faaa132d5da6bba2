"""Accuracy of instance masks: mask IoU, and COCO mask AP through faster-coco-eval.

COCO mask AP is the mean precision over 101 recall levels, 10 mask IoU thresholds (0.50 to 0.95)
and all classes, as in pycocotools; faster-coco-eval gives the same numbers bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.masks import decompress

MAX_DETECTIONS = 100
MAX_AREA = 1e10
_IOU_50, _IOU_75 = 0, 5  # rows of the precision table
MAX_COORDINATE = 1e6
_FIELDS = ("image_id", "category_id", "segmentation", "score")
_ROWS: dict[str, dict[str, Any]] = {
    "images": {"id": int, "height": int, "width": int},
    "categories": {"id": int, "name": str},
    "annotations": {"image_id": int, "category_id": int, "segmentation": (dict, list)},
}


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
    max_area: float = MAX_AREA,
) -> dict[str, Any]:
    """COCO mask AP of detections.

    Args:
        ground_truth: a COCO table (``images``, ``annotations``, ``categories``), as `complete`
            takes it; not changed.
        detections: COCO results: ``image_id``, ``category_id``, ``segmentation`` (RLE), ``score``.
            At most the 100 best of each image count.
        min_area: leave true objects of fewer pixels out of the count, and detections that match
            none of the others and are smaller than this.
        max_area: the same for objects of more pixels than this.

    Returns:
        ``AP AP50 AP75`` and ``AR`` (recall, 100 detections), all 0..1, ``per_class``: name -> AP,
        and ``instances``: true objects counted. None stands where there is nothing to find.

    Raises:
        InputError: a detection lacks a field, or is of an image or category that isn't in the
            ground truth; or that isn't what `complete` takes.
    """
    ground_truth = complete(ground_truth)
    _check(ground_truth, detections)
    names = {row["id"]: row["name"] for row in ground_truth["categories"]}
    low = min_area or 0
    counted = [one for one in ground_truth["annotations"] if low <= one["area"] <= max_area]
    if counted and detections:
        precision, recall = _tables(ground_truth, detections, (low, max_area))
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


def complete(table: Mapping[str, Any]) -> dict[str, Any]:
    """A checked copy of a COCO table that says what may be left out.

    ``area`` is counted in pixels of the mask where it isn't given, ``iscrowd`` is 0, and the
    annotations are numbered anew from 1.

    Args:
        table: ``images`` with ``id height width``, ``categories`` with ``id name``, and
            ``annotations`` with ``image_id category_id segmentation`` (RLE or polygons).

    Raises:
        InputError: a row that lacks one of these or has another kind of value, an id that stands
            twice or nowhere, or a segmentation that is none.
    """
    for kind in _ROWS:
        for number, row in enumerate(table[kind]):
            _check_row(f"{kind}[{number}]", row, _ROWS[kind])
    images = _by_id("images", table["images"])
    categories = _by_id("categories", table["categories"])
    annotations = []
    for number, one in enumerate(table["annotations"]):
        for name, known in (("image_id", images), ("category_id", categories)):
            if one[name] not in known:
                raise _wrong(f"annotations[{number}] with {name} {one[name]}", "one that is there")
        image = images[one["image_id"]]
        try:
            pixels = mask_pixels(one["segmentation"], image["height"], image["width"])
        except (KeyError, TypeError, ValueError):
            got = f"annotations[{number}] whose segmentation can't be read"
            wanted = f"RLE or polygons of {image['height']}x{image['width']} pixels"
            raise _wrong(got, wanted) from None
        area = one["area"] if isinstance(one.get("area"), Real) else pixels
        annotations.append({"iscrowd": 0, **one, "area": area, "id": number + 1})
    return {
        "info": {},
        "images": [dict(one) for one in images.values()],
        "categories": [dict(one) for one in categories.values()],
        "annotations": annotations,
    }


def _check_row(where: str, row: Any, fields: Mapping[str, Any]) -> None:
    """Refuse a row of a COCO table that lacks a field or has one of another kind."""
    wanted = f"a table with {', '.join(fields)}"
    if not isinstance(row, Mapping):
        raise _wrong(f"{where} {str(row)[:40]!r}", wanted)
    for name, kind in fields.items():
        if name not in row:
            raise _wrong(f"{where} without {name!r}", wanted)
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise _wrong(f"{where} with {name} {str(row[name])[:40]!r}", _WORDS[name])


_WORDS = dict.fromkeys(("id", "height", "width", "image_id", "category_id"), "a whole number")
_WORDS |= {"name": "a text", "file_name": "a text", "segmentation": "RLE or polygons"}


def _by_id(kind: str, rows: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    by_id = {row["id"]: row for row in rows}
    if len(by_id) < len(rows):
        raise _wrong(f"{kind} of which two have one id", "a different id for each")
    return by_id


def mask_pixels(segmentation: Any, height: int, width: int) -> int:
    """Area of a COCO segmentation; a KeyError, TypeError or ValueError where it is none."""
    if isinstance(segmentation, list):
        return _polygon_pixels(segmentation, height, width)
    counts, pixels = segmentation["counts"], height * width
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    runs = decompress(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    fits = ((runs >= 0) & (runs <= pixels)).all() and runs.sum() == pixels
    if list(segmentation["size"]) != [height, width] or not fits:
        raise ValueError(f"wanted runs of {height}x{width} pixels")
    return int(runs[1::2].sum())


def _polygon_pixels(polygons: list[Any], height: int, width: int) -> int:
    """Area of outlines x, y, x, y, ... as the COCO API fills them; looked at before it does."""
    from faster_coco_eval import mask as library

    for polygon in polygons:
        values = np.asarray(polygon, np.float64)
        whole = values.ndim == 1 and len(values) >= 6 and len(values) % 2 == 0
        if not whole or not (np.abs(values) < MAX_COORDINATE).all():
            raise ValueError("wanted three or more points")
    if not polygons:
        raise ValueError("wanted an outline")
    return int(library.area(library.merge(library.frPyObjects(polygons, height, width))))


def _wrong(got: str, wanted: str) -> InputError:
    return InputError(f"got {got}; wanted {wanted}; correct the annotations")


def _tables(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    area_range: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (10, 101, K) and recall (10, K) over IoU thresholds, recall levels and classes."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(dict(ground_truth), print_function=_quiet)
    found = truth.loadRes([dict(one) for one in detections])
    run = COCOeval_faster(truth, found, "segm", print_function=_quiet)
    run.params.areaRng = [list(area_range)]
    run.params.areaRngLbl = ["all"]
    run.params.maxDets = [MAX_DETECTIONS]
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval["precision"], np.float64)[:, :, :, 0, -1]
    return precision, np.asarray(run.eval["recall"], np.float64)[:, :, 0, -1]


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
