#!/usr/bin/env python3
"""Write the README's picture, a frame of the demo's annotated video, as JPEG.

First ``make demo``, then ``python tools/make_picture.py --frame 60``.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import av
import cv2

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write the README's picture.")
    parser.add_argument("--video", type=Path, default=ROOT / "out" / "demo" / "masks.mp4")
    parser.add_argument("--frame", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "demo.jpg")
    args = parser.parse_args(arguments)
    if not args.video.exists():
        parser.error(f"got no {args.video}; wanted the demo's video; run: make demo")
    with av.open(str(args.video)) as container:
        frame = next(islice(container.decode(video=0), args.frame, None), None)
    if frame is None:
        parser.error(f"got frame {args.frame}; wanted one that {args.video} has; choose a smaller")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), frame.to_ndarray(format="bgr24"), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"{args.out}: {frame.width}x{frame.height}, {args.out.stat().st_size // 1024} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
