"""A camera, a video or a folder of pictures as an image topic: for trying and measuring."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import monotonic_ns

import cv2
import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from edgeseg.cameras import open_camera
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.sinks.overlay import to_bgr
from edgeseg_ros import convert, process

CLIP = "tabletop"
"""The device that means the packaged clip."""


class CameraNode(Node):
    """Publishes ``image_raw`` (bgr8, reliable), over and over, at a steady rate.

    Parameters: ``device`` (a video, a folder, a picture, ``NAME:ADDRESS``, or ``tabletop`` for the
    packaged clip), ``width`` and ``height`` (pixels; 0: as they are), ``rate`` (Hz), ``frame_id``.

    Raises:
        EdgesegError: the device can't be opened, or a parameter can't be used.
    """

    def __init__(self) -> None:
        super().__init__("camera")
        value = {
            name: self.declare_parameter(name, default).value
            for name, default in (
                ("device", CLIP),
                ("width", 0),
                ("height", 0),
                ("rate", 30.0),
                ("frame_id", "camera_optical_frame"),
            )
        }
        if not 0.1 <= value["rate"] <= 1000 or min(value["width"], value["height"]) < 0:
            raise InputError(
                f"got rate {value['rate']}, width {value['width']}, height {value['height']}; "
                "wanted a rate of 0.1 to 1000 Hz and sizes of 0 or more; correct them"
            )
        self._device = _path(value["device"])
        self._size = (value["width"], value["height"])
        self._frame_id = value["frame_id"]
        self._frames = open_camera(self._device)
        self._picture = convert.Picture(Image())
        self._publisher = self.create_publisher(
            Image,
            "image_raw",
            QoSProfile(depth=1),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.create_timer(
            1 / value["rate"], self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _publish(self) -> None:
        with self._next() as frame:
            header = self._picture.message.header
            age_ns = monotonic_ns() - frame.stamp_ns
            convert.fill_stamp(header.stamp, self.get_clock().now().nanoseconds - age_ns)
            header.frame_id = self._frame_id
            self._picture.show_frame(header, frame)
        self.send(self._picture.message)

    def send(self, image: Image) -> None:
        """Publish an image that is ready."""
        self._publisher.publish(image)

    def _next(self) -> Frame:
        """The next frame at the wanted size; the source starts anew after its end."""
        frame = next(self._frames, None)
        if frame is None:
            self._frames.close()
            self._frames = open_camera(self._device)
            frame = next(self._frames)
        if not all(self._size) or (frame.width, frame.height) == self._size:
            return frame
        with frame:
            bgr = np.empty((frame.height, frame.width, 3), np.uint8)
            to_bgr(frame, bgr)
        resized = np.empty((self._size[1], self._size[0], 3), np.uint8)
        cv2.resize(bgr, self._size, resized, interpolation=cv2.INTER_LINEAR)
        return Frame(resized, "bgr8", stamp_ns=frame.stamp_ns)


def _path(device: str) -> str:
    from edgeseg.bundle import PACKAGED

    return str(PACKAGED / "clip" / "tabletop.mp4") if device == CLIP else device


def main(words: Sequence[str] | None = None) -> int:
    """Run the node until it is shut down."""
    return process.run(CameraNode, rclpy.spin, words)


if __name__ == "__main__":
    sys.exit(main())
