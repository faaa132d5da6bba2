"""The settings of edgeseg, and those of the node, as ROS parameters of the same names.

Checks are those of `edgeseg.config`: one sentence for a wrong value, at start and at run time.
Every parameter may be left unset; then the default holds, or what the bundle says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

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


def declare(node: Node) -> NodeSettings:
    """Declare all parameters; their values.

    Raises:
        InputError: a value of a wrong type or out of range, in a file or on the command line.
    """
    for row in rows():
        try:
            node.declare_parameter(row.name, _ros_value(row.default), _descriptor(row))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise InputError(
                f"got a parameter that can't be used ({error}); wanted {row.name}: {row.help}; "
                "correct it in the parameters file or on the command line"
            ) from None
    return changed(node, ())


def changed(node: Node, changes: Iterable[Parameter[Any]]) -> NodeSettings:
    """The settings as they would be with some parameters changed.

    Raises:
        InputError: a value of a wrong kind or out of range; the text names the parameter.
    """
    unset = Parameter("", Parameter.Type.NOT_SET)
    values = {row.name: node.get_parameter_or(row.name, unset).value for row in rows()}
    values |= {parameter.name: parameter.value for parameter in changes if parameter.name in values}
    given = {name: value for name, value in values.items() if value is not None}
    return NodeSettings().changed(_plain(given))


def check_live(changes: Iterable[Parameter[Any]]) -> None:
    """Refuse changes that a loaded network can't follow.

    Raises:
        InputError: a parameter that is only read when the node is configured.
    """
    names = {row.name for row in rows()}
    for change in changes:
        if change.name in names and not is_live(change.name):
            raise InputError(
                f"got a change of {change.name} while the network is loaded; wanted the node "
                "unconfigured, as it is read at configure; call cleanup first"
            )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Arrays of rclpy as lists, which is what `Settings.changed` takes."""
    scalars = (str, bool, int, float)
    return {k: v if isinstance(v, scalars) else list(v) for k, v in values.items()}


def _ros_value(default: Any) -> Any:
    """A default as ROS can hold it; None and the empty list stay unset."""
    return default if isinstance(default, (str, bool, int, float)) else None


def _descriptor(row: Leaf) -> ParameterDescriptor:
    """Meaning, range, and whether it may change."""
    when = "live" if is_live(row.name) else "read at configure"
    read_only = row.name in AT_START
    descriptor = ParameterDescriptor(
        name=row.name,
        description=f"{row.help} ({'read at start' if read_only else when})",
        read_only=read_only,
        dynamic_typing=True,  # `score_threshold: 1` is a whole number to YAML, and welcome
    )
    if row.bounds is not None:
        low, high = row.bounds
        whole = "int" in str(row.kind)
        if whole:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            limits = FloatingPointRange(from_value=float(low), to_value=float(high))
            descriptor.floating_point_range = [limits]
    return descriptor
