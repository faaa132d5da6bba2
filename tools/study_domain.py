#!/usr/bin/env python3
"""What each part of the unseen domain costs a bundle: AP with that part alone changed.

    python tools/study_domain.py fastinst-nano

Renders the same scenes in the ordinary domain, with each part of `tabletop_domain.UNSEEN` alone,
and with all of them; no split shows these scenes. Writes docs/results/domain_NAME.json. Textures
and dimensions take other random numbers than the ordinary ones, so that objects fall differently.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from make_dataset import MIN_AREA, render_scene
from tabletop_coco import annotate, coco
from tabletop_domain import ORDINARY, UNSEEN, Domain
from tqdm import tqdm

from edgeseg import Segmenter, load
from edgeseg.doctor import machine
from edgeseg.evaluate import category_ids, detections_of
from edgeseg.metrics import coco_ap

ROOT = Path(__file__).resolve().parent.parent
# Beyond the scenes of every split.
FIRST_SCENE = 50_000_000
VARIANTS: dict[str, Domain] = {
    "nothing": ORDINARY,
    "textures": replace(ORDINARY, cube=UNSEEN.cube, flat=UNSEEN.flat, textured=UNSEEN.textured),
    "lights": replace(ORDINARY, lights=UNSEEN.lights),
    "cameras": replace(ORDINARY, views=UNSEEN.views),
    "proportions": replace(ORDINARY, dimensions=UNSEEN.dimensions),
    "all of them": UNSEEN,
}


def measure(segmenter: Segmenter, domain: Domain, scenes: int) -> dict[str, Any]:
    """AP on one picture of each scene, of the network's size, and how many objects these have."""
    height, width = segmenter.spec.input_hw
    min_area = MIN_AREA * width * height // (320 * 240)
    empty = coco([], [], "study")
    categories = category_ids(segmenter.spec, empty)
    images, annotations, detections = [], [], []
    for index in tqdm(range(scenes), unit="scene"):
        number, size = FIRST_SCENE + index, (width, height)
        [(picture, objects)] = render_scene(0, number, 1, size, domain=domain)
        images.append({"id": index, "width": width, "height": height})
        annotations += annotate(picture.labels, objects, index, min_area)
        bgr = np.ascontiguousarray(picture.image[..., ::-1])
        detections += detections_of(segmenter(bgr), index, categories)
    found = coco_ap({**empty, "images": images, "annotations": annotations}, detections)
    return {name: found[name] for name in ("AP", "AP50", "AP75", "instances")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="name of a packaged bundle")
    parser.add_argument("--scenes", type=int, default=200, metavar="N", help="pictures of each")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", metavar="DIR")
    args = parser.parse_args(arguments)
    with load(args.model, "ort", score_threshold=0) as segmenter:
        rows = [
            {"changed": name, **measure(segmenter, domain, args.scenes)}
            for name, domain in VARIANTS.items()
        ]
        record = {
            "model": args.model, "ran": segmenter.describe(), "images": args.scenes,
            "first_scene": FIRST_SCENE, "rows": rows, "machine": machine(),
        }  # fmt: skip
    path = args.out / f"domain_{args.model}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
