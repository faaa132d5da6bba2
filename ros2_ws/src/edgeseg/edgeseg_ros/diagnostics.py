"""The node's health as ``/diagnostics``, once a second on the steady clock."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions

from edgeseg.pipeline import Report
from edgeseg_ros import convert

OK, WARN, ERROR, STALE = range(4)
SOME_LOST, MAX_LOST = 3, 0.05
LOST = (
    "{:.0%} of the images are lost in transport; start the camera with the Fast DDS profile, "
    "see 'No image' in docs/ros2.md"
)
Row = tuple[str, str, int, str, dict[str, object]]


@dataclass(slots=True)
class Health:
    """What the node knows of itself beside its pipeline's report.

    Attributes:
        state: of the lifecycle, e.g. ``active``.
        network: model, engine and device, or "".
        source: topic or camera that is read.
        publishers: nodes that publish the topic; None for a camera.
        silence: why no frame comes, or "".
        trouble: what went wrong last and still does, or "".
        refused: why the last unusable image was refused, or "".
        stamp_age_s: by the ROS clock, of the newest image's own stamp; None before the first.
        callback_errors: exceptions that were caught in callbacks.
        lost: images that the middleware lost on their way here.
    """

    state: str = "unconfigured"
    network: str = ""
    source: str = ""
    publishers: int | None = None
    silence: str = ""
    trouble: str = ""
    refused: str = ""
    stamp_age_s: float | None = None
    callback_errors: int = 0
    lost: int = 0

    def calm(self, state: str) -> None:
        """Enter a state in which nothing runs, so nothing is wrong."""
        self.state = state
        self.silence = self.trouble = self.refused = ""


def guarded(callback: Callable[..., None]) -> Callable[..., None]:
    """A method that never throws into rclpy's spin, where it would end the node.

    Its object has a ``health``, which counts the errors, and a ``log``.
    """

    @functools.wraps(callback)
    def call(self: Any, *words: Any) -> None:
        try:
            callback(self, *words)
        except Exception as error:
            self.health.callback_errors += 1
            text = f"{callback.__name__}: {type(error).__name__}: {error}"
            self.log.error(text, throttle_duration_sec=10.0)

    return call


class Diagnostics:
    """Publishes two statuses: ``NODE: input`` and ``NODE: segmentation``."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(
            DiagnosticArray,
            "/diagnostics",
            10,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._before = (monotonic(), 0, 0, 0, 0)
        self._lost = 0

    def publish(self, health: Health, report: Report | None) -> None:
        """Say how it goes.

        Args:
            health: what the node knows.
            report: of the running pipeline; None while there is none.
        """
        name = self._node.get_fully_qualified_name().lstrip("/")
        received_hz, usable_hz, delivered_hz, lost_hz = self._rates(health, report)
        refusing = received_hz > 0 and usable_hz == 0
        share = lost_hz / max(received_hz + lost_hz, 1e-3)
        lost, self._lost = health.lost - self._lost, health.lost
        source = _input(health, report, received_hz, refusing)
        if source[0] == OK and lost >= SOME_LOST and share > MAX_LOST:
            source = (WARN, LOST.format(share), source[2])
        rows = [
            (f"{name}: input", health.source, *source),
            (f"{name}: segmentation", health.network, *_segmentation(health, report, delivered_hz)),
        ]
        message = DiagnosticArray()
        convert.fill_stamp(message.header.stamp, self._node.get_clock().now().nanoseconds)
        convert.fill_diagnostics(message, DiagnosticStatus, KeyValue, rows)
        self._publisher.publish(message)

    def _rates(self, health: Health, report: Report | None) -> list[float]:
        """Images received, usable, delivered and lost per second since the last time."""
        now = (monotonic(), 0, 0, 0, health.lost)
        if report is not None:
            usable = report.received - report.dropped["driver"] - report.dropped["corrupt"]
            now = (now[0], report.received, usable, report.delivered, health.lost)
        seconds, *counts = (a - b for a, b in zip(now, self._before, strict=True))
        self._before = now
        return [max(count, 0) / max(seconds, 1e-3) for count in counts]


def _input(
    health: Health, report: Report | None, hz: float, refusing: bool
) -> tuple[int, str, dict[str, object]]:
    values: dict[str, object] = {"source": health.source, "rate Hz": f"{hz:.1f}"}
    if health.publishers is not None:
        values["publishers"] = health.publishers
        values["lost in transport"] = health.lost
    if health.stamp_age_s is not None:
        values["stamp age s"] = f"{health.stamp_age_s:.3f}"
    if report is not None:
        values["received"] = report.received
        values |= {f"dropped, {cause}": count for cause, count in report.dropped.items()}
    if health.refused:
        values["last refused image"] = health.refused
    if report is None:
        return (ERROR, health.trouble, values) if health.trouble else (OK, health.state, values)
    if health.silence:
        return STALE, health.silence, values
    if health.refused and refusing:
        return ERROR, health.refused, values
    if health.publishers is not None and health.publishers > 1:
        return WARN, f"{health.publishers} publishers on one topic", values
    return OK, f"{hz:.1f} Hz", values


def _segmentation(
    health: Health, report: Report | None, hz: float
) -> tuple[int, str, dict[str, object]]:
    values: dict[str, object] = {"state": health.state, "network": health.network}
    values["callback errors"] = health.callback_errors
    if report is not None:
        values |= _figures(report)
    if health.trouble:
        return ERROR, health.trouble, values
    if health.callback_errors:
        return WARN, f"{health.callback_errors} errors in callbacks, see the log", values
    return OK, f"{hz:.1f} Hz" if health.state == "active" else health.state, values


def _figures(report: Report) -> dict[str, Any]:
    """Frames, ages and stages of a pipeline, in words."""
    values: dict[str, Any] = {
        "delivered": report.delivered,
        "instances per frame": f"{report.instances / max(1, report.delivered):.2f}",
        "latency p50 ms": f"{report.age_ms['p50']:.2f}",
        "latency p99 ms": f"{report.age_ms['p99']:.2f}",
    }
    for stage, row in report.stages.items():
        if stage != "capture":
            values[f"{stage} p50 ms"] = f"{row['p50_ms']:.2f}"
            values[f"{stage} p99 ms"] = f"{row['p99_ms']:.2f}"
    return values
