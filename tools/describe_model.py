#!/usr/bin/env python3
"""Write docs/results/model_NAME.json: what a packaged bundle is and what it costs to run.

    python tools/describe_model.py                  all packaged bundles
    python tools/describe_model.py fastinst-nano

From the bundle's files alone: parameters from the torch weights, multiply-accumulates (MAC) from
the shapes in the FP32 network. docs/models.md is made from the record.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from edgeseg import bundle

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
UNCOUNTED = {"Einsum", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "LSTM"}
# Of batch normalisation: measured in training, not learned.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one run: convolutions and matrix products; the rest is not counted.

    Raises:
        ValueError: a shape isn't fixed, or an operator isn't one that this can count.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return sum(_macs_of(node, shapes) for node in graph.node)


def _macs_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of a node; a matrix product's last input axis is summed over."""
    if node.op_type in UNCOUNTED:
        raise ValueError(
            f"got operator {node.op_type} ({node.name}); wanted Conv, ConvTranspose, Gemm or MatMul"
            "; teach tools/describe_model.py to count it"
        )
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first, second, made = (shapes.get(n, (0,)) for n in (*node.input[:2], node.output[0]))
    if not all((*first, *second, *made)):
        raise ValueError(
            f"got no fixed shapes at {node.op_type} {node.name!r}; wanted them; "
            "export the network with a fixed input size"
        )
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    turned = any(one.name == "transA" and one.i for one in node.attribute)
    return math.prod(made) * first[-2 if turned else -1]


def parameters(path: Path) -> int:
    """Numbers that were learned, in a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        learned = [name for name in file.keys() if not name.endswith(STATISTICS)]  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in learned)


def describe(name: str) -> dict[str, Any]:
    """The record of a packaged bundle."""
    folder = bundle.find(name)
    spec = bundle.read(folder)
    if "fp32" not in spec.precisions or not spec.weights:
        raise SystemExit(
            f"got bundle {name} without FP32 network or torch weights; wanted both, to count in; "
            "export it with them"
        )
    network = folder / spec.precisions["fp32"]
    return {
        "model": spec.name,
        "family": spec.family,
        "classes": list(spec.classes),
        "input_size": f"{spec.input_hw[1]}x{spec.input_hw[0]}",
        "max_instances": spec.max_instances,
        "precisions": list(spec.precisions),
        "licence": spec.licence,
        "parameters": parameters(folder / spec.weights),
        "macs": macs(onnx.load(str(network), load_external_data=False)),
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "network_sha256": spec.files[network.name],
    }


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    for name in arguments or bundle.packaged():
        path = RESULTS / f"model_{name}.json"
        path.write_text(json.dumps(describe(name), indent=1) + "\n", "utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
