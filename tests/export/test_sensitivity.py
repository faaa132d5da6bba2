"""What a layer costs: the loss of masks, its table and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edgeseg.bundle import PACKAGED, ModelSpec, read
from edgeseg.errors import InputError
from edgeseg.export.calibrate import pictures, read_calibration
from edgeseg.export.fold import folded
from edgeseg.export.int8 import CLIP
from edgeseg.export.quantize import layers
from edgeseg.export.sensitivity import Loss, draw, mask_iou_loss, sensitivity, table

NANO = PACKAGED / "fastinst-nano"
SVG = "{http://www.w3.org/2000/svg}"


def outputs(*instances: tuple[float, int, tuple[int, int]]) -> dict[str, Any]:
    """Scores, labels and masks: columns ``start`` to ``end`` of 4x10 cells."""
    masks = np.full((len(instances), 4, 10), -1.0, np.float32)
    for mask, (_, _, (start, end)) in zip(masks, instances, strict=True):
        mask[:, start:end] = 1
    return {
        "scores": np.float32([score for score, _, _ in instances]),
        "labels": np.int32([label for _, label, _ in instances]),
        "masks": masks,
    }


WANTED = outputs((0.9, 0, (0, 4)), (0.8, 1, (5, 10)), (0.2, 2, (0, 10)))


def test_the_same_loses_nothing() -> None:
    assert mask_iou_loss(WANTED, WANTED, 0.5) == 0


@pytest.mark.parametrize(
    ("got", "loss"),
    [
        ([(0.8, 1, (5, 10)), (0.9, 0, (0, 4))], 0),  # in another order
        ([(0.41, 0, (0, 4)), (0.45, 1, (5, 10))], 0),  # a little below the threshold
        ([(0.39, 0, (0, 4)), (0.9, 1, (5, 10))], 1 / 2),  # well below it
        ([(0.9, 0, (0, 4)), (0.9, 0, (5, 10))], 1 / 2),  # a wrong label
        ([(0.9, 0, (0, 3)), (0.9, 1, (5, 10))], 1 / 8),  # a quarter of one mask lost
        ([(0.9, 0, (2, 6)), (0.9, 1, (5, 10))], 1 / 3),  # half of it elsewhere
        ([(0.9, 0, (8, 9)), (0.9, 0, (0, 4)), (0.9, 1, (5, 10))], 0),  # one more
        ([(0.9, 0, (0, 0)), (0.9, 1, (0, 0))], 1),  # empty masks
        ([], 1),
    ],
)
def test_losses(got: list[tuple[float, int, tuple[int, int]]], loss: float) -> None:
    assert mask_iou_loss(WANTED, outputs(*got), 0.5) == pytest.approx(loss)


def test_what_is_below_the_threshold_is_not_missed() -> None:
    assert mask_iou_loss(outputs((0.49, 0, (0, 4))), outputs(), 0.5) is None
    assert mask_iou_loss(outputs(), outputs((0.9, 0, (0, 4))), 0.5) is None


def test_empty_masks_divide_by_nothing() -> None:
    empty = outputs((0.9, 0, (0, 0)))
    assert mask_iou_loss(empty, empty, 0.5) == 1


# Layers of the packaged network.


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return read(NANO)


@pytest.fixture(scope="module")
def measured(spec: ModelSpec) -> list[Loss]:
    """Three layers, with ranges that make a ruin of the second."""
    graph = folded(NANO / "model.onnx")
    convs = [layer for layer in layers(graph) if layer.kind == "conv"]
    chosen = [convs[2], convs[-1], convs[10]]
    ranges = dict(read_calibration(NANO / "calibration.json").magnitudes)
    ranges[chosen[1].output] *= 300
    shown = [one.copy() for one in pictures(CLIP, spec, 2)]
    return sensitivity(graph, chosen, ranges, spec, shown)


def test_the_most_harmful_layer_comes_first(measured: list[Loss]) -> None:
    losses = [row.mask_iou_loss for row in measured]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0.5 > 0.1 > losses[1] >= losses[2] >= 0
    names = [layer.name for layer in layers(folded(NANO / "model.onnx")) if layer.kind == "conv"]
    assert {row.layer for row in measured} == {names[2], names[10], names[-1]}
    assert measured[0].layer == names[-1]
    assert {row.kind for row in measured} == {"conv"}


def test_pictures_without_an_instance_tell_nothing(spec: ModelSpec) -> None:
    graph = folded(NANO / "model.onnx")
    dark = [np.zeros((1, *spec.input_hw, 3), np.uint8)] * 2
    with pytest.raises(InputError) as caught:
        sensitivity(graph, layers(graph)[:1], {}, spec, dark)
    assert str(caught.value).startswith(
        "got 2 pictures in which fastinst-nano finds nothing; wanted some with "
    )
    assert str(caught.value).endswith("; pass --images")


# Table and picture.

MANY = [Loss(f"layer{i}/Conv", "conv", 0.5 / (i + 1)) for i in range(30)]


def test_the_table() -> None:
    lines = table(MANY).splitlines()
    assert lines[0].split(maxsplit=3) == ["mask", "IoU", "lost", "layer, quantised alone"]
    assert lines[1].split() == ["50.00%", "layer0/Conv", "(conv)"]
    assert len(lines) == 22
    assert lines[-1].strip() == "and 10 that cost less"
    assert len(table(MANY[:20]).splitlines()) == 21
    assert len(table([]).splitlines()) == 1


@pytest.mark.parametrize("losses", [MANY, MANY[:1], [], [Loss("a", "conv", 0.0)]])
def test_the_picture_has_a_bar_for_each_layer(losses: list[Loss]) -> None:
    root = ElementTree.fromstring(draw(losses, "title"))
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("fill") == "#1f6fb4"]
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert texts[0] == "title"
    assert texts[1::2] == [row.layer for row in losses]
    assert texts[2::2] == [f"{row.mask_iou_loss:.2%}" for row in losses]
    widths = [float(one.get("width")) for one in bars]
    longest = max([row.mask_iou_loss for row in losses], default=0) or 1
    assert widths == pytest.approx([300 * row.mask_iou_loss / longest for row in losses], abs=0.06)
    height, width = (float(root.get(side)) for side in ("height", "width"))
    for bar in bars:
        assert float(bar.get("y")) + float(bar.get("height")) <= height
        assert float(bar.get("x")) + float(bar.get("width")) <= width


def test_a_layer_that_gains_has_no_bar() -> None:
    root = ElementTree.fromstring(draw([Loss("a", "conv", 0.5), Loss("b", "conv", -0.1)], "t"))
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("fill") == "#1f6fb4"]
    assert [float(one.get("width")) for one in bars] == [300, 0]


def test_names_are_escaped() -> None:
    root = ElementTree.fromstring(draw([Loss("<b>&", "conv", 0.5)], 'a "title" & <more>'))
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert texts == ['a "title" & <more>', "<b>&", "50.00%"]


def test_the_committed_picture_is_of_the_packaged_network() -> None:
    """Made by ``edgeseg quantize fastinst-nano --sensitivity``, see docs/int8.md."""
    path = Path(__file__).parents[2] / "docs" / "images" / "fastinst-nano-int8.svg"
    root = ElementTree.parse(path).getroot()
    named = {one.text for one in root.iter(f"{SVG}text")}
    assert {layer.name for layer in layers(folded(NANO / "model.onnx"))} <= named
