"""ROS 2 bags for tests, as ``ros2 bag record`` writes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

TYPES = get_typestore(Stores.LATEST)
TYPES.register(get_types_from_msg("float32 volts\nuint8[<=4] cells\n", "my_msgs/msg/Battery"))
TOPIC = "/camera/image_raw"
START_NS = 1_700_000_000_123_456_789
PERIOD_NS = 33_333_333


def make(kind: str, *fields: Any) -> Any:
    """A message of a type, from its fields in their order."""
    return TYPES.types[kind](*fields)


def header(stamp_ns: int = START_NS, frame_id: str = "left_optical") -> Any:
    """A ``std_msgs/Header``."""
    return make("std_msgs/msg/Header", time(*divmod(stamp_ns, 10**9)), frame_id)


def time(sec: int, nanosec: int) -> Any:
    """A ``builtin_interfaces/Time``."""
    return make("builtin_interfaces/msg/Time", sec, nanosec)


def image(picture: np.ndarray, encoding: str = "bgr8", head: Any = None, **fields: Any) -> Any:
    """A ``sensor_msgs/Image`` of a picture; its fields may be replaced by wrong ones."""
    message = make(
        "sensor_msgs/msg/Image",
        head or header(),
        picture.shape[0],
        picture.shape[1],
        encoding,
        0,
        picture[0].nbytes,
        np.ascontiguousarray(picture).reshape(-1).view(np.uint8),
    )
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def compressed(picture: np.ndarray, suffix: str = ".png", head: Any = None) -> Any:
    """A ``sensor_msgs/CompressedImage`` of a picture."""
    return packed(cv2.imencode(suffix, picture)[1], suffix[1:], head)


def packed(data: bytes | np.ndarray, form: str = "jpeg", head: Any = None) -> Any:
    """A ``sensor_msgs/CompressedImage`` of any bytes."""
    content = np.frombuffer(bytes(data), np.uint8)
    return make("sensor_msgs/msg/CompressedImage", head or header(), form, content)


def battery() -> Any:
    """A message of a type that no ROS distribution has."""
    return make("my_msgs/msg/Battery", 12.5, np.arange(3, dtype=np.uint8))


def at_30_hz(messages: Iterable[Any], topic: str = TOPIC) -> list[tuple[str, int, Any]]:
    """Messages on one topic, received a 30th of a second apart."""
    return [(topic, START_NS + i * PERIOD_NS, message) for i, message in enumerate(messages)]


def write_bag(
    folder: Path,
    sent: Iterable[tuple[str, int, Any]],
    *,
    storage: str = "mcap",
    compression: str = "none",
    topics: Iterable[tuple[str, str]] = (),
) -> Path:
    """Write a bag.

    Args:
        folder: the folder to make.
        sent: topic, receive time (ns) and message.
        storage: ``mcap`` or ``sqlite3``.
        compression: ``none``, ``storage`` (chunks of MCAP), ``message`` or ``file``.
        topics: name and type of topics that are there even without a message.

    Returns:
        The file in the folder.
    """
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        rows = {
            (topic, kind): writer.add_connection(topic, kind, typestore=TYPES)
            for topic, kind in topics
        }
        for topic, received_ns, message in sent:
            kind = message.__msgtype__
            if (topic, kind) not in rows:
                rows[topic, kind] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(rows[topic, kind], received_ns, TYPES.serialize_cdr(message, kind))
    (file,) = (path for path in folder.iterdir() if path.name != "metadata.yaml")
    return file
