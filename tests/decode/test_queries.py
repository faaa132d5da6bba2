"""Query decoding against the official two-step resize, and what it drops."""

from __future__ import annotations

import re
import sys
import tracemalloc
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg import masks
from edgeseg.bench_decode import blobs, two_step_numpy
from edgeseg.decode.queries import QueryDecoder
from edgeseg.engines.fake import fake_spec
from edgeseg.errors import InputError
from edgeseg.letterbox import Geometry, fit

Outputs = dict[str, NDArray[Any]]
SPEC = fake_spec((240, 320))
GEOMETRY = fit((480, 640), (240, 320))


def outputs(
    logits: NDArray[np.float32],
    scores: list[float] | None = None,
    labels: list[int] | None = None,
) -> Outputs:
    count = len(logits)
    return {
        "scores": np.array([0.9] * count if scores is None else scores, np.float32),
        "labels": np.array([0] * count if labels is None else labels, np.int32),
        "masks": logits,
    }


def square(*corners: tuple[int, int], side: int = 10) -> NDArray[np.float32]:
    """Logits (N, 60, 80): +4 in a square at x, y; -4 elsewhere."""
    logits = np.full((len(corners), 60, 80), -4, np.float32)
    for mask, (x, y) in zip(logits, corners, strict=True):
        mask[y : y + side, x : x + side] = 4
    return logits


def smooth(count: int, height: int, width: int, seed: int) -> NDArray[np.float32]:
    """Wavy logits with parts that are apart, at the borders and of every size."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, height, width)).astype(np.float32)
    for axis in (1, 2):
        for _ in range(6):
            noise += np.roll(noise, 1, axis)
    return noise - np.quantile(noise, 0.8, axis=(1, 2), keepdims=True).astype(np.float32)


def official_torch(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.bool_]:
    torch = pytest.importorskip("torch", reason="needs torch")
    resize = torch.nn.functional.interpolate
    height, width = geometry.scaled_hw
    wide = resize(torch.from_numpy(logits)[None], geometry.input_hw, mode="bilinear")
    frame = resize(wide[:, :, :height, :width], geometry.frame_hw, mode="bilinear")
    return np.asarray((frame.sigmoid() > 0.5)[0].numpy())


def assert_same(found: Any, wanted: NDArray[np.bool_]) -> None:
    """Every mask is there and differs in no more than a pixel in 100,000 (rounding)."""
    assert len(found) == len(wanted)
    different = sum(int((found.mask(i) ^ mask).sum()) for i, mask in enumerate(wanted))
    assert different <= wanted.size / 1e5


SHAPES = [
    ((480, 640), (240, 320), (60, 80)),
    ((720, 1280), (240, 320), (60, 80)),
    ((1280, 720), (240, 320), (60, 80)),
    ((720, 1280), (640, 640), (160, 160)),
    ((480, 640), (640, 640), (80, 80)),
    ((100, 90), (240, 320), (30, 40)),
    ((63, 61), (240, 320), (60, 80)),
    ((427, 640), (800, 1216), (100, 152)),
]


@pytest.mark.parametrize("official", [two_step_numpy, official_torch])
@pytest.mark.parametrize(("frame_hw", "input_hw", "logits_hw"), SHAPES)
def test_masks_are_the_official_ones(
    official: Any,
    frame_hw: tuple[int, int],
    input_hw: tuple[int, int],
    logits_hw: tuple[int, int],
) -> None:
    geometry = fit(frame_hw, input_hw)
    logits = smooth(6, *logits_hw, seed=3)
    wanted = official(logits, geometry)
    assert wanted.any(axis=(1, 2)).all()
    assert_same(QueryDecoder(SPEC)(outputs(logits), geometry), wanted)


def test_fidelity_on_objects() -> None:
    geometry = fit((720, 1280), (640, 640))
    picture = blobs(160, geometry, seed=5)
    order = np.argsort(-picture["scores"], kind="stable")[:12]
    found = QueryDecoder(SPEC)(picture, geometry)
    wanted = two_step_numpy(picture["masks"][order], geometry)
    ious = [
        (found.mask(i) & mask).sum() / (found.mask(i) | mask).sum() for i, mask in enumerate(wanted)
    ]
    assert len(ious) == 12
    assert np.mean(ious) >= 0.998
    assert np.min(ious) >= 0.995


def test_boxes_are_tight_and_crops_small() -> None:
    found = QueryDecoder(SPEC)(outputs(smooth(8, 60, 80, seed=4)), GEOMETRY)
    assert len(found) == 8
    for i in range(8):
        box = masks.tight_box(found.mask(i))
        assert tuple(found.boxes_xyxy[i]) == box
        stored = found.mask_boxes[i]
        assert (stored[1], stored[3]) == (box[1], box[3])
        assert 0 <= box[0] - stored[0] < 8
        assert 0 <= stored[2] - box[2] < 8


@pytest.mark.parametrize(
    ("corner", "side", "box"),
    [
        ((0, 0), 10, (0, 0, 80, 80)),
        ((70, 50), 10, (560, 400, 640, 480)),
        ((0, 0), 80, (0, 0, 640, 480)),
        ((40, 30), 1, (321, 241, 327, 247)),
        ((0, 0), 1, (0, 0, 8, 8)),
    ],
)
def test_borders_and_single_logits(
    corner: tuple[int, int], side: int, box: tuple[int, int, int, int]
) -> None:
    logits = square(corner, side=side)
    found = QueryDecoder(SPEC)(outputs(logits), GEOMETRY)
    assert_same(found, two_step_numpy(logits, GEOMETRY))
    assert np.abs(found.boxes_xyxy[0] - box).max() <= 2


def test_best_score_first_and_threshold() -> None:
    logits = square((0, 0), (20, 0), (40, 0), (60, 0))
    found = QueryDecoder(SPEC)(outputs(logits, [0.6, 0.49, 0.9, 0.5], [0, 1, 2, 1]), GEOMETRY)
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert found.labels.tolist() == [2, 0, 1]
    assert found.boxes_xyxy[:, 0].tolist() == [320, 0, 480]
    assert (found.scores.dtype, found.labels.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"score_threshold": 0.0}, 4),
        ({"score_threshold": 1.0}, 1),
        ({"score_threshold": 0.3}, 3),
        ({"classes": ["green", "blue"], "score_threshold": 0.0}, 2),
        ({"classes": []}, 0),
    ],
)
def test_settings(settings: dict[str, Any], kept: int) -> None:
    logits = square((0, 0), (20, 0), (40, 0), (60, 0))
    given = outputs(logits, [1.0, 0.3, 0.8, 0.0], [0, 1, 2, 0])
    assert len(QueryDecoder(SPEC, **settings)(given, GEOMETRY)) == kept


def test_the_bundle_sets_the_threshold() -> None:
    given = outputs(square((0, 0)), [0.6])
    assert len(QueryDecoder(replace(SPEC, score_threshold=0.7))(given, GEOMETRY)) == 0
    assert len(QueryDecoder(replace(SPEC, score_threshold=0.6))(given, GEOMETRY)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_threshold": 1.5}, "got score threshold 1.5; wanted a number from 0 to 1; 0.5 is"),
        ({"score_threshold": -0.1}, "got score threshold -0.1; wanted a number from 0 to 1"),
        ({"score_threshold": float("nan")}, "got score threshold nan; wanted a number from 0"),
        ({"classes": ["gren"]}, "got class 'gren'; wanted one of blue, green, red; did you mean"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        QueryDecoder(SPEC, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.9, float("nan"), 0.8], [0, 0, 2]),
        ([0.9, 0.1, 0.8], [0, 0, 2]),
        ([0.9, 0.95, 0.8], [0, 3, 2]),  # three classes: 3 is none of them
        ([0.9, 0.95, 0.8], [0, -1, 2]),
    ],
)
def test_rows_that_are_no_instance(scores: list[float], labels: list[int]) -> None:
    given = outputs(square((0, 0), (20, 0), (40, 0)), scores, labels)
    assert QueryDecoder(SPEC)(given, GEOMETRY).boxes_xyxy[:, 0].tolist() == [0, 320]


def test_masks_without_a_pixel_are_dropped() -> None:
    geometry = fit((720, 1280), (240, 320))  # the picture fills 180 of 240 rows: 45 of 60 logits
    logits = np.full((4, 60, 80), -4, np.float32)
    logits[1, 50:, :] = 4  # only in the padding
    logits[2, 10:20, 10:20] = 4
    logits[3, 30, 30] = 1e-3  # too weak: every pixel's mean with its neighbours is negative
    found = QueryDecoder(SPEC)(outputs(logits, [0.9, 0.8, 0.7, 0.6]), geometry)
    assert found.scores.tolist() == pytest.approx([0.7])


def test_masks_lost_in_a_small_frame_are_dropped() -> None:
    geometry = fit((6, 8), (240, 320))
    logits = square((2, 2), (40, 30), side=1)
    assert not two_step_numpy(logits, geometry).any()
    assert len(QueryDecoder(SPEC)(outputs(logits), geometry)) == 0


def test_nothing_kept() -> None:
    found = QueryDecoder(SPEC)(outputs(square((0, 0)), [0.1]), GEOMETRY, stamp_ns=5, sequence=6)
    assert len(found) == 0
    assert found.boxes_xyxy.shape == found.mask_boxes.shape == (0, 4)
    assert (found.height, found.width, found.stamp_ns, found.sequence) == (480, 640, 5, 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_stay_local(value: float) -> None:
    logits = square((20, 20), (20, 20), side=20)
    logits[0, 25:27, 25:27] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = QueryDecoder(SPEC)(outputs(logits), GEOMETRY)
    spoiled, clean = found.mask(0), found.mask(1)
    changed = np.argwhere(spoiled ^ clean)
    assert spoiled.any()
    if value == np.inf:
        assert len(changed) == 0
    else:
        assert not spoiled[208, 208]
        assert changed.min() >= 8 * 24
        assert changed.max() < 8 * 28


def test_all_logits_not_finite() -> None:
    logits = np.full((2, 60, 80), np.nan, np.float32)
    logits[1] = np.inf
    found = QueryDecoder(SPEC)(outputs(logits), GEOMETRY)
    assert [found.area(i) for i in range(len(found))] == [480 * 640]


@pytest.mark.parametrize("frame_hw", [(1, 10000), (10000, 1), (1, 1), (2, 3)])
def test_extreme_frames(frame_hw: tuple[int, int]) -> None:
    geometry = fit(frame_hw, (240, 320))
    logits = np.concatenate([np.full((1, 60, 80), 4, np.float32), smooth(3, 60, 80, seed=1)])
    found = QueryDecoder(SPEC)(outputs(logits), geometry)
    wanted = two_step_numpy(logits, geometry)
    assert found.mask(0).all()
    assert found.boxes_xyxy[0].tolist() == [0, 0, frame_hw[1], frame_hw[0]]
    assert_same(found, wanted[wanted.any(axis=(1, 2))])


def test_results_are_owned() -> None:
    given = outputs(smooth(3, 60, 80, seed=2))
    before = {name: array.copy() for name, array in given.items()}
    decoder = QueryDecoder(SPEC)
    found = decoder(given, GEOMETRY)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])
    kept = [found.mask(i) for i in range(3)]
    for array in given.values():
        array[:] = 0.95
    decoder(given, GEOMETRY)
    assert found.scores.tolist() == pytest.approx([0.9] * 3)
    for i in range(3):
        np.testing.assert_array_equal(found.mask(i), kept[i])


@pytest.mark.parametrize("frame_hw", [(480, 640), (63, 61), (5, 8)])
def test_bits_of_a_network_for_one_frame_size_are_read(frame_hw: tuple[int, int]) -> None:
    logits, geometry = smooth(4, 60, 80, seed=8), fit(frame_hw, (240, 320))
    logits[2] = 4  # all of the frame
    wanted = two_step_numpy(logits, geometry)
    bits = np.packbits(wanted, axis=2)
    found = QueryDecoder(replace(SPEC, frame_hw=frame_hw))(outputs(bits), geometry)
    bits[:] = 0  # results are owned
    np.testing.assert_array_equal([found.mask(i) for i in range(4)], wanted)
    assert [tuple(box) for box in found.boxes_xyxy] == list(map(masks.tight_box, wanted))


def test_bits_without_a_pixel_are_dropped() -> None:
    bits = np.zeros((2, 480, 80), np.uint8)
    bits[1, 7, 79] = 1
    found = QueryDecoder(replace(SPEC, frame_hw=(480, 640)))(outputs(bits), GEOMETRY)
    assert found.boxes_xyxy.tolist() == [[639, 7, 640, 8]]


def test_a_frame_of_another_size_than_the_networks_is_one_sentence() -> None:
    decoder = QueryDecoder(replace(SPEC, frame_hw=(480, 640)))
    with pytest.raises(InputError) as caught:
        decoder(outputs(np.zeros((1, 480, 80), np.uint8)), fit((480, 639), (240, 320)))
    assert str(caught.value) == (
        "got a frame of 639x480; wanted 640x480, the one size that this bundle is for; set the "
        "camera to it, or run: edgeseg build MODEL --frame 639x480 --out BUNDLE"
    )


def test_geometry_may_change_between_frames() -> None:
    decoder, logits = QueryDecoder(SPEC), smooth(3, 60, 80, seed=6)
    for frame_hw in ((480, 640), (720, 1280), (480, 640), (1280, 720)):
        geometry = fit(frame_hw, (240, 320))
        assert_same(decoder(outputs(logits), geometry), two_step_numpy(logits, geometry))


def test_half_precision_logits_are_read() -> None:
    logits = smooth(3, 60, 80, seed=7).astype(np.float16)
    wanted = two_step_numpy(logits.astype(np.float32), GEOMETRY)
    assert_same(QueryDecoder(SPEC)(outputs(logits), GEOMETRY), wanted)


def test_no_frame_sized_buffer() -> None:
    geometry = fit((720, 1280), (640, 640))
    decoder, picture = QueryDecoder(SPEC), blobs(160, geometry, seed=0)
    decoder(picture, geometry)
    tracemalloc.start()
    found = decoder(picture, geometry)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 12
    assert peak < 720 * 1280 / 4


def test_frames_with_ever_other_numbers_of_instances_leave_nothing() -> None:
    """Not even in CPython's lists of free objects, which get thousands long."""
    decoder, logits = QueryDecoder(SPEC), square(*[(2, 2)] * 12)
    blocks = []
    for frame in range(1600):
        decoder(outputs(logits, [0.9 if i <= frame % 12 else 0.0 for i in range(12)]), GEOMETRY)
        if frame % 800 == 799:
            blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 80
