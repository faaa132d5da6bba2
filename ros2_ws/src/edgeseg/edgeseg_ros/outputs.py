"""What the node publishes, built only while somebody subscribes."""

from __future__ import annotations

from copy import copy
from hashlib import sha256
from importlib.util import find_spec
from time import monotonic_ns
from typing import Any

from edgeseg_msgs.msg import InstanceArray, LabelInfo
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from edgeseg.bundle import INDEX, ModelSpec, find
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.sinks.overlay import Overlay
from edgeseg_ros import convert
from edgeseg_ros.settings import NodeSettings

DEPTH = 5
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PICTURES = ("label_map", "overlay", "image")


class Outputs:
    """The publishers of a configured node.

    Args:
        node: their owner.
        spec: the network's description.
        settings: of the node.

    Attributes:
        switches: which topics may be published; may be replaced at any time.
        published: messages sent, by topic.
    """

    def __init__(self, node: LifecycleNode, spec: ModelSpec, settings: NodeSettings) -> None:
        self.switches, self._frame_id = settings.publish, settings.frame_id
        self._node, self._spec = node, spec
        index = find(settings.model) / INDEX
        self._sha256 = sha256(index.read_bytes()).hexdigest()
        self._instances = InstanceArray()  # filled anew each time: to make one takes a while
        self._pen = Overlay(spec.classes)
        self._pictures = {name: convert.Picture(Image()) for name in PICTURES}
        self._topics = {"instances": self._publisher(InstanceArray, "~/instances", DEPTH)}
        for name in self._pictures:
            self._topics[name] = self._publisher(Image, f"~/{name}", DEPTH)
        if find_spec("vision_msgs"):
            from vision_msgs.msg import Detection2DArray

            self._topics["detections"] = self._publisher(Detection2DArray, "~/detections", DEPTH)
        # A copy: rclpy writes the node's overrides into it.
        self._topics["label_info"] = self._publisher(LabelInfo, "~/label_info", copy(LATCHED))
        self.published = dict.fromkeys(self._topics, 0)

    def announce(self, settings: NodeSettings) -> None:
        """Say what the numbers mean, and which are published; nothing while inactive."""
        message = LabelInfo()
        convert.fill_stamp(message.header.stamp, self._node.get_clock().now().nanoseconds)
        convert.fill_label_info(message, self._spec, self._sha256, settings.score_threshold)
        self._send("label_info", message)

    def publish(self, frame: Frame, instances: Instances) -> None:
        """Publish one result; the header is that of the image it was seen in."""
        header = self._header(frame) if frame.header is None else frame.header
        convert.fill_instances(self._instances, header, instances)
        self._send("instances", self._instances)
        if self._wanted("label_map"):
            self._pictures["label_map"].show_label_map(header, instances)
            self._send("label_map", self._pictures["label_map"].message)
        if self._wanted("overlay"):
            self._pictures["overlay"].show_overlay(header, frame, instances, self._pen)
            self._send("overlay", self._pictures["overlay"].message)
        if self._wanted("detections"):
            self._send("detections", self._detections(header, instances))
        if frame.header is None and self._wanted("image"):
            self._pictures["image"].show_frame(header, frame)
            self._send("image", self._pictures["image"].message)

    def destroy(self) -> None:
        """Take the topics back."""
        for publisher in self._topics.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _publisher(self, kind: type[Any], topic: str, qos: QoSProfile | int) -> Any:
        """Reliable unless overridden, as REP 2003 asks of publishers."""
        options = QoSOverridingOptions.with_default_policies()
        return self._node.create_lifecycle_publisher(
            kind, topic, qos, qos_overriding_options=options
        )

    def _wanted(self, name: str) -> bool:
        topic = self._topics.get(name)
        return (
            topic is not None
            and getattr(self.switches, name)
            and topic.get_subscription_count() > 0
        )

    def _send(self, name: str, message: Any) -> None:
        self._topics[name].publish(message)
        self.published[name] += 1

    def _header(self, frame: Frame) -> Header:
        """The header of a frame that came from no topic: taken so long ago by the ROS clock."""
        header = Header(frame_id=self._frame_id)
        age_ns = monotonic_ns() - frame.stamp_ns
        now_ns = self._node.get_clock().now().nanoseconds  # 0 without /clock, and never below
        convert.fill_stamp(header.stamp, max(0, now_ns - age_ns))
        return header

    def _detections(self, header: Header, instances: Instances) -> Any:
        from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

        message = Detection2DArray()
        kinds = (Detection2D, ObjectHypothesisWithPose)
        convert.fill_detections(message, *kinds, header, instances, self._spec.classes)
        return message
