"""INT8 as explicit QuantizeLinear/DequantizeLinear: one calibrated model for every target.

Symmetric, zero point 0, one scale per tensor and one per output channel of a weight; biases stay
float. Both sides of convolutions, of the additions and poolings between them, and the inputs of
linear layers are quantised. The first convolution stays float (slower in INT8 on CPUs), and so does
whatever isn't listed: attention and mask products, which lose accuracy for little time (see
docs/int8.md), normalisations, and the choice of queries, where order matters.

TensorRT reads ``model.int8.onnx`` as it is. ONNX Runtime's fast kernels for x86 want unsigned
activations: `edgeseg.export.cpu` writes the same integers in that form, ``model.int8.u8.onnx``, and
both share one file of weights.
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
        large = weight.ndim == 2 and len(weight) >= SMALLEST_LINEAR
        return "linear" if large and not _is_kernel(node, graph) else ""
    if node.op_type == "Add" and not any(constant):
        return "add" if any(name in made for name in node.input) else ""
    if node.op_type == "Add" and constant == [False, True]:
        return "add" if _is_position(node, graph) else ""
    if node.op_type in POOLS:
        return "pool" if node.input[0] in made or _is_picture(node, graph, stem) else ""
    if node.op_type == "Concat" and not any(constant):
        return "concat" if all(_from(name, graph, made) for name in node.input) else ""
    return ""


def _is_kernel(node: NodeProto, graph: Graph) -> bool:
    """Whether what a node makes is a factor of a product of two tensors: of masks."""
    readers = graph.readers().get(node.output[0], [])
    return any(one.op_type == "MatMul" and one.input[1] not in graph.constants for one in readers)


def _is_position(node: NodeProto, graph: Graph) -> bool:
    """Whether a table of as many axes as the other side is added, for INT8 linear layers alone.

    A bias has one axis; behind a linear layer it is added to what is float.
    """
    table = graph.constants[node.input[1]]
    readers = graph.readers().get(node.output[0], [])
    linear = all(
        one.op_type == "MatMul" and one.input[1] in graph.constants and FLOAT_MODULE not in one.name
        for one in readers
    )
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
            nodes += _table(work, node)
        nodes.append(node)
        for name in node.output:
            if name in wanted:
                nodes += _pair(work, name, scales[name])
    work.nodes = nodes
    return work.finish()


def _table(graph: Graph, node: NodeProto) -> list[NodeProto]:
    """What a node adds everywhere alike as INT8, one scale; the node that gives it back.

    A table that several nodes add is stored once.
    """
    source = node.input[1]
    names = (f"{source}/table/{word}" for word in ("int8", "scale", "zero", "dequantized"))
    whole, factor, zero, node.input[1] = names
    if whole in graph.constants:
        return []
    table = graph.constants[source]
    scale = max(float(np.abs(table).max()) / LEVELS, LEAST_SCALE)
    graph.constants[whole] = np.round(table / scale).astype(np.int8)
    graph.constants[factor] = np.array(scale, np.float32)
    graph.constants[zero] = np.array(0, np.int8)
    inputs, end = [whole, factor, zero], node.input[1]
    return [helper.make_node("DequantizeLinear", inputs, [end], name=end)]


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
        keeps = node.op_type in ("MaxPool", *MOVES) or interpolates(node)
        if keeps and before in scales and behind in scales:
            scales[behind] = scales[before]
    return scales


def interpolates(node: NodeProto) -> bool:
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
