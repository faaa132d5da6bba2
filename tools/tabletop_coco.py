# SPDX-License-Identifier: Apache-2.0
"""COCO annotations of rendered pictures, and files that are either absent or complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from faster_coco_eval import mask as mask_utils
from tabletop_shapes import TABLETOP, Catalogue

GENERATOR_VERSION = "1"


def annotate(
    labels: np.ndarray, categories: list[int], image_id: int, min_area: int
) -> list[dict[str, Any]]:
    """Return COCO annotations of the objects of which enough is seen.

    Args:
        labels: (H, W) object number + 1, or 0.
        categories: COCO category id of each object.
        image_id: Id of the picture.
        min_area: Pixels below which an object is left out.
    """
    areas = np.bincount(labels.ravel(), minlength=len(categories) + 1)
    annotations = []
    for number in np.flatnonzero(areas[1:] >= min_area) + 1:
        mask = labels == number
        rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        annotations.append({
            "id": image_id * 100 + int(number),
            "image_id": image_id,
            "category_id": categories[number - 1],
            "segmentation": {"size": list(labels.shape), "counts": rle["counts"].decode("ascii")},
            "area": int(areas[number]),
            "bbox": [int(v) for v in (xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1)],
            "iscrowd": 0,
        })  # fmt: skip
    return annotations


def coco(
    images: list[dict],
    annotations: list[dict],
    description: str,
    catalogue: Catalogue = TABLETOP,
) -> dict[str, Any]:
    """Return a COCO dictionary."""
    return {
        "info": {"description": description, "version": GENERATOR_VERSION},
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(catalogue.names)],
        "images": images,
        "annotations": annotations,
    }


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def encode_png(image: np.ndarray) -> bytes:
    """Return an RGB image as PNG."""
    return cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()
