"""The one pass over pixels: every format, letterbox, padding, odd sizes, no growth."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.engines.fake import fake_spec
from edgeseg.errors import EngineError
from edgeseg.frame import Frame
from edgeseg.preprocess import Preprocessor, preprocess

Picture = NDArray[np.uint8]
SPEC = replace(fake_spec((240, 320)), pad_value=(11, 22, 33))


def network_input(spec: ModelSpec = SPEC) -> Picture:
    return np.full((1, *spec.input_hw, 3), 77, np.uint8)


def in_format(rgb: Picture, pixel_format: str) -> Picture:
    """An RGB picture with even sides in another format."""
    if pixel_format == "mono8":
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if pixel_format in ("nv12", "yuyv", "uyvy"):
        y, u, v = bt601(rgb)
        if pixel_format != "nv12":
            chroma = np.stack((u[:, ::2], v[:, 1::2]), 2).reshape(y.shape)
            return np.stack((y, chroma) if pixel_format == "yuyv" else (chroma, y), 2)
        chroma = np.stack((u[::2, ::2], v[::2, ::2]), 2).reshape(y.shape[0] // 2, -1)
        return np.concatenate((y, chroma))
    order = ["rgba".index(channel) for channel in pixel_format[:-1]]
    return np.ascontiguousarray(np.dstack((rgb, np.full(rgb.shape[:2], 255, np.uint8)))[..., order])


def bt601(rgb: Picture) -> tuple[Picture, Picture, Picture]:
    """Y, U, V as cameras send them: ITU-R BT.601, Y 16..235."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return tuple(np.round(plane).astype(np.uint8) for plane in (y, u, v))  # type: ignore[return-value]


def quarters(height: int, width: int) -> Picture:
    """RGB: red, green / blue, grey."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (200, 30, 40)
    picture[: height // 2, width // 2 :] = (20, 190, 50)
    picture[height // 2 :, : width // 2] = (10, 60, 210)
    picture[height // 2 :, width // 2 :] = (120, 120, 120)
    return picture


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("size_hw", [(240, 320), (480, 640), (720, 1280), (100, 140), (96, 128)])
@pytest.mark.parametrize("pixel_format", ["rgb8", "bgr8", "rgba8", "bgra8", "nv12", "yuyv", "uyvy"])
def test_colours_arrive_in_the_order_of_the_spec(
    pixel_format: Any, size_hw: tuple[int, int], colour: str
) -> None:
    rgb = quarters(*size_hw)
    out = network_input()
    geometry = preprocess(
        Frame(in_format(rgb, pixel_format), pixel_format), replace(SPEC, colour=colour), out
    )
    height, width = geometry.scaled_hw
    result = out[0, :height, :width]
    if colour == "bgr":
        result = result[..., ::-1]
    slack = 3 if pixel_format in ("nv12", "yuyv", "uyvy") else 0
    for y, x in (
        (0.25, 0.25),
        (0.25, 0.75),
        (0.75, 0.25),
        (0.75, 0.75),
        (0.02, 0.02),
        (0.98, 0.98),
    ):
        wanted = rgb[int(y * size_hw[0]), int(x * size_hw[1])].astype(int)
        assert np.abs(result[int(y * height), int(x * width)] - wanted).max() <= slack


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (240, 320), np.uint8)
    out = network_input()
    preprocess(Frame(grey, "mono8"), SPEC, out)
    for channel in range(3):
        np.testing.assert_array_equal(out[0, ..., channel], grey)


@pytest.mark.parametrize(
    ("size_hw", "scaled_hw"),
    [((720, 1280), (180, 320)), ((1280, 720), (240, 135)), ((1, 10000), (1, 320)),
     ((10000, 1), (240, 1)), ((1, 1), (240, 240)), ((2, 3), (213, 320))],
)  # fmt: skip
@pytest.mark.parametrize("pixel_format", ["bgr8", "rgb8", "mono8", "bgra8"])
def test_what_the_picture_leaves_is_padding(
    size_hw: tuple[int, int], scaled_hw: tuple[int, int], pixel_format: Any
) -> None:
    channels = {"mono8": (), "bgra8": (4,)}.get(pixel_format, (3,))
    frame = Frame(np.full((*size_hw, *channels), 200, np.uint8), pixel_format)
    out = network_input()
    geometry = preprocess(frame, SPEC, out)
    height, width = geometry.scaled_hw
    assert (height, width) == scaled_hw
    assert (out[0, :height, :width] == 200).all()
    assert (out[0, height:] == SPEC.pad_value).all()
    assert (out[0, :, width:] == SPEC.pad_value).all()


def test_padding_follows_the_frame_and_the_array() -> None:
    once = Preprocessor(SPEC)
    wide = Frame(np.full((90, 320, 3), 200, np.uint8), "bgr8")
    tall = Frame(np.full((240, 100, 3), 200, np.uint8), "bgr8")
    out = network_input()
    for frame in (wide, tall, wide, wide):
        once(frame, out)
        np.testing.assert_array_equal(out, expected(frame))
    other = network_input()
    once(wide, other)
    np.testing.assert_array_equal(other, expected(wide))


def expected(frame: Frame) -> Picture:
    out = network_input()
    preprocess(frame, SPEC, out)
    return out


def test_shrinking_is_the_mean() -> None:
    fine = np.random.default_rng(1).integers(0, 256, (960, 1280, 3), np.uint8)
    out = network_input()
    preprocess(Frame(fine, "rgb8"), SPEC, out)
    mean = fine.reshape(240, 4, 320, 4, 3).mean(axis=(1, 3))
    assert np.abs(out[0] - mean).max() <= 1


def test_shrinking_by_odd_factors_misses_nothing() -> None:
    checks = (np.indices((1080, 1920)).sum(0) % 2 * 255).astype(np.uint8)
    out = network_input()
    geometry = preprocess(Frame(checks, "mono8"), SPEC, out)
    picture = out[0, : geometry.scaled_hw[0]]
    assert 120 <= picture.min() <= picture.max() <= 135  # the finest pattern becomes even grey


def test_same_size_is_a_copy() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (240, 320, 3), np.uint8)
    out = network_input()
    preprocess(Frame(rgb, "rgb8"), SPEC, out)
    np.testing.assert_array_equal(out[0], rgb)


@pytest.mark.parametrize("pixel_format", ["bgr8", "rgb8", "mono8", "bgra8", "nv12", "yuyv", "uyvy"])
def test_padded_rows_of_a_driver(pixel_format: Any) -> None:
    pixels = in_format(quarters(480, 640), pixel_format)
    buffer = np.full((pixels.shape[0], pixels.shape[1] + 64, *pixels.shape[2:]), 99, np.uint8)
    view = buffer[:, : pixels.shape[1]]
    view[:] = pixels
    plain, padded = network_input(), network_input()
    preprocess(Frame(pixels, pixel_format), SPEC, plain)
    preprocess(Frame(view, pixel_format), SPEC, padded)
    np.testing.assert_array_equal(plain, padded)


def test_a_turned_view_is_read_in_its_own_order() -> None:
    rgb = quarters(240, 320)
    out = network_input()
    preprocess(Frame(rgb[::-1, ::-1], "rgb8"), SPEC, out)
    np.testing.assert_array_equal(out[0], rgb[::-1, ::-1])


@pytest.mark.parametrize("shape", [(1, 0, 0, 3), (1, 240, 321, 3), (240, 320, 3)])
def test_an_input_of_another_size(shape: tuple[int, ...]) -> None:
    frame = Frame(quarters(480, 640), "bgr8")
    message = f"got a network input of shape {shape}; wanted (1, 240, 320, 3); load the network"
    with pytest.raises(EngineError, match=re.escape(message)):
        preprocess(frame, SPEC, np.zeros(shape, np.uint8))


def test_the_frame_is_only_read() -> None:
    pixels = quarters(480, 640)
    pixels.flags.writeable = False
    before = pixels.copy()
    preprocess(Frame(pixels, "bgr8"), SPEC, network_input())
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("size_hw", [(480, 640), (720, 1280), (1080, 1920)])
@pytest.mark.parametrize("pixel_format", ["bgr8", "rgb8", "mono8", "bgra8", "nv12", "yuyv", "uyvy"])
def test_steady_state_allocates_nothing(pixel_format: Any, size_hw: tuple[int, int]) -> None:
    frame = Frame(in_format(quarters(*size_hw), pixel_format), pixel_format)
    once, out = Preprocessor(SPEC), network_input()
    once(frame, out)
    tracemalloc.start()
    for _ in range(3):
        once(frame, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000
