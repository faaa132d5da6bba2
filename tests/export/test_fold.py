"""Folding changes the nodes of a network, not what it computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from small_onnx import HW, Draft, kinds, outputs, some_pictures

from edgeseg.bundle import PACKAGED
from edgeseg.export.fold import Graph, attribute, folded

CLOSE = 2e-5


def agrees(draft: Draft, path: Path, *names: str) -> Graph:
    """The folded network, once it has been shown to compute the same."""
    graph = folded(draft.save(path / "network.onnx", *names))
    model = graph.finish()
    onnx.checker.check_model(model, full_check=True)
    for picture in some_pictures():
        for got, wanted in zip(
            outputs(model, picture), outputs(draft.model(*names), picture), strict=True
        ):
            assert np.abs(wanted).max() > 0.1
            np.testing.assert_allclose(got, wanted, rtol=CLOSE, atol=CLOSE * np.abs(wanted).max())
    return graph


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 3])
def test_a_batch_norm_goes_into_its_convolution(tmp_path: Path, bias: bool, group: int) -> None:
    draft = Draft()
    shape = (6, 3 // group, 3, 3)
    conv = draft.conv(draft.picture, "conv", shape, bias=bias, group=group, pads=[1, 1, 1, 1])
    draft.node("Relu", draft.norm(conv, "norm", 6), name="relu")
    graph = agrees(draft, tmp_path, "relu")
    assert kinds(graph.finish().graph.node) == ["Transpose", "Cast", "Div", "Conv", "Relu"]
    (conv_node,) = (node for node in graph.nodes if node.op_type == "Conv")
    assert conv_node.output[0] == "norm", "a tensor keeps its name"
    assert len(conv_node.input) == 3


def test_two_convolutions_with_one_kernel_keep_their_own_norms(tmp_path: Path) -> None:
    draft = Draft()
    kernel = draft.weight(4, 3, 1, 1)
    for i in range(2):
        one = draft.node("Conv", draft.picture, kernel, name=f"conv{i}", kernel_shape=[1, 1])
        draft.norm(one, f"norm{i}", 4)
    draft.node("Concat", "norm0", "norm1", name="both", axis=1)
    graph = agrees(draft, tmp_path, "both")
    assert "BatchNormalization" not in kinds(graph.nodes)


def _of_the_picture(draft: Draft) -> str:
    return draft.norm(draft.picture, "norm", 3)


def _of_a_relu(draft: Draft) -> str:
    relu = draft.node("Relu", draft.conv(draft.picture, "conv", (4, 3, 1, 1)), name="relu")
    return draft.norm(relu, "norm", 4)


def _of_what_others_read(draft: Draft) -> str:
    conv = draft.conv(draft.picture, "conv", (4, 3, 1, 1))
    return draft.node("Add", conv, draft.norm(conv, "norm", 4), name="sum")


def _of_made_weights(draft: Draft) -> str:
    weight = draft.node("Neg", draft.weight(4, 3, 1, 1), name="made")
    conv = draft.node("Conv", draft.picture, weight, name="conv", kernel_shape=[1, 1])
    return draft.norm(conv, "norm", 4)


@pytest.mark.parametrize(
    "build", [_of_the_picture, _of_a_relu, _of_what_others_read, _of_made_weights]
)
def test_a_batch_norm_of_something_else_stays(tmp_path: Path, build: Any) -> None:
    draft = Draft()
    graph = agrees(draft, tmp_path, build(draft))
    assert kinds(graph.nodes).count("BatchNormalization") == 1


def test_of_two_batch_norms_one_stays(tmp_path: Path) -> None:
    draft = Draft()
    conv = draft.conv(draft.picture, "conv", (4, 3, 1, 1))
    draft.norm(draft.norm(conv, "norm0", 4), "norm1", 4)
    assert kinds(agrees(draft, tmp_path, "norm1").nodes).count("BatchNormalization") == 1


def test_a_convolution_that_is_an_output_keeps_its_values(tmp_path: Path) -> None:
    draft = Draft()
    draft.norm(draft.conv(draft.picture, "conv", (4, 3, 1, 1)), "norm", 4)
    agrees(draft, tmp_path, "conv", "norm")


# Average pools.


def pooled(draft: Draft, conv: dict[str, Any] | None = None, **pool: Any) -> str:
    """An average pool and a 1x1 convolution."""
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], **pool}
    mean = draft.node("AveragePool", draft.picture, name="pool", **pool)
    return draft.conv(mean, "conv", (5, 3, 1, 1), **(conv or {}))


@pytest.mark.parametrize("size", [[2, 2], [2, 3], [1, 2]])
@pytest.mark.parametrize("bias", [True, False])
def test_an_average_pool_becomes_a_kernel(tmp_path: Path, size: list[int], bias: bool) -> None:
    draft = Draft()
    draft.norm(pooled(draft, {"bias": bias}, kernel_shape=size, strides=size), "norm", 5)
    graph = agrees(draft, tmp_path, "norm")
    (conv,) = (node for node in graph.nodes if node.op_type == "Conv")
    assert "AveragePool" not in kinds(graph.nodes)
    assert attribute(conv, "kernel_shape") == attribute(conv, "strides") == size
    assert graph.constants[conv.input[1]].shape == (5, 3, *size)


LEFT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "padding": ({"pads": [0, 0, 1, 0]}, {}),
    "automatic padding": ({"auto_pad": "SAME_UPPER", "kernel_shape": [3, 3]}, {}),
    "windows half outside": ({"kernel_shape": [3, 5], "strides": [3, 5], "ceil_mode": 1}, {}),
    "overlapping windows": ({"kernel_shape": [3, 3]}, {}),
    "a stride left out": ({"strides": [1, 1]}, {}),
    "a padded convolution": ({}, {"pads": [1, 1, 1, 1]}),
    "a convolution with a stride": ({}, {"strides": [2, 2]}),
}


@pytest.mark.parametrize("case", LEFT)
def test_an_average_pool_that_is_no_kernel_stays(tmp_path: Path, case: str) -> None:
    pool, conv = LEFT[case]
    draft = Draft()
    graph = agrees(draft, tmp_path, pooled(draft, conv, **pool))
    assert "AveragePool" in kinds(graph.nodes)


def test_an_average_pool_before_a_large_kernel_stays(tmp_path: Path) -> None:
    draft = Draft()
    mean = draft.node(
        "AveragePool", draft.picture, name="pool", kernel_shape=[2, 2], strides=[2, 2]
    )
    draft.conv(mean, "conv", (5, 3, 3, 3))
    assert "AveragePool" in kinds(agrees(draft, tmp_path, "conv").nodes)


@pytest.mark.parametrize("named", [("sum",), ("conv", "pool")])
def test_an_average_pool_with_other_readers_stays(tmp_path: Path, named: tuple[str, ...]) -> None:
    draft = Draft()
    mean = draft.node(
        "AveragePool", draft.picture, name="pool", kernel_shape=[2, 2], strides=[2, 2]
    )
    draft.node("Add", draft.conv(mean, "conv", (3, 3, 1, 1)), mean, name="sum")
    assert "AveragePool" in kinds(agrees(draft, tmp_path, *named).nodes)


# Factors.


def scaled(draft: Draft, factor: tuple[int, ...], group: int = 1) -> str:
    """Channels times a factor each, and a padded convolution."""
    product = draft.node("Mul", draft.picture, draft.weight(*factor, scale=3), name="product")
    shape = (6, 3 // group, 3, 3)
    return draft.conv(product, "conv", shape, group=group, pads=[1, 1, 1, 1])


def test_factors_of_channels_go_into_the_kernel(tmp_path: Path) -> None:
    draft = Draft()
    graph = agrees(draft, tmp_path, scaled(draft, (1, 3, 1, 1)))
    assert "Mul" not in kinds(graph.nodes)


@pytest.mark.parametrize(("factor", "group"), [((1, 1, 16, 24), 1), ((1, 3, 1, 1), 3), ((1,), 1)])
def test_other_factors_stay(tmp_path: Path, factor: tuple[int, ...], group: int) -> None:
    draft = Draft()
    assert "Mul" in kinds(agrees(draft, tmp_path, scaled(draft, factor, group)).nodes)


def test_a_product_with_other_readers_stays(tmp_path: Path) -> None:
    draft = Draft()
    draft.node("Sigmoid", scaled(draft, (1, 3, 1, 1)), name="one")
    draft.node("Sigmoid", "product", name="two")
    assert "Mul" in kinds(agrees(draft, tmp_path, "one", "two").nodes)


# Constants, dead nodes.


def test_casts_and_transposes_of_weights_are_done_once(tmp_path: Path) -> None:
    draft = Draft()
    half = draft.constant(draft.random.normal(size=(3, 4, 1, 1)).astype(np.float16))
    whole = draft.node("Cast", half, name="whole", to=TensorProto.FLOAT)
    turned = draft.node("Transpose", whole, name="turned", perm=[1, 0, 2, 3])
    draft.node("Conv", draft.picture, turned, name="conv", kernel_shape=[1, 1])
    graph = agrees(draft, tmp_path, "conv")
    assert kinds(graph.nodes) == ["Transpose", "Cast", "Div", "Conv"]
    assert graph.constants["turned"].dtype == np.float32


@pytest.mark.parametrize("side", [3, 7, 40])
def test_resizes_of_weights_are_done_once(tmp_path: Path, side: int) -> None:
    """Larger, smaller, and other than square."""
    draft = Draft()
    height, width = HW
    size = draft.constant(np.array((1, 3, height, width)))
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    table = draft.node("Resize", draft.weight(1, 3, side, 5), "", "", size, name="table", **how)
    draft.node("Add", draft.picture, table, name="sum")
    graph = agrees(draft, tmp_path, "sum")
    assert kinds(graph.nodes) == ["Transpose", "Cast", "Div", "Add"]
    assert graph.constants["table"].shape == (1, 3, height, width)


def test_nodes_and_constants_that_nobody_reads_are_gone(tmp_path: Path) -> None:
    draft = Draft()
    draft.conv(draft.picture, "conv", (4, 3, 1, 1))
    dead = draft.conv(draft.picture, "dead", (4, 3, 1, 1))
    draft.node("Relu", dead, name="dead too")
    model = agrees(draft, tmp_path, "conv").finish()
    assert kinds(model.graph.node) == ["Transpose", "Cast", "Div", "Conv"]
    assert len(model.graph.initializer) == 3  # 255, kernel, bias


def test_a_graph_is_a_copy() -> None:
    draft = Draft()
    draft.conv(draft.picture, "conv", (4, 3, 1, 1))
    model = draft.model("conv")
    before = model.SerializeToString(deterministic=True)
    graph = Graph(model)
    graph.nodes[-1].input[0] = "elsewhere"
    graph.model.graph.output[0].name = "other"
    assert model.SerializeToString(deterministic=True) == before


# Random networks, and the real one.


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_compute_the_same(tmp_path: Path, seed: int) -> None:
    """Blocks as in residual networks, in random order and width."""
    draft = Draft(seed)
    tensor, channels = draft.picture, 3
    for i in range(5):
        width = int(draft.random.integers(2, 7))
        main = draft.conv(
            tensor, f"c{i}", (width, channels, 3, 3), bias=bool(i % 2), pads=[1, 1, 1, 1]
        )
        main = draft.node("Relu", draft.norm(main, f"n{i}", width), name=f"r{i}")
        side = draft.norm(draft.conv(tensor, f"s{i}", (width, channels, 1, 1)), f"m{i}", width)
        tensor, channels = draft.node("Add", main, side, name=f"a{i}"), width
        if draft.random.random() < 0.5 and i < 3:
            tensor = draft.node(
                "AveragePool", tensor, name=f"p{i}", kernel_shape=[2, 2], strides=[2, 2]
            )
            tensor = draft.norm(draft.conv(tensor, f"d{i}", (4, width, 1, 1)), f"e{i}", 4)
            channels = 4
    graph = agrees(draft, tmp_path, tensor)
    assert not {"BatchNormalization", "AveragePool"} & set(kinds(graph.nodes))


def test_the_packaged_network(tmp_path: Path) -> None:
    path = PACKAGED / "fastinst-nano" / "model.onnx"
    graph = folded(path)
    model, original = graph.finish(), onnx.load(path)
    count = Counter(kinds(model.graph.node))
    assert "BatchNormalization" not in count
    assert count["Conv"] == Counter(kinds(original.graph.node))["Conv"]
    assert all(numpy_helper.to_array(one).dtype != np.float16 for one in model.graph.initializer), (
        "weights are float32 now"
    )
    picture = np.random.default_rng(0).integers(0, 256, (1, 240, 320, 3), np.uint8)
    got, wanted = outputs(model, picture), outputs(original, picture)
    assert np.abs(np.sort(got[0]) - np.sort(wanted[0])).max() < 1e-3
