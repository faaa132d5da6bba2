"""The same integers for x86: what ONNX Runtime makes of them, and how many layers it fuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_onnx import (
    PAD,
    Draft,
    constants,
    kinds,
    network,
    node,
    outputs,
    resize,
    session,
    some_pictures,
    widest,
)

from edgeseg.bundle import PACKAGED
from edgeseg.engines.ort import onnxruntime
from edgeseg.export.cpu import for_cpu
from edgeseg.export.fold import Graph, folded
from edgeseg.export.quantize import LEVELS, layers, quantized

STEPS = 2.01
"""Both forms hold the same integers; but for biases, which ONNX Runtime rounds in a fused layer,
and sums that lie between two of them."""


def both(draft: Draft, *names: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The signed form and that for CPUs, with all layers in INT8 and nothing saturated."""
    graph = Graph(draft.model(*names))
    found = layers(graph)
    wide = widest(graph.finish(), {name for layer in found for name in layer.tensors})
    signed = quantized(graph, found, {name: 1.02 * value for name, value in wide.items()})
    return signed, for_cpu(signed)


def linear(draft: Draft, tensor: str, name: str, bias: tuple[int, ...] | None = (10,)) -> str:
    """A linear layer of 64 values to 10."""
    product = draft.node("MatMul", tensor, draft.weight(64, 10), name=name)
    if bias is None:
        return product
    return draft.node("Add", product, draft.weight(*bias), name=f"{name}/sum")


def rows(draft: Draft) -> str:
    """The picture as 18 rows of 64 values."""
    return draft.node("Reshape", draft.picture, draft.constant(np.int64([1, 18, 64])), name="rows")


def zeros(model: onnx.ModelProto) -> dict[str, int]:
    """Zero point of each activation."""
    arrays = constants(model)
    points = {
        one.input[0]: arrays[one.input[2]]
        for one in model.graph.node
        if one.op_type == "QuantizeLinear"
    }
    assert {array.dtype for array in points.values()} == {np.dtype(np.uint8)}
    return {name: int(array) for name, array in points.items()}


# The same integers.


@pytest.mark.parametrize("seed", range(4))
def test_both_forms_give_the_same(seed: int) -> None:
    """To a step or two of the last quantised tensor, while nothing saturates."""
    draft = Draft(seed)
    last = network(draft)
    draft.node("Relu", last, name="relu")
    draft.conv("relu", "head", (4, 4, 1, 1))  # so that "relu" is rounded
    signed, unsigned = both(draft, "head")
    step = float(constants(signed)["relu/scale"])
    for picture in some_pictures():
        names = ["relu/dequantized"]
        (a,), (b,) = outputs(signed, picture, names), outputs(unsigned, picture, names)
        assert a.max() > 60 * step
        assert np.abs(a - b).max() <= STEPS * step
        assert np.abs(a - b).mean() <= 0.05 * step


def test_scales_and_weights_are_untouched() -> None:
    draft = Draft()
    signed, unsigned = both(draft, network(draft))
    a, b = constants(signed), constants(unsigned)
    assert a.keys() == b.keys()
    changed = {name for name in a if not np.array_equal(a[name], b[name])}
    assert changed == {f"{name}/zero" for name, zero in zeros(unsigned).items() if zero}
    assert all(b[name].dtype == np.int8 for name in a if name.endswith("/weight/int8"))


def test_only_what_may_be_negative_is_shifted() -> None:
    draft = Draft()
    _, unsigned = both(draft, network(draft))
    found = {name for name, zero in zeros(unsigned).items() if zero == 0}
    assert found == {"r", "pool", "ar0", "ar1", "out0", "out1", "up"}
    assert set(zeros(unsigned).values()) == {0, 128}


def test_a_cubic_resize_may_be_negative() -> None:
    draft = Draft()
    stem = draft.node("Relu", draft.conv(draft.picture, "stem", (4, 3, 1, 1)), name="r")
    first = draft.node("Relu", draft.conv(stem, "first", (4, 4, 1, 1)), name="fr")
    draft.conv(resize(draft, first, "up", "cubic"), "last", (4, 4, 1, 1))
    _, unsigned = both(draft, "last")
    assert zeros(unsigned) == {"r": 0, "fr": 0, "up": 128}


def test_above_the_range_is_cut_later_never_earlier() -> None:
    """Behind a ReLU an unsigned byte reaches twice as far."""
    draft = Draft()
    stem = draft.node("Relu", draft.conv(draft.picture, "stem", (4, 3, 1, 1)), name="r")
    draft.conv(stem, "last", (4, 4, 1, 1))
    graph = Graph(draft.model("last"))
    found = layers(graph)
    largest = widest(graph.finish(), ["r"])["r"]
    signed = quantized(graph, found, {"r": largest / 3, "last": 1.0})
    (picture, *_) = some_pictures()
    names = ["r/dequantized"]
    (a,), (b,) = outputs(signed, picture, names), outputs(for_cpu(signed), picture, names)
    assert a.max() == pytest.approx(largest / 3)
    assert b.max() == pytest.approx(largest / 3 * 255 / LEVELS)
    inside = a < 0.99 * largest / 3
    assert np.array_equal(a[inside], b[inside])


def test_the_signed_form_is_not_changed() -> None:
    draft = Draft()
    signed, _ = both(draft, network(draft))
    before = signed.SerializeToString(deterministic=True)
    for_cpu(signed)
    assert signed.SerializeToString(deterministic=True) == before


# Linear layers.


@pytest.mark.parametrize("bias", [(10,), None])
def test_a_linear_layer_is_one_node(bias: tuple[int, ...] | None) -> None:
    draft = Draft()
    last = linear(draft, rows(draft), "linear", bias)
    signed, unsigned = both(draft, last)
    merged = node(unsigned, "linear")
    assert (merged.op_type, merged.domain) == ("MatMulIntegerToFloat", "com.microsoft")
    assert len(merged.input) == (7 if bias else 6)
    assert merged.output[0] == last
    assert not {"MatMul", "Add"} & set(kinds(unsigned.graph.node))
    (picture, *_) = some_pictures()
    (a,), (b,) = outputs(signed, picture), outputs(unsigned, picture)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def test_a_bias_that_is_no_row_stays_beside() -> None:
    draft = Draft()
    signed, unsigned = both(draft, linear(draft, rows(draft), "linear", (18, 10)))
    assert len(node(unsigned, "linear").input) == 6
    (picture, *_) = some_pictures()
    (a,), (b,) = outputs(signed, picture), outputs(unsigned, picture)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def test_a_product_that_others_read_keeps_its_values() -> None:
    draft = Draft()
    last = linear(draft, rows(draft), "linear")
    draft.node("Sub", last, "linear", name="bias")
    for names in (("bias",), (last, "linear")):
        signed, unsigned = both(draft, *names)
        (picture, *_) = some_pictures()
        for a, b in zip(outputs(signed, picture), outputs(unsigned, picture), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def test_a_product_of_two_tensors_is_left_alone() -> None:
    """Also where both of them, or one, come from INT8 layers."""
    draft = Draft()
    stem = draft.conv(draft.picture, "stem", (4, 3, 1, 1))
    one, other = (draft.conv(stem, name, (4, 4, 1, 1)) for name in ("one", "other"))
    turned = draft.node("Transpose", other, name="turned", perm=[0, 1, 3, 2])
    draft.node("MatMul", one, turned, name="two")
    square = draft.node("Slice", one, *_ends(draft), name="square")
    draft.node("MatMul", square, other, name="plain")
    signed, unsigned = both(draft, "two", "plain")
    found = Counter(kinds(unsigned.graph.node))
    assert (found["MatMul"], found["FusedMatMul"], found["MatMulIntegerToFloat"]) == (1, 1, 0)
    assert list(node(unsigned, "two").input) == ["one/dequantized", "other/dequantized"]
    (picture, *_) = some_pictures()
    for a, b in zip(outputs(signed, picture), outputs(unsigned, picture), strict=True):
        np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())


def _ends(draft: Draft) -> list[str]:
    """A slice to 16 columns."""
    return [draft.constant(np.int64([value])) for value in (0, 16, 3)]


def feed_forward(draft: Draft, tensor: str) -> str:
    """Two linear layers with a ReLU between them."""
    hidden = draft.node("MatMul", tensor, draft.weight(64, 96), name="first")
    hidden = draft.node("Add", hidden, draft.weight(96), name="first/sum")
    draft.node("Relu", hidden, name="relu")
    return draft.node("MatMul", "relu", draft.weight(96, 10), name="second")


def test_between_two_linear_layers_all_is_int8() -> None:
    """As a convolution of rows; it rounds the bias too."""
    draft = Draft()
    signed, unsigned = both(draft, feed_forward(draft, rows(draft)))
    merged = node(unsigned, "first")
    assert (merged.op_type, merged.output[0]) == ("QLinearConv", "relu/quantized")
    arrays = constants(unsigned)
    assert arrays[merged.input[3]].shape == (96, 64, 1)
    assert np.array_equal(arrays[merged.input[3]][..., 0].T, constants(signed)["first/weight/int8"])
    assert not {"Relu", "Add"} & set(kinds(unsigned.graph.node))
    for picture in some_pictures():
        (a,), (b,) = outputs(signed, picture), outputs(unsigned, picture)
        assert np.abs(a - b).max() < 0.02 * np.abs(a).max()
        assert np.abs(a - b).mean() < 0.002 * np.abs(a).max()


@pytest.mark.parametrize("names", [("second", "relu"), ("second", "first/sum")])
def test_what_others_see_between_linear_layers_stays(names: tuple[str, ...]) -> None:
    draft = Draft()
    feed_forward(draft, rows(draft))
    signed, unsigned = both(draft, *names)
    assert node(unsigned, "first").op_type == "MatMulIntegerToFloat"
    (picture, *_) = some_pictures()
    for a, b in zip(outputs(signed, picture), outputs(unsigned, picture), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2 * np.abs(a).max())


def test_linear_layers_of_other_than_rows_stay_apart() -> None:
    """A convolution of rows wants three axes."""
    draft = Draft()
    flat = draft.node("Reshape", draft.picture, draft.constant(np.int64([18, 64])), name="flat")
    _, unsigned = both(draft, feed_forward(draft, flat))
    assert node(unsigned, "first").op_type == "MatMulIntegerToFloat"


def test_a_table_of_positions_is_unsigned_too(tmp_path: Path) -> None:
    """Once, whoever adds it."""
    draft = Draft()
    values, table = rows(draft), draft.weight(1, 18, 64)
    for name in ("one", "two"):
        linear(draft, draft.node("Add", values, table, name=f"{name}/positions"), name)
    signed, unsigned = both(draft, "one/sum", "two/sum")
    name = f"{table}/table/int8"
    a, b = constants(signed)[name], constants(unsigned)[name]
    assert b.dtype == np.uint8 and np.array_equal(a.astype(int) + 128, b.astype(int))
    assert optimised(unsigned, tmp_path)["QLinearAdd"] == 2
    (picture, *_) = some_pictures()
    for a, b in zip(outputs(signed, picture), outputs(unsigned, picture), strict=True):
        np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())


def test_bytes_are_moved_instead_of_floats() -> None:
    """And rounded once, where they are made."""
    draft = Draft()
    stem = draft.conv(draft.picture, "stem", (4, 3, 1, 1))
    first = draft.node("Relu", draft.conv(stem, "first", (64, 4, 1, 1)), name="fr")
    draft.node("Transpose", first, name="turned", perm=[0, 2, 3, 1])
    draft.node("Reshape", "turned", draft.constant(np.int64([1, -1, 64])), name="pixels")
    linear(draft, "pixels", "linear")
    draft.node("Sigmoid", "pixels", name="other")
    signed, unsigned = both(draft, "linear/sum", "other")
    assert "pixels" in {one.input[0] for one in signed.graph.node if "Quant" in one.op_type}
    rounded = [one.input[0] for one in unsigned.graph.node if one.op_type == "QuantizeLinear"]
    assert rounded == ["stem", "fr"]
    assert node(unsigned, "linear").input[0] == "pixels/quantized"
    (picture, *_) = some_pictures()
    for a, b in zip(outputs(signed, picture), outputs(unsigned, picture), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=0.02 * np.abs(a).max())


# What ONNX Runtime makes of it.


def optimised(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators of the network that ONNX Runtime runs."""
    session(model, folder / "optimised.onnx")
    return Counter(kinds(onnx.load(folder / "optimised.onnx").graph.node))


def test_every_layer_is_fused(tmp_path: Path) -> None:
    draft = Draft()
    last = network(draft)
    draft.node("Relu", last, name="relu")
    draft.conv("relu", "head", (4, 4, 1, 1))
    draft.node("Sigmoid", "head", name="end")  # an output of the network is never rounded
    _, unsigned = both(draft, "end")
    found = optimised(unsigned, tmp_path)
    assert (found["QLinearConv"], found["Conv"] + found["FusedConv"]) == (7, 1)
    assert (found["QLinearAdd"], found["Add"]) == (3, 0)
    assert (found["MaxPool"], found["QLinearConcat"]) == (1, 1)
    # Rounded: what the stem and the resize make. In float again: for the resize and the output.
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (2, 2)
    assert found["Relu"] == 0, "done by cutting at 0"


@pytest.mark.parametrize("group", [1, 8])
def test_channels_that_are_switched_off_keep_their_bias(tmp_path: Path, group: int) -> None:
    """ONNX Runtime rounds the bias to INT32; with a scale for weights of 0 alone it was lost."""
    draft = Draft()
    stem = draft.node("Relu", draft.conv(draft.picture, "stem", (8, 3, 1, 1)), name="r")
    kernel = draft.random.normal(size=(8, 8 // group, 3, 3)).astype(np.float32)
    kernel[0], kernel[1], kernel[2] = 0, kernel[1] * 1e-9, kernel[2] * 1e-5
    bias = draft.constant(np.full(8, 0.7, np.float32))
    weight = draft.constant(kernel)
    draft.node("Conv", stem, weight, bias, name="conv", kernel_shape=[3, 3], group=group, **PAD)
    draft.node("Sigmoid", "conv", name="end")
    signed, unsigned = both(draft, "end")
    assert optimised(unsigned, tmp_path)["QLinearConv"] == 1
    (picture, *_) = some_pictures()
    for model in (signed, unsigned):
        (values,) = outputs(model, picture)
        assert np.abs(values[0, :3] - 1 / (1 + np.exp(-0.7))).max() < 0.03


@pytest.fixture(scope="module")
def nano() -> tuple[onnx.ModelProto, dict[str, int]]:
    """The packaged network for CPUs, and how many layers of each kind are INT8."""
    folder = PACKAGED / "fastinst-nano"
    count = Counter(layer.kind for layer in layers(folded(folder / "model.onnx")))
    return onnx.load(folder / "model.int8.u8.onnx"), count


def test_the_packaged_network_is_fused(
    nano: tuple[onnx.ModelProto, dict[str, int]], tmp_path: Path
) -> None:
    model, count = nano
    found = optimised(model, tmp_path)
    rows = 8  # linear layers with a ReLU and INT8 behind them
    assert found["QLinearConv"] - rows == count["conv"] == 37
    assert found["QLinearAdd"] == count["add"] == 13
    assert found["MatMulIntegerToFloat"] + rows == count["linear"] == 25
    assert found["QLinearConcat"] == count["concat"] == 1
    assert found["NhwcMaxPool"] + found["QLinearAveragePool"] == count["pool"] == 2


def test_the_packaged_forms_are_one_network(nano: tuple[onnx.ModelProto, dict[str, int]]) -> None:
    """Both give the same instances of a picture of the clip."""
    from edgeseg.bundle import read
    from edgeseg.export.calibrate import pictures
    from edgeseg.export.int8 import CLIP
    from edgeseg.export.sensitivity import mask_iou_loss

    folder = PACKAGED / "fastinst-nano"
    shown = [one.copy() for one in pictures(CLIP, read(folder), 6)]
    sessions = [
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in ("model.onnx", "model.int8.onnx", "model.int8.u8.onnx")
    ]
    names = ["scores", "labels", "masks"]
    fp32, signed, unsigned = (
        [dict(zip(names, one.run(names, {"image": picture}), strict=True)) for picture in shown]
        for one in sessions
    )
    for wanted, got, most in (
        (fp32, unsigned, 0.06),
        (fp32, signed, 0.06),
        (signed, unsigned, 0.04),
    ):
        losses = [mask_iou_loss(a, b, 0.5) for a, b in zip(wanted, got, strict=True)]
        assert len([loss for loss in losses if loss is not None]) >= 3
        assert np.mean([loss for loss in losses if loss is not None]) < most


def test_the_opset_of_onnx_runtime_is_declared_once() -> None:
    draft = Draft()
    _, unsigned = both(draft, linear(draft, rows(draft), "linear"))
    assert {one.domain: one.version for one in unsigned.opset_import} == {
        "": 17,
        "com.microsoft": 1,
    }
    assert len(unsigned.opset_import) == 2
    assert helper.make_opsetid("com.microsoft", 1) in unsigned.opset_import
    assert all(numpy_helper.to_array(one) is not None for one in unsigned.graph.initializer)
