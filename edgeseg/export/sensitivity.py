"""Which layer costs how much in INT8: each is quantised alone, and masks are compared with FP32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from edgeseg.bundle import ModelSpec
from edgeseg.engines.ort import onnxruntime
from edgeseg.errors import InputError
from edgeseg.export.cpu import for_cpu
from edgeseg.export.fold import Graph
from edgeseg.export.quantize import Layer, quantized

Picture = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]
PICTURES = 24
SCORE_MARGIN = 0.1
BAR_HEIGHT, BAR_WIDTH, NAME_WIDTH = 16, 300, 620


@dataclass(frozen=True)
class Loss:
    """What quantising one layer alone costs.

    Attributes:
        layer: its name.
        kind: of layer.
        mask_iou_loss: 1 less the mean IoU of FP32's instances with their best match; an instance
            that is not found again counts 1.
    """

    layer: str
    kind: str
    mask_iou_loss: float


def sensitivity(
    graph: Graph,
    chosen: Sequence[Layer],
    magnitudes: Mapping[str, float],
    spec: ModelSpec,
    pictures: Sequence[Picture],
) -> list[Loss]:
    """The loss of each layer alone, the most harmful first.

    Args:
        graph: the folded network.
        chosen: the layers to try.
        magnitudes: of their tensors.
        spec: names of the outputs, and the score threshold.
        pictures: network inputs, uint8 (1, H, W, 3).

    Raises:
        InputError: the float network finds nothing in any of the pictures.
    """
    wanted = _run(graph.finish(), spec, pictures)
    if not any((one["scores"] >= spec.score_threshold).any() for one in wanted):
        raise InputError(
            f"got {len(pictures)} pictures in which {spec.name} finds nothing; wanted some with "
            f"{', '.join(spec.classes[:3])}...; pass --images"
        )
    rows = []
    for layer in tqdm(chosen, desc="sensitivity", unit="layer", disable=None, leave=False):
        got = _run(for_cpu(quantized(graph, [layer], magnitudes)), spec, pictures)
        each = [mask_iou_loss(a, b, spec.score_threshold) for a, b in zip(wanted, got, strict=True)]
        loss = float(np.mean([value for value in each if value is not None] or [0.0]))
        rows.append(Loss(layer.name, layer.kind, round(loss, 6)))
    return sorted(rows, key=lambda row: -row.mask_iou_loss)


def mask_iou_loss(wanted: Outputs, got: Outputs, threshold: float) -> float | None:
    """1 less the mean IoU of the instances in ``wanted`` with the best of their label in ``got``.

    None where ``wanted`` has no instance. A partner may score a little below the threshold.
    """
    seen = np.flatnonzero(np.asarray(wanted["scores"], np.float32) >= threshold)
    if not len(seen):
        return None
    others = np.flatnonzero(np.asarray(got["scores"], np.float32) >= threshold - SCORE_MARGIN)
    total = 0.0
    for i in seen:
        same = others[got["labels"][others] == wanted["labels"][i]]
        mask, masks = wanted["masks"][i] > 0, got["masks"][same] > 0
        either = (mask | masks).sum((1, 2))
        total += float(((mask & masks).sum((1, 2)) / np.maximum(either, 1)).max(initial=0.0))
    return 1 - total / len(seen)


def _run(model: onnx.ModelProto, spec: ModelSpec, pictures: Sequence[Picture]) -> list[Outputs]:
    """The network's outputs for each picture, by meaning."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with TemporaryDirectory(prefix="edgeseg-") as scratch:
        path = Path(scratch) / "network.onnx"
        onnx.save(model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [spec.outputs[meaning] for meaning in ("scores", "labels", "masks")]
    return [
        dict(zip(("scores", "labels", "masks"), session.run(names, {"image": one}), strict=True))
        for one in pictures
    ]


def table(losses: Sequence[Loss], most: int = 20) -> str:
    """The most harmful layers as text."""
    lines = [f"{'mask IoU lost':>14}  layer, quantised alone"]
    lines += [f"{row.mask_iou_loss:>13.2%}  {row.layer} ({row.kind})" for row in losses[:most]]
    if len(losses) > most:
        lines.append(f"{'':>14}  and {len(losses) - most} that cost less")
    return "\n".join(lines)


def draw(losses: Sequence[Loss], title: str) -> str:
    """All layers as an SVG bar chart."""
    longest = max((row.mask_iou_loss for row in losses), default=0.0) or 1.0
    height = 40 + BAR_HEIGHT * len(losses)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{NAME_WIDTH + BAR_WIDTH + 80}" '
        f'height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for i, row in enumerate(losses):
        y = 32 + BAR_HEIGHT * i
        width = max(0.0, row.mask_iou_loss) / longest * BAR_WIDTH
        parts.append(
            f'<text x="{NAME_WIDTH - 6}" y="{y + 11}" text-anchor="end">{escape(row.layer)}</text>'
            f'<rect x="{NAME_WIDTH}" y="{y + 1}" width="{width:.1f}" height="{BAR_HEIGHT - 3}" '
            f'fill="#1f6fb4"/><text x="{NAME_WIDTH + width + 5:.1f}" y="{y + 11}" fill="#555">'
            f"{row.mask_iou_loss:.2%}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])
