"""A subscription that a thread of its own serves."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread, current_thread
from typing import Any

import pytest
from ros.harness import BEST_EFFORT, Image, Node, Peer, Spun, image, picture, until

pytestmark = pytest.mark.ros


class Reader:
    """An inbox and the thread that serves it until `end`.

    Attributes:
        messages, events: what came.
        threads: those that called back.
    """

    def __init__(self, node: Node, **words: Any) -> None:
        from rclpy.event_handler import SubscriptionEventCallbacks

        from edgeseg_ros.inbox import Inbox

        self.messages: list[Any] = []
        self.events: list[Any] = []
        self.threads: set[Thread] = set()
        self.error: BaseException | None = None
        self._ended = False
        callbacks = SubscriptionEventCallbacks(incompatible_qos=self._on_event)
        words = {"qos": BEST_EFFORT, "event_callbacks": callbacks} | words
        self.inbox = Inbox(node, Image, "image", self._on_message, **words)
        self.thread = Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            while not self._ended:
                self.inbox.serve()
        except BaseException as error:
            self.error = error

    def _on_message(self, message: Any) -> None:
        self.messages.append(message)
        self.threads.add(current_thread())

    def _on_event(self, event: Any) -> None:
        self.events.append(event)
        self.threads.add(current_thread())

    def end(self) -> None:
        self._ended = True
        self.inbox.wake()
        self.thread.join(5.0)
        assert not self.thread.is_alive()


@pytest.fixture
def node() -> Iterator[Spun]:
    """A node that an executor of this process spins, as the segmentation node is."""
    one = Spun(lambda context: Node("reader", context=context))
    yield one
    one.close()
    assert one.error is None


def test_messages_come_to_the_thread_that_serves(node: Spun, peer: Peer) -> None:
    reader = Reader(node.node)
    publisher = peer.publisher()
    until(publisher.get_subscription_count, "a match")
    for number in range(5):
        publisher.publish(image(picture(), stamp=(number, 0)))
        until(lambda wanted=number + 1: len(reader.messages) == wanted, "the message")
    assert [message.header.stamp.sec for message in reader.messages] == list(range(5))
    assert reader.threads == {reader.thread}
    reader.end()
    assert reader.error is None


def test_events_come_there_too(node: Spun, peer: Peer) -> None:
    reader = Reader(node.node, qos=1)
    peer.publisher(qos=BEST_EFFORT)
    until(lambda: reader.events, "the event")
    assert reader.events[0].total_count == 1
    assert reader.threads == {reader.thread}
    reader.end()
    assert reader.error is None


def test_waking_before_the_wait_ends_it(node: Spun) -> None:
    reader = Reader(node.node)
    reader.end()
    reader.inbox.wake()
    again = Thread(target=reader.inbox.serve, daemon=True)
    again.start()
    again.join(5.0)
    assert not again.is_alive()
    assert not reader.messages


def test_a_node_may_go_while_its_subscription_is_waited_for() -> None:
    """What is waited for lives until the wait has ended; the next one says that it is gone."""
    node = Spun(lambda context: Node("reader", context=context))
    reader = Reader(node.node)
    until(lambda: reader.inbox.topic == "/image", "a topic")
    node.close()
    reader.inbox.wake()
    reader.thread.join(5.0)
    assert type(reader.error).__name__ == "InvalidHandle"


def test_no_subscription_is_left(node: Spun, peer: Peer) -> None:
    reader = Reader(node.node)
    until(lambda: peer.node.count_subscribers("/image") == 1, "the subscription")
    reader.end()
    reader.inbox.destroy()
    until(lambda: peer.node.count_subscribers("/image") == 0, "its end")
