#!/usr/bin/env python3
"""The example of docs/own-classes.md: new objects, 500 pictures, from rendering to test AP.

    python tools/own_classes.py --work out/own-classes

Renders, fine-tunes, evaluates on the test split, and writes docs/results/own_classes.json and
docs/images/own-classes.jpg. Called again after an interruption, it goes on where it stopped; the
CPU time of what ran before is then lost, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COUNTS = {"train": 360, "val": 60, "test": 80}
SHOWN = (4, 23, 40, 61)


def timed(command: list[str | Path]) -> dict[str, float]:
    """Run a command; minutes by the clock and of CPU, all its processes together."""
    print("$", *command, flush=True)
    began, before = time.monotonic(), _cpu_seconds()
    subprocess.run([str(word) for word in command], check=True)
    return {
        "wall_minutes": round((time.monotonic() - began) / 60, 2),
        "cpu_minutes": round((_cpu_seconds() - before) / 60, 2),
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def record(
    training: dict[str, Any],
    evaluation: dict[str, Any],
    times: dict[str, dict[str, float]],
    note: str,
) -> dict[str, Any]:
    """What docs/results/own_classes.json holds."""
    return {
        "pictures": COUNTS,
        "goal": {"AP50": 0.60, "minutes": 20},
        "times": times,
        "training": training,
        "test": evaluation,
        "note": note,
    }


def draw(bundle: Path, pictures: list[Path], out: Path) -> None:
    """Test pictures with what a bundle finds in them, two a row, as JPEG."""
    from edgeseg import load
    from edgeseg.sinks.overlay import Overlay

    drawn = []
    with load(bundle, "ort") as segmenter:
        overlay = Overlay(segmenter.spec.classes)
        for path in pictures:
            picture = cv2.imread(str(path))
            instances = segmenter(picture)
            overlay.draw(picture, instances)
            drawn.append(picture)
    rows = [np.hstack(drawn[k : k + 2]) for k in range(0, len(drawn), 2)]
    cv2.imwrite(str(out), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])


def main(arguments: list[str] | None = None) -> int:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Run the example of docs/own-classes.md.")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "own-classes")
    parser.add_argument("--note", default="", help="how it ran, for the record")
    args = parser.parse_args(arguments)
    work, edgeseg = args.work, [sys.executable, "-m", "edgeseg"]
    work.mkdir(parents=True, exist_ok=True)
    data, bundle = work / "parts", work / "bundle"
    numbers = [word for split, n in COUNTS.items() for word in (f"--{split}", str(n))]
    make = [sys.executable, ROOT / "tools" / "make_dataset.py", "--objects", "parts"]
    times = {"render": timed([*make, "--out", data, "--splits", ",".join(COUNTS), *numbers])}
    train = ["train", "--data", data, "--init", "fastinst-nano", "--out", bundle, "--overwrite"]
    times["train"] = timed([*edgeseg, *train, "--json", work / "train.json"])
    test = ["eval", bundle, "--data", data, "--split", "test", "--precision", "fp32,int8"]
    times["test"] = timed([*edgeseg, *test, "--json", work / "test.json"])
    read = [json.loads((work / f"{name}.json").read_text()) for name in ("train", "test")]
    note = args.note or f"Load average at the end: {os.getloadavg()[0]:.1f}."
    text = json.dumps(record(read[0], read[1], times, note), indent=1) + "\n"
    (ROOT / "docs" / "results" / "own_classes.json").write_text(text)
    pictures = [data / "test" / "images" / f"{number:06d}.png" for number in SHOWN]
    draw(bundle, pictures, ROOT / "docs" / "images" / "own-classes.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
