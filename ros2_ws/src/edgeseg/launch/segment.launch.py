"""Starts the segmentation node, brings it to `active`, and gives its camera the Fast DDS profile.

ros2 launch edgeseg segment.launch.py image_topic:=/camera/image_raw
ros2 launch edgeseg segment.launch.py source:=camera device:=tabletop.mp4
ros2 launch edgeseg segment.launch.py namespace:=left,right image_topic:=image_raw
ros2 launch edgeseg segment.launch.py --show-args
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

SHARE = Path(get_package_share_directory("edgeseg"))
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
PROFILE = str(SHARE / "config" / "fastdds.xml")
# Name, default, meaning.
ARGUMENTS = (
    ("namespace", "", "namespace of the node; a list (left,right) starts a node in each"),
    ("params_file", str(SHARE / "config" / "segment.yaml"), "parameters as YAML"),
    ("model", "", "packaged bundle name or bundle folder; empty: as the parameters say"),
    ("engine", "", "inference engine; empty: as the parameters say"),
    ("source", "topic", "topic: image_topic; camera or file: device, opened inside the node"),
    ("image_topic", "image_raw", "image topic to read, for source:=topic"),
    ("device", "", "camera, video or folder; with source:=topic it is published to image_topic"),
    ("autostart", "true", "bring the node to active"),
    ("use_sim_time", "false", "take the time from /clock"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
    ("respawn", "false", "start the node again, 2 s after it died"),
    ("fastdds_profile", PROFILE, "Fast DDS profile for camera and node; empty: none"),
)


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=meaning)
        for name, default, meaning in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list:
    """Environment, then a node, and perhaps a camera, for each namespace."""
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    actions = []
    if given["fastdds_profile"]:
        # For every process that is launched from here on: the publisher of large images needs it.
        older = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")  # Fast DDS 2
        name = f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE"
        actions.append(SetEnvironmentVariable(name, given["fastdds_profile"]))
    namespaces = given["namespace"].split(",")
    devices = given["device"].split(",") if given["device"] else [""]
    if len(devices) == 1:
        devices *= len(namespaces)
    if len(devices) != len(namespaces):
        raise RuntimeError(
            f"got {len(devices)} devices for {len(namespaces)} namespaces; wanted one for each, "
            "or one for all; correct device:= or namespace:="
        )
    for namespace, device in zip(namespaces, devices, strict=True):
        if device and given["source"] == "topic":
            actions.append(_camera(namespace.strip(), device.strip(), given))
        actions += _segment(namespace.strip(), device.strip(), given)
    return actions


def _camera(namespace: str, device: str, given: dict[str, str]) -> Node:
    """A camera of edgeseg that publishes the image topic."""
    return Node(
        package="edgeseg",
        executable="camera",
        name="camera",
        namespace=namespace,
        parameters=[{"device": device, "use_sim_time": given["use_sim_time"] == "true"}],
        remappings=[("image_raw", given["image_topic"])],
        output="both",
    )


def _segment(namespace: str, device: str, given: dict[str, str]) -> list:
    """The node, and what brings it from unconfigured to active."""
    own = {name: given[name] for name in ("model", "engine") if given[name]}
    own |= {"source": given["source"], "use_sim_time": given["use_sim_time"] == "true"}
    if device and given["source"] != "topic":
        own["camera.source"] = device
    files = [given["params_file"]] if given["params_file"] else []
    node = LifecycleNode(
        package="edgeseg",
        executable="segment",
        name="segment",
        namespace=namespace,
        parameters=[*files, own],
        remappings=[("image", given["image_topic"])],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        additional_env=MALLOC,
        respawn=given["respawn"] == "true",
        respawn_delay=2.0,
        output="both",
    )
    if given["autostart"] != "true":
        return [node]
    return [node, *_autostart(node)]


def _autostart(node: LifecycleNode) -> list:
    """Configure at start, and again after a respawn; activate once it is configured."""

    def change(transition: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
        )

    activate = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[change(Transition.TRANSITION_ACTIVATE)],
    )
    return [RegisterEventHandler(activate), change(Transition.TRANSITION_CONFIGURE)]
