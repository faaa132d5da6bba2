"""Torch network to ONNX: opset 17, static shapes, weights shared with the torch half.

``model.onnx`` holds the graph and the small constants. The weights stay where torch reads them:
each initialiser is a piece of ``weights.safetensors``, as ONNX external data (file, offset,
length), so a bundle holds every weight once and both halves read the same bytes. Weights stored
as float16 are cast to float32 in the graph; the runtime does that once, at load, and also folds
batch norms into convolutions there, so that what is stored is exactly what was trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeseg.bundle import ModelSpec
from edgeseg.engines.base import output_layout
from edgeseg.errors import BundleError
from edgeseg.export.aten import Value
from edgeseg.export.trace import Interpreter

OPSET = 17
IR_VERSION = 8
TYPES: dict[Any, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
}
STORED_TYPES = {"F32": (TensorProto.FLOAT, 4), "F16": (TensorProto.FLOAT16, 2)}


def export(network: nn.Module, spec: ModelSpec, path: Path, weights: Path) -> None:
    """Write ``network`` as ``path``, its weights as pieces of the file ``weights``.

    Args:
        network: the deployed form: uint8 (1, H, W, 3) to scores, labels, masks; in eval mode, with
            the very weights of the file.
        spec: sizes and output names.
        path: the ONNX file to write.
        weights: safetensors file beside it, keys as in the network's state dict.

    Raises:
        BundleError: the network has an operator or an output that can't be exported.
    """
    image = torch.zeros((1, *spec.input_hw, 3), dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(network, (image,))
        builder = Builder(_stored(network, weights), weights.name)
        picture = Value("image", tuple(image.shape), image.dtype)
        results = Interpreter(program.module(), builder).run(picture)
    model = builder.finish(picture, _checked(results, spec))
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def _checked(results: Sequence[Value], spec: ModelSpec) -> dict[str, Value]:
    """The network's results by output name, of the shapes and types that ``spec`` promises."""
    outputs = {}
    for value, (meaning, (shape, kind)) in zip(results, output_layout(spec).items(), strict=True):
        got = (value.shape, torch.zeros(0, dtype=value.dtype).numpy().dtype)
        if got != (shape, np.dtype(kind)):
            raise BundleError(
                f"got {meaning} {got[1]} {got[0]} from the network; wanted {np.dtype(kind)} "
                f"{shape}; mend max_instances or mask_stride of the spec"
            )
        outputs[spec.outputs[meaning]] = value
    return outputs


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in the weights file."""

    key: str
    onnx_type: int
    item_bytes: int
    offset: int
    numel: int


def _stored(network: nn.Module, weights: Path) -> dict[int, Stored]:
    """The places of the network's tensors in the weights file, by address of their storage."""
    with weights.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
    places = {}
    for name, tensor in network.state_dict().items():
        row = header.get(name.removeprefix("network."))
        if row is None or row["dtype"] not in STORED_TYPES or tensor.dtype != torch.float32:
            continue
        onnx_type, item_bytes = STORED_TYPES[row["dtype"]]
        offset = 8 + header_bytes + row["data_offsets"][0]
        key = name.removeprefix("network.")
        place = Stored(key, onnx_type, item_bytes, offset, tensor.numel())
        places[tensor.untyped_storage().data_ptr()] = place
    return places


class Builder:
    """An ONNX graph under construction; `place` is the module whose nodes are being written."""

    def __init__(self, stored: dict[int, Stored], weights_name: str) -> None:
        self.place = ""
        self._stored = stored
        self._weights_name = weights_name
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, TensorProto] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._used: dict[str, int] = {}

    def add(self, op: str, inputs: Sequence[Any], count: int = 1, **attributes: Any) -> list[str]:
        """Write one node; inputs are names, Values or constant tensors; gives the output names."""
        if "to" in attributes:
            attributes["to"] = TYPES[attributes["to"]]
        name = self._unique(f"{self.place}/{op}" if self.place else op)
        outputs = [name] if count == 1 else [f"{name}:{i}" for i in range(count)]
        names = [self._name(item) for item in inputs]
        self._nodes.append(helper.make_node(op, names, outputs, name=name, **attributes))
        return outputs

    def is_stored(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is a contiguous piece of a tensor in the weights file."""
        return tensor.is_contiguous() and tensor.untyped_storage().data_ptr() in self._stored

    def finish(self, image: Value, outputs: dict[str, Value]) -> onnx.ModelProto:
        """The model: outputs under their own names; what nobody reads is left out."""
        self._name_outputs(outputs)
        nodes: list[onnx.NodeProto] = []
        needed = set(outputs)
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.insert(0, node)
        graph = helper.make_graph(
            nodes,
            "edgeseg",
            [_info(image.name, image)],
            [_info(name, value) for name, value in outputs.items()],
            [tensor for name, tensor in self._initialisers.items() if name in needed],
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="edgeseg",
        )

    def _name_outputs(self, outputs: dict[str, Value]) -> None:
        """Give results the names of outputs; an Identity would be a copy in ONNX Runtime."""
        made = {name for node in self._nodes for name in node.output}
        renamed: dict[str, str] = {}
        for name, value in outputs.items():
            if value.name in made and value.name not in renamed:
                renamed[value.name] = name
            else:  # the input, a constant, or a result with two names
                self._nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        for node in self._nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]

    def _name(self, item: Any) -> str:
        if isinstance(item, str):
            return item
        return item.name if isinstance(item, Value) else self._constant(item)

    def _unique(self, name: str) -> str:
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def _constant(self, tensor: Tensor) -> str:
        """The name of a constant; the same one is written once."""
        if self.is_stored(tensor):
            return self._weight(tensor)
        array = tensor.detach().contiguous().numpy()
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self._initialisers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def _weight(self, tensor: Tensor) -> str:
        """The name of a piece of the weights file, as float32."""
        stored = self._stored[tensor.untyped_storage().data_ptr()]
        start = tensor.storage_offset()
        whole = tensor.numel() == stored.numel
        key = (stored.key, start, tuple(tensor.shape))
        if key in self._constants:
            return self._constants[key]
        name = self._unique(stored.key if whole else f"{stored.key}[{start}]")
        proto = TensorProto(name=name, data_type=stored.onnx_type, dims=tensor.shape)
        proto.data_location = TensorProto.EXTERNAL
        entries = {
            "location": self._weights_name,
            "offset": stored.offset + start * stored.item_bytes,
            "length": tensor.numel() * stored.item_bytes,
        }
        for entry, value in entries.items():
            proto.external_data.add(key=entry, value=str(value))
        self._initialisers[name] = proto
        if stored.onnx_type == TensorProto.FLOAT16:
            cast = f"{name}/float32"
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=1))
            name = cast
        self._constants[key] = name
        return name


def _info(name: str, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[value.dtype], value.shape)
