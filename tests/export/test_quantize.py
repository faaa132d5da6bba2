"""Which layers become INT8, and how: the model with explicit Q/DQ that TensorRT reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from small_onnx import (
    PAD,
    Draft,
    constants,
    kinds,
    network,
    node,
    outputs,
    resize,
    some_pictures,
    widest,
)

from edgeseg.bundle import PACKAGED
from edgeseg.export.fold import Graph, attribute, folded
from edgeseg.export.quantize import LEVELS, Layer, layers, quantized


@pytest.fixture(scope="module")
def nano() -> Graph:
    """The packaged network, folded."""
    return folded(PACKAGED / "fastinst-nano" / "model.onnx")


def magnitudes(graph: Graph, chosen: list[Layer]) -> dict[str, float]:
    return widest(graph.finish(), {name for layer in chosen for name in layer.tensors})


def made(draft: Draft, *names: str) -> tuple[Graph, list[Layer], onnx.ModelProto]:
    """A network with all its layers in INT8."""
    graph = Graph(draft.model(*names))
    found = layers(graph)
    model = quantized(graph, found, magnitudes(graph, found))
    onnx.checker.check_model(model, full_check=True)
    return graph, found, model


def row(layer: Layer) -> tuple[str, str, tuple[str, ...], str]:
    return layer.kind, layer.name, layer.inputs, layer.output


# Which layers.


def test_layers_of_a_network_in_order() -> None:
    draft = Draft()
    graph = Graph(draft.model(network(draft)))
    assert [row(layer) for layer in layers(graph)] == [
        ("pool", "pool", ("r",), "pool"),
        ("conv", "a0", ("pool",), "ar0"),
        ("conv", "b0", ("ar0",), "b0"),
        ("add", "add0", ("b0", "pool"), "out0"),
        ("conv", "a1", ("out0",), "ar1"),
        ("conv", "b1", ("ar1",), "b1"),
        ("add", "add1", ("b1", "out0"), "out1"),
        ("conv", "lateral", ("r",), "lateral"),
        ("add", "fpn", ("lateral", "up"), "fpn"),
        ("concat", "cat", ("fpn", "up"), "cat"),
        ("conv", "last", ("cat",), "last"),
    ]


def test_of_the_packaged_network_every_convolution_but_the_stem(nano: Graph) -> None:
    found = {layer.name: layer.kind for layer in layers(nano)}
    convs = [one.name for one in nano.nodes if one.op_type == "Conv"]
    assert [name for name in convs if found.get(name) != "conv"] == ["backbone.conv1.0/Conv"]


def test_of_the_packaged_network_no_product_of_two_tensors(nano: Graph) -> None:
    """Attention and masks."""
    found = {layer.name for layer in layers(nano)}
    products = [
        one.name
        for one in nano.nodes
        if one.op_type == "MatMul" and not set(one.input) & set(nano.constants)
    ]
    assert len(products) == 8
    assert not found & set(products)


def test_of_the_packaged_network_nothing_that_chooses_queries(nano: Graph) -> None:
    """But for the two convolutions that give the class logits."""
    found = [layer.name for layer in layers(nano) if "query_proposal" in layer.name]
    assert [name.rsplit(".", 1)[-1] for name in found] == ["0/Conv", "2/Conv"]
    assert "sem_seg_head.predictor.query_proposal/Add" in {one.name for one in nano.nodes}


def test_of_the_packaged_network_every_linear_layer(nano: Graph) -> None:
    found = {layer.name for layer in layers(nano) if layer.kind == "linear"}
    linear = {
        one.name
        for one in nano.nodes
        if one.op_type == "MatMul" and one.input[1] in nano.constants and ".ppm/" not in one.name
    }
    kernels = {name for name in linear if name.startswith("MatMul")}
    assert found == linear - kernels, "mask kernels stay float"
    assert (len(found), len(kernels)) == (25, 2)


def _of_two_tensors(draft: Draft) -> str:
    conv = draft.conv(draft.conv(draft.picture, "stem", (4, 3, 1, 1)), "conv", (4, 4, 1, 1))
    return draft.node(
        "MatMul", conv, draft.node("Transpose", conv, name="t", perm=[0, 1, 3, 2]), name="product"
    )


def _with_the_constant_first(draft: Draft) -> str:
    return draft.node("MatMul", draft.weight(64, 16), draft.picture, name="product")


def _small(draft: Draft) -> str:
    return draft.node("MatMul", draft.picture, draft.weight(24, 64), name="product")


def _of_a_stack_of_weights(draft: Draft) -> str:
    weights = draft.weight(3, 24, 5)
    return draft.node("MatMul", draft.picture, weights, name="product")


def _made_weights(draft: Draft) -> str:
    stem = draft.conv(draft.picture, "stem", (4, 3, 1, 1))
    weight = draft.node("Neg", draft.weight(4, 4, 1, 1), name="made")
    return draft.node("Conv", stem, weight, name="conv", kernel_shape=[1, 1])


def _sum_with_a_constant(draft: Draft) -> str:
    conv = draft.conv(draft.conv(draft.picture, "stem", (4, 3, 1, 1)), "conv", (4, 4, 1, 1))
    return draft.node("Add", conv, draft.weight(1, 4, 1, 1), name="sum")


def _sum_of_float(draft: Draft) -> str:
    stem = draft.conv(draft.picture, "stem", (4, 3, 1, 1))
    return draft.node("Add", stem, stem, name="sum")


def _pool_of_a_product(draft: Draft) -> str:
    """As the local maxima of the query scores."""
    conv = draft.conv(draft.conv(draft.picture, "stem", (4, 3, 1, 1)), "conv", (4, 4, 1, 1))
    score = draft.node("Mul", conv, conv, name="score")
    return draft.node("MaxPool", score, name="pool", kernel_shape=[3, 3], **PAD)


def _concatenation_with_float(draft: Draft) -> str:
    stem = draft.conv(draft.picture, "stem", (4, 3, 1, 1))
    conv = draft.conv(stem, "conv", (4, 4, 1, 1))
    return draft.node("Concat", conv, stem, name="cat", axis=1)


FLOAT: list[tuple[Callable[[Draft], str], str]] = [
    (_of_two_tensors, "product"),
    (_with_the_constant_first, "product"),
    (_small, "product"),
    (_of_a_stack_of_weights, "product"),
    (_made_weights, "conv"),
    (_sum_with_a_constant, "sum"),
    (_sum_of_float, "sum"),
    (_pool_of_a_product, "pool"),
    (_concatenation_with_float, "cat"),
]


@pytest.mark.parametrize(("build", "name"), FLOAT, ids=lambda one: getattr(one, "__name__", one))
def test_what_stays_float(build: Callable[[Draft], str], name: str) -> None:
    draft = Draft()
    graph = Graph(draft.model(build(draft)))
    assert name in {one.name for one in graph.nodes}
    assert name not in {layer.name for layer in layers(graph)}


def test_a_relu_belongs_to_its_layer_only_if_nobody_else_reads() -> None:
    draft = Draft()
    conv = draft.conv(draft.conv(draft.picture, "stem", (4, 3, 1, 1)), "conv", (4, 4, 1, 1))
    draft.node("Add", draft.node("Relu", conv, name="relu"), conv, name="sum")
    found = layers(Graph(draft.model("sum")))
    assert [row(layer) for layer in found] == [
        ("conv", "conv", ("stem",), "conv"),
        ("add", "sum", ("relu", "conv"), "sum"),
    ]


# The signed form.


def test_activations_are_symmetric_and_signed() -> None:
    draft = Draft()
    graph, found, model = made(draft, network(draft))
    arrays = constants(model)
    wanted = magnitudes(graph, found)
    pairs = [one for one in model.graph.node if one.op_type == "QuantizeLinear"]
    assert len(pairs) == len({name for layer in found for name in layer.tensors}) - 1  # last
    for one in pairs:
        scale, zero = arrays[one.input[1]], arrays[one.input[2]]
        assert (scale.shape, scale.dtype) == ((), np.float32)
        assert (zero.shape, zero.dtype, int(zero)) == ((), np.int8, 0)
        if one.input[0] not in ("pool", "up"):  # these take the scale of what they read
            assert scale == np.float32(wanted[one.input[0]] / LEVELS)


def test_weights_have_a_scale_per_output_channel_and_biases_are_float() -> None:
    draft = Draft()
    graph, found, model = made(draft, network(draft))
    arrays = constants(model)
    given = node(model, "b0/weight/dequantized")
    whole, scale, zero = (arrays[name] for name in given.input)
    weight = graph.constants[next(one for one in graph.nodes if one.name == "b0").input[1]]
    assert attribute(given, "axis") == 0
    assert (whole.dtype, whole.shape, scale.shape) == (np.int8, weight.shape, (8,))
    assert (zero.dtype, zero.tolist()) == (np.int8, [0] * 8)
    assert (np.abs(whole).reshape(8, -1).max(1) == LEVELS).all(), "each channel fills its range"
    error = np.abs(whole * scale.reshape(-1, 1, 1, 1) - weight)
    assert (error <= 0.501 * scale.reshape(-1, 1, 1, 1)).all()
    for layer in found:
        if layer.kind == "conv":
            assert arrays[node(model, layer.name).input[2]].dtype == np.float32


def test_every_chosen_layer_reads_dequantised_tensors() -> None:
    draft = Draft()
    _, found, model = made(draft, network(draft))
    for layer in found:
        read = node(model, layer.name).input[: len(layer.inputs)]
        assert [name.endswith("/dequantized") for name in read] == [True] * len(layer.inputs)


def test_the_relu_is_inside() -> None:
    """Between a convolution and its ReLU nothing is rounded."""
    draft = Draft()
    _, _, model = made(draft, network(draft))
    assert node(model, "ar0").input[0] == "a0"
    assert node(model, "ar0/quantized").input[0] == "ar0"
    assert "a0/quantized" not in {one.name for one in model.graph.node}


def test_the_stem_stays_float() -> None:
    draft = Draft()
    _, _, model = made(draft, network(draft))
    assert constants(model)[node(model, "stem").input[1]].dtype == np.float32


def test_the_range_of_a_shared_tensor_is_rounded_once() -> None:
    draft = Draft()
    _, _, model = made(draft, network(draft))
    names = [one.name for one in model.graph.node]
    assert len(names) == len(set(names))
    assert names.count("up/quantized") == 1  # the sum and the concatenation read it
    readers = [one.name for one in model.graph.node if "up/dequantized" in one.input]
    assert readers == ["fpn", "cat"]


@pytest.mark.parametrize(("mode", "same"), [("linear", True), ("nearest", True), ("cubic", False)])
def test_pools_and_resizes_keep_the_scale(mode: str, same: bool) -> None:
    """A cubic one overshoots."""
    draft = Draft()
    stem = draft.node("Relu", draft.conv(draft.picture, "stem", (4, 3, 1, 1)), name="r")
    pool = draft.node("MaxPool", stem, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    first = draft.conv(pool, "first", (4, 4, 1, 1))
    draft.conv(resize(draft, first, "up", mode), "last", (4, 4, 1, 1))
    graph = Graph(draft.model("last"))
    found = layers(graph)
    wide = {name: 2.0 + i for i, name in enumerate(["r", "pool", "first", "up", "last"])}
    arrays = constants(quantized(graph, found, wide))
    assert arrays["pool/scale"] == arrays["r/scale"] == np.float32(2 / LEVELS)
    assert (arrays["up/scale"] == arrays["first/scale"]) == same


def test_what_is_only_moved_keeps_the_scale() -> None:
    draft = Draft()
    stem = draft.conv(draft.picture, "stem", (4, 3, 1, 1))
    first = draft.conv(stem, "first", (64, 4, 1, 1))
    turned = draft.node("Transpose", first, name="turned", perm=[0, 2, 3, 1])
    shape = draft.constant(np.int64([1, -1, 64]))
    draft.node("Reshape", turned, shape, name="rows")
    draft.node("MatMul", "rows", draft.weight(64, 8), name="linear")
    graph = Graph(draft.model("linear"))
    wide = {"stem": 1.0, "first": 2.0, "rows": 3.0}
    arrays = constants(quantized(graph, layers(graph), wide))
    assert arrays["rows/scale"] == arrays["first/scale"] == np.float32(2 / LEVELS)


def positions(draft: Draft, *readers: str) -> str:
    """Rows, a table that is added to them, and who reads the sum."""
    shape = draft.constant(np.int64([1, 18, 64]))
    rows = draft.node("Reshape", draft.picture, shape, name="rows")
    total = draft.node("Add", rows, draft.weight(1, 18, 64), name="sum")
    for name in readers:
        draft.node("MatMul", total, draft.weight(64, 8), name=name)
    return total


def test_a_table_that_two_nodes_add_is_stored_once() -> None:
    draft = Draft()
    shape = draft.constant(np.int64([1, 18, 64]))
    rows = draft.node("Reshape", draft.picture, shape, name="rows")
    table = draft.weight(1, 18, 64)
    for name in ("one", "two"):
        total = draft.node("Add", rows, table, name=f"{name}/sum")
        draft.node("MatMul", total, draft.weight(64, 8), name=name)
    _, _, model = made(draft, "one", "two")
    first, second = (node(model, f"{name}/sum").input[1] for name in ("one", "two"))
    assert first == second
    assert node(model, first).op_type == "DequantizeLinear"


def test_positions_for_linear_layers_are_added_in_int8() -> None:
    draft = Draft()
    positions(draft, "one", "two")
    graph, found, model = made(draft, "one", "two")
    assert next(row(layer) for layer in found) == ("add", "sum", ("rows",), "sum")
    rows_name, table = node(model, "sum").input
    given = node(model, table)
    whole, scale, zero = (constants(model)[name] for name in given.input)
    assert (whole.dtype, whole.shape, int(np.abs(whole).max())) == (np.int8, (1, 18, 64), LEVELS)
    assert (scale.shape, zero.shape, int(zero)) == ((), (), 0)
    assert (rows_name, given.op_type) == ("rows/dequantized", "DequantizeLinear")
    (picture, *_) = some_pictures()
    for a, b in zip(outputs(graph.finish(), picture), outputs(model, picture), strict=True):
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_positions_that_others_read_too_stay_float() -> None:
    draft = Draft()
    draft.node("Softmax", positions(draft, "one"), name="other")
    assert "sum" not in {layer.name for layer in layers(Graph(draft.model("one", "other")))}


def test_layers_left_float_stay_float() -> None:
    draft = Draft()
    last = network(draft)
    graph = Graph(draft.model(last))
    found = layers(graph)
    some = [layer for layer in found if layer.name not in ("b0", "add1", "last")]
    model = quantized(graph, some, magnitudes(graph, found))
    onnx.checker.check_model(model, full_check=True)
    arrays = constants(model)
    for name in ("b0", "last"):
        assert arrays[node(model, name).input[1]].dtype == np.float32
    assert node(model, "out1").input[0] == "add1"
    assert "out1/quantized" not in {one.name for one in model.graph.node}
    # What a quantised layer made is read rounded by float ones too; so nobody needs both.
    assert list(node(model, "add1").input) == ["b1/dequantized", "out0/dequantized"]


def test_without_a_layer_the_network_is_the_float_one() -> None:
    draft = Draft()
    model = draft.model(network(draft))
    again = quantized(Graph(model), [], {})
    assert kinds(again.graph.node) == kinds(model.graph.node)
    (picture, *_) = some_pictures()
    assert np.array_equal(outputs(again, picture)[0], outputs(model, picture)[0])


def test_the_graph_itself_is_not_changed() -> None:
    draft = Draft()
    graph = Graph(draft.model(network(draft)))
    before = graph.finish().SerializeToString(deterministic=True)
    found = layers(graph)
    quantized(graph, found, magnitudes(graph, found))
    assert graph.finish().SerializeToString(deterministic=True) == before


def test_it_computes_nearly_the_same() -> None:
    draft = Draft()
    graph, _, model = made(draft, network(draft))
    for picture in some_pictures():
        (wanted,), (got,) = outputs(graph.finish(), picture), outputs(model, picture)
        noise = np.sqrt(np.mean(np.square(got - wanted)) / np.mean(np.square(wanted)))
        assert 1e-4 < noise < 0.03


# Odd convolutions.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 8])
def test_grouped_and_depthwise_convolutions(bias: bool, group: int) -> None:
    draft = Draft()
    stem = draft.conv(draft.picture, "stem", (8, 3, 1, 1))
    draft.conv(stem, "conv", (8, 8 // group, 3, 3), bias=bias, group=group)
    graph, _, model = made(draft, "conv")
    assert constants(model)["conv/weight/scale"].shape == (8,)
    assert len(node(model, "conv").input) == 2 + bias
    (picture, *_) = some_pictures()
    wanted, got = outputs(graph.finish(), picture)[0], outputs(model, picture)[0]
    assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()


def test_two_convolutions_with_one_kernel() -> None:
    draft = Draft()
    stem = draft.conv(draft.picture, "stem", (8, 3, 1, 1))
    kernel = draft.weight(8, 8, 1, 1)
    for i in range(2):
        stem = draft.node("Conv", stem, kernel, name=f"conv{i}", kernel_shape=[1, 1])
    _, _, model = made(draft, stem)
    arrays = constants(model)
    assert np.array_equal(arrays["conv0/weight/int8"], arrays["conv1/weight/int8"])


def test_channels_that_are_switched_off_have_a_scale_for_their_bias() -> None:
    """Batch norm leaves such: kernels of 0, or nearly, and a bias that must survive."""
    draft = Draft()
    stem = draft.conv(draft.picture, "stem", (4, 3, 1, 1))
    kernel = draft.random.normal(size=(4, 4, 3, 3)).astype(np.float32)
    kernel[0], kernel[1] = 0, kernel[1] * 1e-9
    bias = draft.constant(np.full(4, 0.7, np.float32))
    draft.node("Conv", stem, draft.constant(kernel), bias, name="conv", kernel_shape=[3, 3])
    graph, found, model = made(draft, "conv")
    arrays = constants(model)
    steps = arrays["conv/weight/scale"] * arrays["stem/scale"]
    assert (0.7 / steps < 2**31 - 2**26).all(), "in INT32, with room for the products"
    assert (arrays["conv/weight/int8"][0] == 0).all()
    usual = quantized(graph, found, magnitudes(graph, found))
    assert (np.abs(constants(usual)["conv/weight/int8"][2:]).max(axis=(1, 2, 3)) == LEVELS).all()


def test_linear_layers_have_a_scale_per_column() -> None:
    draft = Draft()
    wide = draft.node("Reshape", draft.picture, draft.constant(np.int64([1, 18, 64])), name="wide")
    product = draft.node("MatMul", wide, draft.weight(64, 10), name="linear")
    draft.node("Add", product, draft.weight(10), name="sum")
    _, found, model = made(draft, "sum")
    assert [row(layer) for layer in found] == [("linear", "linear", ("wide",), "linear")]
    given = node(model, "linear/weight/dequantized")
    assert attribute(given, "axis") == 1
    assert constants(model)[given.input[1]].shape == (10,)
    assert node(model, "sum").input[0] == "linear", "what comes out stays float"
