"""The active phase of the node: a source, a pipeline, and what to do when one of them dies."""

from __future__ import annotations

from copy import copy
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from edgeseg.cameras.base import Camera
from edgeseg.errors import CameraError
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.pipeline import STOP_S, Pipeline, Policy, Report
from edgeseg.segmenter import Segmenter
from edgeseg_ros import convert
from edgeseg_ros.diagnostics import guarded
from edgeseg_ros.inbox import Inbox
from edgeseg_ros.outputs import Outputs
from edgeseg_ros.source import TopicCamera, open_source

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

if TYPE_CHECKING:
    from edgeseg_ros.node import SegmentNode

NEWEST_ONLY = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
IMAGE = "sensor_msgs/msg/Image"
MAX_PAUSE_S = 10.0


class Stream:
    """Runs from its making until `stop`.

    All methods are called by the thread that spins the node, but for what the pipeline calls.

    Args:
        node: says the settings, and owns the subscription, which the pipeline's reader serves.
        segmenter: the loaded network.
        outputs: where results go.

    Raises:
        EdgesegError: the file can't be opened. A camera that can't is tried again and again.
    """

    def __init__(self, node: SegmentNode, segmenter: Segmenter, outputs: Outputs) -> None:
        self._node, self._segmenter, self._outputs = node, segmenter, outputs
        self._settings = node.settings
        self.health, self.log = node.health, node.get_logger()
        self.health.trouble = self.health.silence = self.health.refused = ""
        self._topic: TopicCamera | None = None
        self._pipeline: Pipeline | None = None
        self._stopped = False
        self._received, self._frame_at = 0, monotonic()
        self._pause_s, self._retry_at = 1.0, 0.0
        self._inbox: Inbox | None = None
        try:
            if self._settings.source == "topic":
                self._inbox = self._subscribe()
            self._start()
        except Exception as error:
            if self._settings.source != "camera" or not isinstance(error, CameraError):
                self.stop()
                raise
            self._died(error)

    @property
    def stuck(self) -> bool:
        """Whether a stopped stream still has a frame in the network."""
        return self._pipeline is not None and bool(self._pipeline.report().abandoned)

    def report(self) -> Report | None:
        """Of the pipeline; None while there is none."""
        return self._pipeline.report() if self._pipeline is not None else None

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End it, within about that time; harmless when called twice."""
        self._stopped = True
        if self._pipeline is not None:
            self._pipeline.stop(timeout_s)
        if self._inbox is not None:
            self._inbox.destroy()
            self._inbox = None

    def watch(self) -> None:
        """Start anew what has died, and say when no frame comes and when they come again."""
        now = monotonic()
        # What a pipeline gets that has just begun, or that has failed, is no sign of recovery.
        runs = self._pipeline is not None and self._pipeline.state != "STOPPED"
        if self._pipeline is None:
            self._try_again(now)
        elif self._pipeline.state == "STOPPED" and not self.stuck:
            self._ended(self._pipeline)
        received = self._pipeline.report().received if self._pipeline is not None else 0
        if runs and received > self._received:
            if self.health.silence or self.health.trouble:
                self.log.info(f"frames again, after {now - self._frame_at:.1f} s")
            self.health.silence = self.health.trouble = ""
            self._frame_at, self._pause_s = now, 1.0
        elif now - self._frame_at >= self._node.settings.no_frame_warning_s:
            self._say_silence(f"got no frame for {now - self._frame_at:.1f} s")
        self._received = received
        if self._topic is not None:
            self.health.publishers = self._node.count_publishers(self._topic.name)
            if self._topic.newest_header is not None:
                taken_ns = convert.stamp_ns(self._topic.newest_header.stamp)
                now_ns = self._node.get_clock().now().nanoseconds
                self.health.stamp_age_s = (now_ns - taken_ns) / 1e9

    def _start(self) -> None:
        """Open the source and run a new pipeline from it."""
        camera = self._open()
        self.health.source = camera.name
        self._pipeline = Pipeline(
            camera,
            self._segmenter,
            policy=cast("Policy | None", self._settings.policy),
            max_age_s=self._settings.max_age_s,
            on_result=self._on_result,
        )
        self._pipeline.start()

    def _open(self) -> Camera:
        settings = self._settings
        if self._inbox is not None:
            self._topic = TopicCamera(self._inbox, self._on_refused)
            return self._topic
        return open_source(settings)

    def _subscribe(self) -> Inbox:
        """Best effort and depth 1: an old image is worth nothing."""
        return Inbox(
            self._node,
            Image,
            "image",
            self._on_image,
            copy(NEWEST_ONLY),  # rclpy writes the node's overrides into it
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible, message_lost=self._on_lost
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _ended(self, pipeline: Pipeline) -> None:
        """A pipeline ends with its camera, or with an error of camera, network or publisher."""
        try:
            pipeline.wait()
        except Exception as error:
            self._died(error)
        else:
            if self._settings.source != "file":
                self._died(CameraError("it has ended"))

    def _died(self, error: Exception) -> None:
        source = self.health.source or self._settings.camera.source
        self.health.trouble = f"{source}: {error}; trying again in {self._pause_s:g} s"
        self.log.error(self.health.trouble)
        self._pipeline, self._retry_at = None, monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _try_again(self, now: float) -> None:
        if now >= self._retry_at:
            try:
                self._start()
            except Exception as error:
                self._died(error)

    def _say_silence(self, what: str) -> None:
        """Once for each silence; diagnostics go on saying it."""
        if self._settings.source == "file" and self._pipeline is not None:
            text = f"{self.health.source} has ended"
        elif self._topic is not None:
            text = f"{what} on {self._topic.name}; {self._advice(self._topic.name)}"
        else:
            source = self.health.source or self._settings.camera.source
            text = f"{what} from {source}; check the camera"
        if not self.health.silence:
            self.log.warning(text)
        self.health.silence = text

    def _advice(self, topic: str) -> str:
        """Why a topic may be silent, as far as the graph tells."""
        publishers = self._node.get_publishers_info_by_topic(topic)
        if not publishers:
            return "nobody publishes it; check image_topic, and 'ros2 topic list'"
        for one in publishers:
            name = f"{one.node_namespace.rstrip('/')}/{one.node_name}"
            if one.topic_type != IMAGE:
                return f"{name} publishes {one.topic_type}; wanted {IMAGE}; check image_topic"
            fits, reason = qos_check_compatible(one.qos_profile, self._own_qos())
            if fits == QoSCompatibility.ERROR:
                return f"QoS of {name} doesn't fit ({reason}); check qos_overrides.{topic}"
        return (
            f"{len(publishers)} publishers; large images get lost where the camera isn't started "
            "with the Fast DDS profile, see 'No image' in docs/ros2.md"
        )

    def _own_qos(self) -> QoSProfile:
        infos = self._node.get_subscriptions_info_by_topic(self._topic.name if self._topic else "")
        mine = [i for i in infos if i.node_name == self._node.get_name()]
        return mine[0].qos_profile if mine else NEWEST_ONLY

    def _on_result(self, frame: Frame, instances: Instances) -> None:
        """In the pipeline's worker: publish, unless the stream has been stopped meanwhile."""
        if not self._stopped:
            self._outputs.publish(frame, instances)

    def _on_refused(self, text: str) -> None:
        """In the pipeline's reader: an image was no usable one."""
        self.health.refused = text
        self.log.warning(f"image refused: {text}", throttle_duration_sec=10.0)

    @guarded
    def _on_image(self, message: Image) -> None:
        if self._topic is not None:
            self._topic.offer(message)

    @guarded
    def _on_incompatible(self, event: Any) -> None:
        self._say_silence("got an incompatible publisher")

    @guarded
    def _on_lost(self, event: Any) -> None:
        self.health.lost = event.total_count
