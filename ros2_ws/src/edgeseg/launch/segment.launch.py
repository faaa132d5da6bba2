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
    LogInfo,
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
    ("source", "", "topic, camera or file (device, inside the node); empty: as the parameters say"),
    ("image_topic", "image_raw", "image topic to read, for source:=topic"),
    ("device", "", "camera, video or folder; with source:=topic it is published to image_topic"),
    ("autostart", "true", "bring the node to active"),
    ("use_sim_time", "", "take the time from /clock; empty: as the parameters say"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
    ("respawn", "false", "start the node again, 2 s after it died"),
    ("fastdds_profile", "auto", "for camera and node; auto: ours, unless one is set; empty: none"),
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
    for name in ("params_file", "fastdds_profile"):
        if given[name] not in ("", "auto") and not Path(given[name]).is_file():
            raise RuntimeError(
                f"got no file {given[name]!r}; wanted one for {name}; check the path"
            )
    namespaces = [name.strip() for name in given["namespace"].split(",")]
    devices = [device.strip() for device in given["device"].split(",")]
    if len(devices) == 1:
        devices *= len(namespaces)
    if len(devices) != len(namespaces):
        raise RuntimeError(
            f"got {len(devices)} devices for {len(namespaces)} namespaces; wanted one for each, "
            "or one for all; correct device:= or namespace:="
        )
    actions = _profile(given["fastdds_profile"])
    for namespace, device in zip(namespaces, devices, strict=True):
        if device and given["source"] in ("", "topic"):
            actions.append(_camera(namespace, device, given))
        actions += _segment(namespace, device, given)
    return actions


def _profile(wanted: str) -> list:
    """The Fast DDS profile for every process that is launched from here on.

    It is the publisher of large images that needs it.
    """
    older = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")  # Fast DDS 2
    name = f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE"
    if wanted == "auto" and name in os.environ:
        return [LogInfo(msg=f"keeping {name}={os.environ[name]}")]
    path = PROFILE if wanted == "auto" else wanted
    return [SetEnvironmentVariable(name, path)] if path else []


def _truth(name: str, text: str) -> bool:
    """A switch as people write it.

    Raises:
        RuntimeError: neither true nor false.
    """
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise RuntimeError(f"got {name} {text!r}; wanted true or false; correct it")
    return words[text.lower()]


def _clock(given: dict[str, str]) -> dict[str, bool]:
    """The parameter use_sim_time, where it was given."""
    name = "use_sim_time"
    return {name: _truth(name, given[name])} if given[name] else {}


def _camera(namespace: str, device: str, given: dict[str, str]) -> Node:
    """A camera of edgeseg that publishes the image topic."""
    return Node(
        package="edgeseg",
        executable="camera",
        name="camera",
        namespace=namespace,
        parameters=[{"device": device, **_clock(given)}],
        remappings=[("image_raw", given["image_topic"])],
        output="both",
    )


def _segment(namespace: str, device: str, given: dict[str, str]) -> list:
    """The node, and what brings it from unconfigured to active."""
    autostart, respawn = (_truth(name, given[name]) for name in ("autostart", "respawn"))
    own = {name: given[name] for name in ("model", "engine", "source") if given[name]}
    own |= _clock(given)
    if autostart:
        # By the events below, once. One that is started again does it itself: launch would call
        # services of the one that died, which DDS knows for some seconds more.
        own["autostart"] = respawn
    if device and given["source"] not in ("", "topic"):
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
        respawn=respawn,
        respawn_delay=2.0,
        output="both",
    )
    return [node, *_autostart(node)] if autostart and not respawn else [node]


def _autostart(node: LifecycleNode) -> list:
    """Configure at start; activate once it is configured."""

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
