"""Segmenter and load: one frame's way, its messages, and its memory."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeseg
from edgeseg.engines.fake import FakeEngine, fake_spec
from edgeseg.errors import BundleError, EdgesegError, EngineError, InputError
from edgeseg.frame import Frame
from edgeseg.segmenter import Segmenter, load


def scene(height: int, width: int) -> NDArray[np.uint8]:
    """BGR: a red and a smaller green rectangle on black, in twelfths of the sides."""
    picture = np.zeros((height, width, 3), np.uint8)
    y, x = height // 12, width // 12
    picture[2 * y : 7 * y, x : 6 * x] = (0, 0, 255)
    picture[9 * y : 11 * y, 8 * x : 11 * x] = (0, 255, 0)
    return picture


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(FakeEngine(fake_spec((240, 320))))


@pytest.mark.parametrize("size_hw", [(480, 640), (720, 1280), (1280, 720), (240, 320)])
def test_frame_in_instances_out(segmenter: Segmenter, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    found = segmenter(Frame(scene(*size_hw), "bgr8", stamp_ns=123, sequence=9))
    assert [segmenter.spec.classes[label] for label in found.labels] == ["red", "green"]
    assert (found.height, found.width, found.stamp_ns, found.sequence) == (*size_hw, 123, 9)
    y, x = height // 12, width // 12
    wanted = [[x, 2 * y, 6 * x, 7 * y], [8 * x, 9 * y, 11 * x, 11 * y]]
    slack = 4 * max(height / 240, width / 320)  # one mask logit
    assert np.abs(found.boxes_xyxy - wanted).max() <= slack
    truth = scene(*size_hw)[..., 2] > 0
    assert (found.mask(0) & truth).sum() / (found.mask(0) | truth).sum() > 0.9


def test_an_array_is_a_bgr_frame(segmenter: Segmenter) -> None:
    array, frame = scene(480, 640), Frame(scene(480, 640), "bgr8")
    assert segmenter(array).rle(0) == segmenter(frame).rle(0)
    assert segmenter(Frame(array, "rgb8")).labels.tolist() == [2, 1]  # red read as blue


def test_a_frame_without_objects(segmenter: Segmenter) -> None:
    assert len(segmenter(np.zeros((480, 640, 3), np.uint8))) == 0


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 2), (8, 10000), (10000, 8)])
def test_extreme_frames(size_hw: tuple[int, int]) -> None:
    segmenter = Segmenter(FakeEngine(fake_spec((240, 320), mask_stride=1)))
    found = segmenter(np.full((*size_hw, 3), 255, np.uint8))
    assert found.boxes_xyxy.tolist() == [[0, 0, size_hw[1], size_hw[0]]]
    assert found.mask(0).all()


@pytest.mark.parametrize("size_hw", [(1, 10000), (10000, 1)])
def test_frames_too_thin_to_see_anything(segmenter: Segmenter, size_hw: tuple[int, int]) -> None:
    found = segmenter(np.full((*size_hw, 3), 255, np.uint8))
    assert (len(found), found.height, found.width) == (0, *size_hw)


def test_the_frame_is_not_released(segmenter: Segmenter) -> None:
    released: list[int] = []
    with Frame(scene(48, 64), "bgr8", on_release=lambda: released.append(1)) as frame:
        segmenter(frame)
        assert not released


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((480, 640), np.uint8), "got pixels uint8 (480, 640) for bgr8; wanted uint8"),
        (np.zeros((480, 640, 3)), "got pixels float64 (480, 640, 3) for bgr8; wanted uint8"),
        (np.zeros((0, 640, 3), np.uint8), "with no empty side"),
        ("picture.png", "got pixels of type str; wanted a numpy array of uint8"),
        (None, "got pixels of type NoneType; wanted a numpy array of uint8"),
    ],
)
def test_what_is_no_picture(segmenter: Segmenter, picture: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        segmenter(picture)


def test_timings_count_frames(segmenter: Segmenter) -> None:
    for _ in range(3):
        segmenter(scene(480, 640))
    assert {name: ring.count for name, ring in segmenter.timings.items()} == {
        "preprocess": 3,
        "network": 3,
        "decode": 3,
    }
    assert segmenter.timings["network"].p50 > 0


@pytest.mark.parametrize("size_hw", [(480, 640), (720, 1280), (1280, 720)])
def test_no_frame_sized_buffer_in_steady_state(
    segmenter: Segmenter, size_hw: tuple[int, int]
) -> None:
    picture = scene(*size_hw)
    frames = [Frame(picture, "bgr8"), Frame(picture, "rgb8")]
    for frame in frames:
        segmenter(frame)
        segmenter(frame)
        tracemalloc.start()
        for _ in range(5):
            segmenter(frame)
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < size_hw[0] * size_hw[1] / 2  # a frame is 3 bytes per pixel, a mask 1
        assert now < 20_000


def test_closed(segmenter: Segmenter) -> None:
    with segmenter:
        segmenter(scene(48, 64))
    segmenter.close()
    with pytest.raises(EngineError, match="closed"):
        segmenter(scene(48, 64))
    assert segmenter.timings["network"].count == 1


def test_load_a_folder(fake_bundle: Path) -> None:
    with load(fake_bundle, engine="fake") as segmenter:
        assert len(segmenter(scene(480, 640))) == 2
        assert segmenter.spec.name == "fake"
        assert "fake engine" in segmenter.describe()
    assert edgeseg.load is load


def test_load_settings(fake_bundle: Path) -> None:
    only = load(fake_bundle, "fake", precision="fp32", threads=1, classes=["green"])
    assert only(scene(480, 640)).labels.tolist() == [1]
    strict = load(fake_bundle, "fake", score_threshold=0.945)
    assert strict(scene(480, 640)).labels.tolist() == [0]


def test_the_choice_changes_from_the_next_frame_on(fake_bundle: Path) -> None:
    with load(fake_bundle, "fake", max_instances=1) as segmenter:
        assert segmenter(scene(480, 640)).labels.tolist() == [0]
        segmenter.choose(classes=["green"])
        assert segmenter(scene(480, 640)).labels.tolist() == [1]
        with pytest.raises(InputError, match="got class 'grey'"):
            segmenter.choose(classes=["grey"])
        assert segmenter(scene(480, 640)).labels.tolist() == [1]
        segmenter.choose()
        assert segmenter(scene(480, 640)).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "orr"}, "got engine 'orr'; wanted one of"),
        ({"engine": "orr"}, "did you mean 'ort'?"),
        ({"precision": "int4"}, "got precision 'int4'; wanted one of fp32;"),
        ({"classes": ["gren"]}, "got class 'gren'; wanted one of blue, green, red; did you mean"),
        ({"score_threshold": 1.01}, "got score threshold 1.01; wanted a number from 0 to 1;"),
        ({"score_threshold": -1}, "got score threshold -1; wanted a number from 0 to 1;"),
        ({"max_instances": 0}, "got max_instances 0; wanted 1 or more; leave it out for all"),
        ({"threads": -1}, "got -1 threads; wanted 0 to 1024; 0 leaves it to the library"),
        ({"threads": 1025}, "got 1025 threads; wanted 0 to 1024; 0 leaves it to the library"),
    ],
)
def test_load_refuses(fake_bundle: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load(fake_bundle, **({"engine": "fake"} | settings))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_load_of_nothing() -> None:
    with pytest.raises(BundleError, match=r"got bundle 'nope'; wanted .*; ") as caught:
        load("nope")
    assert isinstance(caught.value, EdgesegError)
    assert "\n" not in str(caught.value)
