"""A friendly check of a dataset before hours of work: what is wrong, and what is done about it.

Nothing is dropped in silence: every flaw is counted, with its first examples. What leaves a
dataset without meaning (no pictures, no objects, ids that stand twice) is an error of one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edgeseg.cameras.images import ImageCamera
from edgeseg.errors import CameraError, InputError
from edgeseg.metrics import mask_pixels
from edgeseg.train.data import picture_path

EXAMPLES = 3
LEFT_OUT = "left out"
# Flaw -> what is said of it, and what is done.
FLAWS = {
    "missing": ("pictures that aren't there", "left out with their objects"),
    "unreadable": ("pictures that can't be read", "left out with their objects"),
    "size": (
        "pictures of another size than their table says (were they turned or scaled?)",
        "left out with their objects, whose places would be wrong",
    ),
    "no picture": ("annotations of pictures that aren't in the table", LEFT_OUT),
    "no category": ("annotations of categories that aren't in the table", LEFT_OUT),
    "no mask": ("annotations without a mask (boxes only?)", LEFT_OUT),
    "points": ("polygons of fewer than 3 points, or half a point", LEFT_OUT),
    "nan": ("polygons with coordinates that are no numbers", LEFT_OUT),
    "outside": ("polygons outside their picture", LEFT_OUT),
    "no area": ("masks that cover no pixel", LEFT_OUT),
    "rle": ("run-length masks that don't fit their picture", LEFT_OUT),
    "edge": ("polygons that reach over the edge of their picture", "cut off there"),
    "ids": ("annotations whose id stands twice", "kept: the id isn't used"),
    "crowd": ("crowd annotations", "not trained on; what is found there isn't counted as wrong"),
    "empty": ("pictures without objects", "kept: they teach what is nothing"),
    "absent": ("classes without an object", "kept, but nothing can be learned or measured there"),
}


@dataclass
class Report:
    """What is in a split and what is wrong with it.

    Attributes:
        name: of the split.
        pictures: that can be used.
        objects: class -> objects that can be used, crowds not counted.
        flaws: key of `FLAWS` -> the names of those that have it.
    """

    name: str
    pictures: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    flaws: dict[str, list[str]] = field(default_factory=dict)

    def add(self, flaw: str, example: str) -> None:
        """Note a flaw."""
        self.flaws.setdefault(flaw, []).append(example)

    def text(self) -> str:
        """For a person: one line for the split, one for each kind of flaw."""
        classes = ", ".join(f"{name} {count}" for name, count in self.objects.items())
        total = sum(self.objects.values())
        lines = [f"{self.name}: {self.pictures} pictures, {total} objects ({classes})"]
        for flaw, (what, done) in FLAWS.items():
            names = self.flaws.get(flaw, [])
            if names:
                lines.append(f"  {len(names)} {what}: {done}; e.g. {', '.join(names[:EXAMPLES])}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        counts = {
            flaw: {"count": len(names), "examples": names[:EXAMPLES]}
            for flaw, names in self.flaws.items()
        }
        kept = {"pictures": self.pictures, "objects": self.objects}
        return {"name": self.name, **kept, "flaws": counts}


def check(name: str, table: dict[str, Any], folder: Path) -> tuple[dict[str, Any], Report]:
    """A COCO table without what can't be used, and what was found.

    Args:
        name: of the split, for people.
        table: with the lists ``images annotations categories``; not changed.
        folder: where its pictures are.

    Raises:
        InputError: rows without their fields, or ids of pictures or categories that stand twice.
    """
    _check_rows(name, table)
    report = Report(name)
    images = _good_pictures(table["images"], folder, report)
    known = {image["id"]: image for image in table["images"]}
    categories = {category["id"]: category["name"] for category in table["categories"]}
    kept = {image["id"] for image in images}
    annotations = []
    for one in _with_owner(table["annotations"], known, categories, report):
        if one["image_id"] in kept:
            good = _good_mask(one, known[one["image_id"]], report)
            annotations += [good] if good else []
    _count(report, images, annotations, categories)
    return {**table, "images": images, "annotations": annotations}, report


_FIELDS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "categories": {"id": int, "name": str},
}
_WORDS = {int: "a whole number", str: "a text"}


def _check_rows(name: str, table: Mapping[str, Any]) -> None:
    """Refuse pictures and categories that can't be told apart, or that lack a field."""
    for kind, fields in _FIELDS.items():
        for number, row in enumerate(table[kind]):
            for key, wanted in fields.items():
                value = row.get(key) if isinstance(row, Mapping) else None
                if not isinstance(value, wanted) or isinstance(value, bool):
                    raise InputError(
                        f"got {kind}[{number}] of {name} with {key} {str(value)[:40]!r}; wanted "
                        f"{_WORDS[wanted]}; export the labels as COCO again"
                    )
        for key in ("id", "name") if kind == "categories" else ("id",):
            twice = [v for v, n in Counter(row[key] for row in table[kind]).items() if n > 1]
            if twice:
                raise InputError(
                    f"got {len(twice)} {key}s that stand twice among the {kind} of {name} (e.g. "
                    f"{twice[0]!r}); wanted each once; number or name them anew"
                )


def _good_pictures(images: list[Any], folder: Path, report: Report) -> list[dict[str, Any]]:
    """Those that are there, can be read, and are as large as the table says."""
    good = []
    bar = tqdm(images, desc=f"check {report.name}", unit="image", disable=None, leave=False)
    for image in bar:
        flaw, example = picture_flaw(image, picture_path(folder, image["file_name"]))
        if flaw:
            report.add(flaw, example)
        else:
            good.append(image)
    return sorted(good, key=lambda image: image["id"])


def picture_flaw(image: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """Key of `FLAWS` for a picture, and its name with what was found; two "" if it is good."""
    name = image["file_name"]
    if not path.is_file():
        return "missing", name
    try:
        with ImageCamera(path) as camera:
            size = camera.width, camera.height
    except (CameraError, InputError) as error:
        return "unreadable", f"{name} ({str(error).split(';')[0]})"
    if size != (image["width"], image["height"]):
        told = f"{image['width']}x{image['height']}"
        return "size", f"{name} ({size[0]}x{size[1]} instead of {told})"
    return "", ""


def _with_owner(
    annotations: list[Any],
    images: Mapping[Any, Any],
    categories: Mapping[Any, str],
    report: Report,
) -> Iterable[dict[str, Any]]:
    """Annotations of a picture and a category that are there."""
    seen: set[Any] = set()
    for number, one in enumerate(annotations):
        row = one if isinstance(one, Mapping) else {}
        key = row.get("id")
        what = f"annotation {number if key is None else key}"
        for flaw, field_, known in (
            ("no picture", "image_id", images),
            ("no category", "category_id", categories),
        ):
            if not isinstance(row.get(field_), int) or row[field_] not in known:
                report.add(flaw, f"{what} ({field_} {str(row.get(field_))[:20]})")
                break
        else:
            if key is not None and str(key) in seen:
                report.add("ids", what)
            seen.add(str(key))
            yield dict(row)


def _good_mask(
    one: dict[str, Any], image: Mapping[str, Any], report: Report
) -> dict[str, Any] | None:
    """The annotation with those of its outlines that can be used; None if there is none."""
    what = f"annotation {one.get('id')} of {image['file_name']}"
    size_hw = image["height"], image["width"]
    mask = one.get("segmentation")
    if not mask or not isinstance(mask, (list, Mapping)):
        report.add("no mask", what)
        return None
    if isinstance(mask, list):
        flaws = [polygon_flaw(polygon, size_hw) for polygon in mask]
        for flaw in filter(None, flaws):
            report.add(flaw, what)
        mask = [p for p, flaw in zip(mask, flaws, strict=True) if flaw in ("", "edge")]
        return {**one, "segmentation": mask} if mask else None
    try:
        pixels = mask_pixels(mask, *size_hw)
    except (KeyError, TypeError, ValueError, OverflowError):
        report.add("rle", what)
        return None
    if not pixels:
        report.add("no area", what)
    return one if pixels else None


def polygon_flaw(polygon: Any, size_hw: tuple[int, int]) -> str:
    """Key of `FLAWS` for an outline x, y, x, y, ... of a picture; "" if it is good."""
    try:
        values = np.asarray(polygon, np.float64)
    except (TypeError, ValueError):
        return "nan"
    if values.ndim != 1 or len(values) < 6 or len(values) % 2:
        return "points"
    if not np.isfinite(values).all():
        return "nan"
    low, high = values.reshape(-1, 2).min(0), values.reshape(-1, 2).max(0)
    limit = np.array(size_hw[::-1])
    if (high <= 0).any() or (low >= limit).any():
        return "outside"
    try:
        if not mask_pixels([polygon], *size_hw):
            return "no area"
    except ValueError:  # coordinates so large that the COCO library can't fill between them
        return "outside"
    return "edge" if (low < -1).any() or (high > limit + 1).any() else ""


def _count(
    report: Report,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    categories: Mapping[int, str],
) -> None:
    """Fill in what is left: objects by class, crowds, and where nothing is."""
    names = {image["id"]: image["file_name"] for image in images}
    real = [one for one in annotations if not one.get("iscrowd")]
    for one in annotations:
        if one.get("iscrowd"):
            report.add("crowd", f"annotation {one.get('id')} of {names[one['image_id']]}")
    by_class = Counter(one["category_id"] for one in real)
    report.pictures = len(images)
    report.objects = {categories[key]: by_class[key] for key in sorted(categories)}
    owners = {one["image_id"] for one in real}
    for key, name in names.items():
        if key not in owners:
            report.add("empty", name)
    for name, count in report.objects.items():
        if not count:
            report.add("absent", name)
