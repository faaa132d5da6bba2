"""The lifecycle node: parameters, a network, and a stream of images through it.

configure reads the parameters, loads, verifies and warms the network and makes the publishers;
activate starts the stream; deactivate stops it within two seconds; cleanup frees the network.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from edgeseg.errors import EdgesegError, InputError
from edgeseg.segmenter import Segmenter, load
from edgeseg_ros import params, process
from edgeseg_ros.diagnostics import Diagnostics, Health, guarded
from edgeseg_ros.outputs import Outputs
from edgeseg_ros.settings import NodeSettings
from edgeseg_ros.stream import Stream

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
TICK_S = 1.0
SHUTDOWN_S = 1.2


class SegmentNode(LifecycleNode):
    """Instance segmentation of an image topic or a camera.

    Topics, parameters and their meaning: docs/ros2.md.

    Raises:
        InputError: a parameter of a wrong type or out of range.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__("segment", **settings)
        self.health, self.log = Health(), self.get_logger()
        self.settings = params.declare(self)
        self._segmenter: Segmenter | None = None
        self._outputs: Outputs | None = None
        self._stream: Stream | None = None
        self._diagnostics = Diagnostics(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        # Steady: with use_sim_time and no /clock, a timer of the ROS clock would never fire.
        self.create_timer(TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network; a failure leaves the node unconfigured, for another try."""
        try:
            self.settings = params.changed(self, ())
            self._segmenter = load_network(self.settings)
            self._outputs = Outputs(self, self._segmenter.spec, self.settings)
        except Exception as error:
            return self._failed("configure", error)
        self.health = Health(state="inactive", network=self._segmenter.describe())
        self.log.info(f"loaded {self.health.network}")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, or open the camera, and start the pipeline."""
        assert self._segmenter is not None and self._outputs is not None
        try:
            if self._stream is not None and self._stream.stuck:
                raise InputError(
                    "got activate while the network still works on an old frame; wanted it "
                    "finished; try again"
                )
            # Topics first: none of the stream's results is lost.
            result = super().on_activate(state)
            self._stream = Stream(self, self._segmenter, self._outputs)
        except Exception as error:
            super().on_deactivate(state)
            return self._failed("activate", error)
        self.health.state = "active"
        self._outputs.announce(self.settings)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the pipeline; what the network works on is not published any more."""
        if self._stream is not None:
            self._stream.stop()
        self.health.calm("inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and take the topics back."""
        result = super().on_cleanup(state)
        self.free()
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self.free()
        self.health.state = "finalized"
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        self.free()
        return SUCCESS

    def free(self) -> None:
        """Stop what runs and free what is held; harmless in every state."""
        if self._stream is not None:
            self._stream.stop(SHUTDOWN_S)
        if self._outputs is not None:
            self._outputs.destroy()
        if self._segmenter is not None:
            self._segmenter.close()
        self._outputs = self._segmenter = None
        self.health.calm("unconfigured")
        self.health.network = ""

    def _failed(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        """One sentence for a transition that can't be made; the old state stays."""
        text = str(error) if isinstance(error, EdgesegError) else f"{type(error).__name__}: {error}"
        self.log.error(f"{transition}: {text}")
        if transition == "configure":
            self.free()
        self.health.trouble = text
        return FAILURE

    def _on_parameters(self, changes: Sequence[Parameter[Any]]) -> SetParametersResult:
        """Take a change of parameters, or say why not; an exception here would end the node."""
        try:
            settings = params.changed(self, changes)
            if self._segmenter is not None and self._outputs is not None:
                params.check_live(changes)
                self._segmenter.choose(**settings.choice)
                self._outputs.switches = settings.publish
                self._outputs.announce(settings)
            self.settings = settings
        except Exception as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    @guarded
    def _tick(self) -> None:
        """Once a second: mend what died, say how it goes."""
        stream = self._stream if self.health.state == "active" else None
        if stream is not None:
            stream.watch()
        self._diagnostics.publish(self.health, stream.report() if stream is not None else None)


def load_network(settings: NodeSettings) -> Segmenter:
    """The network of the settings, verified and warm.

    Raises:
        EdgesegError: no such bundle, a damaged one, or one that doesn't run here.
    """
    segmenter = load(
        settings.model,
        settings.engine,
        precision=settings.precision,
        threads=settings.threads,
        **settings.choice,
    )
    for _ in range(3):
        segmenter(np.zeros((*segmenter.spec.input_hw, 3), np.uint8))
    segmenter.timings.clear()
    return segmenter


def spin(node: SegmentNode) -> int:
    """Run the node until it is shut down; the exit code."""
    try:
        if node.settings.build_only:
            return 0 if node.trigger_configure() == SUCCESS else 1
        if node.settings.autostart and node.trigger_configure() == SUCCESS:
            node.trigger_activate()
        rclpy.spin(node)
        return 0
    finally:
        node.free()


def main(words: Sequence[str] | None = None) -> int:
    """Run the node; exit code 0, or 2 for a mistake, 1 for a network that can't be built."""
    return process.run(SegmentNode, spin, words)


if __name__ == "__main__":
    sys.exit(main())
