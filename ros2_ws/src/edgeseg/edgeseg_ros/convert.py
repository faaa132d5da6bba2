"""Between edgeseg's values and ROS messages: the only file that knows what is in a message.

The functions fill message objects that they are given, by field name, so they run without ROS.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import messages
from edgeseg.bundle import ModelSpec
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.sinks.overlay import Overlay, to_bgr

_CODES = {"int32": "i", "uint32": "I", "float32": "f"}
_CHANNELS = {"mono8": (np.uint8, ()), "mono16": (np.uint16, ()), "bgr8": (np.uint8, (3,))}
_NS = 1_000_000_000
_FIRST_NS, _LAST_NS = -(2**31) * _NS, 2**31 * _NS - 1


def fill_stamp(stamp: Any, time_ns: int) -> None:
    """Write nanoseconds since the epoch into a ``builtin_interfaces/Time``."""
    stamp.sec, stamp.nanosec = divmod(min(max(time_ns, _FIRST_NS), _LAST_NS), _NS)


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds since the epoch of a ``builtin_interfaces/Time``, whatever it holds."""
    return int(stamp.sec) * _NS + int(stamp.nanosec)


def fill_instances(message: Any, header: Any, instances: Instances) -> None:
    """Fill an ``edgeseg_msgs/InstanceArray``; the header is passed on as it is."""
    message.header = header
    message.height, message.width = instances.height, instances.width
    for name, values in messages.arrays(instances).items():
        # Of all that a field takes, only array.array is neither copied nor checked item by item.
        setattr(message, name, array(_CODES[values.dtype.name], values.tobytes()))


def fill_label_info(message: Any, spec: ModelSpec, sha256: str, threshold: float | None) -> None:
    """Fill an ``edgeseg_msgs/LabelInfo``, but for its stamp."""
    message.model, message.model_sha256 = spec.name, sha256
    message.class_names = list(spec.classes)
    message.score_threshold = spec.score_threshold if threshold is None else threshold


def fill_detections(
    message: Any,
    detection: Callable[[], Any],
    hypothesis: Callable[[], Any],
    header: Any,
    instances: Instances,
    classes: Sequence[str],
) -> None:
    """Fill a ``vision_msgs/Detection2DArray``: boxes without masks.

    Args:
        message: the array.
        detection: makes an empty ``Detection2D``.
        hypothesis: makes an empty ``ObjectHypothesisWithPose``.
        header: passed on as it is.
        instances: what was seen.
        classes: name of each label; the names become the class ids, which are texts there.
    """
    message.header = header
    for i, (x0, y0, x1, y1) in enumerate(instances.boxes_xyxy.tolist()):
        guess, one = hypothesis(), detection()
        guess.hypothesis.class_id = classes[int(instances.labels[i])]
        guess.hypothesis.score = float(instances.scores[i])
        one.header, one.id, one.results = header, str(i), [guess]
        one.bbox.center.position.x, one.bbox.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        one.bbox.size_x, one.bbox.size_y = x1 - x0, y1 - y0
        message.detections.append(one)


def fill_diagnostics(
    message: Any,
    status: Callable[[], Any],
    key_value: Callable[[], Any],
    rows: Iterable[tuple[str, str, int, str, Mapping[str, object]]],
) -> None:
    """Fill a ``diagnostic_msgs/DiagnosticArray``, but for its stamp.

    Args:
        message: the array.
        status: makes an empty ``DiagnosticStatus``.
        key_value: makes an empty ``KeyValue``.
        rows: name, hardware id, level 0..3, text and values of each status.
    """
    for name, hardware, level, text, values in rows:
        one = status()
        one.name, one.hardware_id, one.message = name, hardware, text
        one.level = bytes([level])
        for key, value in values.items():
            pair = key_value()
            pair.key, pair.value = key, str(value)
            one.values.append(pair)
        message.status.append(one)


class Picture:
    """One ``sensor_msgs/Image`` that is filled anew for each frame: no memory is taken in between.

    Args:
        message: an empty Image; published by the owner after each filling.
    """

    def __init__(self, message: Any) -> None:
        self.message = message
        self._pixels: NDArray[Any] = np.zeros(0, np.uint8)

    def show_frame(self, header: Any, frame: Frame) -> None:
        """The frame itself, as bgr8."""
        to_bgr(frame, self._sized(header, frame.height, frame.width, "bgr8"))

    def show_overlay(self, header: Any, frame: Frame, instances: Instances, pen: Overlay) -> None:
        """The frame with its instances drawn over it, as bgr8."""
        self.show_frame(header, frame)
        pen.draw(self._pixels, instances)

    def show_label_map(self, header: Any, instances: Instances) -> None:
        """The label map: mono8 up to 254 instances, mono16 above; 0 background, index + 1."""
        encoding = "mono8" if len(instances) <= 254 else "mono16"
        size_hw = instances.height, instances.width
        instances.label_map(out=self._sized(header, *size_hw, encoding))

    def _sized(self, header: Any, height: int, width: int, encoding: str) -> NDArray[Any]:
        """The message's pixels, (height, width[, 3]), in its own memory."""
        dtype, channels = _CHANNELS[encoding]
        message = self.message
        message.header = header
        if (message.height, message.width, message.encoding) != (height, width, encoding):
            data = array("B", bytes(height * width * int(np.prod(channels)) * dtype().itemsize))
            message.height, message.width, message.encoding = height, width, encoding
            message.step, message.is_bigendian, message.data = len(data) // height, 0, data
            # message.data may be a copy of what was assigned, so the view is of what is there.
            pixels = np.frombuffer(message.data, dtype).reshape(height, width, *channels)
            self._pixels = pixels
        return self._pixels
