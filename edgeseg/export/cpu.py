"""The INT8 network as ONNX Runtime's kernels for x86 like it: the form ``model.int8.u8.onnx``.

Q/DQ alone would give the same results more slowly: what is written here by hand, with operators of
ONNX Runtime's own, are the fusions that it doesn't make itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper

from edgeseg.export.fold import Graph, attribute
from edgeseg.export.quantize import LARGEST_BIAS, MOVES, POOLS, interpolates

ORT_DOMAIN = "com.microsoft"


def for_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same integers as ONNX Runtime's kernels for x86 like them.

    Activations become UINT8: shifted by 128, or as they are behind a ReLU, where none is negative;
    there ONNX Runtime drops the ReLU, as cutting at 0 does its work. Scales and weights are
    untouched. Values above the calibrated range are cut later than in the signed form, never
    earlier. A linear layer becomes one node of ONNX Runtime's own, with its bias in it; with what
    follows it too where that is a ReLU and INT8 again.
    """
    graph = Graph(model)
    producer = graph.producer()
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            zero = 0 if _never_negative(node.input[0], producer) else 128
            graph.constants[node.input[2]] = np.array(zero, np.uint8)
    _move_bytes(graph)
    producer = graph.producer()
    for node in [node for node in graph.nodes if node.op_type == "Add"]:
        _shift_table(graph, producer.get(node.input[1]))
    for node in [node for node in graph.nodes if node.op_type == "MatMul"]:
        _merge_linear(graph, node, producer)
        _merge_transpose(graph, node, producer)
    rows = _rows(model)
    for node in [node for node in graph.nodes if node.op_type == "MatMulIntegerToFloat"]:
        if node.output[0] in rows:
            _merge_relu(graph, node)
    result = graph.finish()
    result.opset_import.append(helper.make_opsetid(ORT_DOMAIN, 1))
    return result


def _move_bytes(graph: Graph) -> None:
    """What is INT8 already, or is made so elsewhere, isn't moved as floats and rounded again."""
    producer = graph.producer()
    known: dict[tuple[str, float, int], str] = {}  # float tensor, step -> the same as bytes
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            known[_step(node.input[0], node, graph)] = node.output[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] not in graph.constants:
            known[_step(node.output[0], node, graph)] = node.input[0]
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        moves: list[NodeProto] = []
        first = node.input[0] if node.op_type == "QuantizeLinear" else ""
        while first in producer and producer[first].op_type in MOVES:
            moves.insert(0, producer[first])
            first = moves[0].input[0]
        origin = known.get(_step(first, node, graph), "") if moves else ""
        nodes += _copied(moves, origin, node.output[0]) if origin else [node]
    graph.nodes = nodes


def _copied(moves: list[NodeProto], origin: str, end: str) -> list[NodeProto]:
    """The same moves of another tensor, to the name ``end``."""
    copies: list[NodeProto] = []
    for i, move in enumerate(moves):
        copy = NodeProto()
        copy.CopyFrom(move)
        copy.input[0] = copies[-1].output[0] if copies else origin
        copy.name = copy.output[0] = end if i == len(moves) - 1 else f"{end}/{i}"
        copies.append(copy)
    return copies


def _step(tensor: str, node: NodeProto, graph: Graph) -> tuple[str, float, int]:
    """A tensor with the scale and zero point of the node that quantises or dequantises it."""
    return tensor, float(graph.constants[node.input[1]]), int(graph.constants[node.input[2]])


def _shift_table(graph: Graph, table: NodeProto | None) -> None:
    """What is added to unsigned values is unsigned itself."""
    if table is None or table.op_type != "DequantizeLinear":
        return
    whole, _, zero = table.input
    if whole not in graph.constants or graph.constants[whole].dtype == np.uint8:
        return  # not constant, or another node's too, and shifted for that one
    graph.constants[whole] = (graph.constants[whole].astype(np.int16) + 128).astype(np.uint8)
    graph.constants[zero] = np.array(128, np.uint8)


def _merge_transpose(graph: Graph, matmul: NodeProto, producer: Mapping[str, NodeProto]) -> None:
    """A product with a transposed matrix reads it as it lies; ONNX Runtime's own for floats."""
    turned = producer.get(matmul.input[1])
    if matmul not in graph.nodes or turned is None or turned.op_type != "Transpose":
        return
    perm = list(attribute(turned, "perm"))
    if perm != [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]:
        return
    merged = helper.make_node(
        "FusedMatMul",
        [matmul.input[0], turned.input[0]],
        list(matmul.output),
        name=matmul.name,
        domain=ORT_DOMAIN,
        transB=1,
    )
    graph.nodes[graph.nodes.index(matmul)] = merged


def _merge_relu(graph: Graph, linear: NodeProto) -> None:
    """A linear layer with its bias, a ReLU and QuantizeLinear, as a convolution of single rows.

    What lies between stays INT8, and that kernel of ONNX Runtime is the faster one.
    """
    readers = graph.readers()
    relus = readers.get(linear.output[0], [])
    behind = readers.get(relus[0].output[0], []) if relus else []
    found = [node.op_type for node in (*relus, *behind)]
    shown = {output.name for output in graph.model.graph.output}
    if found != ["Relu", "QuantizeLinear"] or len(linear.input) < 7:
        return
    if not shown.isdisjoint((linear.output[0], relus[0].output[0])):
        return
    values, weight, step, factor, zero, none, bias = linear.input
    steps = graph.constants[step].astype(np.float64) * graph.constants[factor]
    whole_bias = np.round(graph.constants[bias] / steps)
    if np.abs(whole_bias).max() > LARGEST_BIAS:
        return
    kernel, offset = f"{linear.name}/kernel", f"{linear.name}/bias"
    graph.constants[kernel] = np.ascontiguousarray(graph.constants[weight].T)[:, :, None]
    graph.constants[offset] = whole_bias.astype(np.int32)
    inputs = [values, step, zero, kernel, factor, none, *behind[0].input[1:], offset]
    merged = helper.make_node(
        "QLinearConv",
        inputs,
        list(behind[0].output),
        name=linear.name,
        domain=ORT_DOMAIN,
        channels_last=1,
        kernel_shape=[1],
    )
    graph.nodes[graph.nodes.index(linear)] = merged
    graph.nodes.remove(relus[0])
    graph.nodes.remove(behind[0])


def _rows(model: onnx.ModelProto) -> set[str]:
    """Tensors of three axes: pictures, rows, values."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {one.name for one in graph.value_info if len(one.type.tensor_type.shape.dim) == 3}


def _never_negative(tensor: str, producer: Mapping[str, NodeProto]) -> bool:
    node = producer.get(tensor)
    if node is None:
        return False
    same = (*POOLS, *MOVES, "DequantizeLinear", "QuantizeLinear", "Concat")
    if node.op_type in same or interpolates(node):
        count = len(node.input) if node.op_type == "Concat" else 1
        return all(_never_negative(name, producer) for name in node.input[:count])
    return node.op_type == "Relu"


def _merge_linear(graph: Graph, matmul: NodeProto, producer: Mapping[str, NodeProto]) -> None:
    """Two DequantizeLinear, MatMul and the addition of a bias, as one node."""
    values, weight = (producer.get(name, NodeProto()) for name in matmul.input)
    both = values.op_type == weight.op_type == "DequantizeLinear"
    if not both or weight.input[0] not in graph.constants:
        return
    inputs = [values.input[0], weight.input[0], values.input[1], weight.input[1]]
    inputs += [values.input[2], weight.input[2]]
    readers = graph.readers().get(matmul.output[0], [])
    last = matmul
    outputs = {output.name for output in graph.model.graph.output}
    if len(readers) == 1 and readers[0].op_type == "Add" and matmul.output[0] not in outputs:
        bias = next((name for name in readers[0].input if name in graph.constants), "")
        if bias and graph.constants[bias].ndim == 1:
            inputs.append(bias)
            last = readers[0]
            graph.nodes.remove(matmul)
    merged = helper.make_node(
        "MatMulIntegerToFloat", inputs, list(last.output), name=matmul.name, domain=ORT_DOMAIN
    )
    graph.nodes[graph.nodes.index(last)] = merged
    if weight in graph.nodes:
        graph.nodes.remove(weight)
