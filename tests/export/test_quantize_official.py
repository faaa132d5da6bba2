"""FastInst R50-D1 in INT8: the official network, with the weights of its parity fixture.

These weights are random, so single bits decide which queries are chosen and where masks end: even
two correct INT8 forms differ in their masks. What is compared is what goes in there: the features.
The masks of a trained network are compared in `test_quantize_cpu`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from parity.fixture import fill, of
from parity.official import config_of
from small_onnx import kinds, outputs, session

from edgeseg.bundle import read
from edgeseg.export.calibrate import calibrate, pictures
from edgeseg.export.cpu import for_cpu
from edgeseg.export.fold import Graph
from edgeseg.export.int8 import float_network
from edgeseg.export.pack import pack, spec_of
from edgeseg.export.quantize import Layer, layers, quantized
from edgeseg.zoo.fastinst import VARIANTS, FastInst

LEAST_DB = 18


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Graph, list[Layer], onnx.ModelProto, np.ndarray]:
    """The folded network, its layers, it in INT8 for CPUs, and a network input."""
    (fixture,) = (
        one
        for one in of("fastinst", "model")
        if config_of(one.facts["config"]) == VARIANTS["r50-d1"]
    )
    network = FastInst(VARIANTS["r50-d1"]).eval()
    fill(network, fixture)
    folder = tmp_path_factory.mktemp("r50")
    classes = tuple(f"class {i}" for i in range(80))
    input_hw = tuple(fixture.facts["net_input_shape"][2:])
    pack(network, spec_of(network, "r50-d1", classes, input_hw=input_hw), folder / "r50-d1")
    images = folder / "images"
    images.mkdir()
    for i, image in enumerate(fixture.numbered("image{}")):
        cv2.imwrite(str(images / f"{i}.png"), image[..., ::-1])
    spec = read(folder / "r50-d1")
    graph = float_network(folder / "r50-d1", spec)
    found = layers(graph)
    tensors = sorted({name for layer in found for name in layer.tensors})
    ranges = calibrate(graph, tensors, spec, images=images, method="minmax").magnitudes
    (shown, *_) = (one.copy() for one in pictures(images, spec, 1))
    return graph, found, for_cpu(quantized(graph, found, ranges)), shown


Made = tuple[Graph, list[Layer], onnx.ModelProto, np.ndarray]


def test_every_convolution_but_the_stem_is_a_layer(made: Made) -> None:
    graph, found, _, _ = made
    convs = {one.name for one in graph.nodes if one.op_type == "Conv"}
    assert convs - {layer.name for layer in found} == {"backbone.stem.conv1/Conv"}
    assert Counter(layer.kind for layer in found) == {
        "conv": 65,
        "linear": 25,
        "add": 18,
        "pool": 1,
    }


def test_every_layer_is_fused(made: Made, tmp_path: Path) -> None:
    _, found, model, _ = made
    count = Counter(layer.kind for layer in found)
    session(model, tmp_path / "optimised.onnx")
    operators = Counter(kinds(onnx.load(tmp_path / "optimised.onnx").graph.node))
    rows = operators["QLinearConv"] - count["conv"]  # linear layers with a ReLU behind them
    assert operators["MatMulIntegerToFloat"] + rows == count["linear"]
    assert rows > 2
    assert operators["QLinearAdd"] == count["add"]
    assert operators["Conv"] + operators["FusedConv"] == 1


def test_the_features_are_those_of_the_float_network(made: Made) -> None:
    graph, found, model, shown = made
    names = [layer.output for layer in found if ".pixel_decoder." in layer.name]
    names = [name for name in names if "/Relu" in name or "layer_" in name]
    wanted = outputs(graph.finish(), shown, names)
    got = outputs(model, shown, [f"{name}/dequantized" for name in names])
    for name, a, b in zip(names, wanted, got, strict=True):
        noise = np.mean(np.square(a - b)) / np.mean(np.square(a))
        assert 10 * np.log10(1 / noise) > LEAST_DB, name


def test_it_runs_from_picture_to_masks(made: Made) -> None:
    graph, _, model, shown = made
    wanted, got = outputs(graph.finish(), shown), outputs(model, shown)
    assert [one.shape for one in got] == [one.shape for one in wanted]
    scores, others = np.sort(got[0])[-20:], np.sort(wanted[0])[-20:]
    assert np.abs(scores - others).max() < 0.1
    assert np.isfinite(got[2]).all()
