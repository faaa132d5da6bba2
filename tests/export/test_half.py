"""Networks in the form that TensorRT takes: the same results, float16 where that is harmless."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_onnx import Draft, constants

from edgeseg import bundle
from edgeseg.cameras import open_camera
from edgeseg.engines.ort import onnxruntime
from edgeseg.export.fold import folded
from edgeseg.export.half import FLOAT, HALF, for_tensorrt
from edgeseg.export.quantize import layers, quantized
from edgeseg.preprocess import Preprocessor

NANO = bundle.find("fastinst-nano")
SPEC = bundle.read(NANO)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Six network inputs from the packaged clip."""
    fit, found = Preprocessor(SPEC), []
    with open_camera(bundle.PACKAGED / "clip" / "tabletop.mp4") as camera:
        for frame in camera:
            with frame:
                if frame.sequence % 50 == 0:
                    found.append(np.zeros((1, *SPEC.input_hw, 3), np.uint8))
                    fit(frame, found[-1])
    return found[:6]


@pytest.fixture(scope="module")
def fp32() -> onnx.ModelProto:
    return folded(NANO / "model.onnx").finish()


@pytest.fixture(scope="module")
def fp16(fp32: onnx.ModelProto) -> onnx.ModelProto:
    return for_tensorrt(fp32)


@pytest.fixture(scope="module")
def int8() -> onnx.ModelProto:
    return onnx.load(NANO / "model.int8.onnx")


@pytest.fixture(scope="module")
def int8_half(int8: onnx.ModelProto) -> onnx.ModelProto:
    return for_tensorrt(int8)


def results(model: onnx.ModelProto, pictures: list[np.ndarray], tmp_path: Path) -> list[Any]:
    """Outputs of ONNX Runtime, which fuses float16 scales wrongly: so it may fuse nothing."""
    onnx.save(model, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    return [session.run(["scores", "labels", "masks"], {"image": one}) for one in pictures]


def overlap(wanted: Any, got: Any) -> list[float]:
    """For each confident instance, the best mask IoU among confident ones of its class."""
    best = []
    for score, label, mask in zip(*wanted, strict=True):
        if score < 0.5:
            continue
        same = (got[1] == label) & (got[0] > 0.2)
        both = ((got[2] > 0) & (mask > 0)).sum((1, 2))
        either = ((got[2] > 0) | (mask > 0)).sum((1, 2))
        best.append(float(np.where(same, both / np.maximum(either, 1), 0).max()))
    return best


def test_float16_gives_the_same_objects(
    fp32: onnx.ModelProto, fp16: onnx.ModelProto, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    one, other = (results(model, pictures, tmp_path) for model in (fp32, fp16))
    found = [share for pair in zip(one, other, strict=True) for share in overlap(*pair)]
    assert len(found) > 40
    assert min(found) > 0.95 and np.mean(found) > 0.995
    top = [np.abs(np.sort(a[0]) - np.sort(b[0])).max() for a, b in zip(one, other, strict=True)]
    assert np.median(top) < 0.01
    assert max(top) < 0.1, "one bit of blocked attention moves one query; see decision 007"


def test_int8_with_a_float16_rest_gives_the_same_objects(
    int8: onnx.ModelProto, int8_half: onnx.ModelProto, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    one, other = (results(model, pictures, tmp_path) for model in (int8, int8_half))
    found = [share for pair in zip(one, other, strict=True) for share in overlap(*pair)]
    assert len(found) > 40
    assert np.mean(found) > 0.97
    assert np.mean(np.array(found) > 0.9) > 0.95


def kinds(model: onnx.ModelProto) -> dict[str, Counter[int]]:
    """Operator -> how often it gives each type."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {one.name: one.type.tensor_type.elem_type for one in graph.value_info}
    found: dict[str, Counter[int]] = {}
    for node in model.graph.node:
        found.setdefault(node.op_type, Counter())[types.get(node.output[0], 0)] += 1
    return found


@pytest.mark.parametrize("name", ["fp16", "int8_half"])
def test_what_multiplies_is_float16_and_what_sums_is_float32(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    onnx.checker.check_model(model, full_check=True)
    found = kinds(model)
    for operator in ("Conv", "MatMul", "DequantizeLinear"):
        assert set(found.get(operator, [HALF])) == {HALF}, operator
    for operator in ("Softmax", "LayerNormalization", "Sigmoid", "ReduceSum", "TopK"):
        assert set(found[operator]) == {FLOAT}, operator
    assert found["Conv"][HALF] == 38
    assert model.opset_import[0].version == 19
    assert model.ir_version == 9


@pytest.mark.parametrize("name", ["fp16", "int8_half"])
def test_inputs_and_outputs_keep_their_types(name: str, request: pytest.FixtureRequest) -> None:
    graph = request.getfixturevalue(name).graph
    seen = {one.name: one.type.tensor_type.elem_type for one in [*graph.input, *graph.output]}
    assert seen == {
        "image": TensorProto.UINT8,
        "scores": FLOAT,
        "labels": TensorProto.INT32,
        "masks": FLOAT,
    }


def test_the_picture_is_cast_before_it_is_transposed(fp16: onnx.ModelProto) -> None:
    readers = [node for node in fp16.graph.node if "image" in node.input]
    assert [node.op_type for node in readers] == ["Cast"]
    names = [node.op_type for node in fp16.graph.node]
    assert names.index("Cast") < names.index("Transpose")


def test_it_halves_the_file_and_leaves_the_model_alone(
    fp32: onnx.ModelProto, int8: onnx.ModelProto
) -> None:
    before = fp32.SerializeToString(deterministic=True)
    half = for_tensorrt(fp32)
    assert fp32.SerializeToString(deterministic=True) == before
    assert half.ByteSize() < 0.6 * fp32.ByteSize()
    again = for_tensorrt(fp32)
    assert half.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    weights = {one.name: numpy_helper.to_array(one) for one in int8.graph.initializer}
    for one in for_tensorrt(int8).graph.initializer:
        if one.data_type == TensorProto.INT8:
            np.testing.assert_array_equal(numpy_helper.to_array(one), weights[one.name])


def small(constant: float) -> onnx.ModelProto:
    """A convolution times a constant, in which nothing stands after the picture's cast."""
    picture = helper.make_tensor_value_info("image", TensorProto.UINT8, (1, 8, 8, 3))
    out = helper.make_tensor_value_info("out", FLOAT, (1, 3, 8, 8))
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["conv"]),
        helper.make_node("Mul", ["conv", "constant"], ["product"]),
        helper.make_node("Relu", ["product"], ["relu"]),
        helper.make_node("Identity", ["relu"], ["out"]),
    ]
    constants = {
        "kernel": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "constant": np.array(constant, np.float32),
    }
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "small", [picture], [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("constant", "kind"), [(2.0, HALF), (-255.0, HALF), (256.0, FLOAT), (1e-6, FLOAT), (0.0, HALF)]
)
def test_constants_that_lead_out_of_float16_keep_float32(constant: float, kind: int) -> None:
    half = for_tensorrt(small(constant))
    onnx.checker.check_model(half, full_check=True)
    found = kinds(half)
    assert set(found["Mul"]) == {kind}
    assert set(found["Relu"]) == {kind}, "what follows takes the type of what it reads"
    assert set(found["Conv"]) == {HALF}


def test_scales_of_dead_channels_stay_above_zero(tmp_path: Path) -> None:
    """float16 has no 1e-12, and TensorRT takes no scale of 0."""
    draft = Draft()
    image = draft.node("Relu", draft.conv(draft.picture, "stem", (4, 3, 3, 3)), name="first")
    conv = draft.conv(image, "second", (4, 4, 1, 1), bias=False)
    draft.constants[draft.nodes[-1].input[1]][2] = 0
    graph = folded(draft.save(tmp_path / "model.onnx", draft.node("Relu", conv, name="out")))
    chosen = layers(graph)
    ranges = {name: 1.0 for layer in chosen for name in layer.tensors}
    scale = constants(for_tensorrt(quantized(graph, chosen, ranges)))["second/weight/scale/half"]
    assert scale.dtype == np.float16
    assert 0 < scale[2] < 1e-7 < 1e-4 < scale[0]
