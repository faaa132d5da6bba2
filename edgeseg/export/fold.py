"""A network file with its weights in it and its constants worked out, ready to be quantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from edgeseg.letterbox import bilinear


class Graph:
    """A copy of an ONNX model as nodes and constant arrays, in which nodes can be replaced.

    Attributes:
        model: the rest of it: inputs, outputs, opset.
        nodes: in the order of execution.
        constants: name -> array.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}

    def producer(self) -> dict[str, NodeProto]:
        """Tensor -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.output}

    def readers(self) -> dict[str, list[NodeProto]]:
        """Tensor -> the nodes that read it."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def finish(self) -> onnx.ModelProto:
        """The model, without nodes and constants that nobody reads."""
        read = {output.name for output in self.model.graph.output}
        used: list[NodeProto] = []
        for node in reversed(self.nodes):
            if not read.isdisjoint(node.output):
                read.update(node.input)
                used.insert(0, node)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(used)
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in self.constants.items()
            if name in read
        )
        return model


def folded(path: Path) -> Graph:
    """Read a network file; what can be worked out once is.

    Casts, transposes and resizes of weights are done; batch norms, factors of the input's channels,
    and average pools before convolutions with kernels of 1x1, have gone into the convolutions. The
    result computes the same to float32 rounding. Its tensors keep their names, so that ranges that
    were measured once fit again.
    """
    graph = Graph(onnx.load(path))
    _work_out_constants(graph)
    _fold_batch_norms(graph)
    _fold_average_pools(graph)
    _fold_factors(graph)
    return graph


def _work_out_constants(graph: Graph) -> None:
    """Casts, reshapes, transposes and resizes of constants, done once."""
    kept = []
    for node in graph.nodes:
        values = [graph.constants.get(name) for name in node.input if name]
        if node.op_type in WORKED_OUT and values and all(v is not None for v in values):
            graph.constants[node.output[0]] = WORKED_OUT[node.op_type](node, *values)
        else:
            kept.append(node)
    graph.nodes = kept


def _resized(node: NodeProto, table: NDArray[Any], shape: NDArray[np.int64]) -> NDArray[Any]:
    """A map (B, C, h, w) at another size: the matrix of a bilinear resize for each axis."""
    rows, columns = (
        bilinear(np.eye(old), new).astype(table.dtype)
        for old, new in zip(table.shape[2:], shape[2:], strict=True)
    )
    return np.asarray(rows @ table @ columns.T)


WORKED_OUT: dict[str, Callable[..., NDArray[Any]]] = {
    "Cast": lambda node, x: x.astype(onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to"))),
    "Reshape": lambda node, x, shape: x.reshape(shape),
    "Resize": _resized,
    "Transpose": lambda node, x: np.ascontiguousarray(x.transpose(attribute(node, "perm"))),
}


def _fold_batch_norms(graph: Graph) -> None:
    """A batch norm after a convolution scales its kernels and shifts its bias."""
    producer = graph.producer()
    uses = _uses(graph)
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        conv = producer.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or uses[norm.input[0]] > 1:
            continue
        if not graph.constants.keys() >= {*conv.input[1:], *norm.input[1:]}:
            continue
        gamma, beta, mean, variance = (graph.constants[name] for name in norm.input[1:5])
        factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        kernel = graph.constants[conv.input[1]]
        bias: NDArray[np.float32] = (
            graph.constants[conv.input[2]] if len(conv.input) > 2 else np.zeros_like(mean)
        )
        name = f"{conv.name}/folded"
        graph.constants[f"{name}/weight"] = kernel * factor.reshape(-1, 1, 1, 1)
        graph.constants[f"{name}/bias"] = beta + (bias - mean) * factor
        image = conv.input[0]
        del conv.input[:]
        conv.input.extend([image, f"{name}/weight", f"{name}/bias"])
        conv.output[0] = norm.output[0]
        graph.nodes.remove(norm)


def _fold_average_pools(graph: Graph) -> None:
    """The mean of k x k pixels, then a 1x1 kernel: one k x k kernel with a stride of k."""
    readers, uses = graph.readers(), _uses(graph)
    for pool in [node for node in graph.nodes if node.op_type == "AveragePool"]:
        after = readers.get(pool.output[0], [])
        if uses[pool.output[0]] != 1 or not after or not _is_1x1(after[0], graph):
            continue
        size = attribute(pool, "kernel_shape")
        if attribute(pool, "strides") != size or not _is_plain(pool):
            continue
        conv = after[0]
        kernel = graph.constants[conv.input[1]]
        name = f"{conv.name}/pooled"
        graph.constants[name] = np.tile(kernel / np.prod(size, dtype=kernel.dtype), (1, 1, *size))
        conv.input[0], conv.input[1] = pool.input[0], name
        _set(conv, kernel_shape=size, strides=size)
        graph.nodes.remove(pool)


def _fold_factors(graph: Graph) -> None:
    """A factor for each channel of what a convolution reads, 0 outside the picture as ever."""
    readers, uses = graph.readers(), _uses(graph)
    for product in [node for node in graph.nodes if node.op_type == "Mul"]:
        after = readers.get(product.output[0], [])
        factor = graph.constants.get(product.input[1])
        if factor is None or uses[product.output[0]] != 1 or after[0].op_type != "Conv":
            continue
        conv = after[0]
        kernel = graph.constants.get(conv.input[1])
        if kernel is None or factor.shape != (1, kernel.shape[1], 1, 1):  # also: one group
            continue
        name = f"{conv.name}/scaled"
        graph.constants[name] = kernel * factor
        conv.input[0], conv.input[1] = product.input[0], name
        graph.nodes.remove(product)


def _uses(graph: Graph) -> Counter[str]:
    """Tensor -> how often it is read, by nodes or as an output of the network."""
    uses = Counter(name for node in graph.nodes for name in node.input)
    uses.update(output.name for output in graph.model.graph.output)
    return uses


def _is_1x1(node: NodeProto, graph: Graph) -> bool:
    """Whether a node is a convolution of single pixels, each once."""
    if node.op_type != "Conv" or node.input[1] not in graph.constants:
        return False
    single = graph.constants[node.input[1]].shape[2:] == (1, 1)
    return single and attribute(node, "strides", [1, 1]) == [1, 1] and _is_plain(node)


def _is_plain(node: NodeProto) -> bool:
    """Whether a window never leaves the picture."""
    padded = any(attribute(node, "pads", [0])) or attribute(node, "ceil_mode", 0)
    return not padded and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")


def _set(node: NodeProto, **values: object) -> None:
    """Replace attributes of a node."""
    kept = [one for one in node.attribute if one.name not in values]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in values.items())


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for one in node.attribute:
        if one.name == name:
            return onnx.helper.get_attribute_value(one)
    return default
