"""The settings of edgeseg, and those of the node, as ROS parameters of the same names.

Checks are those of `edgeseg.config`: one sentence for a wrong value, at start and at run time.
Every parameter may be left unset; then the default holds, or what the bundle says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from edgeseg.config import Leaf
from edgeseg.errors import InputError
from edgeseg_ros.settings import AT_START, NodeSettings, is_live, rows

UNSET = (None, "", "null")
"""Leaves a parameter to its default; "null" is what 'ros2 param dump' writes for such a one."""


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
        InputError: a value of a wrong kind or out of range, or none; the text names the parameter.
    """
    unset = Parameter("", Parameter.Type.NOT_SET)
    values = {row.name: node.get_parameter_or(row.name, unset).value for row in rows()}
    for change in changes:
        if change.name in values and change.value is None:
            raise InputError(
                f"got a deletion of {change.name}; wanted a value, as ROS forgets what is deleted; "
                "set it to the value that you want"
            )
        if change.name in values:
            values[change.name] = change.value
    given = {name: value for name, value in values.items() if value not in UNSET}
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
