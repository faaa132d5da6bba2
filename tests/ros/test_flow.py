"""What happens around the stream of images: who publishes, who listens, what breaks."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest
from ros.harness import (
    BEST_EFFORT,
    CAMERA,
    PROFILE,
    Image,
    Peer,
    image,
    picture,
    stamp_of,
    until,
)

from edgeseg.errors import EngineError

pytestmark = pytest.mark.ros
Make = Callable[..., Any]
RELIABLE = {"qos_overrides./image.subscription.reliability": "reliable"}
PATIENCE = {"no_frame_warning_s": 0.3}
OK, WARN, ERROR, STALE = range(4)


def instances(peer: Peer) -> list[Any]:
    from edgeseg_msgs.msg import InstanceArray

    return peer.collect(InstanceArray, "/segment/instances")


@contextmanager
def stream(publisher: Any, rate: float = 50.0, frame_id: str = "optical") -> Iterator[list[Any]]:
    """Publishes pictures at a rate meanwhile; the stamps sent so far."""
    sent: list[tuple[int, int]] = []
    stop = Event()

    def send() -> None:
        while not stop.wait(1 / rate):
            message = image(picture(len(sent)), stamp=divmod(time.time_ns(), 10**9))
            message.header.frame_id = frame_id
            sent.append(stamp_of(message))
            publisher.publish(message)

    thread = Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def wait_for_level(peer: Peer, level: int, part: str = "input") -> str:
    """The text of a status once it has a level."""
    until(lambda: peer.health(part)[0] == level, lambda: f"{level}: {peer.statuses}")
    return peer.health(part)[1]


# Publishers.


def test_no_publisher_is_said_once(active: Make, peer: Peer) -> None:
    active(**PATIENCE)
    text = wait_for_level(peer, STALE)
    assert "on /image; nobody publishes it; check image_topic" in text
    time.sleep(1.0)  # ten looks of the watchdog
    assert len(peer.said("nobody publishes it")) == 1
    with stream(peer.publisher()):
        wait_for_level(peer, OK)
        peer.hears("^frames again")
    wait_for_level(peer, STALE)
    until(lambda: len(peer.said("^got no frame for .* on /image")) == 2, lambda: peer.logs)


def test_a_silent_publisher_is_said(active: Make, peer: Peer) -> None:
    peer.publisher()
    active(**PATIENCE)
    text = wait_for_level(peer, STALE)
    assert "1 publishers; large images get lost" in text and "the Fast DDS profile" in text


@pytest.mark.parametrize("first", ["publisher", "node"])
def test_qos_that_does_not_fit_is_said_once(first: str, active: Make, peer: Peer) -> None:
    answers = instances(peer)
    if first == "node":
        active(**RELIABLE)
        publisher = peer.publisher(qos=BEST_EFFORT)
    else:
        publisher = peer.publisher(qos=BEST_EFFORT)
        active(**RELIABLE)
    with stream(publisher):
        text = wait_for_level(peer, STALE)
        assert "QoS of /peer doesn't fit (" in text and "qos_overrides./image" in text
        time.sleep(0.7)
    said = peer.said("incompatible publisher|got no frame")
    assert len(said) == 1 and "QoS of /peer doesn't fit" in said[0]
    assert not answers
    peer.node.destroy_publisher(publisher)
    with stream(peer.publisher()):
        wait_for_level(peer, OK)
    assert answers


def test_overrides_of_one_node_stay_its_own(active: Make, spun: Make, peer: Peer) -> None:
    """rclpy writes overrides into the profile that it is given."""
    active(**RELIABLE, **{"qos_overrides./segment/label_info.publisher.depth": 7})
    spun("-r", "__node:=other")
    assert peer.change("configure", "/other") and peer.change("activate", "/other")
    kinds = until(lambda: len(found := reliability(peer)) == 2 and found)
    assert kinds["other"] == BEST_EFFORT.reliability != kinds["segment"]
    other = "qos_overrides./other/label_info.publisher.depth"
    assert peer.get(other, "/other") == 1
    # An activation more declares nothing twice, and keeps the override.
    assert peer.change("deactivate") and peer.change("activate")
    until(lambda: reliability(peer) == kinds, lambda: reliability(peer))


def reliability(peer: Peer) -> dict[str, Any]:
    """Of the subscriptions of images, by node."""
    rows = peer.node.get_subscriptions_info_by_topic("/image")
    return {row.node_name: row.qos_profile.reliability for row in rows}


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"qos_overrides./image.subscription.reliability": "perhaps"}, "reliability.*perhaps"),
        ({"policy": "all", "max_age_s": 0.5}, "got max_age_s 0.5 with policy 'all'"),
    ],
    ids=["override", "policy"],
)
def test_nothing_runs_on_from_a_failed_activation(
    values: dict[str, Any], sentence: str, spun: Make, peer: Peer
) -> None:
    node = spun(**values).node
    assert peer.change("configure")
    assert not peer.change("activate")
    assert peer.hears(f"^activate: .*{sentence}")
    assert peer.state() == "inactive"
    assert not running()
    assert node.count_subscribers("/image") == 0


def running() -> list[str]:
    """Threads of pipelines."""
    import threading

    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgeseg-")]


def test_a_wrong_type_on_the_topic_is_said(active: Make, peer: Peer) -> None:
    from std_msgs.msg import String

    active(**PATIENCE)
    wrong = Peer("wrong")
    texts = wrong.publisher(kind=String)
    wanted = "/wrong publishes std_msgs/msg/String; wanted sensor_msgs/msg/Image"
    until(lambda: wanted in peer.health()[1], lambda: peer.statuses)
    texts.publish(String(data="no image"))
    wrong.close()
    with stream(peer.publisher()):
        wait_for_level(peer, OK)


def test_a_publisher_is_killed_and_comes_back(active: Make, peer: Peer, start: Make) -> None:
    words = (*CAMERA, "-r", "image_raw:=image", "-p", "device:=synthetic:128x96@30")
    answers = instances(peer)
    active(**PATIENCE)
    camera = start(*words, FASTDDS_DEFAULT_PROFILES_FILE=str(PROFILE))
    until(lambda: len(answers) > 5, lambda: peer.logs)
    camera.kill()
    assert "got no frame" in wait_for_level(peer, STALE)
    answers.clear()
    start(*words, FASTDDS_DEFAULT_PROFILES_FILE=str(PROFILE))
    until(lambda: len(answers) > 5, lambda: peer.logs)
    stamps = [stamp_of(one) for one in answers]
    assert stamps == sorted(set(stamps))


def test_two_publishers_are_warned_of_and_both_are_segmented(active: Make, peer: Peer) -> None:
    answers = instances(peer)
    active()
    with stream(peer.publisher(), 20, "left"), stream(peer.publisher(), 20, "right"):
        assert wait_for_level(peer, WARN) == "2 publishers on one topic"
        until(lambda: {one.header.frame_id for one in answers} == {"left", "right"})


def test_images_that_get_lost_are_said(active: Make, peer: Peer, start: Make) -> None:
    """Fast DDS as shipped, without the profile, loses most images that are larger than 512 KiB."""
    active()
    start(*CAMERA, "-r", "image_raw:=image", "-p", "width:=1280", "-p", "height:=720")
    until(lambda: "are lost in transport" in peer.health()[1], lambda: peer.statuses)
    level, text, values = peer.health()
    if level == WARN:  # else it has changed meanwhile
        assert "start the camera with the Fast DDS profile" in text
    assert int(values["lost in transport"]) > 0


# Subscribers.


def test_a_slow_subscriber_slows_nobody_else(active: Make, peer: Peer) -> None:
    answers = instances(peer)
    active()
    slow = Peer()
    taken: list[Any] = []

    def take(message: Any) -> None:
        taken.append(message)
        time.sleep(0.5)

    try:
        for topic in ("overlay", "label_map"):
            slow.node.create_subscription(Image, f"/segment/{topic}", take, 1)
        until(lambda: peer.node.count_subscribers("/segment/overlay"), "the slow one")
        with stream(peer.publisher(), 30) as sent:
            until(lambda: len(taken) > 2, "the slow one gets some")
            until(lambda: len(sent) > 60)
        # Waiting for the slow one would give less than a tenth; a busy machine drops some, too.
        until(lambda: len(answers) > 0.6 * len(sent), lambda: (len(answers), len(sent)))
    finally:
        slow.close()


LISTENER = """
import rclpy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("listener")
node.create_subscription(Image, "/segment/overlay", lambda _: print("image", flush=True), 5)
rclpy.spin(node)
"""


def test_a_stopped_subscriber_slows_nobody_else(active: Make, peer: Peer, start: Make) -> None:
    """A reliable one whose process hangs, and takes nothing of what it is owed."""
    answers = instances(peer)
    active()
    with stream(peer.publisher(), 30) as sent:
        listener = start(sys.executable, "-c", LISTENER)
        listener.says("image")
        listener.send(signal.SIGSTOP)
        del sent[:], answers[:]
        until(lambda: len(sent) > 90)
    until(lambda: len(answers) > 0.6 * len(sent), lambda: (len(answers), len(sent)))
    stamps = [stamp_of(one) for one in answers]
    assert stamps == sorted(set(stamps))


# What breaks inside.


def test_an_error_in_the_callback_does_not_end_the_node(
    active: Make, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = active().node
    answers = instances(peer)

    def fail(message: Any) -> None:
        raise RuntimeError("no room")

    with stream(peer.publisher()), monkeypatch.context() as patch:
        until(lambda: answers, "answers")
        patch.setattr(node._stream._topic, "offer", fail)
        text = wait_for_level(peer, WARN, "segmentation")
        assert text.endswith("errors in callbacks, see the log")
        peer.hears("^_on_image: RuntimeError: no room$")
    with stream(peer.publisher()):
        answers.clear()
        until(lambda: answers, "answers")


def test_an_error_of_the_network_is_said_and_the_stream_starts_again(
    active: Make, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = active().node
    answers = instances(peer)

    def fail() -> None:
        raise EngineError("got a broken network; wanted a whole one; mend it")

    with stream(peer.publisher()), monkeypatch.context() as patch:
        until(lambda: answers, "answers")
        patch.setattr(node._segmenter._engine, "_run", fail)
        text = wait_for_level(peer, ERROR, "segmentation")
        assert "got a broken network" in text and "trying again in" in text
        peer.hears("got a broken network.*in 2 s")
        patch.undo()
        answers.clear()
        until(lambda: answers, "answers")
        wait_for_level(peer, OK, "segmentation")
        peer.hears("^frames again")
    assert peer.state() == "active"
    assert len(running()) == 2


def test_an_error_while_publishing_is_said_and_the_stream_starts_again(
    active: Make, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = active().node
    answers = instances(peer)

    def fail(*words: Any) -> None:
        raise RuntimeError("no room")

    with stream(peer.publisher()), monkeypatch.context() as patch:
        patch.setattr(node._outputs, "publish", fail)
        assert "no room; trying again in" in wait_for_level(peer, ERROR, "segmentation")
        patch.undo()
        until(lambda: answers, "answers")
        wait_for_level(peer, OK, "segmentation")
