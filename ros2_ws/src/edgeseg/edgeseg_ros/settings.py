"""What the node can be told: the settings of edgeseg, and a few that only a ROS node has."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeseg.config import Leaf, Settings, leaves, setting
from edgeseg.errors import InputError

SOURCES = ("topic", "camera", "file")
AT_START = ("autostart", "build_only")
LIVE = ("score_threshold", "max_instances", "classes", "no_frame_warning_s")
HIDDEN = ("outputs.",)


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """Which outputs may be published; each is only built while somebody subscribes."""

    label_map: bool = setting(True, "publish ~/label_map")
    overlay: bool = setting(True, "publish ~/overlay")
    detections: bool = setting(True, "publish ~/detections, where vision_msgs is installed")
    image: bool = setting(True, "publish ~/image, for the sources camera and file")


@dataclass(frozen=True, slots=True)
class NodeSettings(Settings):
    """The settings of edgeseg and those that only the node has."""

    source: str = setting("topic", "topic: an image topic; camera or file: camera.source, in here")
    publish: PublishSettings = field(default_factory=PublishSettings)
    frame_id: str = setting(
        "camera_optical_frame", "optical frame of the images of the sources camera and file"
    )
    no_frame_warning_s: float = setting(
        5.0, "seconds without a frame after which it is said", (0.1, 3600)
    )
    autostart: bool = setting(False, "configure and activate at start, without a launch file")
    build_only: bool = setting(False, "load (and build) the network, then exit")

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.source not in SOURCES:
            raise InputError(
                f"got source {self.source!r}; wanted one of {', '.join(SOURCES)}; correct it"
            )
        if self.source != "topic" and not self.camera.source:
            raise InputError(
                f"got source {self.source!r} without camera.source; wanted a video, a folder or "
                "NAME:ADDRESS; set camera.source (in the launch file: device)"
            )


def rows() -> list[Leaf]:
    """Every parameter of the node."""
    return [row for row in leaves(NodeSettings()) if not row.name.startswith(HIDDEN)]


def is_live(name: str) -> bool:
    """Whether a change of the parameter counts from the next frame on."""
    return name in LIVE or name.startswith("publish.")
