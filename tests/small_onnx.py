"""Small ONNX networks written by hand, for the tests of folding and quantising."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeseg.engines.ort import onnxruntime

HW = (16, 24)
PAD = {"pads": [1, 1, 1, 1]}


class Draft:
    """A network in the making: every method adds a node and gives the name of what it makes.

    Its input is ``image``, uint8 (1, *HW, 3), cast and transposed as edgeseg's exporter does.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        planes = self.node("Transpose", "image", name="nchw", perm=[0, 3, 1, 2])
        pixels = self.node("Cast", planes, name="cast", to=TensorProto.FLOAT)
        self.picture = self.node("Div", pixels, self.constant(np.float32(255)), name="scaled")

    def constant(self, value: Any) -> str:
        """The name of a new constant."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, *shape: int, scale: float = 0.2) -> str:
        """The name of a new random constant."""
        return self.constant((self.random.normal(size=shape) * scale).astype(np.float32))

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Any node with one output, which is named as the node."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(
        self,
        image: str,
        name: str,
        shape: tuple[int, int, int, int],
        *,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        """A convolution of ``shape`` (out, in / groups, height, width)."""
        given = [self.weight(*shape)] + ([self.weight(shape[0])] if bias else [])
        attributes = {"kernel_shape": shape[2:], **attributes}
        return self.node("Conv", image, *given, name=name, **attributes)

    def norm(self, image: str, name: str, channels: int) -> str:
        """A batch norm with lively statistics."""
        gamma, variance = self.random.uniform(0.5, 2, (2, channels)).astype(np.float32)
        others = [self.weight(channels), self.weight(channels)]
        given = [self.constant(gamma), *others, self.constant(variance)]
        return self.node("BatchNormalization", image, *given, name=name, epsilon=1e-3)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The network with float32 outputs."""
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, (1, *HW, 3))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
        return model

    def save(self, path: Path, *outputs: str) -> Path:
        """Write the network to a file."""
        onnx.save(self.model(*outputs), path)
        return path


def some_pictures(count: int = 3, seed: int = 1) -> list[np.ndarray[Any, Any]]:
    """Network inputs of noise, uint8 (1, *HW, 3)."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (1, *HW, 3), np.uint8) for _ in range(count)]


def session(model: onnx.ModelProto, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """ONNX Runtime with one thread; writes the network that it made of it where asked."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def outputs(
    model: onnx.ModelProto, picture: np.ndarray[Any, Any], names: Sequence[str] | None = None
) -> list[Any]:
    """What a network makes of a picture; any of its tensors by name."""
    if names is not None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.output[:]
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        model = copy
    return list(session(model).run(None, {"image": picture}))


def kinds(nodes: Sequence[NodeProto]) -> list[str]:
    """Operators of nodes, in order."""
    return [node.op_type for node in nodes]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> array."""
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def node(model: onnx.ModelProto, name: str) -> NodeProto:
    """The one node of a name."""
    (found,) = (one for one in model.graph.node if one.name == name)
    return found


def widest(model: onnx.ModelProto, tensors: Iterable[str]) -> dict[str, float]:
    """Tensor -> its largest magnitude on `some_pictures`: with these ranges nothing saturates."""
    names = sorted(tensors)
    largest = dict.fromkeys(names, 1e-3)
    for picture in some_pictures():
        for name, array in zip(names, outputs(model, picture, names), strict=True):
            largest[name] = max(largest[name], float(np.abs(array).max()))
    return largest


def resize(draft: Draft, tensor: str, name: str, mode: str = "linear") -> str:
    """A resize to twice the size."""
    scales = draft.constant(np.float32([1, 1, 2, 2]))
    return draft.node("Resize", tensor, "", scales, name=name, mode=mode)


def network(draft: Draft) -> str:
    """A stem, two blocks with a shortcut, a pool, an upsampling path, a concatenation."""
    stem = draft.node("Relu", draft.conv(draft.picture, "stem", (8, 3, 3, 3), **PAD), name="r")
    pool = draft.node(
        "MaxPool", stem, name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]
    )
    tensor = pool
    for i in range(2):
        main = draft.node("Relu", draft.conv(tensor, f"a{i}", (8, 8, 3, 3), **PAD), name=f"ar{i}")
        main = draft.conv(main, f"b{i}", (8, 8, 3, 3), **PAD)
        total = draft.node("Add", main, tensor, name=f"add{i}")
        tensor = draft.node("Relu", total, name=f"out{i}")
    up = resize(draft, tensor, "up")
    lateral = draft.conv(stem, "lateral", (8, 8, 1, 1))
    both = draft.node("Concat", draft.node("Add", lateral, up, name="fpn"), up, name="cat", axis=1)
    return draft.conv(both, "last", (4, 16, 3, 3), **PAD)
