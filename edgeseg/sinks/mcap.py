"""Results as ROS 2 messages in an MCAP file, for Foxglove and rosbag2; needs no ROS."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mcap.writer import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from edgeseg import messages
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.sinks.base import FileSink

INSTANCES = "edgeseg_msgs/msg/InstanceArray"
LABEL_INFO = "edgeseg_msgs/msg/LabelInfo"
IMAGE = "sensor_msgs/msg/Image"
TOPICS = {
    "/edgeseg/label_info": LABEL_INFO,
    "/edgeseg/instances": INSTANCES,
    "/edgeseg/label_map": IMAGE,
}
"""Topic -> type of its messages."""

TYPES = get_typestore(Stores.LATEST)
for _name in (INSTANCES, LABEL_INFO):
    # Copies of the files in ros2_ws/src/edgeseg_msgs/msg, which pip doesn't install.
    _path = Path(__file__).parent / "msg" / f"{_name.rpartition('/')[2]}.msg"
    TYPES.register(get_types_from_msg(_path.read_text("utf-8"), _name))


class McapSink(FileSink):
    """Writes one MCAP file with the topics of `TOPICS`, compressed with zstd.

    ``label_info`` comes once, at the start. Each frame gives ``instances`` and ``label_map``
    (mono8, above 254 instances mono16; 0 is background, index + 1 an instance), both with the
    header of its message, unchanged; a frame without one gives its stamp and frame id. Messages
    are logged at the time at which the bag received the picture (`BagHeader.received_ns`), so that
    they lie beside it when both files are opened together; those of frames from elsewhere at
    ``stamp_ns``.

    Args:
        path: the file, ``.mcap``; appears when the sink is closed, unless no frame came.
        classes: name of each label.
        model: name of the model.
        model_sha256: tells two models of one name apart.
        score_threshold: least score of an instance, 0..1.

    Raises:
        InputError: another suffix.
        OutputError: the path can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: Sequence[str] = (),
        model: str = "",
        model_sha256: str = "",
        score_threshold: float = 0.0,
    ) -> None:
        if Path(path).suffix.lower() != ".mcap":
            raise InputError(
                f"got a bag named {Path(path).name!r}; wanted a name that ends in .mcap; rename it"
            )
        super().__init__(path)
        self._info = SimpleNamespace(
            model=model,
            model_sha256=model_sha256,
            class_names=list(classes),
            score_threshold=score_threshold,
        )
        self._file = self.part.open("wb")
        self._writer = Writer(self._file)
        self._writer.start(profile="ros2", library="edgeseg")
        self._channels: dict[str, int] = {}

    def _write(self, frame: Frame, instances: Instances) -> None:
        header = frame.header
        if header is None:
            header = _header(frame.stamp_ns, frame.frame_id)
        time_ns = max(0, getattr(header, "received_ns", frame.stamp_ns))
        if not self._channels:
            self._channels = {topic: self._channel(topic) for topic in TOPICS}
            self._info.header = _header(time_ns, "")
            self._add("/edgeseg/label_info", time_ns, self._info)
        shared = {"header": header, "height": instances.height, "width": instances.width}
        found = SimpleNamespace(**shared, **messages.arrays(instances))
        self._add("/edgeseg/instances", time_ns, found)
        self._add("/edgeseg/label_map", time_ns, SimpleNamespace(**shared, **_picture(instances)))

    def _channel(self, topic: str) -> int:
        name = TOPICS[topic]
        definition, _ = TYPES.generate_msgdef(name, ros_version=2)
        schema = self._writer.register_schema(name, "ros2msg", definition.encode())
        return self._writer.register_channel(topic, "cdr", schema)

    def _add(self, topic: str, time_ns: int, message: Any) -> None:
        data = bytes(TYPES.serialize_cdr(message, TOPICS[topic]))
        self._writer.add_message(self._channels[topic], time_ns, data, time_ns)

    def _finish(self) -> bool:
        with self._file:
            if self._channels:
                self._writer.finish()
        return bool(self._channels)

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _header(stamp_ns: int, frame_id: str) -> SimpleNamespace:
    """A ``std_msgs/Header``."""
    seconds, rest_ns = divmod(stamp_ns, 1_000_000_000)
    return SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=rest_ns), frame_id=frame_id)


def _picture(instances: Instances) -> dict[str, Any]:
    """The fields of a ``sensor_msgs/Image`` of the label map, but for header and size."""
    pixels = instances.label_map()
    return {
        "encoding": "mono8" if pixels.dtype == np.uint8 else "mono16",
        "is_bigendian": 0,
        "step": pixels.strides[0],
        "data": pixels.reshape(-1).view(np.uint8),
    }
