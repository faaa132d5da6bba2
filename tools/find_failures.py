#!/usr/bin/env python3
"""What a bundle fails on: a record by size and class, and a sheet of its worst pictures.

    python tools/make_dataset.py --out data --splits test
    python tools/find_failures.py fastinst-nano --data data

Writes docs/results/failures_NAME.json and docs/images/NAME-failures.jpg. The worst pictures are
those with the most errors: objects missed, taken for another class (see `judge`), or found where
there is none, at the bundle's score threshold and in its default precision; of equals the first,
and one of each scene.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from faster_coco_eval import mask as mask_utils
from judge import FOUND, MIN_IOU, Verdict, judge, taken_for, tally
from tqdm import tqdm

from edgeseg import load
from edgeseg.bundle import find, read
from edgeseg.doctor import machine
from edgeseg.evaluate import category_ids, default_dataset, detections_of
from edgeseg.metrics import MAX_AREA, coco_ap

ROOT = Path(__file__).resolve().parent.parent
Sizes = tuple[tuple[int, int | None], ...]
# Of objects, pixels at 320x240; other sizes keep the same share of the picture.
SIZES: Sizes = ((0, 149), (150, 299), (300, 999), (1000, None))
COLUMNS, ROWS, WIDTH = 4, 3, 480
MAX_BYTES = 300_000
TRUE, RIGHT, WRONG, LOST = (255, 255, 255), (80, 220, 60), (60, 60, 255), (0, 215, 255)


def detect(model: str, precision: str, images: Path, truth: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results of all pictures, whatever their scores."""
    categories = category_ids(read(find(model)), truth)
    results = []
    with load(model, "ort", precision=precision, score_threshold=0) as segmenter:
        for row in tqdm(truth["images"], desc=precision, unit="img", disable=None):
            instances = segmenter(cv2.imread(str(images / row["file_name"])))
            results += detections_of(instances, row["id"], categories)
    return results


def judge_all(
    truth: dict[str, Any], detections: list[dict[str, Any]], threshold: float
) -> list[Verdict]:
    """The verdict on each picture, of the detections that reach a score."""
    sides: list[dict[int, list[dict[str, Any]]]] = []
    for rows in (truth["annotations"], [d for d in detections if d["score"] >= threshold]):
        by_image: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in truth["images"]}
        for one in rows:
            by_image[one["image_id"]].append(one)
        sides.append(by_image)
    return [judge(row["id"], sides[0][row["id"]], sides[1][row["id"]]) for row in truth["images"]]


def sizes_of(truth: dict[str, Any]) -> Sizes:
    """`SIZES` in pixels of the dataset's pictures."""
    share = truth["images"][0]["width"] * truth["images"][0]["height"] / (320 * 240)
    return tuple(
        (round(low * share), None if high is None else round((high + 1) * share) - 1)
        for low, high in SIZES
    )


def by_size(
    truth: dict[str, Any],
    verdicts: list[Verdict],
    detections: dict[str, list[dict[str, Any]]],
    sizes: Sizes,
) -> list[dict[str, Any]]:
    """Outcomes and AP of each precision, for objects of each range of pixels."""
    rows = []
    for low, high in sizes:
        most = high or MAX_AREA
        counts = tally(verdicts, lambda _, one, a=low, b=most: a <= one["area"] <= b)
        accuracy = {
            name: coco_ap(truth, found, low, most)["AP"] for name, found in detections.items()
        }
        rows.append({"from_px": low, "to_px": high, **counts, "AP": accuracy})
    return rows


def by_class(truth: dict[str, Any], verdicts: list[Verdict]) -> dict[str, dict[str, Any]]:
    """Outcomes of each class, for what its objects were taken, and what was found in excess."""
    names = {row["id"]: row["name"] for row in truth["categories"]}
    extra = [v.found[number]["category_id"] for v in verdicts for number in v.extra]
    return {
        name: {
            **tally(verdicts, lambda _, one, key=key: one["category_id"] == key),
            "extra": extra.count(key),
            "taken_for": {names[k]: count for k, count in taken_for(verdicts, key).items()},
        }
        for key, name in names.items()
    }


def by_light(truth: dict[str, Any], verdicts: list[Verdict]) -> dict[str, dict[str, int]]:
    """Outcomes in dark and in other pictures, where the dataset tells which are dark."""
    dark = {row["id"]: row["dark"] for row in truth["images"] if "dark" in row}
    return {
        name: tally(verdicts, lambda v, _, wanted=wanted: dark.get(v.image_id) is wanted)
        for name, wanted in (("dark", True), ("other", False))
        if wanted in dark.values()
    }


def worst(truth: dict[str, Any], verdicts: list[Verdict]) -> list[Verdict]:
    """The pictures with the most errors, one of each scene, as many as the sheet shows."""
    scenes = {row["id"]: row.get("scene", row["id"]) for row in truth["images"]}
    chosen: dict[int, Verdict] = {}
    for verdict in sorted(verdicts, key=lambda v: (-v.errors, v.image_id)):
        chosen.setdefault(scenes[verdict.image_id], verdict)
    return list(chosen.values())[: COLUMNS * ROWS]


def draw(picture: np.ndarray, verdict: Verdict, names: dict[int, str]) -> np.ndarray:
    """A picture `WIDTH` wide: found in green or red, what is true in white or yellow."""
    scale = WIDTH / picture.shape[1]
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)
    right = {verdict.taken[k] for k in verdict.taken if verdict.outcome(k) == FOUND}
    for number, one in enumerate(verdict.truth):
        lost = number not in verdict.taken
        _outline(picture, one, LOST if lost else TRUE, names[one["category_id"]] if lost else "")
    for number, one in enumerate(verdict.found):
        name = names[one["category_id"]]
        _outline(picture, one, *((RIGHT, "") if number in right else (WRONG, name)))
    return picture


def _outline(
    picture: np.ndarray, one: dict[str, Any], colour: tuple[int, int, int], name: str
) -> None:
    """Draw the outline of a COCO mask, with a name in its middle."""
    mask = mask_utils.decode(one["segmentation"])
    mask = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, colour, 1, cv2.LINE_AA)
    if name:
        x, y = (int(v) for v in np.argwhere(mask).mean(axis=0)[::-1])
        place, font = (max(0, x - 4 * len(name)), y + 4), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, name, place, font, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(picture, name, place, font, 0.45, colour, 1, cv2.LINE_AA)


def write_sheet(path: Path, pictures: Sequence[np.ndarray]) -> None:
    """Write pictures in rows as JPEG, of the best quality that stays within `MAX_BYTES`."""
    empty = [np.zeros_like(pictures[0])] * (-len(pictures) % COLUMNS)
    cells = [*pictures, *empty]
    rows = [np.hstack(cells[k : k + COLUMNS]) for k in range(0, len(cells), COLUMNS)]
    for quality in range(90, 20, -5):
        data = cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(data) <= MAX_BYTES:
            path.write_bytes(data.tobytes())
            return
    raise SystemExit(f"got {len(data)} bytes for {path}; wanted {MAX_BYTES}; show fewer pictures")


def record(
    model: str, split: str, truth: dict[str, Any], detections: dict[str, list[dict[str, Any]]]
) -> tuple[dict[str, Any], list[Verdict]]:
    """What docs/results/failures_NAME.json holds, and the pictures to show."""
    threshold = read(find(model)).score_threshold
    precision = next(iter(detections))
    verdicts = judge_all(truth, detections[precision], threshold)
    shown = worst(truth, verdicts)
    files = {row["id"]: row["file_name"] for row in truth["images"]}
    return {
        "model": model, "split": split, "images": len(truth["images"]),
        "precision": precision, "score_threshold": threshold, "min_iou": MIN_IOU,
        "by_size": by_size(truth, verdicts, detections, sizes_of(truth)),
        "by_class": by_class(truth, verdicts),
        "by_light": by_light(truth, verdicts),
        "errors": sum(v.errors for v in verdicts),
        "faultless_images": sum(v.errors == 0 for v in verdicts),
        "worst": {files[v.image_id]: v.errors for v in shown},
        "machine": machine(),
    }, shown  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="name of a packaged bundle")
    parser.add_argument("--data", type=Path, default=default_dataset())
    parser.add_argument("--split", default="test")
    args = parser.parse_args(arguments)
    folder = args.data / args.split
    if not (folder / "annotations.json").exists():
        make = f"python tools/make_dataset.py --out {args.data} --splits {args.split}"
        parser.error(f"got no {folder}; wanted a rendered split; run: {make}")
    truth = json.loads((folder / "annotations.json").read_text("utf-8"))
    detections = {
        precision: detect(args.model, precision, folder / "images", truth)
        for precision in read(find(args.model)).precisions
    }
    found, shown = record(args.model, args.split, truth, detections)
    text = json.dumps(found, indent=1) + "\n"
    (ROOT / "docs" / "results" / f"failures_{args.model}.json").write_text(text, "utf-8")
    names = {row["id"]: row["name"] for row in truth["categories"]}
    pictures = [cv2.imread(str(folder / "images" / name)) for name in found["worst"]]
    drawn = [draw(one, verdict, names) for one, verdict in zip(pictures, shown, strict=True)]
    write_sheet(ROOT / "docs" / "images" / f"{args.model}-failures.jpg", drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
