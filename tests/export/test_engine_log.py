"""Reading build logs of TensorRT: lines as TensorRT for RTX 1.7 writes them, shortened."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from edgeseg.export.engine_log import meant_int8, not_int8, read_layers, summary


def tensor(kind: str, name: str = "t") -> str:
    return (
        f"{{ Name: {name}, Dimensions: [1,16,8,8], Strides: [1024,1,128,16], StrideOrder: [3,0,2,1]"
        f", Datatype: {kind}, Format: (NHWC) Channel major format }}"
    )


def line(
    name: str,
    kind: str,
    reads: tuple[str, ...],
    constants: tuple[str, ...],
    writes: tuple[str, ...],
    *nodes: str,
) -> str:
    parts = [", ".join(map(tensor, types)) for types in (reads, constants, writes)]
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {parts[0]}], Constants: [ {parts[1]}], "
        f"Outputs: [ {parts[2]}], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: {metadata}"
    )


LOG = [
    "[MemUsageStats] Peak memory usage",
    line("a/Conv_1", "correlation", ("Half",), ("Half", "Float"), ("Half",), "a/Conv", "a/Relu"),
    line("b/Conv_2", "correlation", ("Int8",), ("Int8", "Float"), ("Float",), "b/Conv"),
    line("c/Conv_3", "correlation", ("Int8",), ("Half",), ("Half",), "c/Conv", "c/weight"),
    line("mul_4", "gemm", ("Int8",), ("Int8",), ("Half",), "d/Conv"),
    "Name: x, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , Metadata: ",
    line("e/Conv_6", "correlation", ("Half",), ("Int8",), ("Half",), "e/Conv"),
    line("k_5", "kgen", ("Half", "Int8"), (), ("Half", "Int8")),
]


def test_layers_are_read_with_types_and_nodes() -> None:
    layers = read_layers(LOG)
    names = [layer.name for layer in layers]
    assert names == ["a/Conv_1", "b/Conv_2", "c/Conv_3", "mul_4", "e/Conv_6", "k_5"]
    one = layers[0]
    assert (one.kind, one.inputs, one.constants, one.outputs) == (
        "correlation",
        ("Half",),
        ("Half", "Float"),
        ("Half",),
    )
    assert one.nodes == ("a/Conv", "a/Relu")
    assert [layer.is_int8 for layer in layers] == [False, True, False, True, False, False]
    assert [layer.types for layer in layers] == [
        "Half x Half -> Half",
        "Int8 x Int8 -> Float",
        "Int8 x Half -> Half",
        "Int8 x Int8 -> Half",
        "Half x Int8 -> Half",
        "Half -> Half, Int8",
    ]


@pytest.mark.parametrize(
    ("name", "missed"),
    [(f"{one}/Conv", one != "b") for one in "abcde"],
)
def test_a_convolution_is_int8_where_both_sides_are(name: str, missed: bool) -> None:
    assert not_int8([name], read_layers(LOG)) == ([name] if missed else [])


def test_without_a_log_nothing_is_int8() -> None:
    assert not_int8(["b/Conv", "z/Conv"], []) == ["b/Conv", "z/Conv"]
    assert read_layers([]) == []


def test_layers_are_counted_by_kind() -> None:
    assert summary(read_layers([*LOG, LOG[2]])) == {
        "correlation Int8 x Int8 -> Float": 2,
        "correlation Half x Half -> Half": 1,
        "correlation Int8 x Half -> Half": 1,
        "correlation Half x Int8 -> Half": 1,
        "gemm Int8 x Int8 -> Half": 1,
        "kgen Half -> Half, Int8": 1,
    }


def test_convolutions_with_both_sides_dequantized_are_meant() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"]),
        helper.make_node("Conv", ["x", "weight", "bias"], ["y"], name="both"),
        helper.make_node("Conv", ["x", "float"], ["z"], name="one"),
        helper.make_node("Conv", ["float", "weight"], ["v"], name="other"),
        helper.make_node("MatMul", ["x", "weight"], ["u"], name="product"),
    ]
    model = onnx.helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert meant_int8(model) == ["both"]
