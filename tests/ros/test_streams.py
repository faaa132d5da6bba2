"""Two processes over DDS: a publisher of the packaged clip, and the node."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros.clip_publisher import clip
from ros.harness import NODE, PROFILE, Peer, stamp_of, until

import edgeseg
from edgeseg.messages import masks

pytestmark = pytest.mark.ros
SIZES = [(640, 480), (1280, 720)]
ATTEMPTS = 3
Sent = dict[tuple[int, int], int]


class Trial:
    """What one publisher sent and what came back from one node."""

    def __init__(
        self, start: Callable[..., Any], peer: Peer, log: Path, size: tuple[int, int], count: int
    ) -> None:
        from edgeseg_msgs.msg import InstanceArray

        self._peer = peer
        self.received = peer.collect(InstanceArray, "/segment/instances")
        until(lambda: peer.node.count_publishers("/segment/instances"), "the node's topic")
        script = Path(__file__).with_name("clip_publisher.py")
        words = (sys.executable, script, *size, 30, count, log)
        publisher = start(*words, FASTDDS_DEFAULT_PROFILES_FILE=str(PROFILE))
        publisher.says("done", 60)
        rows = map(json.loads, log.read_text().splitlines())
        self.sent: Sent = {(sec, nanosec): number for number, sec, nanosec in rows}
        assert len(self.sent) == count
        last = [*self.sent][-1]
        # The last may be dropped as any other; then what is under way has half a second.
        with suppress(AssertionError):
            until(lambda: self.received and stamp_of(self.received[-1]) == last, limit_s=0.5)
        publisher.kill()

    def check_headers(self) -> None:
        """Each is one that was sent, once and in its order."""
        stamps = [stamp_of(message) for message in self.received]
        assert set(stamps) <= set(self.sent)
        assert stamps == sorted(set(stamps))
        assert {message.header.frame_id for message in self.received} == {"clip_optical_frame"}

    @property
    def delivered(self) -> float:
        return len(self.received) / len(self.sent)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_are_those_of_the_python_api(
    size: tuple[int, int], start: Callable[..., Any], peer: Peer, tmp_path: Path
) -> None:
    node = start(
        *NODE, "-r", "image:=image_raw", "-p", "autostart:=true", "-p", "model:=fastinst-nano"
    )
    node.says("loaded fastinst-nano")
    trial = Trial(start, peer, tmp_path / "sent.jsonl", size, count=45)
    trial.check_headers()
    assert len(trial.received) >= 5
    pictures = clip(*size, 45)
    segmenter = edgeseg.load("fastinst-nano")
    seen = 0
    for message in trial.received:
        wanted = segmenter(pictures[trial.sent[stamp_of(message)]])
        assert (message.width, message.height) == size
        found = masks(message)
        assert found.shape == (len(wanted), size[1], size[0])
        assert all(np.array_equal(found[i], wanted.mask(i)) for i in range(len(wanted)))
        assert np.array_equal(message.class_ids, wanted.labels)
        assert np.array_equal(message.scores, wanted.scores)
        assert np.array_equal(np.reshape(message.boxes_xyxy, (-1, 4)), wanted.boxes_xyxy)
        seen += len(wanted)
    assert seen, "the clip has objects"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_frames_are_delivered(
    size: tuple[int, int],
    start: Callable[..., Any],
    node_words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """At 30 Hz, 99 %; on a machine with other work the best of some attempts counts."""
    node = start(*node_words, "-r", "image:=image_raw")
    node.says("loaded fake")
    parts = []
    for attempt in range(ATTEMPTS):
        peer = Peer()
        try:
            trial = Trial(start, peer, tmp_path / f"sent{attempt}.jsonl", size, count=150)
        finally:
            peer.close()
        trial.check_headers()
        parts.append(trial.delivered)
        if parts[-1] >= 0.99:
            break
    assert max(parts) >= 0.99, parts
