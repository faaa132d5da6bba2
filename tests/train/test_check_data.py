"""What the check of a dataset says of each flaw, and what it leaves."""

import json

import cv2
import numpy as np
import pytest

from edgeseg.errors import InputError
from edgeseg.metrics import coco_ap

pytest.importorskip("torch")

from edgeseg.train.check_data import FLAWS, check, polygon_flaw
from edgeseg.train.data import decode_mask, read_tables

SIZE_HW = (144, 192)
SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]
NAN = float("nan")


def checked(folder, change, size_hw=None):
    """The check of the split ``train`` after ``change`` was done to its table."""
    folder = folder / "train"
    table = read_tables(folder)
    change(table)
    return check("train", json.loads(json.dumps(table)), folder, size_hw)


def annotation(**fields):
    """A change: the first annotation gets other fields."""
    return lambda table: table["annotations"][0].update(fields)


def test_a_good_dataset_has_nothing_but_its_counts_said(data):
    table, report = checked(data, lambda table: None)
    assert report.text() == "train: 6 pictures, 12 objects (square 6, disc 6)"
    assert len(table["images"]) == 6 and len(table["annotations"]) == 12


@pytest.mark.parametrize(
    ("polygon", "flaw"),
    [
        (SQUARE, ""),
        ([10, 10, 50, 50], "points"),
        ([10, 10, 50, 10, 50, 50, 10], "points"),
        ([[10, 10], [50, 10], [50, 50]], "points"),
        ([10, 10, 50, NAN, 50, 50], "nan"),
        ([10, 10, float("inf"), 10, 50, 50], "nan"),
        ([10, 10, "a", 10, 50, 50], "nan"),
        ([200, 10, 250, 10, 250, 50], "outside"),
        ([10, -50, 50, -50, 50, -10], "outside"),
        ([10, 10, 1e12, 10, 50, 50], "outside"),
        ([10, 10, 50, 10, 90, 10], "no area"),
        ([10.1, 10.1, 10.2, 10.1, 10.2, 10.2], "no area"),
        ([150, 10, 250, 10, 250, 50, 150, 50], "edge"),
        ([0, 0, 192, 0, 192, 144, 0, 144], ""),
    ],
)
def test_polygons(polygon, flaw):
    assert polygon_flaw(polygon, SIZE_HW) == flaw


RUNS = {"size": [144, 192], "counts": [0, 144 * 192]}
CASES = {
    "no picture": (annotation(image_id=99), "no picture", "annotation 1 (image_id 99)", 11),
    "no category": (
        annotation(category_id=4),
        "no category",
        "annotation 1 of 000000.png (cat",
        10,
    ),
    "no mask": (annotation(segmentation=[]), "no mask", "annotation 1 of 000000.png", 10),
    "points": (annotation(segmentation=[SQUARE[:4]]), "points", "annotation 1 of 000000.png", 10),
    "nan": (annotation(segmentation=[[NAN, *SQUARE[1:]]]), "nan", "annotation 1", 10),
    "outside": (annotation(segmentation=[[300, 1, 320, 1, 320, 9]]), "outside", "annotation 1", 11),
    "no area": (annotation(segmentation=[[1, 1, 9, 1, 5, 1]]), "no area", "annotation 1", 11),
    "one of two": (annotation(segmentation=[SQUARE, SQUARE[:4]]), "points", "annotation 1", 12),
    "edge": (annotation(segmentation=[[150, 1, 250, 1, 250, 50]]), "edge", "annotation 1", 12),
    "runs": (annotation(segmentation=RUNS), "", "", 12),
    "short runs": (annotation(segmentation=RUNS | {"counts": [5, 5]}), "rle", "annotation 1", 10),
    "size of runs": (annotation(segmentation=RUNS | {"size": [9, 9]}), "rle", "annotation 1", 10),
    "garbage": (annotation(segmentation=RUNS | {"counts": "~~"}), "rle", "annotation 1", 10),
    "no counts": (annotation(segmentation={"size": [144, 192]}), "rle", "annotation 1", 10),
    "no pixel": (
        annotation(segmentation=RUNS | {"counts": [144 * 192]}),
        "no area",
        "annotation 1",
        11,
    ),
    "ids": (annotation(id=2), "ids", "annotation 2", 12),
    "crowd": (annotation(iscrowd=1), "crowd", "annotation 1 of 000000.png", 12),
    "no table": (lambda t: t["annotations"].append(3), "no picture", "annotation 12", 12),
}


def test_a_picture_with_an_object_that_cant_be_used_teaches_nothing(data):
    """Else that object would be taught as background; what lies outside it isn't in it."""

    def change(table):
        for row, mask in enumerate(([], [SQUARE[:4]], [[300, 1, 320, 1, 320, 9]])):
            table["annotations"][2 * row]["segmentation"] = mask

    table, report = checked(data, change)
    assert [image["id"] for image in table["images"]] == [2, 3, 4, 5]
    assert "empty" not in report.flaws and report.flaws["spoiled"] == ["000000.png", "000001.png"]
    text = "2 pictures with an object that can't be used: left out, else it would be taught as"
    assert text in report.text() and report.pictures == 4 and len(table["annotations"]) == 7


@pytest.mark.parametrize(("count", "taken"), [(1, False), (2, True)])
def test_masks_brushed_in_cvat_are_objects_unless_they_are_rare(data, count, taken):
    """It marks every one of them as a crowd; of 24 rows, 5 % are more than one."""

    def change(table):
        table["annotations"] *= 2
        for row, one in enumerate(table["annotations"]):
            table["annotations"][row] = {**one, "id": row + 1, "segmentation": [SQUARE]}
        for one in table["annotations"][:count]:
            one.update(iscrowd=1, segmentation=RUNS)

    table, report = checked(data, change)
    assert sum(one["iscrowd"] for one in table["annotations"]) == (0 if taken else 1)
    text = f"{count} run-length masks marked as crowds, as CVAT does: taken as objects; e.g. annota"
    assert (text in report.text()) is taken
    assert sum(report.objects.values()) == 24 if taken else 23


@pytest.mark.parametrize(
    ("crowd", "meant"),
    [(None, 0), ("0", 0), (False, 0), (0.0, 0), ("1", 1), (True, 1), (1.0, 1)],
)
def test_crowds_are_0_or_1_however_they_are_written(data, crowd, meant):
    table, _ = checked(data, annotation(iscrowd=crowd))
    assert table["annotations"][0]["iscrowd"] == meant
    assert coco_ap(table, [])["AP"] == 0.0


def test_runs_that_are_no_whole_numbers_can_be_decoded(data):
    runs = {"size": [144.0, 192.0], "counts": [0.0, 10.0, 144 * 192 - 10.0]}
    table, report = checked(data, annotation(segmentation=runs))
    assert decode_mask(table["annotations"][0]["segmentation"], *SIZE_HW).sum() == 10
    assert not report.flaws


def test_objects_too_small_for_the_network_are_told_and_kept(data):
    dot = [10, 10, 20, 10, 20, 20, 10, 20]
    change = annotation(segmentation=[dot])
    for size_hw, told in (((144, 192), False), ((72, 96), False), ((48, 64), True)):
        table, report = checked(data, change, size_hw)
        assert len(table["annotations"]) == 12
        text = "1 objects of fewer than 20 pixels at the network's input: too small to be learned"
        assert (text in report.text()) is told


def test_rows_of_one_picture_are_put_together(data):
    table, report = checked(data, lambda t: t["images"][1].update(file_name="000000.png"))
    assert [image["id"] for image in table["images"]] == [0, 2, 3, 4, 5]
    assert [one["image_id"] for one in table["annotations"]][:5] == [0, 0, 0, 0, 2]
    text = "1 pictures that stand twice in the table: their annotations are put together; e.g. 0000"
    assert text in report.text()


@pytest.mark.parametrize("fields", [{"file_name": "images/000000.png"}, {"height": 9}])
def test_rows_that_share_a_file_but_differ_are_left_out(data, fields):
    def change(table):
        table["images"][1].update({"file_name": "000000.png"} | fields)

    table, report = checked(data, change)
    assert [image["id"] for image in table["images"]] == [2, 3, 4, 5]
    assert len(table["annotations"]) == 8
    text = "2 pictures of different names or sizes that are one file: left out with their objects"
    assert text in report.text()


@pytest.mark.parametrize("name", CASES)
def test_a_flaw_is_counted_shown_and_done_with_as_said(data, name):
    change, flaw, example, left = CASES[name]
    table, report = checked(data, change)
    assert len(table["annotations"]) == left
    if not flaw:
        assert not report.flaws
        return
    what, done = FLAWS[flaw]
    assert (left == 10) is ("spoiled" in report.flaws)
    assert f"\n  1 {what}: {done}; e.g. {example}" in report.text()
    assert report.to_dict()["flaws"][flaw]["count"] == 1


def test_pictures_that_cant_be_used_go_with_their_objects_and_are_told(data):
    images = data / "train" / "images"
    (images / "000000.png").unlink()
    (images / "000001.png").write_bytes((images / "000001.png").read_bytes()[:500])
    cv2.imwrite(str(images / "000002.png"), np.zeros((192, 144, 3), np.uint8))
    cv2.imwrite(str(images / "000003.png"), np.zeros((144, 192, 3), np.uint16))
    table, report = checked(data, lambda table: None)
    text = report.text()
    assert [image["id"] for image in table["images"]] == [4, 5]
    assert {one["image_id"] for one in table["annotations"]} == {4, 5}
    assert "1 pictures that aren't there: left out with their objects; e.g. 000000.png" in text
    assert "2 pictures that can't be read: left out with their objects; e.g. 000001.png (" in text
    assert "16 bits per channel" in text
    assert "(were they turned or scaled?): left out" in text
    assert "e.g. 000002.png (144x192 instead of 192x144)" in text


def test_pictures_and_classes_without_objects_are_told_and_kept(data):
    def change(table):
        table["annotations"] = [
            one for one in table["annotations"] if one["category_id"] == 3 and one["image_id"]
        ]

    table, report = checked(data, change)
    assert len(table["images"]) == 6
    assert "(square 5, disc 0)" in report.text()
    assert "1 pictures without objects: kept: they teach" in report.text()
    assert "1 classes without an object: kept" in report.text() and "e.g. disc" in report.text()


def test_only_the_first_examples_are_shown(data):
    def change(table):
        for one in table["annotations"]:
            one["category_id"] = 77

    text = checked(data, change)[1].text()
    assert "12 annotations of categories that aren't in the table: left out with their" in text
    assert text.count("category_id 77") == 3


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        ("images", {"id": 1}, r"got 1 ids that stand twice among the images of train \(e.g. 1\)"),
        ("images", {"id": "x"}, r"images\[0\] of train with id 'x'; wanted a whole number"),
        ("images", {"file_name": 3}, r"with file_name '3'; wanted a text; export the labels"),
        ("images", {"width": None}, r"with width 'None'; wanted a whole number"),
        ("categories", {"id": 7}, "got 1 ids that stand twice among the categories"),
        ("categories", {"name": "disc"}, r"got 1 names that stand twice .*'disc'.*anew"),
    ],
)
def test_what_cant_be_told_apart_is_refused(data, kind, fields, text):
    with pytest.raises(InputError, match=text):
        checked(data, lambda table: table[kind][0].update(fields))
