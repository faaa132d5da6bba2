"""Evaluation of a bundle on a rendered split; the scripted engine knows every object."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.bundle import read
from edgeseg.errors import InputError
from edgeseg.evaluate import category_ids, default_dataset, evaluate, table
from edgeseg.instances import from_masks

# Category ids are neither from 0 nor in the order of the bundle's classes: names decide.
CATEGORIES = [{"id": 7, "name": "blue"}, {"id": 3, "name": "green"}, {"id": 5, "name": "red"}]
COLOURS_BGR = {7: (250, 40, 40), 3: (40, 250, 40), 5: (40, 40, 250)}


def rectangle(x: int, y: int, side: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros((240, 320), bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Split ``test`` of 3 pictures with a large object of each class and a small red one."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    folder = tmp_path / "data" / "test"
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        picture = np.full((240, 320, 3), 20, np.uint8)
        objects = [
            (key, rectangle(8 + 80 * i, 16 + 8 * number, 64)) for i, key in enumerate((7, 3, 5))
        ]
        objects.append((5, rectangle(280, 200, 16)))
        for key, mask in objects:
            picture[mask] = COLOURS_BGR[key]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + number,
                    "category_id": key,
                    "segmentation": from_masks(mask[None], [1.0], [0]).rle(0),
                    "area": int(mask.sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": 0,
                }
            )
        # Names don't sort by id.
        name = f"{9 - number}.png"
        cv2.imwrite(str(folder / "images" / name), picture)
        images.append({"id": 100 + number, "file_name": name, "height": 240, "width": 320})
    truth = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "annotations.json").write_text(json.dumps(truth))
    return tmp_path / "data"


def test_known_objects_are_all_found(fake_bundle: Path, dataset: Path) -> None:
    report = evaluate(fake_bundle, dataset, engine="fake")
    assert (report["model"], report["split"], report["images"]) == ("fake", "test", 3)
    (result,) = report["results"]
    assert (result["precision"], result["engine"]) == ("fp32", "fake")
    assert result["AP"] == pytest.approx(1.0)
    assert result["per_class"] == {"blue": 1.0, "green": 1.0, "red": 1.0}
    assert (result["instances"], result["large"]["instances"]) == (12, 9)
    assert json.loads(json.dumps(report)) == report
    assert "1.000" in table(report)


def test_a_wrong_answer_costs(fake_bundle: Path, dataset: Path) -> None:
    path = dataset / "test" / "annotations.json"
    truth = json.loads(path.read_text())
    for one in truth["annotations"]:
        one["category_id"] = {7: 3, 3: 7, 5: 5}[one["category_id"]]
    path.write_text(json.dumps(truth))
    (result,) = evaluate(fake_bundle, dataset, engine="fake")["results"]
    assert result["per_class"] == {"blue": 0.0, "green": 0.0, "red": 1.0}


def test_limit_takes_the_first_pictures_and_their_objects(fake_bundle: Path, dataset: Path) -> None:
    report = evaluate(fake_bundle, dataset, engine="fake", limit=1)
    assert (report["images"], report["instances"]) == (1, 4)
    assert report["results"][0]["AP"] == pytest.approx(1.0)


def test_an_annotation_may_leave_out_its_area(fake_bundle: Path, dataset: Path) -> None:
    path = dataset / "test" / "annotations.json"
    truth = json.loads(path.read_text())
    for one in truth["annotations"]:
        del one["area"], one["iscrowd"], one["bbox"], one["id"]
    path.write_text(json.dumps(truth))
    (result,) = evaluate(fake_bundle, dataset, engine="fake")["results"]
    assert result["AP"] == pytest.approx(1.0)
    assert (result["instances"], result["large"]["instances"]) == (12, 9)


def _nameless(truth: dict[str, Any]) -> None:
    del truth["images"][2]["file_name"]


def _elsewhere(truth: dict[str, Any]) -> None:
    truth["images"][2]["file_name"] = "gone.png"


def _numbers(truth: dict[str, Any]) -> None:
    truth["categories"] = [3]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_nameless, "got image 102 without 'file_name' in {}; wanted the name of its picture; "),
        (_elsewhere, "/test/images/gone.png; wanted it as annotations.json says; add it"),
        (_numbers, "got categories[0] '3'; wanted a table with id, name; correct the annot"),
    ],
)
def test_annotations_are_refused_before_the_network_is_loaded(
    fake_bundle: Path, dataset: Path, damage: Callable[[dict[str, Any]], None], text: str
) -> None:
    path = dataset / "test" / "annotations.json"
    truth = json.loads(path.read_text())
    damage(truth)
    path.write_text(json.dumps(truth))
    with pytest.raises(InputError) as error:  # an engine of this name would be refused later
        evaluate(fake_bundle, dataset, engine="none")
    assert text.format(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_negative_limit_is_refused(fake_bundle: Path, dataset: Path) -> None:
    with pytest.raises(InputError, match=r"got limit -3; wanted a number of pictures; 0 takes all"):
        evaluate(fake_bundle, dataset, engine="fake", limit=-3)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "wanted a rendered split; run: python tools/make_dataset.py --out"),
        ("{", "got invalid JSON in"),
        ('{"images": []}', "got no list 'annotations' in"),
        ("[]", "got no list 'images' in"),
    ],
)
def test_a_split_that_is_not_there_names_the_command(
    fake_bundle: Path, tmp_path: Path, content: str | None, text: str
) -> None:
    if content is not None:
        (tmp_path / "val").mkdir()
        (tmp_path / "val" / "annotations.json").write_text(content)
    with pytest.raises(InputError) as error:
        evaluate(fake_bundle, tmp_path, split="val", engine="fake")
    assert text in str(error.value)
    assert f"--out {tmp_path} --splits val" in str(error.value)


def test_a_dataset_of_other_classes_is_refused(fake_bundle: Path) -> None:
    truth = {"categories": [{"id": 1, "name": "cat"}]}
    with pytest.raises(InputError, match=r"got a dataset of cat; wanted the classes of fake: blue"):
        category_ids(read(fake_bundle), truth)


def test_the_dataset_is_found_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_DATA", "/somewhere")
    assert default_dataset() == Path("/somewhere")
    monkeypatch.delenv("EDGESEG_DATA")
    assert default_dataset() == Path.home() / ".cache" / "edgeseg" / "tabletop"


def test_eval_on_the_command_line(
    edgeseg_cli: Callable[..., Any], fake_bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "eval.json"
    spoken = edgeseg_cli(
        "eval", fake_bundle, "--split", "test", "--data", dataset, "--precision", "fp32",
        "--engine", "fake", "--json", file,
    )  # fmt: skip
    assert spoken.code == 0, spoken.err
    assert "fake on 3 pictures of split test, 12 objects" in spoken.out
    report = json.loads(file.read_text())
    assert set(report) >= {"model", "split", "images", "results"}
    assert 0 <= report["results"][0]["AP50"] <= 1
