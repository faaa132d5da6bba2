"""INT8 as explicit QuantizeLinear/DequantizeLinear: one calibrated model for every target.

Symmetric, zero point 0, one scale per tensor and one per output channel of a weight; biases stay
float. Both sides of convolutions, of the additions and poolings between them, and the inputs of
linear layers are quantised. The first convolution stays float (slower in INT8 on CPUs), and so does
whatever isn't listed: attention and mask products, which lose accuracy for little time (see
docs/int8.md), normalisations, and the choice of queries, where order matters.

TensorRT reads ``model.int8.onnx`` as it is. ONNX Runtime's fast kernels for x86 want unsigned
activations: `for_cpu` writes the same integers in that form, ``model.int8.u8.onnx``, and both
share one file of weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper

from edgeseg.export.fold import Graph, attribute

LEVELS = 127
LEAST_SCALE = 1e-12
LARGEST_BIAS = 2**30
SMALLEST_LINEAR = 64
FLOAT_MODULE = ".kernel_update_conv"
"""K-Net's updator reads sums over masks of one pixel to a whole picture: no scale fits them all."""
ORT_DOMAIN = "com.microsoft"
POOLS = ("MaxPool", "AveragePool")
MOVES = ("Transpose", "Reshape")


@dataclass(frozen=True)
class Layer:
    """A layer that can be quantised.

    Attributes:
        name: of its ONNX node: module in the torch network and operator, e.g.
            ``backbone.layer1.0.conv1/Conv``.
        kind: ``conv``, ``linear``, ``add``, ``pool`` or ``concat``.
        inputs: tensors that it reads, weights not among them.
        output: tensor that it makes, behind its ReLU where it has one.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str

    @property
    def tensors(self) -> tuple[str, ...]:
        """Tensors that need a range."""
        return self.inputs if self.kind == "linear" else (*self.inputs, self.output)


def layers(graph: Graph) -> list[Layer]:
    """Every layer that can be quantised, in the order of execution."""
    found: list[Layer] = []
    made: set[str] = set()  # what quantised layers make
    readers = graph.readers()
    stem = next((node.name for node in graph.nodes if node.op_type == "Conv"), "")
    for node in graph.nodes:
        kind = _kind(node, graph, made, stem)
        if not kind:
            continue
        behind = readers.get(node.output[0], [])
        relu = len(behind) == 1 and behind[0].op_type == "Relu"
        output = behind[0].output[0] if relu else node.output[0]
        inputs = tuple(name for name in node.input if name not in graph.constants)
        found.append(Layer(node.name, kind, inputs, output))
        if kind != "linear":
            made |= {output, node.output[0]}
    return found


def _kind(node: NodeProto, graph: Graph, made: Collection[str], stem: str) -> str:
    """What sort of quantisable layer a node is; "" for none."""
    constant = [name in graph.constants for name in node.input]
    if node.op_type == "Conv":
        return "conv" if node.name != stem and constant[1] else ""
    if FLOAT_MODULE in node.name:
        return ""
    if node.op_type == "MatMul" and constant == [False, True]:
        weight = graph.constants[node.input[1]]
        return "linear" if weight.ndim == 2 and len(weight) >= SMALLEST_LINEAR else ""
    if node.op_type == "Add" and not any(constant):
        return "add" if any(name in made for name in node.input) else ""
    if node.op_type == "Add" and constant == [False, True]:
        return "add" if _is_position(node, graph) else ""
    if node.op_type in POOLS:
        return "pool" if node.input[0] in made or _is_picture(node, graph, stem) else ""
    if node.op_type == "Concat" and not any(constant):
        return "concat" if all(_from(name, graph, made) for name in node.input) else ""
    return ""


def _is_position(node: NodeProto, graph: Graph) -> bool:
    """Whether a table of as many axes as the other side is added, for linear layers alone.

    A bias has one axis; behind a linear layer it is added to what is float.
    """
    table = graph.constants[node.input[1]]
    readers = graph.readers().get(node.output[0], [])
    linear = all(one.op_type == "MatMul" and one.input[1] in graph.constants for one in readers)
    return table.ndim > 1 and bool(readers) and linear


def _is_picture(node: NodeProto, graph: Graph, stem: str) -> bool:
    """Whether a pool reads the float stem."""
    producer = graph.producer()
    before = producer.get(node.input[0])
    while before is not None and before.op_type == "Relu":
        before = producer.get(before.input[0])
    return before is not None and before.name == stem


def _from(name: str, graph: Graph, made: Collection[str]) -> bool:
    """Whether a tensor was made by a quantised layer, perhaps resized since."""
    before = graph.producer().get(name)
    return name in made or (
        before is not None and before.op_type == "Resize" and before.input[0] in made
    )


def quantized(
    graph: Graph, chosen: Sequence[Layer], magnitudes: Mapping[str, float]
) -> onnx.ModelProto:
    """The model with ``chosen`` layers in INT8.

    Args:
        graph: the folded network; not changed.
        chosen: some of `layers`.
        magnitudes: tensor -> what becomes 127, for every tensor of the chosen layers.
    """
    work = Graph(graph.finish())
    by_name = {layer.name: layer for layer in chosen}
    wanted = {tensor for layer in chosen for tensor in layer.tensors}
    made = {layer.output for layer in chosen if layer.kind != "linear"}
    scales = _scales(work, wanted, magnitudes)
    nodes: list[NodeProto] = []
    for name in sorted(wanted & {one.name for one in work.model.graph.input}):
        nodes += _pair(work, name, scales[name])
    for node in work.nodes:
        layer = by_name.get(node.name)
        for i, name in enumerate(node.input):
            if name in wanted and (layer is not None or name in made):
                node.input[i] = f"{name}/dequantized"
        if layer is not None and layer.kind in ("conv", "linear"):
            axis = 0 if layer.kind == "conv" else 1
            nodes.append(_weight(work, node, axis, scales[layer.inputs[0]]))
        if layer is not None and layer.kind == "add" and node.input[1] in work.constants:
            nodes.append(_table(work, node))
        nodes.append(node)
        for name in node.output:
            if name in wanted:
                nodes += _pair(work, name, scales[name])
    work.nodes = nodes
    return work.finish()


def _table(graph: Graph, node: NodeProto) -> NodeProto:
    """What a node adds everywhere alike as INT8, one scale; the node that gives it back."""
    table = graph.constants[node.input[1]]
    scale = max(float(np.abs(table).max()) / LEVELS, LEAST_SCALE)
    names = (f"{node.name}/table/{word}" for word in ("int8", "scale", "zero", "dequantized"))
    whole, factor, zero, end = names
    graph.constants[whole] = np.round(table / scale).astype(np.int8)
    graph.constants[factor] = np.array(scale, np.float32)
    graph.constants[zero] = np.array(0, np.int8)
    node.input[1] = end
    return helper.make_node("DequantizeLinear", [whole, factor, zero], [end], name=end)


def _scales(
    graph: Graph, wanted: Collection[str], magnitudes: Mapping[str, float]
) -> dict[str, float]:
    """The step of each wanted tensor.

    What comes out of a max pool or a resize takes the step of what goes in, and so does what is
    only moved: it needs no larger one, and nothing is rounded twice. ONNX Runtime pools in INT8
    only so.
    """
    scales = {name: max(magnitudes[name] / LEVELS, LEAST_SCALE) for name in wanted}
    moved: dict[str, str] = {}  # tensor -> the one with the same elements that was there first
    for node in graph.nodes:
        behind = node.output[0]
        before = moved.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type in MOVES:
            moved[behind] = before
        if node.op_type == "MaxPool" or _interpolates(node) or node.op_type in MOVES:
            if before in scales and behind in scales:
                scales[behind] = scales[before]
    return scales


def _interpolates(node: NodeProto) -> bool:
    """Whether a node is a resize whose values stay between those of its input."""
    return node.op_type == "Resize" and attribute(node, "mode", b"nearest") != b"cubic"


def _pair(graph: Graph, tensor: str, step: float) -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear behind a tensor."""
    scale, zero = f"{tensor}/scale", f"{tensor}/zero"
    graph.constants[scale] = np.array(step, np.float32)
    graph.constants[zero] = np.array(0, np.int8)
    middle, end = f"{tensor}/quantized", f"{tensor}/dequantized"
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [middle], name=middle),
        helper.make_node("DequantizeLinear", [middle, scale, zero], [end], name=end),
    ]


def _weight(graph: Graph, node: NodeProto, axis: int, step: float) -> NodeProto:
    """The weight of a node as INT8, one scale per output channel; the node that gives it back.

    ONNX Runtime rounds the bias to INT32 steps of both scales' product. Where a channel's weights
    are so small that its bias would not fit (zero, in one that batch norm has switched off), its
    scale is larger than they need.

    Args:
        graph: gets the constants.
        node: whose weight it is; reads the result from now on.
        axis: of the output channels.
        step: of the node's other input.
    """
    weight = graph.constants[node.input[1]]
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=others) / LEVELS, LEAST_SCALE)
    if len(node.input) > 2:
        scale = np.maximum(scale, np.abs(graph.constants[node.input[2]]) / (step * LARGEST_BIAS))
    scale = scale.astype(np.float32)
    names = (f"{node.name}/weight/{word}" for word in ("int8", "scale", "zero", "dequantized"))
    whole, factor, zero, end = names
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    graph.constants[whole] = np.round(weight / scale.reshape(shape)).astype(np.int8)
    graph.constants[factor] = scale
    graph.constants[zero] = np.zeros(scale.shape, np.int8)
    node.input[1] = end
    return helper.make_node("DequantizeLinear", [whole, factor, zero], [end], name=end, axis=axis)


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
    for node in [node for node in graph.nodes if node.op_type == "MatMulIntegerToFloat"]:
        _merge_relu(graph, node)
    result = graph.finish()
    result.opset_import.append(helper.make_opsetid(ORT_DOMAIN, 1))
    return result


def _move_bytes(graph: Graph) -> None:
    """What is INT8 already, or is made so elsewhere, isn't moved as floats and rounded again."""
    producer = graph.producer()
    steps = {  # float tensor -> (scale, zero) -> the same in INT8
        node.input[0]: {_step(node, graph): node.output[0]}
        for node in graph.nodes
        if node.op_type == "QuantizeLinear"
    }
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] not in graph.constants:
            steps[node.output[0]] = {_step(node, graph): node.input[0]}
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        moves: list[NodeProto] = []
        first = node.input[0] if node.op_type == "QuantizeLinear" else ""
        while first in producer and producer[first].op_type in MOVES:
            moves.insert(0, producer[first])
            first = moves[0].input[0]
        whole = steps.get(first, {}).get(_step(node, graph), "") if moves else ""
        for i, move in enumerate(moves if whole else []):
            copy = NodeProto()
            copy.CopyFrom(move)
            copy.name = copy.output[0] = f"{node.name}/{i}"
            copy.input[0], whole = whole, copy.output[0]
            nodes.append(copy)
        if whole:
            nodes[-1].output[0] = node.output[0]
        else:
            nodes.append(node)
    graph.nodes = nodes


def _step(node: NodeProto, graph: Graph) -> tuple[float, int]:
    """Scale and zero point of a node that quantises or dequantises a whole tensor alike."""
    return float(graph.constants[node.input[1]]), int(graph.constants[node.input[2]])


def _shift_table(graph: Graph, table: NodeProto | None) -> None:
    """What is added to unsigned values is unsigned itself."""
    if table is None or table.op_type != "DequantizeLinear" or table.input[0] not in graph.constants:
        return
    whole, zero = table.input[0], table.input[2]
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
    relu, *others = readers.get(linear.output[0], [])
    behind = readers.get(relu.output[0], []) if relu.op_type == "Relu" and not others else []
    if [node.op_type for node in behind] != ["QuantizeLinear"] or len(linear.input) < 7:
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
    graph.nodes.remove(relu)
    graph.nodes.remove(behind[0])


def _never_negative(tensor: str, producer: Mapping[str, NodeProto]) -> bool:
    node = producer.get(tensor)
    if node is None:
        return False
    same = (*POOLS, *MOVES, "DequantizeLinear", "QuantizeLinear", "Concat")
    if node.op_type in same or _interpolates(node):
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
