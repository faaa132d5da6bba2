"""A subscription that is served by the thread which wants its messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node


class Inbox:
    """Waits for one subscription and calls back, as `rclpy.wait_for_message` and executors do it.

    By way of the node's executor, which looks after all that the node has, an image would cost
    0.8 ms more of CPU time, and would change threads twice more.

    Args:
        node: owner of the subscription.
        kind: of the messages.
        topic: as for `Node.create_subscription`.
        callback: called with each message, in the thread that calls `serve`; those of the events
            too.
        qos: as for `Node.create_subscription`, which takes ``words`` too.
    """

    def __init__(
        self,
        node: Node,
        kind: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        qos: Any,
        **words: Any,
    ) -> None:
        self._node = node
        self._subscription = node.create_subscription(
            kind, topic, callback, qos, callback_group=_Apart(), **words
        )
        self._events = self._subscription.event_handlers
        self._wake = GuardCondition(None, None, node.context)
        context = node.context.handle
        with context:
            self._waits = rclpy_implementation.WaitSet(1, 1, 0, 0, 0, len(self._events), context)

    @property
    def topic(self) -> str:
        """Its name, resolved."""
        return str(self._subscription.topic_name)

    def serve(self) -> None:
        """Wait for a message, an event or `wake`, and call back.

        Raises:
            InvalidHandle: the node is no more.
        """
        handle, waits = self._subscription.handle, self._waits
        with ExitStack() as held:  # nobody may free them meanwhile
            for each in (handle, self._wake.handle, *self._events):
                held.enter_context(each)
            waits.clear_entities()
            waits.add_subscription(handle)
            waits.add_guard_condition(self._wake.handle)
            for event in self._events:
                event.add_to_wait_set(waits)
            waits.wait(-1)
            if waits.get_ready_entities("subscription"):
                taken = handle.take_message(self._subscription.msg_type, False)
                if taken is not None:
                    self._subscription.callback(taken[0])
            for event in self._events:
                if event.is_ready(waits):
                    event.callback(event.take_data())

    def wake(self) -> None:
        """End the waiting, from another thread; the next one, when there is none."""
        self._wake.trigger()

    def destroy(self) -> None:
        """Take the subscription back."""
        self._node.destroy_subscription(self._subscription)


class _Apart(CallbackGroup):
    """Keeps a subscription and its events from executors."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass
