"""A friendly check of a dataset before hours of work: what is wrong, and what is done about it.

Nothing is dropped in silence: every flaw is counted, with its first examples. What leaves a
dataset without meaning (no pictures, no objects, ids that stand twice) is an error of one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edgeseg.cameras.images import ImageCamera
from edgeseg.errors import CameraError, InputError
from edgeseg.metrics import mask_pixels
from edgeseg.train.data import Augmentation, picture_path

EXAMPLES = 3
BRUSHED = 0.05
LEFT_OUT, WITH_OBJECTS = "left out", "left out with their objects"
WITH_PICTURE = "left out with their pictures"
# Flaw -> what is said of it, and what is done.
FLAWS = {
    "missing": ("pictures that aren't there", WITH_OBJECTS),
    "unreadable": ("pictures that can't be read", WITH_OBJECTS),
    "size": (
        "pictures of another size than their table says (were they turned or scaled?)",
        "left out with their objects, whose places would be wrong",
    ),
    "twice": ("pictures that stand twice in the table", "their annotations are put together"),
    "shared": ("pictures of different names or sizes that are one file", WITH_OBJECTS),
    "no picture": ("annotations of pictures that aren't in the table", LEFT_OUT),
    "no category": ("annotations of categories that aren't in the table", WITH_PICTURE),
    "no mask": ("annotations without a mask (boxes only?)", WITH_PICTURE),
    "points": ("polygons of fewer than 3 points, or half a point", LEFT_OUT),
    "nan": ("polygons with coordinates that are no numbers", LEFT_OUT),
    "outside": ("polygons outside their picture", LEFT_OUT),
    "no area": ("masks that cover no pixel", LEFT_OUT),
    "rle": ("run-length masks that don't fit their picture", WITH_PICTURE),
    "spoiled": (
        "pictures with an object that can't be used",
        "left out, else it would be taught as background",
    ),
    "edge": ("polygons that reach over the edge of their picture", "cut off there"),
    "ids": ("annotations whose id stands twice", "kept: the id isn't used"),
    "brushed": ("run-length masks marked as crowds, as CVAT does", "taken as objects"),
    "crowd": ("crowd annotations", "not trained on; what is found there isn't counted as wrong"),
    "empty": ("pictures without objects", "kept: they teach what is nothing"),
    "small": (
        f"objects of fewer than {Augmentation.min_area} pixels at the network's input",
        "too small to be learned there: try a larger --input-size",
    ),
    "absent": ("classes without an object", "kept, but nothing can be learned or measured there"),
}
NOTHING = ("outside", "no area")  # an object that isn't in its picture spoils nothing


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


def check(
    name: str, table: dict[str, Any], place: Path, size_hw: tuple[int, int] | None = None
) -> tuple[dict[str, Any], Report]:
    """A COCO table without what can't be used, and what was found.

    Args:
        name: of the split, for people.
        table: with the lists ``images annotations categories``; not changed.
        place: where its pictures are, see `edgeseg.train.data.picture_path`.
        size_hw: of the network's input, for a word on small objects.

    Raises:
        InputError: rows without their fields, or ids of pictures or categories that stand twice.
    """
    check_rows(name, table)
    report = Report(name)
    images, owner = _one_row_per_file(table["images"], place, report)
    images = _good_pictures(images, place, report)
    kept = {image["id"]: image for image in images}
    categories = {category["id"] for category in table["categories"]}
    annotations, spoiled = [], set()
    for one in _with_picture(table["annotations"], owner, report):
        if image := kept.get(one["image_id"]):
            good = _usable(one, image, categories, report)
            if isinstance(good, dict):
                annotations.append(good)
            elif good not in NOTHING:
                spoiled.add(image["id"])
    for key in sorted(spoiled):
        report.add("spoiled", kept[key]["file_name"])
    images = [image for image in images if image["id"] not in spoiled]
    annotations = [one for one in annotations if one["image_id"] not in spoiled]
    table = {**table, "images": images, "annotations": annotations}
    _tell_crowds(table, report)
    if size_hw:
        _tell_small(annotations, kept, size_hw, report)
    return table, count(report, table)


_FIELDS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "categories": {"id": int, "name": str},
}
_WORDS = {int: "a whole number", str: "a text"}


def check_rows(name: str, table: Mapping[str, Any]) -> None:
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


def _one_row_per_file(
    images: list[Any], place: Path, report: Report
) -> tuple[list[dict[str, Any]], dict[int, int | None]]:
    """Rows of which each has a file of its own, and id -> the id of the row that stands for it."""
    files: dict[Path, list[dict[str, Any]]] = {}
    for image in images:
        path = picture_path(place, image["file_name"]).resolve()
        files.setdefault(path, []).append(image)
    kept, owner = [], dict.fromkeys(image["id"] for image in images)
    for rows in files.values():
        if len({(row["file_name"], row["height"], row["width"]) for row in rows}) > 1:
            for row in rows:
                report.add("shared", row["file_name"])
            continue
        kept.append(rows[0])
        owner |= {row["id"]: rows[0]["id"] for row in rows}
        if rows[1:]:
            report.add("twice", rows[0]["file_name"])
    return kept, owner


def _good_pictures(images: list[Any], place: Path, report: Report) -> list[dict[str, Any]]:
    """Those that are there, can be read, and are as large as the table says."""
    good = []
    bar = tqdm(images, desc=f"check {report.name}", unit="image", disable=None, leave=False)
    for image in bar:
        flaw, example = picture_flaw(image, picture_path(place, image["file_name"]))
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


def _with_picture(
    annotations: list[Any], owner: Mapping[int, int | None], report: Report
) -> list[dict[str, Any]]:
    """Annotations of a picture of the table: with its row's id, and ``iscrowd`` 0 or 1."""
    seen: set[str] = set()
    rows = []
    for number, one in enumerate(annotations):
        row = dict(one) if isinstance(one, Mapping) else {}
        image, key = row.get("image_id"), row.get("id")
        what = f"annotation {number if key is None else key}"
        if not isinstance(image, int) or image not in owner:
            report.add("no picture", f"{what} (image_id {str(image)[:20]})")
            continue
        if key is not None and str(key) in seen:
            report.add("ids", what)
        seen.add(str(key))
        crowd = str(row.get("iscrowd")).lower() in ("1", "1.0", "true")
        rows.append(row | {"image_id": owner[image], "iscrowd": int(crowd)})
    _take_brushed(rows, report)
    return rows


def _take_brushed(rows: list[dict[str, Any]], report: Report) -> None:
    """Make objects of masks that were brushed in CVAT, which marks every one of them as a crowd.

    Told by what real crowds never are: all that is run-length, and many. MS COCO has about 1 %.
    """
    runs = [isinstance(one.get("segmentation"), Mapping) for one in rows]
    if sum(runs) > BRUSHED * len(rows) and runs == [one["iscrowd"] == 1 for one in rows]:
        for one in (one for one in rows if one["iscrowd"]):
            one["iscrowd"] = 0
            report.add("brushed", f"annotation {one.get('id')}")


def _what(one: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    return f"annotation {one.get('id')} of {image['file_name']}"


def _usable(
    one: dict[str, Any], image: Mapping[str, Any], categories: set[int], report: Report
) -> dict[str, Any] | str:
    """The annotation with what of its mask can be used; or key of `FLAWS`, why there is nothing."""
    category, mask = one.get("category_id"), one.get("segmentation")
    if not isinstance(category, int) or category not in categories:
        report.add("no category", f"{_what(one, image)} (category_id {str(category)[:20]})")
        return "no category"
    if not mask or not isinstance(mask, (list, Mapping)):
        report.add("no mask", _what(one, image))
        return "no mask"
    size_hw = image["height"], image["width"]
    if isinstance(mask, list):
        flaws = [polygon_flaw(polygon, size_hw) for polygon in mask]
        mask = [p for p, flaw in zip(mask, flaws, strict=True) if flaw in ("", "edge")]
    else:
        flaws = [runs_flaw(mask, size_hw)]
        mask = None if flaws[0] else _whole_runs(mask)
    for flaw in filter(None, flaws):
        report.add(flaw, _what(one, image))
    if mask:
        return {**one, "segmentation": mask}
    return next((flaw for flaw in flaws if flaw not in NOTHING), flaws[0])


def runs_flaw(mask: Mapping[str, Any], size_hw: tuple[int, int]) -> str:
    """Key of `FLAWS` for a run-length mask of a picture; "" if it is good."""
    try:
        return "" if mask_pixels(mask, *size_hw) else "no area"
    except (KeyError, TypeError, ValueError, OverflowError):
        return "rle"


def _whole_runs(mask: Mapping[str, Any]) -> dict[str, Any]:
    """A good run-length mask in whole numbers: decoders refuse 4.0."""
    size_hw, counts = [int(side) for side in mask["size"]], mask["counts"]
    if isinstance(counts, list):
        counts = [int(count) for count in counts]
    return {"size": size_hw, "counts": counts}


def _tell_small(
    annotations: list[dict[str, Any]],
    images: Mapping[int, Any],
    size_hw: tuple[int, int],
    report: Report,
) -> None:
    """Note objects that training drops as soon as their picture has the network's size."""
    for one in annotations:
        image = images[one["image_id"]]
        height, width = image["height"], image["width"]
        scale = min(size_hw[0] / height, size_hw[1] / width)
        pixels = mask_pixels(one["segmentation"], height, width) * scale**2
        if pixels < Augmentation.min_area and not one["iscrowd"]:
            report.add("small", _what(one, image))


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


def _tell_crowds(table: dict[str, Any], report: Report) -> None:
    """Note crowds, and pictures in which nothing else is."""
    images = {image["id"]: image for image in table["images"]}
    for one in table["annotations"]:
        if one["iscrowd"]:
            report.add("crowd", _what(one, images[one["image_id"]]))
    owners = {one["image_id"] for one in table["annotations"] if not one["iscrowd"]}
    for key, image in images.items():
        if key not in owners:
            report.add("empty", image["file_name"])


def count(report: Report, table: dict[str, Any]) -> Report:
    """Fill in what is left in a checked table: pictures, objects by class, classes without any."""
    real = Counter(one["category_id"] for one in table["annotations"] if not one["iscrowd"])
    categories = sorted(table["categories"], key=lambda category: category["id"])
    report.pictures = len(table["images"])
    report.objects = {category["name"]: real[category["id"]] for category in categories}
    for name, number in report.objects.items():
        if not number:
            report.add("absent", name)
    return report
