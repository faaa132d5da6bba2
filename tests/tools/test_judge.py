"""Found, taken for another class, missed, extra: decided one to one, by mask IoU and score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from faster_coco_eval import mask as mask_utils
from find_failures import SIZES, by_light, by_size, draw, judge_all, sizes_of, worst, write_sheet
from judge import judge, taken_for, tally


def seen(left: int, right: int, category: int, **more: Any) -> dict[str, Any]:
    """An object that covers columns of a picture of 10x40."""
    mask = np.zeros((10, 40), np.uint8)
    mask[:, left:right] = 1
    code = mask_utils.encode(np.asfortranarray(mask))
    code["counts"] = code["counts"].decode("ascii")
    area = int(mask.sum())
    return {"image_id": 1, "category_id": category, "segmentation": code, "area": area, **more}


def outcomes(truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> tuple[list[str], int]:
    verdict = judge(1, truth, found)
    return [verdict.outcome(number) for number in range(len(truth))], len(verdict.extra)


def test_each_outcome() -> None:
    truth = [seen(0, 10, 1), seen(10, 20, 1), seen(20, 30, 2)]
    found = [seen(0, 9, 1, score=0.9), seen(11, 20, 2, score=0.8), seen(33, 40, 2, score=0.7)]
    assert outcomes(truth, found) == (["found", "wrong_class", "missed"], 1)
    assert judge(1, truth, found).errors == 3
    assert taken_for([judge(1, truth, found)], 1) == {2: 1}


def test_a_mask_of_half_the_object_is_found_and_less_is_not() -> None:
    assert outcomes([seen(0, 20, 1)], [seen(0, 10, 1, score=0.9)]) == (["found"], 0)
    assert outcomes([seen(0, 20, 1)], [seen(0, 9, 1, score=0.9)]) == (["missed"], 1)


def test_a_second_detection_of_an_object_is_extra() -> None:
    found = [seen(0, 10, 1, score=0.6), seen(0, 10, 1, score=0.9)]
    assert outcomes([seen(0, 10, 1)], found) == (["found"], 1)


def test_the_right_class_goes_before_a_higher_score_of_another() -> None:
    found = [seen(0, 10, 2, score=0.9), seen(0, 10, 1, score=0.6)]
    assert outcomes([seen(0, 10, 1)], found) == (["found"], 1)


def test_pictures_without_objects_or_detections() -> None:
    assert outcomes([], [seen(0, 10, 1, score=0.9)]) == ([], 1)
    assert outcomes([seen(0, 10, 1)], []) == (["missed"], 0)


def table(*objects: dict[str, Any]) -> dict[str, Any]:
    """A dataset of two pictures of one scene and one of another."""
    rows = [
        {"id": k, "height": 10, "width": 40, "dark": k == 1, "scene": k // 2} for k in (0, 1, 2)
    ]
    names = [{"id": 1, "name": "mug"}, {"id": 2, "name": "can"}]
    return {"images": rows, "categories": names, "annotations": list(objects)}


def test_counts_by_size_and_light_and_the_worst_of_each_scene() -> None:
    truth = table(
        seen(0, 10, 1, image_id=0), seen(0, 20, 1), seen(20, 30, 2), seen(0, 10, 1, image_id=2)
    )
    found = [seen(0, 20, 1, score=0.9), seen(0, 10, 1, image_id=2, score=0.3)]
    verdicts = judge_all(truth, found, threshold=0.5)
    assert [v.errors for v in verdicts] == [1, 1, 1]
    small, large = by_size(truth, verdicts, {"fp32": found}, SIZES)[:2]
    assert (small["objects"], small["found"], small["missed"]) == (3, 0, 3)
    assert (large["objects"], large["found"], large["AP"]["fp32"]) == (1, 1, 1.0)
    assert by_light(truth, verdicts)["dark"]["objects"] == 2
    assert [v.image_id for v in worst(truth, verdicts)] == [0, 2]
    assert tally(verdicts, lambda verdict, _: verdict.image_id == 2)["missed"] == 1


def test_larger_pictures_keep_shares_and_the_sheet_its_width() -> None:
    truth = {"images": [{"width": 640, "height": 480}]}
    assert sizes_of(truth) == ((0, 599), (600, 1199), (1200, 3999), (4000, None))
    assert sizes_of({"images": [{"width": 320, "height": 240}]}) == SIZES
    verdict = judge(1, [seen(0, 10, 1)], [])
    for side in (1, 64):
        picture = np.zeros((10 * side, 40 * side, 3), np.uint8)
        assert draw(picture, verdict, {1: "mug"}).shape == (120, 480, 3)


def test_a_sheet_of_few_pictures_is_filled_up(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.jpg", [np.full((30, 40, 3), 200, np.uint8)] * 6)
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet.shape == (60, 160, 3)
    assert sheet[45, 60].min() > 150 > 50 > sheet[45, 100].max()
