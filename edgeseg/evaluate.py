"""Accuracy of a bundle on a dataset split, as COCO mask AP on every precision asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edgeseg.bundle import ModelSpec, find, read
from edgeseg.cameras import open_camera
from edgeseg.doctor import machine
from edgeseg.errors import InputError
from edgeseg.instances import Instances
from edgeseg.metrics import coco_ap, complete
from edgeseg.segmenter import Segmenter, load

LARGE_SHARE = 1 / 256
"""Of the picture, from which on an object is large: 300 pixels at 320x240, 1200 at 640x480."""


def default_dataset() -> Path:
    """``$EDGESEG_DATA``, or the folder in the user's cache where the dataset is rendered to."""
    return Path(os.environ.get("EDGESEG_DATA") or Path.home() / ".cache" / "edgeseg" / "tabletop")


def evaluate(
    model: str | Path,
    dataset: str | Path | None = None,
    *,
    split: str = "test",
    precisions: Sequence[str] | None = None,
    engine: str = "ort",
    threads: int = 0,
    limit: int = 0,
) -> dict[str, Any]:
    """COCO mask AP of a model on a split; every detection counts, whatever its score.

    Args:
        model: name of a packaged bundle, or a bundle folder.
        dataset: folder with ``SPLIT/images`` and ``SPLIT/annotations.json``.
        split: ``test``, ``val``, ...
        precisions: keys of the bundle's ``precisions``, evaluated one after the other; its first
            one when left out.
        engine: name of the engine.
        threads: CPU threads of the engine; 0 leaves the choice to it.
        limit: take only the first pictures of the split; 0 takes all.

    Returns:
        ``model weights_sha256 split images instances results machine``; each result has
        ``precision engine`` and what `edgeseg.metrics.coco_ap` gives, and the same for objects of
        at least `LARGE_SHARE` of the picture under ``large``.

    Raises:
        InputError: no such split, an annotation or picture of it that can't be used, classes that
            aren't those of the bundle, or a negative limit. All before the network runs.
        BundleError: no such bundle.
    """
    if limit < 0:
        raise InputError(f"got limit {limit}; wanted a number of pictures; 0 takes all")
    spec = read(find(model))
    folder = Path(dataset or default_dataset()) / split
    truth = _first(_annotations(folder), limit)
    categories = category_ids(spec, truth)
    _check_pictures(folder / "images", truth)
    results = []
    for precision in precisions or list(spec.precisions)[:1]:
        with load(model, engine, precision=precision, threads=threads, score_threshold=0) as run:
            detections = _detect(run, folder / "images", truth, categories)
            ran = run.describe()
        accuracy = _accuracy(truth, detections)
        results.append({"precision": precision, "engine": engine, "ran": ran, **accuracy})
    return {
        "model": spec.name,
        "weights_sha256": spec.files.get(spec.weights, ""),
        "split": split,
        "images": len(truth["images"]),
        "instances": len(truth["annotations"]),
        "results": results,
        "machine": machine(),
    }


def check_suits(model: str | Path, dataset: str | Path, split: str) -> None:
    """Refuse a split on which a model can't be evaluated, before hours of work.

    Raises:
        InputError: it isn't there, is damaged, or has other classes.
        BundleError: no such bundle.
    """
    category_ids(read(find(model)), _annotations(Path(dataset) / split))


def detections_of(
    instances: Instances, image_id: int, categories: Sequence[int]
) -> list[dict[str, Any]]:
    """COCO results of one picture; ``categories[label]`` is the category id of a label."""
    return [
        {
            "image_id": image_id,
            "category_id": categories[instances.labels[row]],
            "segmentation": instances.rle(row),
            "score": float(instances.scores[row]),
        }
        for row in range(len(instances))
    ]


def category_ids(spec: ModelSpec, truth: Mapping[str, Any]) -> list[int]:
    """The dataset's category id of each of the bundle's classes, found by name.

    Raises:
        InputError: the names differ.
    """
    ids = {row["name"]: row["id"] for row in truth["categories"]}
    if set(ids) != set(spec.classes):
        raise InputError(
            f"got a dataset of {', '.join(sorted(ids))}; wanted the classes of {spec.name}: "
            f"{', '.join(sorted(spec.classes))}; choose another --data or model"
        )
    return [ids[name] for name in spec.classes]


def table(report: Mapping[str, Any]) -> str:
    """The report of `evaluate` as text for a person."""
    large = f"AP of >= {report['results'][0]['large']['min_area_px']} px"
    lines = [
        f"{report['model']} on {report['images']} pictures of split {report['split']}, "
        f"{report['instances']} objects (COCO mask AP, 0..1)",
        f"{'precision':10}{'AP':>7}{'AP50':>7}{'AP75':>7}   {large:>16}",
    ]
    for row in report["results"]:
        values = "".join(f"{_number(row[name]):>7}" for name in ("AP", "AP50", "AP75"))
        lines.append(f"{row['precision']:10}{values}   {_number(row['large']['AP']):>16}")
        lines += [f"  {name:12}{_number(ap):>7}" for name, ap in row["per_class"].items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _accuracy(truth: Mapping[str, Any], detections: list[dict[str, Any]]) -> dict[str, Any]:
    pixels = [row["height"] * row["width"] for row in truth["images"]]
    least = round(LARGE_SHARE * sum(pixels) / max(1, len(pixels)))
    large = coco_ap(truth, detections, min_area=least)
    return {**coco_ap(truth, detections), "large": {"min_area_px": least, **large}}


def _detect(
    segmenter: Segmenter, images: Path, truth: Mapping[str, Any], categories: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections on all pictures of ``truth``, with a progress bar on a terminal."""
    found: list[dict[str, Any]] = []
    for row in tqdm(truth["images"], desc="eval", unit="image", disable=None, leave=False):
        with open_camera(images / row["file_name"]) as camera:
            for frame in camera:
                with frame:
                    found += detections_of(segmenter(frame), row["id"], categories)
    return found


def _annotations(folder: Path) -> dict[str, Any]:
    """The COCO table of a split.

    Raises:
        InputError: it is not there, or damaged.
    """
    path = folder / "annotations.json"
    command = (
        f"python tools/make_dataset.py --out {folder.parent} --splits {folder.name} "
        "(in a clone of edgeseg, with pip install 'edgeseg[dev]')"
    )
    try:
        table: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except OSError:
        raise InputError(f"got no {path}; wanted a rendered split; run: {command}") from None
    except ValueError as error:
        raise InputError(
            f"got invalid JSON in {path} ({error}); wanted COCO annotations; run: {command}"
        ) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(table, dict) or not isinstance(table.get(key), list):
            raise InputError(f"got no list {key!r} in {path}; wanted COCO tables; run: {command}")
    try:
        return complete(table)
    except InputError as error:
        raise InputError(f"{error} in {path}") from None


def _check_pictures(folder: Path, truth: Mapping[str, Any]) -> None:
    """Refuse a split that doesn't name its pictures, or that lacks one."""
    for row in truth["images"]:
        name = row.get("file_name")
        if not isinstance(name, str):
            raise InputError(
                f"got image {row['id']} without 'file_name' in {folder.parent / 'annotations.json'}"
                "; wanted the name of its picture; correct the annotations"
            )
        if not (folder / name).is_file():
            raise InputError(
                f"got no picture {folder / name}; wanted it as annotations.json says; "
                "add it, or take another --data"
            )


def _first(truth: dict[str, Any], limit: int) -> dict[str, Any]:
    """The table with only its first ``limit`` pictures; with all where that is 0."""
    if not limit:
        return truth
    images = truth["images"][:limit]
    kept = {row["id"] for row in images}
    annotations = [row for row in truth["annotations"] if row["image_id"] in kept]
    return {**truth, "images": images, "annotations": annotations}
