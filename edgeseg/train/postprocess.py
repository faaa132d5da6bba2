"""FastInst's official post-processing in torch: for evaluation and parity, not for the robot.

Network outputs of one image to instances, class scores or a panoptic map, at any output size.
Facts checked against ``junjiehe96/FastInst@4996a61`` (MIT) by ``tests/parity``; written anew.
The run half does the same for kept instances only, in ``edgeseg/decode/queries.py``.

Shapes: Q queries, K classes, (h, w) of the mask logits, (H, W) of the output.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from edgeseg.zoo.layers import upsample

SizeHW = tuple[int, int]


class Instances(NamedTuple):
    """Detections of one image in no particular order.

    Attributes:
        scores: (N,) class probability times mean mask probability inside the mask, 0..1.
        labels: (N,) int64 class.
        masks: (N, H, W) bool.
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor


class Segment(NamedTuple):
    """One region of a panoptic map: its value in the map, thing or stuff, its class."""

    id: int
    isthing: bool
    category_id: int


def crop_resize(maps: Tensor, image_hw: SizeHW, output_hw: SizeHW) -> Tensor:
    """Cut the padding off (C, H', W') and resize bilinearly to (C, H, W)."""
    height, width = image_hw
    return upsample(maps[None, :, :height, :width], output_hw)[0]


def restore(masks: Tensor, padded_hw: SizeHW, image_hw: SizeHW, output_hw: SizeHW) -> Tensor:
    """Mask logits (Q, h, w) to the output (Q, H, W): the official two resizes, on logits."""
    return crop_resize(upsample(masks[None], padded_hw)[0], image_hw, output_hw)


def instances(
    logits: Tensor, masks: Tensor, count: int = 100, things: Collection[int] | None = None
) -> Instances:
    """The best ``count`` pairs of query and class; one query may appear with several classes.

    Args:
        logits: (Q, K + 1) class logits, no-object last.
        masks: (Q, H, W) logits at the output size.
        count: pairs to keep.
        things: afterwards drop all classes but these (official when panoptic is on too).
    """
    probability = logits.softmax(-1)[:, :-1].flatten()
    top, index = probability.topk(count)
    query, label = index // (logits.shape[-1] - 1), index % (logits.shape[-1] - 1)
    if things is not None:
        keep = torch.isin(label, torch.tensor(sorted(things), device=label.device))
        top, query, label = top[keep], query[keep], label[keep]
    inside = masks.sigmoid() > 0.5
    sure = (masks.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    return Instances(top * sure[query], label, inside[query])


def semantic(logits: Tensor, masks: Tensor) -> Tensor:
    """Class scores of every pixel (K, H, W) from logits (Q, K + 1) and mask logits (Q, H, W)."""
    return torch.einsum("qk,qhw->khw", logits.softmax(-1)[:, :-1], masks.sigmoid())


def panoptic(
    logits: Tensor,
    masks: Tensor,
    things: Collection[int],
    object_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> tuple[Tensor, list[Segment]]:
    """Every pixel to one segment.

    Args:
        logits: (Q, K + 1) class logits, no-object last.
        masks: (Q, H, W) logits at the output size.
        things: classes whose segments stay apart; the others (stuff) are merged by class.
        object_threshold: class probability from which a query takes part.
        overlap_threshold: share of its mask that a query must win.

    Returns:
        Map (H, W) int32, 0 = void, and its segments by rising id.
    """
    score, label = logits.softmax(-1).max(-1)
    keep = (label != logits.shape[-1] - 1) & (score > object_threshold)
    painted = torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device)
    if not keep.any():
        return painted, []
    probability = masks[keep].sigmoid()
    winner = (score[keep, None, None] * probability).argmax(0)  # (H, W)
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    for index, category in enumerate(label[keep].tolist()):
        won, whole = winner == index, probability[index] >= 0.5
        region = won & whole
        if not region.any() or won.sum() / whole.sum() < overlap_threshold:
            continue
        if category not in stuff:
            segments.append(Segment(len(segments) + 1, category in things, category))
            if category not in things:
                stuff[category] = len(segments)
        painted[region] = stuff.get(category, len(segments))
    return painted, segments
