"""Frames that come from a camera or a file inside the node, and the camera process."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros.harness import BEST_EFFORT, CAMERA, PROFILE, Image, Peer, footprint, stamp_of, until

import edgeseg
from edgeseg.cameras import open_camera
from edgeseg.messages import masks

pytestmark = pytest.mark.ros
Make = Callable[..., Any]
SYNTHETIC = "synthetic:160x120@60"
ERROR, STALE = 2, 3


def instances(peer: Peer) -> list[Any]:
    from edgeseg_msgs.msg import InstanceArray

    return peer.collect(InstanceArray, "/segment/instances")


def nanoseconds(message: Any) -> int:
    sec, nanosec = stamp_of(message)
    return sec * 10**9 + nanosec


def listen(spun: Make, peer: Peer, **values: Any) -> tuple[Any, list[Any]]:
    """A configured node whose topic of instances is known to the peer, and what it will answer."""
    node = spun(**values)
    assert peer.change("configure"), peer.logs
    answers = instances(peer)
    until(lambda: node.node.count_subscribers("/segment/instances"), "the peer")
    until(lambda: peer.node.count_publishers("/segment/instances"), "the node")
    return node, answers


def test_a_camera_inside_the_node(active: Make, peer: Peer) -> None:
    answers = instances(peer)
    node = active(source="camera", camera__source=SYNTHETIC, frame_id="left_optical")
    begin_ns = time.time_ns()
    until(lambda: len(answers) > 30, lambda: peer.logs)
    stamps = [nanoseconds(one) for one in answers]
    assert stamps == sorted(set(stamps))
    assert begin_ns - 5e8 < stamps[0] and stamps[-1] < time.time_ns()
    assert {(one.height, one.width, one.header.frame_id) for one in answers} == {
        (120, 160, "left_optical")
    }
    gaps = np.diff(stamps) / 1e6
    assert 10 < np.median(gaps) < 25, "the camera's own pace, 16.7 ms"
    assert node.node.count_subscribers("/image") == 0
    until(lambda: peer.health()[0] == 0, lambda: peer.statuses)
    assert peer.health()[2]["source"] == "synthetic:160x120@60"
    assert "publishers" not in peer.health()[2]


def test_the_image_is_published_only_while_somebody_looks(active: Make, peer: Peer) -> None:
    answers = instances(peer)
    node = active(source="camera", camera__source=SYNTHETIC).node
    until(lambda: len(answers) > 10, lambda: peer.logs)
    assert node._outputs.published["image"] == 0
    pictures = peer.collect(Image, "/segment/image")
    until(lambda: len(pictures) > 5, lambda: peer.logs)
    first = pictures[0]
    assert (first.encoding, first.height, first.width, first.step) == ("bgr8", 120, 160, 480)
    by_stamp = {stamp_of(one): one for one in list(answers)}
    assert stamp_of(first) in by_stamp, "the very header of its instances"
    camera = open_camera("synthetic:160x120@60", live=False)
    pixels = np.frombuffer(first.data, np.uint8).reshape(120, 160, 3)
    frames = (frame.pixels.copy() for frame in itertools.islice(camera, 600))
    assert any(np.array_equal(pixels, frame) for frame in frames)


def test_a_file_gives_every_frame(spun: Make, peer: Peer, video: Path, fake_bundle: Path) -> None:
    """Each once and in order, the first one too; then its end is said and the node waits."""
    values = {"source": "file", "camera__source": str(video), "no_frame_warning_s": 0.3}
    node, answers = listen(spun, peer, **values)
    assert peer.change("activate"), peer.logs
    until(lambda: len(answers) >= 24, lambda: len(answers))
    segmenter = edgeseg.load(fake_bundle, "fake")
    with open_camera(video) as camera:
        for frame, answer in zip(camera, answers, strict=True):
            with frame:
                wanted = segmenter(frame)
            assert np.array_equal(answer.scores, wanted.scores)
            found = masks(answer)
            assert all(np.array_equal(found[i], wanted.mask(i)) for i in range(len(wanted)))
    until(lambda: peer.health()[0] == STALE, lambda: peer.statuses)
    assert peer.health()[1] == "squares.mp4 has ended"
    assert len(peer.said("squares.mp4 has ended")) == 1
    assert peer.change("deactivate") and peer.change("activate")
    until(lambda: len(answers) >= 48, lambda: len(answers))
    assert node.lives


def test_results_wait_for_the_topics(
    spun: Make, peer: Peer, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics that take their time to become active lose no result."""
    node, answers = listen(spun, peer, source="file", camera__source=str(video))
    for topic in node.node._outputs._topics.values():
        activate = topic.on_activate

        def late(state: Any, activate: Any = activate) -> Any:
            time.sleep(0.1)
            return activate(state)

        monkeypatch.setattr(topic, "on_activate", late)
    assert peer.change("activate"), peer.logs
    until(lambda: len(answers) == 24, lambda: len(answers))


def test_a_missing_file_fails_at_activate(
    spun: Make, peer: Peer, video: Path, tmp_path: Path
) -> None:
    path = tmp_path / "later.mp4"
    _, answers = listen(spun, peer, source="file", camera__source=str(path))
    for _ in range(2):
        assert not peer.change("activate")
        assert peer.state() == "inactive"
    (said,) = set(peer.hears("^activate: "))
    assert "later.mp4" in said and "; wanted " in said
    until(lambda: peer.health("segmentation")[0] == ERROR, lambda: peer.statuses)
    shutil.copy(video, path)
    assert peer.change("activate"), peer.logs
    until(lambda: len(answers) == 24, lambda: len(answers))
    until(lambda: peer.health("segmentation")[0] == 0, lambda: peer.statuses)


def test_a_camera_may_come_later(active: Make, peer: Peer, video: Path, tmp_path: Path) -> None:
    """Activation doesn't wait for it; that it is missing is said, and it is tried again."""
    path = tmp_path / "camera.mp4"
    answers = instances(peer)
    active(source="camera", camera__source=str(path))
    assert peer.state() == "active"
    until(lambda: peer.health("segmentation")[0] == ERROR, lambda: peer.statuses)
    assert "camera.mp4" in peer.health("segmentation")[1]
    assert "trying again in" in peer.health("segmentation")[1]
    assert peer.health("input")[0] == ERROR
    shutil.copy(video, path)
    until(lambda: answers, lambda: peer.logs)
    until(lambda: peer.health("segmentation")[0] == 0, lambda: peer.statuses)


def test_a_camera_that_ends_is_opened_again(active: Make, peer: Peer, video: Path) -> None:
    """Again and again, and nothing of the former ones stays."""
    answers = instances(peer)
    active(source="camera", camera__source=str(video))
    until(lambda: len(answers) > 10, lambda: peer.logs)
    before = footprint()
    until(lambda: len(peer.said("squares.mp4: it has ended; trying again in 1 s")) >= 2)
    answers.clear()
    until(lambda: len(answers) > 3, lambda: peer.logs)
    after = footprint()
    assert after["threads"] <= before["threads"] + 1
    assert after["files"] <= before["files"] + 1


def test_a_camera_that_goes_and_returns(
    active: Make, peer: Peer, video: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(video, tmp_path / "camera.mp4"))
    answers = instances(peer)
    active(source="camera", camera__source=str(path))
    until(lambda: answers, lambda: peer.logs)
    path.unlink()
    peer.hears("got no file .*camera.mp4.*trying again in")
    answers.clear()
    shutil.copy(video, path)
    until(lambda: answers, lambda: peer.logs)
    peer.hears("^frames again")


def test_an_unknown_camera_fails_at_activate(spun: Make, peer: Peer) -> None:
    """What can never work is no camera that may come later."""
    listen(spun, peer, source="camera", camera__source="synthetic:nonsense")
    assert not peer.change("activate")
    assert peer.hears("^activate: .*nonsense.*; wanted ")


def test_a_camera_breaks_while_the_network_works(
    active: Make, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node answers also while a stuck frame holds the end of its stream back."""
    import threading

    from edgeseg.errors import CameraError

    node = active(source="camera", camera__source=SYNTHETIC).node
    go, busy = threading.Event(), threading.Event()
    run = node._segmenter._engine._run

    def wait() -> Any:
        busy.set()
        go.wait(20)
        return run()

    def fail() -> None:
        raise CameraError("got no picture; wanted one; plug it in again")

    try:
        monkeypatch.setattr(node._segmenter._engine, "_run", wait)
        assert busy.wait(5)
        monkeypatch.setattr(node._stream._pipeline._camera, "_read", fail)
        time.sleep(0.5)  # some looks of the watchdog
        begin = time.monotonic()
        assert peer.set(score_threshold=0.3) == ""
        assert peer.state() == "active"
        assert peer.change("deactivate")
        assert time.monotonic() - begin < 4
    finally:
        go.set()


# The camera process.


def test_the_camera_process_keeps_its_pace(start: Make, peer: Peer) -> None:
    words = ("-p", "width:=320", "-p", "height:=200", "-p", "frame_id:=left")
    start(*CAMERA, *words, FASTDDS_DEFAULT_PROFILES_FILE=str(PROFILE))
    pictures = peer.collect(Image, "/image_raw", BEST_EFFORT)
    until(lambda: len(pictures) > 60, lambda: len(pictures))
    one = pictures[-1]
    assert (one.width, one.height, one.step, one.encoding) == (320, 200, 960, "bgr8")
    assert one.header.frame_id == "left"
    stamps = [nanoseconds(each) for each in pictures]
    assert stamps == sorted(set(stamps))
    assert abs(np.median(np.diff(stamps)) / 1e6 - 33.3) < 10


def test_the_camera_process_goes_on_after_the_end(start: Make, peer: Peer, video: Path) -> None:
    start(*CAMERA, "-p", f"device:={video}", "-p", "rate:=100.0")
    pictures = peer.collect(Image, "/image_raw", BEST_EFFORT)
    until(lambda: len(pictures) > 80, lambda: len(pictures))


@pytest.mark.parametrize(
    "word, named",
    [("device:=nowhere.mp4", "nowhere.mp4"), ("rate:=0.0", "rate 0.0"), ("width:=-1", "width -1")],
)
def test_the_camera_process_refuses(word: str, named: str, start: Make) -> None:
    camera = start(*CAMERA, "-p", word)
    assert camera.wait() == 2
    (line,) = camera.text.strip().splitlines()
    assert named in line and "; wanted " in line
