"""A camera, a video or a folder of pictures as an image topic: for trying and measuring."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any

import cv2
import numpy as np
import rclpy
from rcl_interfaces.msg import ParameterDescriptor
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
from edgeseg_ros.source import CLIP, device


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
            name: self._parameter(name, default)
            for name, default in (
                ("device", CLIP),
                ("width", 0),
                ("height", 0),
                ("rate", 30.0),
                ("frame_id", "camera_optical_frame"),
            )
        }
        sizes = value["width"], value["height"]
        if not 0.1 <= value["rate"] <= 1000 or min(sizes) < 0 or (0 in sizes and any(sizes)):
            raise InputError(
                f"got rate {value['rate']}, width {sizes[0]}, height {sizes[1]}; wanted a rate of "
                "0.1 to 1000 Hz, and both sizes or none; correct them"
            )
        self._device = device(value["device"])
        self._size = sizes
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

    def _parameter(self, name: str, default: Any) -> Any:
        """A parameter that is read once; a whole number is a number, too.

        Raises:
            InputError: a value of another type.
        """
        descriptor = ParameterDescriptor(dynamic_typing=True, read_only=True)
        value = self.declare_parameter(name, default, descriptor).value
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if type(value) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(f"got {name} {value!r}; wanted {wanted}; correct it")
        return value

    def _publish(self) -> None:
        with self._next() as frame:
            header = self._picture.message.header
            age_ns = monotonic_ns() - frame.stamp_ns
            convert.fill_stamp(header.stamp, max(0, self.get_clock().now().nanoseconds - age_ns))
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


def main(words: Sequence[str] | None = None) -> int:
    """Run the node until it is shut down."""
    return process.run(CameraNode, rclpy.spin, words)


if __name__ == "__main__":
    sys.exit(main())
