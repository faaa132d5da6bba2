#!/usr/bin/env python3
"""What INT8 costs and gains, part by part and range by range, as JSON.

    python tools/quantization_study.py --data DIR --json docs/results/quantization.json

One bundle is made that holds every variant as a precision of its own; so all of them are measured
on the same pictures, and all times in turns in one process on one thread.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from edgeseg import bundle as bundles
from edgeseg import record
from edgeseg.bench_precision import precision_benchmark
from edgeseg.bundle import ModelSpec
from edgeseg.evaluate import default_dataset, evaluate
from edgeseg.export.calibrate import PICTURES, calibrate
from edgeseg.export.cpu import for_cpu
from edgeseg.export.fold import Graph
from edgeseg.export.int8 import CLIP, float_network
from edgeseg.export.quantize import Layer, layers, quantized
from edgeseg.export.ranges import METHODS

SCORE = ".query_proposal/Add"
PRODUCTS = "attention and mask products"
FEW = (5, 20, 60)


class Product(Layer):
    """A product of two tensors; what comes out stays float, as behind a linear layer."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Tensors that need a range."""
        return self.inputs


@dataclass(frozen=True)
class Variant:
    """One way to quantise the network.

    Attributes:
        what: for the table.
        layers: that are INT8.
        method: of the ranges.
        pictures: to measure them on.
    """

    what: str
    layers: Sequence[Layer]
    method: str = "mse"
    pictures: int = PICTURES


def variants(graph: Graph) -> list[Variant]:
    """From convolutions alone to more than is good; then the default with other ranges."""
    usual = layers(graph)
    some = [layer for layer in usual if layer.kind != "linear"]
    products = [
        Product(node.name, "product", tuple(node.input), node.output[0])
        for node in graph.nodes
        if node.op_type == "MatMul" and not graph.constants.keys() & set(node.input)
    ]
    score = [
        Layer(node.name, "add", tuple(node.input), node.output[0])
        for node in graph.nodes
        if node.op_type == "Add" and node.name.endswith(SCORE)
    ]
    parts = [
        Variant("convolutions", [layer for layer in some if layer.kind == "conv"]),
        Variant("and additions, pools, concatenations", some),
        Variant("and linear layers: the default", usual),
        Variant(f"and {PRODUCTS}", [*usual, *products]),
        Variant("and the addition in the query score", [*usual, *products, *score]),
        Variant("the default and that addition alone", [*usual, *score]),
    ]
    others = [name for name in METHODS if name != "mse"]
    parts += [Variant(f"the default, ranges by {name}", usual, name) for name in others]
    return parts + [
        Variant(f"the default, ranges of {count} pictures", usual, pictures=count) for count in FEW
    ]


def magnitudes(
    graph: Graph, spec: ModelSpec, made: Sequence[Variant], images: Path
) -> dict[tuple[str, int], dict[str, float]]:
    """Method and number of pictures -> ranges of all tensors that variants with these need."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for method, pictures in {(one.method, one.pictures): None for one in made}:
        mine = [one for one in made if (one.method, one.pictures) == (method, pictures)]
        tensors = sorted({name for one in mine for layer in one.layers for name in layer.tensors})
        found[method, pictures] = calibrate(
            graph, tensors, spec, images=images, method=method, limit=pictures
        ).magnitudes
    return found


def study(args: argparse.Namespace) -> dict[str, Any]:
    """Make, evaluate and time every variant."""
    load = os.getloadavg()[0]
    folder = bundles.find(args.model)
    spec = bundles.read(folder)
    graph = float_network(folder, spec)
    made = variants(graph)
    ranges = magnitudes(graph, spec, made, args.data / "calib" / "images")
    networks: dict[str, onnx.ModelProto] = {
        f"v{i}": for_cpu(quantized(graph, one.layers, ranges[one.method, one.pictures]))
        for i, one in enumerate(made)
    }
    files: dict[str, Path | bytes] = {
        name: folder / name for name in {spec.precisions["fp32"], spec.weights} - {""}
    }
    files |= {f"{name}.onnx": model.SerializeToString() for name, model in networks.items()}
    precisions = {"fp32": spec.precisions["fp32"], **{name: f"{name}.onnx" for name in networks}}
    with TemporaryDirectory(prefix="edgeseg-") as scratch:
        out = Path(scratch) / spec.name
        bundles.write(out, replace(spec, precisions=precisions), files)
        report = evaluate(
            out, args.data, split="val", precisions=list(precisions), threads=1, limit=args.limit
        )
        times = precision_benchmark(out, CLIP, engine="ort", threads=1, rounds=args.rounds)
    accuracy = {row["precision"]: row["AP"] for row in report["results"]}
    speed = {row["precision"]: row for row in times}
    rows = [
        {
            "what": one.what,
            "layers": len(one.layers),
            "method": one.method,
            "pictures": one.pictures,
            "ap_fp32": accuracy["fp32"],
            "ap_int8": accuracy[f"v{i}"],
            "drop_ap": round(100 * (accuracy["fp32"] - accuracy[f"v{i}"]), 3),
            "ms_fp32": speed["fp32"]["cpu_ms"],
            "ms_int8": speed[f"v{i}"]["cpu_ms"],
            "speedup": speed[f"v{i}"]["cpu_speedup"],
        }
        for i, one in enumerate(made)
    ]
    return {
        **{name: report[name] for name in ("model", "split", "images", "instances", "machine")},
        "threads": 1,
        "rounds": args.rounds,
        "load_average": {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)},
        "note": "ms are CPU time of one thread, median, all networks in turns in one process; the "
        "machine had other work (see load_average), so ratios say more than times.",
        "rows": rows,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="fastinst-nano", help="bundle name or folder")
    parser.add_argument("--data", type=Path, default=default_dataset(), help="with calib and val")
    parser.add_argument("--limit", type=int, default=0, help="pictures of val; 0: all")
    parser.add_argument("--rounds", type=int, default=100, help="runs of each network")
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    args = parser.parse_args()
    record.check_target(args.json)
    record.write(args.json, study(args))


if __name__ == "__main__":
    main()
