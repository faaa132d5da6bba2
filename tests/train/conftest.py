"""A tiny COCO data set: one bright square and one disc on a dark picture."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
coco_mask = pytest.importorskip("faster_coco_eval.core").mask


def write_split(folder, count, size_hw=(144, 192)):
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    rng = np.random.default_rng(count)
    for number in range(count):
        picture = rng.integers(0, 40, (*size_hw, 3)).astype(np.uint8)
        square, disc = (np.zeros(size_hw, np.uint8) for _ in range(2))
        x, y = rng.integers(5, 60, 2)
        square[y : y + 40, x : x + 40] = 1
        cv2.circle(disc, (int(x) + 100, int(y) + 30), 20, 1, -1)
        picture[square > 0] = (200, 220, 240)
        picture[disc > 0] = (120, 250, 130)
        cv2.imwrite(str(folder / "images" / f"{number:06d}.png"), picture)
        images.append({"id": number, "file_name": f"{number:06d}.png", "height": 144, "width": 192})
        for category, mask in ((3, square), (7, disc)):
            rle = coco_mask.encode(np.asfortranarray(mask))
            counts = rle["counts"]
            rle["counts"] = counts.decode() if isinstance(counts, bytes) else counts
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": rle,
                    "area": int(mask.sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 3, "name": "square"}, {"id": 7, "name": "disc"}]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(table))
    return table


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_split(folder / "train", 6)
    write_split(folder / "val", 2)
    return folder
