"""Clocks that stand, jump and run backwards: they change stamps, never the stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ros.harness import Peer, ask, image, picture, stamp_of, until

pytestmark = pytest.mark.ros
Make = Callable[..., Any]
STALE = 3
PATIENCE = {"no_frame_warning_s": 0.3}


def instances(peer: Peer) -> list[Any]:
    from edgeseg_msgs.msg import InstanceArray

    return peer.collect(InstanceArray, "/segment/instances")


@contextmanager
def clock(peer: Peer) -> Iterator[Callable[[float], None]]:
    """Publishes ``/clock`` meanwhile, which runs from where it was set last."""
    from rosgraph_msgs.msg import Clock

    publisher = peer.node.create_publisher(Clock, "/clock", 10)
    stop, now = threading.Event(), [0.0]

    def run() -> None:
        while not stop.wait(0.01):
            now[0] += 0.01
            message = Clock()
            message.clock.sec = int(now[0])
            message.clock.nanosec = int(now[0] % 1 * 1e9)
            publisher.publish(message)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda second: now.__setitem__(0, second)
    finally:
        stop.set()
        thread.join()


def test_without_a_clock_all_goes_on(active: Make, peer: Peer) -> None:
    """With use_sim_time and no /clock: watchdog, diagnostics and images."""
    node = active(use_sim_time=True, **PATIENCE).node
    assert node.get_clock().now().nanoseconds == 0
    until(lambda: peer.health()[0] == STALE, lambda: peer.statuses)
    peer.statuses.clear()
    until(lambda: peer.health()[0] == STALE, lambda: peer.statuses)
    answers = instances(peer)
    publisher = peer.publisher()
    for second in range(3):
        ask(peer, publisher, image(picture(), stamp=(second, 5)), answers)
    assert node.get_clock().now().nanoseconds == 0


def test_a_camera_without_a_clock(active: Make, peer: Peer) -> None:
    """Stamps are those of the time's beginning; that is no reason to stop."""
    answers = instances(peer)
    active(use_sim_time=True, source="camera", camera__source="synthetic:64x48@60")
    until(lambda: len(answers) > 5, lambda: peer.logs)
    assert {stamp_of(one) for one in answers} == {(0, 0)}


def test_a_camera_follows_the_clock(active: Make, peer: Peer) -> None:
    answers = instances(peer)
    with clock(peer) as set_clock:
        set_clock(1000)
        active(use_sim_time=True, source="camera", camera__source="synthetic:64x48@60")
        until(lambda: answers and 1000 <= stamp_of(answers[-1])[0] < 1100, lambda: answers[-1:])


def test_a_clock_jumps(active: Make, peer: Peer) -> None:
    """Forward by years and back to the start, as a bag does that is played in a loop."""
    node = active(use_sim_time=True, **PATIENCE).node
    answers = instances(peer)
    publisher = peer.publisher()
    with clock(peer) as set_clock:
        for number, second in enumerate([10.0, 1e9, 5.0, 2e9, 0.0, 7.0]):
            set_clock(second)
            until(lambda t=second: abs(node.get_clock().now().nanoseconds / 1e9 - t) < 5)
            ask(peer, publisher, image(picture(), stamp=(number, 0)), answers)
            peer.statuses.clear()
            until(lambda: peer.health()[0] >= 0, "diagnostics")
    stamps = [stamp_of(one)[0] for one in answers]
    assert stamps == sorted(stamps) and {*stamps} == {*range(6)}
    assert node.health.callback_errors == 0
    until(lambda: peer.health()[0] == STALE, lambda: peer.statuses)
    # The watchdog counts its own seconds, not the clock's.
    assert float(peer.health()[1].split("for ")[1].split(" s")[0]) < 60


def test_the_age_of_stamps_is_told_by_the_clock(active: Make, peer: Peer) -> None:
    active(use_sim_time=True)
    answers = instances(peer)
    with clock(peer) as set_clock:
        set_clock(500)
        ask(peer, peer.publisher(), image(picture(), stamp=(499, 0)), answers)
        until(lambda: 0 < float(peer.health()[2].get("stamp age s", 0)) < 30, lambda: peer.statuses)
