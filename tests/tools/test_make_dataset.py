# SPDX-License-Identifier: Apache-2.0
import hashlib
import itertools
import json
import os
import sys
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from faster_coco_eval import mask as mask_utils

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

if find_spec("mujoco") is None:
    pytest.skip("needs mujoco, which isn't installed", allow_module_level=True)
if os.environ.get("MUJOCO_GL", "osmesa") == "osmesa" and find_library("OSMesa") is None:
    pytest.skip("needs osmesa: this machine has no libOSMesa", allow_module_level=True)

import make_dataset
import tabletop_clip
from tabletop_camera import halve_labels
from tabletop_meshes import handle, lathe, prism, signed_volume

SIZE = (160, 120)
COMMAND = ["--splits", "val", "--val", "3", "--workers", "1", "--size", "160x120"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tabletop")
    make_dataset.main(["--out", str(folder), *COMMAND])
    return folder


def test_same_seed_gives_same_picture() -> None:
    first, second = (next(make_dataset.render_scene(0, 5, 1, SIZE)) for _ in range(2))
    assert np.array_equal(first[0].image, second[0].image)
    assert np.array_equal(first[0].labels, second[0].labels)
    assert first[1] == second[1]


def test_view_does_not_depend_on_the_scene_rendered_before(dataset: Path) -> None:
    rendered = [p for p, _ in make_dataset.render_scene(0, 10_000_000, 2, SIZE)]
    stored = cv2.imread(str(dataset / "val/images/000001.png"))[..., ::-1]
    assert np.array_equal(rendered[1].image, stored)
    assert not np.array_equal(rendered[0].image, rendered[1].image)


def test_annotations_are_valid_coco(dataset: Path) -> None:
    coco = json.loads((dataset / "val/annotations.json").read_text())
    assert [c["id"] for c in coco["categories"]] == list(range(1, 9))
    assert [i["id"] for i in coco["images"]] == [0, 1, 2]
    assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"]) > 0
    for image in coco["images"]:
        picture = cv2.imread(str(dataset / "val/images" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
    covered = {i["id"]: np.zeros(SIZE[::-1], int) for i in coco["images"]}
    for one in coco["annotations"]:
        mask = mask_utils.decode(one["segmentation"])
        x, y, w, h = one["bbox"]
        assert mask.sum() == mask[y : y + h, x : x + w].sum() == one["area"] >= 12
        assert mask[y].any() and mask[:, x].any() and 1 <= one["category_id"] <= 8
        covered[one["image_id"]] += mask
    assert max(c.max() for c in covered.values()) == 1


def test_manifest_lists_every_file(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    digest = manifest["splits"]["val"].pop("sha256")
    assert manifest["splits"] == {"val": {"images": 3, "first_scene": 10_000_000}}
    lines = [f"{sha}  {name}\n" for name, sha in sorted(manifest["files"].items())]
    assert digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert len(manifest["files"]) == 4
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((dataset / name).read_bytes()).hexdigest() == digest


def test_finished_chunks_are_kept(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: make_dataset.Job) -> int:
        raise AssertionError(job)

    monkeypatch.setattr(make_dataset, "render_chunk", fail)
    make_dataset.main(["--out", str(dataset), *COMMAND])


def test_folder_of_another_seed_is_refused(dataset: Path) -> None:
    with pytest.raises(SystemExit, match="another seed, size or version"):
        make_dataset.main(["--out", str(dataset), *COMMAND, "--seed", "1"])


def test_the_parts_are_a_dataset_of_their_own(dataset: Path, tmp_path: Path) -> None:
    command = ["--objects", "parts", *COMMAND]
    make_dataset.main(["--out", str(tmp_path), *command])
    coco = json.loads((tmp_path / "val/annotations.json").read_text())
    assert [c["name"] for c in coco["categories"]] == ["ring", "star", "cross", "hammer"]
    assert {one["category_id"] for one in coco["annotations"]} == {1, 2, 3, 4}
    with pytest.raises(SystemExit, match="of other objects"):
        make_dataset.main(["--out", str(dataset), *command])


def test_splits_share_no_scene() -> None:
    firsts = sorted(make_dataset.FIRST_SCENE.values())
    assert all(b - a >= make_dataset.MAX_SCENES for a, b in itertools.pairwise(firsts))
    assert make_dataset.scene_number("val", 3) == make_dataset.scene_number("val", 2)


def test_clip_shows_no_scene_of_a_split() -> None:
    assert max(make_dataset.FIRST_SCENE.values()) + make_dataset.MAX_SCENES <= tabletop_clip.SCENE


@pytest.mark.parametrize(
    ("block", "label"),
    [([[1, 2], [2, 3]], 2), ([[1, 2], [3, 3]], 3), ([[1, 1], [2, 3]], 1), ([[1, 2], [2, 1]], 1)],
)
def test_most_frequent_label_wins(block: list[list[int]], label: int) -> None:
    assert halve_labels(np.array(block)).item() == label


def test_meshes_face_outwards() -> None:
    cylinder = lathe([(0, -1), (1, -1), (1, 1), (0, 1)])
    assert signed_volume(*cylinder) == pytest.approx(2 * np.pi, rel=0.02)
    ring = lathe([(1, -1), (1, 1), (0.5, 1), (0.5, -1)], closed=True)
    assert signed_volume(*ring) == pytest.approx(1.5 * np.pi, rel=0.02)
    square = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    assert signed_volume(*prism(square, 0.5)) == pytest.approx(4)
    assert signed_volume(*handle(1.0, 0.7, 0.6, 0.1)) > 0
