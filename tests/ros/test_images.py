"""Images as publishers get them wrong, and as they may well be."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ros.harness import Image, Peer, ask, image, picture, stamp_of, until

from edgeseg.messages import ENCODINGS, masks

pytestmark = pytest.mark.ros
Make = Callable[..., Any]
HUGE = 2**31
BROKEN = {
    "zero_size": ({"height": 0, "width": 0, "step": 0, "data": array("B")}, "image of 0x0"),
    "zero_height": ({"height": 0, "data": array("B")}, "image of 128x0"),
    "short_step": ({"step": 383}, "step 383 for 128 pixels of bgr8; wanted at least 384"),
    "zero_step": ({"step": 0}, "step 0"),
    "long_step": ({"step": 400}, "36864 bytes .* step 400; wanted 38400"),
    "short_data": ({"data": array("B", bytes(36863))}, "36863 bytes .*; wanted 36864"),
    "long_data": ({"data": array("B", bytes(36865))}, "36865 bytes .*; wanted 36864"),
    "no_data": ({"data": array("B")}, "0 bytes for 128x96"),
    "unknown_encoding": ({"encoding": "rgb9"}, "encoding 'rgb9'; wanted one of rgb8"),
    "empty_encoding": ({"encoding": ""}, "encoding ''"),
    "sixteen_bits": ({"encoding": "16UC1", "step": 256}, "'16UC1'.* convert it to 8 bits"),
    "mono16": ({"encoding": "mono16", "step": 256}, "'mono16'.* convert it to 8 bits"),
    "depth": ({"encoding": "32FC1", "step": 512}, "'32FC1'.* convert it to 8 bits"),
    "bayer": ({"encoding": "bayer_rggb8", "step": 128}, "'bayer_rggb8'.* convert it"),
    "huge_with_10_bytes": (
        {"height": HUGE, "width": HUGE, "step": HUGE, "data": array("B", bytes(10))},
        f"image of {HUGE}x{HUGE}",
    ),
    "huge_step_with_10_bytes": (
        {"height": HUGE, "width": 1, "step": HUGE, "encoding": "mono8", "data": array("B", b"1")},
        "image of 1x",
    ),
}


@pytest.fixture
def answers(active: Make, peer: Peer) -> list[Any]:
    """What an active node answers to images."""
    from edgeseg_msgs.msg import InstanceArray

    active()
    return peer.collect(InstanceArray, "/segment/instances")


@pytest.mark.parametrize("name", BROKEN)
def test_refused_and_survived(name: str, answers: list[Any], peer: Peer) -> None:
    """One sentence in log and diagnostics, no answer, and the next good image is segmented."""
    fields, sentence = BROKEN[name]
    publisher = peer.publisher()
    broken = image(picture(), stamp=(1, 1), **fields)

    def refused() -> bool:
        publisher.publish(broken)
        return bool(peer.said(f"^image refused: got .*{sentence}"))

    until(refused, lambda: peer.logs, every_s=0.02)
    _, text, values = until(
        lambda: (found := peer.health())[0] == 2 and found, lambda: peer.statuses
    )
    assert text == values["last refused image"]
    assert "\n" not in text and "; wanted " in text
    assert int(values["dropped, corrupt"]) > 0
    assert not answers
    (found,) = ask(peer, publisher, image(picture(), stamp=(2, 2)), answers)
    assert len(found.ids) == 2
    assert len(peer.said("^image refused")) == 1, "once, not for every image"


def test_padded_rows_are_read(answers: list[Any], peer: Peer) -> None:
    padded = np.full((96, 400), 255, np.uint8)
    padded[:, :384] = picture().reshape(96, 384)
    message = image(picture(), step=400, data=array("B", padded.tobytes()))
    (found,) = ask(peer, peer.publisher(), message, answers)
    assert (found.height, found.width) == (96, 128)
    assert masks(found)[0][12, 20] and not masks(found)[:, :, -4:].any()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_read(encoding: str, answers: list[Any], peer: Peer) -> None:
    import cv2

    bgr = picture()
    converted = {
        "rgb8": lambda: bgr[:, :, ::-1],
        "bgr8": lambda: bgr,
        "rgba8": lambda: cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA),
        "bgra8": lambda: cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA),
        "mono8": lambda: bgr.max(2),
        "nv12": lambda: np.vstack((bgr.max(2), np.full((48, 128), 128, np.uint8))),
        "yuyv": lambda: np.stack((bgr.max(2), np.full((96, 128), 128, np.uint8)), 2),
        "uyvy": lambda: np.stack((np.full((96, 128), 128, np.uint8), bgr.max(2)), 2),
    }
    pixels = np.ascontiguousarray(converted[ENCODINGS[encoding]]())
    message = image(pixels, encoding, height=96)
    (found,) = ask(peer, peer.publisher(), message, answers)
    assert (found.height, found.width, len(found.ids)) == (96, 128, 2)
    if ENCODINGS[encoding] in ("rgb8", "bgr8", "rgba8", "bgra8"):
        assert {*found.class_ids} == {0, 1}, "red and green keep their places"


def test_encoding_changes_mid_stream(answers: list[Any], peer: Peer) -> None:
    publisher = peer.publisher()
    rgb, grey = picture()[:, :, ::-1], picture().max(2)
    for second, (pixels, encoding) in enumerate(
        [(picture(), "bgr8"), (rgb, "rgb8"), (grey, "mono8"), (picture(), "bgr8")]
    ):
        sent = image(np.ascontiguousarray(pixels), encoding, (second, 0))
        (found,) = ask(peer, publisher, sent, answers)
        assert [*found.class_ids] == ([0, 0] if encoding == "mono8" else [0, 1]), encoding


def test_encoding_changes_to_an_unreadable_one(answers: list[Any], peer: Peer) -> None:
    """Also where all was well before, diagnostics say that every image is refused now."""
    publisher = peer.publisher()
    ask(peer, publisher, image(picture()), answers)
    until(lambda: peer.health()[0] == 0, lambda: peer.statuses)
    wrong = image(picture(), encoding="16UC3", stamp=(2, 0))

    def refused() -> bool:
        publisher.publish(wrong)
        level, text, _ = peer.health()
        return level == 2 and "16UC3" in text

    until(refused, lambda: peer.statuses, every_s=0.02)
    ask(peer, publisher, image(picture(), stamp=(3, 0)), answers)

    def well() -> bool:
        publisher.publish(image(picture(), stamp=(4, 0)))
        return peer.health()[0] == 0

    until(well, lambda: peer.statuses, every_s=0.02)


def test_resolution_changes_mid_stream(answers: list[Any], peer: Peer) -> None:
    publisher = peer.publisher()
    sizes = [(96, 128), (480, 640), (97, 131), (1, 1), (2000, 300), (96, 128)]
    for second, (height, width) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: height // 2 + 1, : width // 2 + 1] = 255
        (found,) = ask(peer, publisher, image(pixels, stamp=(second, 0)), answers)
        assert (found.height, found.width) == (height, width)
        assert masks(found).shape == (1, height, width)


STAMPS = {
    "negative": [(-1, 0), (-(2**31), 7)],
    "zero": [(0, 0), (0, 0), (0, 0)],
    "far_future": [(2**31 - 1, 999_999_999)],
    "nanoseconds_above_a_second": [(5, 2**32 - 1)],
    "backward": [(1000, 0), (10, 0), (1001, 0), (9, 5)],
    "equal": [(77, 7)] * 3,
}


@pytest.mark.parametrize("name", STAMPS)
def test_stamps_are_passed_on(name: str, answers: list[Any], peer: Peer) -> None:
    """Whatever a publisher says of the time, each output carries it unchanged, and all live on."""
    maps = peer.collect(Image, "/segment/label_map")
    publisher = peer.publisher()
    for stamp in STAMPS[name]:
        answers.clear()
        maps.clear()
        found, labelled = ask(peer, publisher, image(picture(), stamp=stamp), answers, maps)
        assert stamp_of(found) == stamp_of(labelled) == stamp
    until(lambda: "stamp age s" in peer.health()[2], lambda: peer.statuses)
    assert peer.health("segmentation")[2]["callback errors"] == "0"
    assert not peer.said("_tick")


def test_empty_and_odd_frame_names_are_passed_on(answers: list[Any], peer: Peer) -> None:
    publisher = peer.publisher()
    for second, name in enumerate(["", "/left/optical", "Kamera ä 工", "x" * 3000]):
        sent = image(picture(), stamp=(second, 0))
        sent.header.frame_id = name
        (found,) = ask(peer, publisher, sent, answers)
        assert found.header.frame_id == name
