"""Publishes the packaged clip as ``image_raw`` and writes down each header that it sent.

clip_publisher.py WIDTH HEIGHT RATE COUNT LOG: waits for a subscriber, publishes COUNT images at
RATE Hz, and writes lines of JSON: index into the clip, sec, nanosec, frame_id. Never ends itself,
so that what is under way arrives.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def clip(width: int, height: int, count: int) -> list[np.ndarray[Any, Any]]:
    """The first pictures of the clip, bgr8, resized."""
    from edgeseg.bundle import PACKAGED
    from edgeseg.cameras import open_camera

    pictures = []
    with open_camera(PACKAGED / "clip" / "tabletop.mp4") as camera:
        for _ in range(count):
            with next(camera) as frame:
                pictures.append(cv2.resize(frame.pixels, (width, height)))
    return pictures


def main(width: int, height: int, rate: float, count: int, log: Path) -> None:
    import rclpy
    from sensor_msgs.msg import Image

    pictures = clip(width, height, min(count, 60))
    rclpy.init()
    node = rclpy.create_node("clip_publisher")
    publisher = node.create_publisher(Image, "image_raw", 1)
    message = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    message.data = array("B", bytes(3 * width * height))
    pixels = np.frombuffer(message.data, np.uint8).reshape(height, width, 3)
    message.header.frame_id = "clip_optical_frame"
    while not publisher.get_subscription_count():
        time.sleep(0.02)
    time.sleep(0.5)  # the subscriber has still to find this publisher
    start = time.monotonic()
    with log.open("w", buffering=1) as lines:
        for number in range(count):
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = divmod(time.time_ns(), 10**9)
            pixels[:] = pictures[number % len(pictures)]
            lines.write(json.dumps([number % len(pictures), stamp.sec, stamp.nanosec]) + "\n")
            publisher.publish(message)
    print("done", flush=True)
    rclpy.spin(node)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
