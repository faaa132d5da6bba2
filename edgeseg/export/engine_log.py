"""What a TensorRT engine is made of, read from the log of its build: no GPU is needed for that.

A build in detail says every layer of the engine on a line: name, kind, data types of what it reads,
of its constants and of what it writes, and the ONNX nodes that it stands for. TensorRT for RTX:

    Name: stem/Conv_myl0_3, LayerType: correlation, Inputs: [ { ..., Datatype: Int8, ... }],
    Constants: [ ... ], Outputs: [ ... ], ..., Metadata: [ONNX Layer: stem/Conv][ONNX Layer: ...]
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: (?P<inputs>.*?), "
    r"(?:Constants: (?P<constants>.*?), )?Outputs: (?P<outputs>.*?), (?:TacticName|ParameterType)"
)
TYPE = re.compile(r"Datatype: (\w+)")
NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
CONVOLUTIONS = ("correlation", "CaskConvolution", "Convolution")
BOOKKEEPING = ("signal", "wait")


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: the engine's own.
        kind: ``correlation`` is a convolution, ``gemm`` a matrix product, ``kgen`` a generated
            kernel for whatever lies between.
        inputs: data types of what it reads.
        constants: data types of its constants, weights first.
        outputs: data types of what it writes.
        nodes: ONNX nodes that it stands for.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def is_int8(self) -> bool:
        """Whether it multiplies INT8 by INT8."""
        return self.inputs[:1] == ("Int8",) and self.constants[:1] == ("Int8",)

    @property
    def types(self) -> str:
        """Data types in a few words: ``Int8 x Int8 -> Float``."""
        read = " x ".join([*self.inputs[:1], *self.constants[:1]])
        return f"{read or '-'} -> {', '.join(dict.fromkeys(self.outputs)) or '-'}"


def read_layers(log: Iterable[str]) -> list[Layer]:
    """The layers of an engine, from the lines of its build log that tell of them."""
    found = []
    for line in log:
        match = LINE.search(line)
        if match is None or match["kind"] in BOOKKEEPING:
            continue
        read, constants, written = (
            tuple(TYPE.findall(match[part] or "")) for part in ("inputs", "constants", "outputs")
        )
        nodes = tuple(NODE.findall(line[match.end() :]))
        found.append(Layer(match["name"], match["kind"], read, constants, written, nodes))
    return found


def meant_int8(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that an explicitly quantised model wants in INT8."""
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and set(node.input[:2]) <= dequantized
    ]


def not_int8(meant: Sequence[str], layers: Sequence[Layer]) -> list[str]:
    """Those of the convolutions ``meant`` to be INT8 for which no INT8 layer of the engine is."""
    int8 = {node for layer in layers if _is_int8_convolution(layer) for node in layer.nodes}
    return [name for name in meant if name not in int8]


def _is_int8_convolution(layer: Layer) -> bool:
    return layer.kind in CONVOLUTIONS and layer.is_int8


def summary(layers: Sequence[Layer]) -> dict[str, int]:
    """How many layers there are of each kind and types, most frequent first."""
    counts = Counter(f"{layer.kind} {layer.types}" for layer in layers)
    return dict(counts.most_common())
