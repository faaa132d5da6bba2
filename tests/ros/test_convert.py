"""Messages are filled as rclpy wants them; with plain objects, so without ROS."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg import messages
from edgeseg.engines.fake import fake_spec
from edgeseg.frame import Frame
from edgeseg.instances import Instances, from_masks
from edgeseg.sinks.overlay import Overlay
from edgeseg_ros import convert

HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=2), frame_id="optical")


def instances(count: int, height: int = 12, width: int = 40) -> Instances:
    """Columns of one pixel, all in another place as long as there is room."""
    masks = np.zeros((count, height, width), np.bool_)
    for i in range(count):
        masks[i, i // width % height, i % width] = True
    scores = np.linspace(0.9, 0.5, count)
    return from_masks(masks, scores=scores, labels=np.arange(count) % 3)


def image_message() -> Any:
    return SimpleNamespace(height=0, width=0, encoding="", step=0, is_bigendian=0, data=array("B"))


# Stamps.


@pytest.mark.parametrize(
    "time_ns, wanted",
    [
        (0, (0, 0)),
        (1, (0, 1)),
        (1_500_000_000, (1, 500_000_000)),
        (-1, (-1, 999_999_999)),
        (-(10**9), (-1, 0)),
        (2**31 * 10**9 - 1, (2**31 - 1, 999_999_999)),
        (2**31 * 10**9, (2**31 - 1, 999_999_999)),
        (10**30, (2**31 - 1, 999_999_999)),
        (-(2**31) * 10**9, (-(2**31), 0)),
        (-(10**30), (-(2**31), 0)),
    ],
)
def test_stamps(time_ns: int, wanted: tuple[int, int]) -> None:
    """What int32 seconds can't hold is held at their ends."""
    stamp = SimpleNamespace()
    convert.fill_stamp(stamp, time_ns)
    assert (stamp.sec, stamp.nanosec) == wanted
    assert type(stamp.sec) is type(stamp.nanosec) is int
    if abs(time_ns) < 2**31 * 10**9:
        assert convert.stamp_ns(stamp) == time_ns


def test_stamps_that_publishers_get_wrong_are_read() -> None:
    assert convert.stamp_ns(SimpleNamespace(sec=5, nanosec=2**32 - 1)) == 5 * 10**9 + 2**32 - 1
    assert convert.stamp_ns(SimpleNamespace(sec=-(2**31), nanosec=0)) == -(2**31) * 10**9


# Instances.


def test_arrays_are_of_the_kind_that_is_not_checked_item_by_item() -> None:
    message = SimpleNamespace()
    convert.fill_instances(message, HEADER, instances(5))
    assert message.header is HEADER
    codes = {name: value.typecode for name, value in vars(message).items() if _is_array(value)}
    assert codes == {
        "ids": "i",
        "class_ids": "i",
        "scores": "f",
        "boxes_xyxy": "f",
        "mask_starts": "I",
        "mask_counts": "I",
    }
    assert all(value.itemsize == 4 for value in vars(message).values() if _is_array(value))
    assert (message.height, message.width) == (12, 40)
    assert len(message.boxes_xyxy) == 20


def _is_array(value: object) -> bool:
    return isinstance(value, array)


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_instances_come_back(count: int) -> None:
    message = SimpleNamespace()
    given = instances(count)
    convert.fill_instances(message, HEADER, given)
    found = messages.masks(message)
    assert found.shape == (count, 12, 40)
    assert all(np.array_equal(found[i], given.mask(i)) for i in range(count))
    assert [*message.ids] == [*range(count)]
    assert np.array_equal(message.class_ids, given.labels)
    assert np.array_equal(message.scores, given.scores)


def test_arrays_are_the_messages_own() -> None:
    """A message may be kept: the instances' memory isn't in it."""
    message, given = SimpleNamespace(), instances(2)
    convert.fill_instances(message, HEADER, given)
    before = [*message.scores]
    given.scores[:] = 0
    assert [*message.scores] == before


# Pictures.


def test_a_picture_keeps_its_memory() -> None:
    picture = convert.Picture(image_message())
    frame = Frame(np.full((8, 6, 3), 7, np.uint8), "bgr8")
    picture.show_frame(HEADER, frame)
    first = picture.message.data
    address = first.buffer_info()[0]
    assert (picture.message.height, picture.message.width, picture.message.step) == (8, 6, 18)
    assert (picture.message.encoding, picture.message.is_bigendian) == ("bgr8", 0)
    assert picture.message.header is HEADER
    assert {*first} == {7} and len(first) == 144
    other = SimpleNamespace()
    picture.show_frame(other, Frame(np.full((8, 6, 3), 9, np.uint8), "bgr8"))
    assert picture.message.data is first and first.buffer_info()[0] == address
    assert {*first} == {9} and picture.message.header is other


@pytest.mark.parametrize("size_hw", [(6, 8), (9, 6), (8, 7), (1, 1)])
def test_a_picture_of_another_size_is_made_anew(size_hw: tuple[int, int]) -> None:
    picture = convert.Picture(image_message())
    picture.show_frame(HEADER, Frame(np.full((8, 6, 3), 7, np.uint8), "bgr8"))
    first = picture.message.data
    pixels = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    picture.show_frame(HEADER, Frame(pixels, "bgr8"))
    assert picture.message.data is not first
    assert picture.message.data.tobytes() == pixels.tobytes()
    assert (picture.message.height, picture.message.width) == size_hw
    assert picture.message.step == 3 * size_hw[1]


def test_a_message_that_copies_what_it_is_given_is_filled_too() -> None:
    """As rclpy's does where its fields are checked."""

    class Copying(SimpleNamespace):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, array("B", value) if name == "data" else value)

    picture = convert.Picture(Copying(**vars(image_message())))
    for value in (7, 8):
        picture.show_frame(HEADER, Frame(np.full((4, 4, 3), value, np.uint8), "bgr8"))
        assert {*picture.message.data} == {value}


@pytest.mark.parametrize("encoding", ["rgb8", "rgba8", "bgra8", "mono8", "yuyv", "nv12"])
def test_pictures_are_bgr_whatever_comes_in(encoding: Any) -> None:
    shapes = {"mono8": (4, 6), "nv12": (6, 6), "yuyv": (4, 6, 2)}
    shape = shapes.get(encoding, (4, 6, len(encoding) - 1))
    picture = convert.Picture(image_message())
    picture.show_frame(HEADER, Frame(np.full(shape, 128, np.uint8), encoding))
    assert (picture.message.encoding, picture.message.height, picture.message.width) == (
        "bgr8",
        4,
        6,
    )
    assert np.ptp(np.frombuffer(picture.message.data, np.uint8)) <= 4, "grey stays grey"


@pytest.mark.parametrize(
    "count, encoding, size", [(0, "mono8", 1), (254, "mono8", 1), (255, "mono16", 2)]
)
def test_label_maps(count: int, encoding: str, size: int) -> None:
    """One byte up to 254 instances, two above, in the machine's own order."""
    picture = convert.Picture(image_message())
    given = instances(count)
    picture.show_label_map(HEADER, given)
    message = picture.message
    assert (message.encoding, message.step, len(message.data)) == (encoding, 40 * size, 480 * size)
    found = np.frombuffer(message.data, np.uint8 if size == 1 else "<u2").reshape(12, 40)
    assert message.is_bigendian == 0
    assert np.array_equal(found, given.label_map())
    assert {*np.unique(found)} == {*range(count + 1)}


def test_a_label_map_grows_and_shrinks_again() -> None:
    picture = convert.Picture(image_message())
    for count in (3, 300, 2, 0):
        picture.show_label_map(HEADER, instances(count))
        kind = np.uint16 if count > 254 else np.uint8
        found = np.frombuffer(picture.message.data, kind)
        assert {*found} == {*range(count + 1)}


def test_an_overlay_leaves_the_frame_alone() -> None:
    pixels = np.full((12, 40, 3), 50, np.uint8)
    picture = convert.Picture(image_message())
    pen = Overlay(("a", "b", "c"))
    given = from_masks(np.ones((1, 12, 40), np.bool_), scores=[0.9], labels=[1])
    picture.show_overlay(HEADER, Frame(pixels, "bgr8"), given, pen)
    wanted = pixels.copy()
    pen.draw(wanted, given)
    assert {*pixels.flat} == {50}
    assert picture.message.data.tobytes() == wanted.tobytes() != pixels.tobytes()


# Detections, label info, diagnostics.


def detection() -> Any:
    centre = SimpleNamespace(position=SimpleNamespace(x=0.0, y=0.0), theta=0.0)
    return SimpleNamespace(bbox=SimpleNamespace(center=centre, size_x=0.0, size_y=0.0))


def test_detections() -> None:
    """Boxes as centre and size, from the left top corner of the left top pixel."""
    masks = np.zeros((2, 12, 40), np.bool_)
    masks[0, 2:6, 10:20] = True
    masks[1, 11, 39] = True
    given = from_masks(masks, scores=[0.5, 0.75], labels=[2, 0])
    message = SimpleNamespace(detections=[])
    kinds = detection, lambda: SimpleNamespace(hypothesis=SimpleNamespace())
    convert.fill_detections(message, *kinds, HEADER, given, ("mug", "can", "box"))
    assert message.header is HEADER
    best, other = message.detections
    assert (best.id, other.id) == ("0", "1")
    assert best.header is other.header is HEADER
    assert [best.results[0].hypothesis.class_id, best.results[0].hypothesis.score] == ["mug", 0.75]
    assert other.results[0].hypothesis.class_id == "box"
    assert type(best.results[0].hypothesis.score) is float
    assert (best.bbox.center.position.x, best.bbox.center.position.y) == (39.5, 11.5)
    assert (best.bbox.size_x, best.bbox.size_y) == (1.0, 1.0)
    assert (other.bbox.center.position.x, other.bbox.center.position.y) == (15.0, 4.0)
    assert (other.bbox.size_x, other.bbox.size_y) == (10.0, 4.0)


def test_no_detections() -> None:
    message = SimpleNamespace(detections=[])
    convert.fill_detections(message, detection, SimpleNamespace, HEADER, instances(0), ())
    assert message.detections == [] and message.header is HEADER


@pytest.mark.parametrize("given, told", [(None, fake_spec().score_threshold), (0.0, 0.0)])
def test_label_info(given: float | None, told: float) -> None:
    message = SimpleNamespace()
    convert.fill_label_info(message, fake_spec(), "abc", given)
    assert (message.model, message.model_sha256, message.score_threshold) == ("fake", "abc", told)
    assert message.class_names == ["red", "green", "blue"]


def test_diagnostics() -> None:
    message = SimpleNamespace(status=[])
    rows = [("a: input", "/image", 1, "slow", {"rate Hz": 3.5, "n": 2}), ("b", "", 3, "", {})]
    kinds = lambda: SimpleNamespace(values=[]), SimpleNamespace
    convert.fill_diagnostics(message, *kinds, rows)
    first, second = message.status
    assert (first.name, first.hardware_id, first.level) == ("a: input", "/image", b"\x01")
    assert first.message == "slow"
    assert [(pair.key, pair.value) for pair in first.values] == [("rate Hz", "3.5"), ("n", "2")]
    assert (second.level, second.values) == (b"\x03", [])
