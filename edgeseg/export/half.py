"""A network as TensorRT likes it: float16 where that is harmless, float32 elsewhere.

TensorRT 11 and TensorRT for RTX have no precision flags: they run a network in the types that its
file says. Convolutions, matrix products and what is dequantised become float16; sums over a
picture, softmax and normalisations stay float32, and so does whatever follows only them: the choice
of queries, the scores and the arithmetic on indices. So does what may pass the largest float16: a
product with a large constant, and K-Net's updator, which multiplies sums. Other operators take the
type of what they read. Inputs and outputs keep their types.

The file has opset 19, the first in which a scale may be float16; TensorRT 10.0 and later read it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from edgeseg.export.fold import Graph
from edgeseg.export.quantize import FLOAT_MODULE

FP16 = "model.fp16.onnx"
OPSET, IR_VERSION = 19, 9
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
HALF_OPERATORS = ("Conv", "MatMul", "DequantizeLinear")
FLOAT_OPERATORS = (
    *("InstanceNormalization", "LayerNormalization", "Softmax", "Sigmoid"),
    *("ReduceSum", "TopK"),
)
LARGEST_FACTOR = 255.0
"""Pixels are divided by it; a larger one is that of K-Net's sums over whole pictures."""
SMALLEST = float(np.finfo(np.float16).smallest_normal)


def for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float or quantised model with float16 in it.

    Args:
        model: folded (`edgeseg.export.fold`), opset 17; not changed.
    """
    graph = Graph(model)
    cast_first(graph)
    _Conversion(graph).run()
    for node in graph.nodes:
        _to_opset_19(node, graph)
    graph.model.opset_import[0].version = OPSET
    graph.model.ir_version = IR_VERSION
    return graph.finish()


def with_cast_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float model in float32 still, as TensorRT for RTX takes it."""
    graph = Graph(model)
    cast_first(graph)
    return graph.finish()


def cast_first(graph: Graph) -> None:
    """A picture is cast and then transposed: TensorRT transposes no bytes."""
    readers = graph.readers()
    picture = graph.model.graph.input[0].name
    transpose = readers[picture][0]
    behind = readers[transpose.output[0]]
    if transpose.op_type != "Transpose" or [node.op_type for node in behind] != ["Cast"]:
        return
    cast = behind[0]
    between, end = f"{cast.output[0]}/first", cast.output[0]
    cast.input[0], cast.output[0] = picture, between
    transpose.input[0], transpose.output[0] = between, end
    graph.nodes.remove(cast)
    graph.nodes.insert(graph.nodes.index(transpose), cast)


class _Conversion:
    """Walks the nodes in order and knows the type of every tensor so far."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        inferred = onnx.shape_inference.infer_shapes(graph.finish(), strict_mode=True).graph
        known = [*inferred.input, *inferred.value_info, *inferred.output]
        self._types = {one.name: one.type.tensor_type.elem_type for one in known}
        self._types |= {
            name: helper.np_dtype_to_tensor_dtype(array.dtype)
            for name, array in graph.constants.items()
        }
        self._floats = {name for name, kind in self._types.items() if kind == FLOAT}
        self._nodes: list[NodeProto] = []

    def run(self) -> None:
        """Give every node its type, with casts between."""
        outputs = {one.name for one in self._graph.model.graph.output}
        for node in self._graph.nodes:
            wanted = FLOAT if outputs.intersection(node.output) else self._wanted(node)
            for i, name in enumerate(node.input):
                if name in self._floats:
                    node.input[i] = self._as(name, wanted)
            self._nodes.append(node)
            for name in self._floats.intersection(node.output):
                self._types[name] = wanted
        self._graph.nodes = self._nodes

    def _wanted(self, node: NodeProto) -> int:
        """The type in which a node computes."""
        constants = self._graph.constants
        if node.op_type in FLOAT_OPERATORS or node.op_type == "Cast" or FLOAT_MODULE in node.name:
            return FLOAT
        if any(_too_far(constants[name]) for name in node.input if name in constants):
            return FLOAT
        if node.op_type in HALF_OPERATORS:
            return HALF
        read = {self._types[name] for name in self._floats.intersection(node.input)}
        kinds = {self._types[name] for name in node.input if name in self._floats - set(constants)}
        return HALF if kinds == {HALF} or not read else FLOAT

    def _as(self, name: str, wanted: int) -> str:
        """A tensor in the type that is wanted: itself, a converted constant, or behind a cast."""
        if self._types[name] == wanted:
            return name
        other = f"{name}/{'half' if wanted == HALF else 'float'}"
        if other in self._types:
            return other
        self._types[other] = wanted
        if name in self._graph.constants:
            self._graph.constants[other] = _half(self._graph.constants[name])
        else:
            self._nodes.append(helper.make_node("Cast", [name], [other], name=other, to=wanted))
        return other


def _half(array: np.ndarray) -> np.ndarray:
    """In float16, where only 0 becomes 0: TensorRT takes no scale of 0, as of a dead channel."""
    half = array.astype(np.float16)
    lost = (half == 0) & (array != 0)
    half[lost] = np.copysign(np.finfo(np.float16).smallest_subnormal, array[lost])
    return half


def _too_far(array: np.ndarray) -> bool:
    """Whether a number leaves float16 with what it meets: large, or so small that digits go."""
    if array.dtype != np.float32 or array.size != 1:
        return False
    magnitude = abs(float(array.reshape(-1)[0]))
    return magnitude > LARGEST_FACTOR or 0 < magnitude < SMALLEST


def _to_opset_19(node: NodeProto, graph: Graph) -> None:
    """Rewrite what opset 18 and 19 want otherwise: the axes of a reduction are an input."""
    if node.op_type not in ("ReduceMax", "ReduceMin"):
        return
    for attribute in [one for one in node.attribute if one.name == "axes"]:
        name = f"{node.name}/axes"
        graph.constants[name] = np.array(attribute.ints, np.int64)
        node.input.append(name)
        node.attribute.remove(attribute)
