"""K-Net's official post-processing in torch: for evaluation and parity, not for the robot.

Zhang et al., "K-Net", NeurIPS 2021, sections 3.3 and 3.4; facts checked against ZwwWayne/K-Net
(Apache-2.0) by ``tests/parity``; written anew.

Shapes: N kernels, T of things, K classes of which S are stuff, (h, w) of the mask logits, (H, W) of
the output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeseg.train.postprocess import Instances, SizeHW, crop_resize
from edgeseg.zoo.layers import doubled, upsample

SEGMENT_STEP = 1000
"""A pixel of the panoptic map is its class plus this times the number of its segment."""


def restore(masks: Tensor, padded_hw: SizeHW, image_hw: SizeHW, output_hw: SizeHW) -> Tensor:
    """Probabilities (N, H, W) from logits (N, h, w): doubled, then the official two resizes."""
    probability = doubled(masks[None]).sigmoid()
    return crop_resize(upsample(probability, padded_hw)[0], image_hw, output_hw)


def best(logits: Tensor, count: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of kernel and class: scores, labels and kernels, each (count,).

    Args:
        logits: (N, K), a sigmoid each; one kernel may appear with several classes.
        count: pairs to keep, best first.
    """
    top, index = logits.sigmoid().flatten().topk(count)
    return top, index % logits.shape[1], index // logits.shape[1]


def instances(logits: Tensor, probability: Tensor, count: int = 100) -> Instances:
    """The best ``count`` instances, best first; the score is the class probability alone.

    Args:
        logits: (N, K) class logits.
        probability: (N, H, W) of `restore`.
        count: instances to keep.
    """
    top, label, kernel = best(logits, count)
    return Instances(top, label, (probability > 0.5)[kernel])


def panoptic(
    logits: Tensor,
    probability: Tensor,
    num_stuff: int,
    score_threshold: float = 0.3,
    overlap_threshold: float = 0.6,
) -> Tensor:
    """Every pixel to one segment: the map (H, W) int32, class + 1000 * segment, K where none.

    Args:
        logits: (T + S, K) class logits of the kernels, things first.
        probability: (T + S, H, W) of `restore`.
        num_stuff: S; stuff kernel j can only be class K - S + j.
        score_threshold: a thing below it is left out; stuff is never.
        overlap_threshold: share of its mask that a kernel must win.
    """
    score, label = panoptic_scores(logits, num_stuff)
    things = len(score) - num_stuff
    winner = (score[:, None, None] * probability).argmax(0)  # (H, W)
    painted = torch.full_like(winner, logits.shape[1], dtype=torch.int32)
    segments = 0
    for index in (-score).argsort().tolist():
        if index < things and score[index] < score_threshold:
            continue
        won, whole = winner == index, probability[index] >= 0.5
        area, total = int(won.sum()), int(whole.sum())
        if area and total and area / total >= overlap_threshold:
            painted[won] = int(label[index]) + SEGMENT_STEP * segments
            segments += 1
    return painted


def panoptic_scores(logits: Tensor, num_stuff: int) -> tuple[Tensor, Tensor]:
    """Score and label of every kernel, each (T + S,), from class logits (T + S, K)."""
    classes = logits.shape[1] - num_stuff  # of things
    probability = logits.sigmoid()
    score, label = probability[: len(logits) - num_stuff, :classes].max(1)
    stuff = probability[len(logits) - num_stuff :, classes:].diagonal()
    stuff_label = torch.arange(classes, classes + num_stuff, device=logits.device)
    return torch.cat([score, stuff]), torch.cat([label, stuff_label])


def semantic(masks: Tensor, output_hw: SizeHW) -> Tensor:
    """Probabilities (K, H, W) of every pixel's class from logits (K, h, w) of the last stage."""
    return upsample(masks[None], output_hw)[0].softmax(0)
