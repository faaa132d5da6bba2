"""Transitions: thousands of them, failing ones, and those that meet a network at work."""

from __future__ import annotations

import collections
import gc
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ros.harness import Peer, ask, footprint, image, picture, until

from edgeseg.engines.fake import FakeEngine
from edgeseg.pipeline import Pipeline
from edgeseg.segmenter import Segmenter
from edgeseg_ros.outputs import Outputs
from edgeseg_ros.source import TopicCamera
from edgeseg_ros.stream import Stream

pytestmark = pytest.mark.ros
Make = Callable[..., Any]
MAX_GROWTH_MIB = 12.0  # a network that is kept is 0.6 a time; DDS still fills its pools


def instances(peer: Peer) -> list[Any]:
    from edgeseg_msgs.msg import InstanceArray

    return peer.collect(InstanceArray, "/segment/instances")


def cycle(peer: Peer, count: int, *transitions: str) -> None:
    for _ in range(count):
        for transition in transitions:
            assert peer.change(transition), peer.logs[-3:]


ROUND = ("deactivate", "activate")
WHOLE_ROUND = ("deactivate", "cleanup", "configure", "activate")


@pytest.mark.parametrize(
    "transitions, count", [(ROUND, 500), (WHOLE_ROUND, 100)], ids=["activations", "configurations"]
)
def test_many_transitions_leave_nothing(
    transitions: tuple[str, ...], count: int, start: Make, node_words: tuple[str, ...], peer: Peer
) -> None:
    """Memory, threads and descriptors stay, and images are still segmented.

    1000 activations, 200 configurations; memory is compared between their halves, as the first ones
    fill what is kept for reuse.
    """
    node = start(*node_words)
    node.says("loaded fake")
    process = psutil.Process(node.popen.pid)
    until(lambda: peer.state() == "active", "active")
    answers = instances(peer)
    publisher = peer.publisher()
    ask(peer, publisher, image(picture()), answers)
    cycle(peer, count, *transitions)
    before = footprint(process)
    cycle(peer, count, *transitions)
    after = footprint(process)
    assert after["threads"] <= before["threads"]
    assert after["files"] <= before["files"]
    assert after["anon"] - before["anon"] < MAX_GROWTH_MIB, (before, after)
    answers.clear()
    ask(peer, publisher, image(picture()), answers)
    assert peer.health("segmentation")[2]["callback errors"] == "0"


def test_nothing_of_a_former_configuration_is_kept(active: Make, peer: Peer) -> None:
    kinds = [Stream, Outputs, Segmenter, Pipeline, TopicCamera, FakeEngine]
    before = counts(kinds)  # what a test before has failed with is kept for its report
    node = active()
    publisher, answers = peer.publisher(), instances(peer)
    for second in range(10):
        ask(peer, publisher, image(picture(), stamp=(second, 0)), answers)
        cycle(peer, 1, *WHOLE_ROUND)
    assert counts(kinds) == [number + 1 for number in before]
    assert node.lives


def counts(kinds: list[type]) -> list[int]:
    """How many objects of each class there are."""
    gc.collect()
    there = collections.Counter(map(type, gc.get_objects()))
    return [there[kind] for kind in kinds]


def test_transitions_while_images_come(active: Make, peer: Peer) -> None:
    """Subscriptions go while the executor has messages for them."""
    node = active()
    answers = instances(peer)
    publisher = peer.publisher()
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.002):
            publisher.publish(image(picture()))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        cycle(peer, 30, "deactivate", "activate")
        cycle(peer, 10, "deactivate", "cleanup", "configure", "activate")
        answers.clear()
        until(lambda: answers, "answers")
    finally:
        stop.set()
        thread.join()
    assert node.lives


def test_nothing_comes_while_inactive(active: Make, peer: Peer) -> None:
    node = active().node
    answers = instances(peer)
    publisher = peer.publisher()
    ask(peer, publisher, image(picture()), answers)
    assert peer.change("deactivate")
    until(lambda: not peer.node.count_subscribers("/image"), "unsubscribed")
    answers.clear()
    for _ in range(20):
        publisher.publish(image(picture()))
    assert node.count_subscribers("/image") == 0
    assert peer.change("activate")
    ask(peer, publisher, image(picture(), stamp=(9, 9)), answers)
    assert {one.header.stamp.sec for one in answers} == {9}


def test_topics_are_taken_back(active: Make, peer: Peer) -> None:
    active()
    topics = ("instances", "label_map", "overlay", "image", "label_info")
    assert peer.change("deactivate") and peer.change("cleanup")
    until(lambda: not any(peer.node.count_publishers(f"/segment/{topic}") for topic in topics))


# Bundles.

DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (shutil.rmtree, "got bundle"),
    "empty_folder": (lambda path: [one.unlink() for one in path.iterdir()], "bundle.json"),
    "no_index": (lambda path: (path / "bundle.json").unlink(), "bundle.json"),
    "broken_index": (lambda path: (path / "bundle.json").write_text("{"), "bundle.json"),
    "no_network": (lambda path: (path / "model.onnx").unlink(), "model.onnx"),
    "other_network": (lambda path: (path / "model.onnx").write_bytes(b"damaged"), "model.onnx"),
    "truncated_network": (lambda path: (path / "model.onnx").write_bytes(b""), "model.onnx"),
    "a_file": (lambda path: (shutil.rmtree(path), path.write_text("no folder")), "got"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_can_be_mended(
    name: str, fake_bundle: Path, spun: Make, peer: Peer, tmp_path: Path
) -> None:
    """Configure fails with one sentence, in log and diagnostics; after the repair it works."""
    damage, named = DAMAGES[name]
    bundle = shutil.copytree(fake_bundle, tmp_path / "bundle")
    damage(bundle)
    node = spun(model=str(bundle))
    for _ in range(2):
        assert not peer.change("configure")
        assert peer.state() == "unconfigured"
    said = peer.hears("^configure: ")[0]
    assert named in said and "; wanted " in said and "\n" not in said
    until(lambda: peer.health("segmentation")[0] == 2, lambda: peer.statuses)
    assert f"configure: {peer.health('segmentation')[1]}" == said
    shutil.rmtree(bundle) if bundle.is_dir() else bundle.unlink(missing_ok=True)
    shutil.copytree(fake_bundle, bundle)
    assert peer.change("configure") and peer.change("activate"), peer.logs
    ask(peer, peer.publisher(), image(picture()), instances(peer))
    until(lambda: peer.health("segmentation")[0] == 0, lambda: peer.statuses)
    assert node.lives


def test_an_unknown_engine_fails_at_configure(spun: Make, peer: Peer) -> None:
    spun(engine="steam")
    assert not peer.change("configure")
    assert peer.hears("^configure: .*steam.*; wanted")
    assert peer.set(engine="fake") == ""
    assert peer.change("configure")


def test_an_index_of_another_version_fails_at_configure(
    fake_bundle: Path, spun: Make, peer: Peer, tmp_path: Path
) -> None:
    bundle = shutil.copytree(fake_bundle, tmp_path / "bundle")
    table = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**table, "surprise": 1}))
    spun(model=str(bundle))
    assert not peer.change("configure")
    assert peer.hears("^configure: .*surprise")


# A network that takes its time.


@pytest.fixture
def slow(active: Make, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An active node whose network works on an image until ``slow.go`` is set."""
    node = active()
    node.go, node.busy = threading.Event(), threading.Event()
    engine = node.node._segmenter._engine
    run = engine._run

    def wait() -> Any:
        node.busy.set()
        node.go.wait(20)
        return run()

    monkeypatch.setattr(engine, "_run", wait)
    publisher = peer.publisher()
    node.answers = instances(peer)

    def started() -> bool:
        publisher.publish(image(picture()))
        return node.busy.is_set()

    until(started, "the network at work", every_s=0.05)
    yield node
    node.go.set()


def test_deactivate_does_not_wait_for_the_network(slow: Any, peer: Peer) -> None:
    begin = time.monotonic()
    assert peer.change("deactivate")
    assert time.monotonic() - begin < 2.0
    assert not peer.change("activate")
    assert peer.hears("^activate: .*still works on an old frame; wanted it finished; try again")
    assert peer.state() == "inactive"
    slow.go.set()
    until(lambda: peer.change("activate"), "activation", every_s=0.05)
    assert not slow.answers, "what it worked on is not published any more"
    ask(peer, peer.publisher(), image(picture(), stamp=(5, 5)), slow.answers)


def test_cleanup_does_not_wait_for_the_network(slow: Any, peer: Peer) -> None:
    begin = time.monotonic()
    assert peer.change("deactivate") and peer.change("cleanup")
    assert time.monotonic() - begin < 4.0
    assert peer.change("configure")
    slow.go.set()
    until(lambda: peer.change("activate"), "activation", every_s=0.05)
    ask(peer, peer.publisher(), image(picture(), stamp=(5, 5)), slow.answers)
    assert {one.header.stamp.sec for one in slow.answers} == {5}


def test_shutdown_does_not_wait_for_the_network(slow: Any, peer: Peer) -> None:
    begin = time.monotonic()
    assert peer.change("shutdown")
    assert time.monotonic() - begin < 2.0
    assert peer.state() == "finalized"


def test_services_answer_while_the_network_works(slow: Any, peer: Peer) -> None:
    begin = time.monotonic()
    assert peer.set(score_threshold=0.3) == ""
    assert peer.state() == "active"
    assert time.monotonic() - begin < 1.0
