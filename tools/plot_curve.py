#!/usr/bin/env python3
"""Keep the record of a training run, and draw its curve: AP and AP50 over pictures and minutes.

    python tools/plot_curve.py fastinst-nano --run runs/fastinst-nano --note "On two threads."
    python tools/plot_curve.py fastinst-nano

Writes docs/results/training_NAME.json, the ``curve.json`` that `edgeseg train` left in the folder
of the run with a sentence on how it went; and docs/images/NAME-training.svg, a function of that
record alone. Without --run only the picture is made anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 30, 56, 62
LABEL_WIDTH = 50
LINES = (
    ("raw_AP50", "AP50", "#e07b39"),
    ("raw_AP", "AP (raw)", "#1f6fb4"),
    ("ema_AP", "AP (averaged)", "#7fb3d9"),
)


def draw(record: dict[str, Any]) -> str:
    """SVG text of one training record."""
    rows = record["curve"]
    most = max(row["images_seen"] for row in rows)
    top = 0.1 * (int(10 * max(row["raw_AP50"] for row in rows)) + 1)

    def x(images: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * images / most

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{title(record)}</text>',
    ]
    for tenth in range(int(10 * top + 0.5) + 1):
        level = y(tenth / 10)
        parts.append(
            f'<path d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>'
        )
    labelled = -LABEL_WIDTH
    for row in rows:
        place = x(row["images_seen"])
        if place - labelled < LABEL_WIDTH:
            continue
        labelled = place
        parts.append(
            f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{row["images_seen"] / 1000:.0f}k</text>'
            f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 34}" fill="#777" '
            f'text-anchor="middle">{row["minutes"]:.0f} min</text>'
        )
    for number, (key, name, colour) in enumerate(LINES):
        points = " ".join(f"{x(r['images_seen']):.1f},{y(r[key]):.1f}" for r in rows)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{LEFT + 130 * number}" y="40" fill="{colour}">{name}</text>'
        )
    axis = "pictures seen (above) and minutes of training (below)"
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{axis}</text></svg>')
    return "\n".join(parts) + "\n"


def title(record: dict[str, Any]) -> str:
    """What was trained, on what, on which machine."""
    return f"{record['model']}: COCO mask AP on validation pictures; {record['device']}"


def keep(name: str, run: Path, note: str) -> dict[str, Any]:
    """The record of a run, as docs/results holds it."""
    curve = json.loads((run / "curve.json").read_text("utf-8"))
    return {"model": name} | curve | {"model": name, "note": note}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the record and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="name of the packaged bundle")
    parser.add_argument("--run", type=Path, metavar="DIR", help="folder of its training run")
    parser.add_argument("--note", default="", help="how it was trained, in a sentence")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR", help="where both go")
    args = parser.parse_args(arguments)
    path = args.docs / "results" / f"training_{args.model}.json"
    if args.run is not None:
        record = keep(args.model, args.run, args.note)
        path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        print(path)
    picture = args.docs / "images" / f"{args.model}-training.svg"
    picture.write_text(draw(json.loads(path.read_text("utf-8"))), "utf-8")
    print(picture)


if __name__ == "__main__":
    main()
