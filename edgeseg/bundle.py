"""Bundles: the folder in which the two halves of edgeseg meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a bundle says of its network: all that a robot needs to decode it.

    Attributes:
        name: e.g. ``fastinst-nano``.
        family: ``fastinst`` (``knet maskformer dynamask`` later).
        task: ``instance`` (``semantic panoptic`` later).
        input_hw: network input height and width, pixels.
        colour: order of the input channels, ``rgb`` or ``bgr``.
        pad_value: input value per channel where the letterbox leaves the picture, 0..255.
        classes: class names; label i is ``classes[i]``.
        outputs: meaning -> name in the network file, for ``scores labels masks``.
        max_instances: M, rows of every output.
        mask_stride: input pixels per mask logit.
        precisions: ``fp32`` (``fp16 int8`` later) -> file name.
        score_threshold: default for decoding, 0..1.
        network: settings from which `edgeseg.zoo` builds the same network in torch.
        weights: file with the torch weights (safetensors), or "" where none is shipped.
        source: where the weights come from.
        licence: licence of the weights (SPDX).
        files: file name -> sha256 (hex).
    """

    name: str
    family: str
    task: str
    input_hw: tuple[int, int]
    colour: str
    pad_value: tuple[int, int, int]
    classes: tuple[str, ...]
    max_instances: int
    mask_stride: int
    precisions: dict[str, str]
    outputs: dict[str, str] = field(
        default_factory=lambda: {"scores": "scores", "labels": "labels", "masks": "masks"}
    )
    score_threshold: float = 0.5
    network: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    source: str = ""
    licence: str = ""
    files: dict[str, str] = field(default_factory=dict)
