"""Networks for frames of one size: what comes out is the frame's mask bits, not logits.

The way from mask logits to the frame is one matrix per axis (`edgeseg.letterbox`) with at most
three weights in a row, so each pixel is a sum of nine logits. Written as gathers and weighted sums,
followed by ``> 0`` and eight pixels to a byte, it becomes one kernel of TensorRT that reads logits
and writes bytes; as matrix products it would write every mask in float32 first, 61 MB of them for
VGA. All of it is float32, without TF32, also in a network that is float16 elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeseg.bundle import ModelSpec
from edgeseg.engines.base import output_layout
from edgeseg.engines.ort import CPU_SUFFIX
from edgeseg.engines.trt import SUFFIX
from edgeseg.errors import BundleError
from edgeseg.export.fold import Graph
from edgeseg.export.half import FP16, cast_first
from edgeseg.letterbox import Axis, axes, fit

BITS = "mask_bits"
SUFFIXES = (".onnx", CPU_SUFFIX, SUFFIX)
LIMIT = 1e4
"""Logits are held within; one that is no number counts as the lowest, as in `edgeseg.decode`."""
PLACES = 2.0 ** np.arange(7, -1, -1)
"""What a pixel counts in its byte, the first of eight most."""


def for_frames(
    folder: Path,
    spec: ModelSpec,
    models: Mapping[str, onnx.ModelProto],
    precisions: Sequence[str],
    frame_hw: tuple[int, int],
) -> tuple[ModelSpec, dict[str, onnx.ModelProto]]:
    """Networks of a bundle in all their forms, and the spec of a bundle with them alone.

    Args:
        folder: of the bundle.
        spec: its description.
        models: networks that it lacks, by file name.
        precisions: which of them.
        frame_hw: height and width of the frames, pixels.

    Raises:
        BundleError: the bundle is for frames of one size already, or that size is none.
    """
    if spec.frame_hw is not None:
        raise BundleError(
            f"got {spec.name}, which is for frames of one size already; wanted networks that end "
            "in logits; pass the bundle that it was built of"
        )
    outputs = {**spec.outputs, "masks": BITS}
    made = replace(spec, frame_hw=frame_hw, outputs=outputs, weights="", files={})
    names = {precision: spec.precisions.get(precision, FP16) for precision in precisions}
    forms = [str(Path(name).with_suffix(end)) for name in names.values() for end in SUFFIXES]
    networks = {
        name: ending_in_bits(models.get(name) or onnx.load(folder / name), spec, made)
        for name in forms
        if name in models or name in spec.files
    }
    return replace(made, precisions=names), networks


def ending_in_bits(model: onnx.ModelProto, spec: ModelSpec, made: ModelSpec) -> onnx.ModelProto:
    """The network with its mask logits made into bits of the frame.

    Args:
        model: network whose outputs are as ``spec`` says; not changed.
        spec: description of it.
        made: the same with ``frame_hw`` and the name of the new output.
    """
    graph = Graph(model)
    cast_first(graph)
    tail = _Tail(graph)
    (count, height, across), _ = output_layout(made)["masks"]
    frame_hw = made.frame_hw or spec.input_hw
    rows, columns = axes(fit(frame_hw, spec.input_hw), spec.mask_hw)
    # Bit k of all bytes of a row lies together, so that the sum over k reads whole lines.
    order = np.arange(8 * across).reshape(across, 8).T.reshape(-1)
    x = tail.finite(spec.outputs["masks"])
    x = tail.resized(x, "columns", columns, order, axis=2)
    x = tail.resized(x, "rows", rows, np.arange(height), axis=1)
    x = tail.add("Reshape", "bits", x, np.array([count, height, 8, across]))
    x = tail.add("Greater", "inside", x, np.float32(0))
    x = tail.add("Where", "places", x, PLACES.astype(np.float32).reshape(8, 1), np.float32(0))
    x = tail.add("ReduceSum", "bytes", x, np.array([2]), keepdims=0)
    graph.nodes.append(
        helper.make_node("Cast", [x], [BITS], name=f"{BITS}/Cast", to=TensorProto.UINT8)
    )
    for output in graph.model.graph.output:
        if output.name == spec.outputs["masks"]:
            shape = (count, height, across)
            output.CopyFrom(helper.make_tensor_value_info(BITS, TensorProto.UINT8, shape))
    return graph.finish()


class _Tail:
    """Nodes added to a network, named after the new output."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def add(
        self, kind: str, name: str, *inputs: str | NDArray[np.generic] | np.generic, **words: int
    ) -> str:
        """A node that reads tensors and constants; the name of what it writes."""
        read = []
        for i, one in enumerate(inputs):
            if not isinstance(one, str):
                self._graph.constants[f"{BITS}/{name}/{i}"] = np.asarray(one)
                one = f"{BITS}/{name}/{i}"
            read.append(one)
        written = f"{BITS}/{name}"
        self._graph.nodes.append(helper.make_node(kind, read, [written], name=written, **words))
        return written

    def finite(self, x: str) -> str:
        """Logits within `LIMIT`: one that is no number would spoil pixels where its weight is 0."""
        lowest = np.float32(-LIMIT)
        number = self.add("Greater", "number", x, lowest)
        return self.add(
            "Min", "most", self.add("Where", "least", number, x, lowest), np.float32(LIMIT)
        )

    def resized(
        self, x: str, name: str, axis_of: Axis, order: NDArray[np.int64], *, axis: int
    ) -> str:
        """One axis of ``x`` (M, ., .) resized: the pixels ``order``, 0 beyond the last one."""
        pixels, logits = axis_of.weights.shape
        weights = np.zeros((max(order) + 1, logits), np.float32)
        weights[:pixels] = axis_of.weights
        first = np.pad(axis_of.first, (0, len(weights) - pixels))[order]
        taps = max(last - one for one, last in zip(axis_of.first, axis_of.last, strict=True)) + 1
        total = ""
        for tap in range(taps):
            at = np.minimum(first + tap, logits - 1)
            share = np.where(first + tap < logits, weights[order, at], 0).astype(np.float32)
            shape = (-1, 1) if axis == 1 else (-1,)
            part = self.add("Gather", f"{name}/{tap}/Gather", x, at, axis=axis)
            part = self.add("Mul", f"{name}/{tap}", part, share.reshape(shape))
            total = self.add("Add", f"{name}/{tap}/Add", total, part) if total else part
        return total
