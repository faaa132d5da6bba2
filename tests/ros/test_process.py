"""The node as a process: how it starts, and how it is ended."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ros.harness import CAMERA, NODE, PROFILE, Peer, ask, image, picture, stamp_of, until

pytestmark = pytest.mark.ros
Make = Callable[..., Any]
SLOW = Path(__file__).with_name("slow_node.py")
SIGNALS = [signal.SIGINT, signal.SIGTERM]
SIGNALS_ID = ["SIGINT", "SIGTERM"]


def instances(peer: Peer, node: str = "/segment") -> list[Any]:
    from edgeseg_msgs.msg import InstanceArray

    return peer.collect(InstanceArray, f"{node}/instances")


def ended_in(process: Any, number: int) -> float:
    """Seconds from a signal to the end, which has to be a good one."""
    begin = time.monotonic()
    process.popen.send_signal(number)
    assert process.wait(10) == 0, process.text
    seconds = time.monotonic() - begin
    assert "Traceback" not in process.text, process.text
    return seconds


@pytest.mark.parametrize("number", SIGNALS, ids=SIGNALS_ID)
def test_a_signal_ends_it_while_it_waits(
    number: int, start: Make, node_words: tuple[str, ...], peer: Peer
) -> None:
    node = start(*node_words)
    until(lambda: peer.health("segmentation")[2].get("state") == "active", lambda: node.text)
    assert ended_in(node, number) < 2.0


@pytest.mark.parametrize("number", SIGNALS, ids=SIGNALS_ID)
def test_a_signal_ends_it_during_inference(
    number: int, start: Make, node_words: tuple[str, ...], peer: Peer
) -> None:
    node = start(sys.executable, SLOW, 10, *node_words[3:])
    node.says("loaded fake")
    publisher = peer.publisher()

    def at_work() -> bool:
        publisher.publish(image(picture()))
        return "at work" in node.text

    until(at_work, lambda: node.text, every_s=0.05)
    assert ended_in(node, number) < 2.0


def test_a_signal_ends_it_while_a_real_network_works(start: Make, peer: Peer) -> None:
    words = ("-p", "model:=fastinst-nano", "-p", "autostart:=true", "-p", "source:=camera")
    device = "camera.source:=synthetic:640x480@200"
    node = start(*NODE, *words, "-p", device)
    answers = instances(peer)
    until(lambda: len(answers) > 3, lambda: node.text, 30)
    assert ended_in(node, signal.SIGTERM) < 2.0


def test_two_signals_are_as_good_as_one(
    start: Make, node_words: tuple[str, ...], peer: Peer
) -> None:
    """launch sends SIGINT, then SIGTERM; a terminal sends Ctrl-C twice."""
    node = start(sys.executable, SLOW, 10, *node_words[3:])
    node.says("loaded fake")
    publisher = peer.publisher()

    def at_work() -> bool:
        publisher.publish(image(picture()))
        return "at work" in node.text

    until(at_work, lambda: node.text, every_s=0.05)
    node.popen.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert ended_in(node, signal.SIGTERM) < 2.0


def test_a_signal_ends_a_camera(start: Make, peer: Peer) -> None:
    camera = start(*CAMERA, "-p", "device:=synthetic:64x48@30")
    until(lambda: peer.node.count_publishers("/image_raw"), lambda: camera.text)
    assert ended_in(camera, signal.SIGINT) < 2.0


def test_it_starts_again_after_a_kill(start: Make, node_words: tuple[str, ...], peer: Peer) -> None:
    """With what the killed one and a killed camera have left in /dev/shm."""
    profile = {"FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE)}
    camera = (*CAMERA, "-r", "image_raw:=image", "-p", "device:=synthetic:640x480@30")
    answers = instances(peer)
    for _ in range(2):
        killed = start(*camera, **profile), start(*node_words, **profile)
        until(lambda: len(answers) > 5, lambda: peer.logs)
        for process in killed:
            process.kill()
        answers.clear()
    start(*camera, **profile)
    last = start(*node_words, **profile)
    until(lambda: len(answers) > 5, lambda: last.text)
    assert ended_in(last, signal.SIGTERM) < 2.0


def test_a_second_one_of_the_same_name_harms_nobody(
    start: Make, node_words: tuple[str, ...], peer: Peer
) -> None:
    first, second = start(*node_words), start(*node_words)
    for node in (first, second):
        node.says("loaded fake")
    until(lambda: peer.node.count_publishers("/segment/instances") == 2, "both")
    answers = instances(peer)
    publisher = peer.publisher()

    number = iter(range(1000))

    def both() -> bool:
        publisher.publish(image(picture(), stamp=(4, next(number))))
        return 2 in Counter(map(stamp_of, answers)).values()

    until(both, lambda: (first.text, second.text), every_s=0.03)
    assert ended_in(second, signal.SIGTERM) < 2.0
    answers.clear()
    ask(peer, publisher, image(picture(), stamp=(5, 5)), answers)
    assert ended_in(first, signal.SIGTERM) < 2.0


def test_it_only_builds(start: Make, node_words: tuple[str, ...], tmp_path: Path) -> None:
    good = start(*node_words, "-p", "build_only:=true")
    bad = start(*node_words, "-p", "build_only:=true", "-p", f"model:={tmp_path}/none")
    assert good.wait() == 0 and "loaded fake" in good.text
    assert bad.wait() == 1
    said = [line for line in bad.text.splitlines() if "configure: got" in line]
    assert len(said) == 1 and "none" in said[0]


def test_without_autostart_it_waits(start: Make, peer: Peer, fake_bundle: Path) -> None:
    start(*NODE, "-p", f"model:={fake_bundle}", "-p", "engine:=fake")
    assert peer.state() == "unconfigured"
    assert peer.change("configure") and peer.change("activate")
    ask(peer, peer.publisher(), image(picture()), instances(peer))


def test_autostart_without_a_bundle_waits_for_a_repair(
    start: Make, peer: Peer, fake_bundle: Path, tmp_path: Path
) -> None:
    words = ("-p", f"model:={tmp_path}/bundle", "-p", "engine:=fake", "-p", "autostart:=true")
    node = start(*NODE, *words)
    node.says("configure: got")
    assert peer.state() == "unconfigured"
    (tmp_path / "bundle").symlink_to(fake_bundle)
    assert peer.change("configure") and peer.change("activate")
    assert ended_in_any_case(node) == 0


def ended_in_any_case(process: Any) -> int:
    process.popen.send_signal(signal.SIGTERM)
    return int(process.wait(10))


def test_names_and_topics_can_be_changed(
    start: Make, node_words: tuple[str, ...], peer: Peer
) -> None:
    words = ("-r", "__ns:=/left", "-r", "__node:=masks", "-r", "image:=camera/image_raw")
    start(*node_words, *words).says("loaded fake")
    answers = instances(peer, "/left/masks")
    (found,) = ask(peer, peer.publisher("/left/camera/image_raw"), image(picture()), answers)
    assert len(found.ids) == 2
    until(lambda: peer.health(node="left/masks")[0] == 0, lambda: peer.statuses)
