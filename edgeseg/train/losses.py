"""The training objective of FastInst: losses on every prediction head and on the proposals.

Paper: "FastInst: A Simple Query-Based Model for Real-Time Instance Segmentation", He et al.,
CVPR 2023, section 3.5; points as in PointRend (Kirillov et al., CVPR 2020).
Checked against ``junjiehe96/FastInst@4996a61`` (MIT) by ``tests/parity``; no code is taken from it.

    L = 20 * L_proposal + sum over predictions of (2 * L_class + 5 * L_BCE + 5 * L_dice)

The predictions are, in this order: the final head; the L heads of the GT-mask-guided branch (each
decoder layer once more, its attention restricted to the matched object, section 3.4); the L
earlier heads. ``CriterionConfig`` holds the official values as defaults; what small networks like
better (no guided branch, fewer points, some of them around the object) is a setting.

Shapes: B images, Q queries, K classes, N objects in the batch, M matched pairs, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.train.matcher import (
    Matcher,
    MatcherConfig,
    Matches,
    Rand,
    Targets,
    sample,
    sample_rows,
)

Guide = Callable[[Tensor], Sequence[Mapping[str, Tensor]]]
"""Runs the guided branch: blocked pixels, bool (B, Q, H / 8, W / 8), to its L predictions."""


@dataclass(frozen=True)
class CriterionConfig:
    """Settings of the training objective; the defaults are the official ones.

    Attributes:
        class_weight: of the classification loss.
        mask_weight: of the binary cross-entropy of masks.
        dice_weight: of the dice loss of masks.
        proposal_weight: of the classification loss of the proposal cells.
        no_object_weight: weight of the class "no object" within the classification loss.
        num_points: points per matched mask at which the mask losses are taken.
        oversample_ratio: random candidates per point, from which the uncertain ones are kept.
        uncertain_ratio: share of the points that are the most uncertain candidates.
        box_ratio: share of the points drawn inside the enlarged box of the object.
        box_scale: the enlarged box, relative to the tight one.
        matcher: weights and points of the matching.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    proposal_weight: float = 20.0
    no_object_weight: float = 0.1
    num_points: int = 12544
    oversample_ratio: float = 3.0
    uncertain_ratio: float = 0.75
    box_ratio: float = 0.0
    box_scale: float = 1.6
    matcher: MatcherConfig = field(default_factory=MatcherConfig)


def bce_loss(logits: Tensor, truth: Tensor, count: float) -> Tensor:
    """Binary cross-entropy (M, P), mean over points, sum over masks / ``count``."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum() / count


def dice_loss(logits: Tensor, truth: Tensor, count: float) -> Tensor:
    """Dice distance (M, P) summed over masks / ``count``."""
    mask = logits.sigmoid()
    overlap = 2.0 * (mask * truth).sum(-1) + 1.0
    return (1.0 - overlap / (mask.sum(-1) + truth.sum(-1) + 1.0)).sum() / count


def uncertain_points(logits: Tensor, candidates: int, keep: int, rand: Rand = torch.rand) -> Tensor:
    """The ``keep`` of ``candidates`` random points where ``logits`` (M, 1, h, w) are nearest 0.

    Returns:
        (M, keep, 2) float32, (x, y) in 0..1, the most uncertain first.
    """
    points = rand(len(logits), candidates, 2, device=logits.device)
    nearest = sample(logits, points).squeeze(1).abs().topk(keep, largest=False).indices
    return points.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 2))


def box_points(boxes: Tensor, count: int, scale: float, rand: Rand = torch.rand) -> Tensor:
    """``count`` random points in each box (M, 4) of ``Targets.boxes``, enlarged by ``scale``.

    Returns:
        (M, count, 2) float32, (x, y) in 0..1, clipped to the picture.
    """
    middle, extent = boxes.unsqueeze(1).split(2, dim=-1)  # each (M, 1, 2)
    random = rand(len(boxes), count, 2, device=boxes.device)
    return (middle + (random - 0.5) * extent * scale).clamp(0.0, 1.0)


def guided_blocks(matches: Matches, targets: Targets, shape: Sequence[int]) -> Tensor:
    """Pixels that each query may not look at in the guided branch, bool of ``shape`` (B, Q, h, w).

    A matched query sees only its object, an unmatched one everything.
    """
    outside = F.interpolate(targets.masks, tuple(shape[-2:]), mode="nearest").squeeze(1) < 0.5
    blocked = torch.zeros(*shape, dtype=torch.bool, device=outside.device)
    blocked[matches.image, matches.query] = outside[matches.target]
    return blocked


def object_count(targets: Targets) -> float:
    """Objects in the global batch / number of processes, at least 1."""
    return shared_count(float(sum(targets.counts)), targets.labels.device)


def shared_count(count: float, device: torch.device) -> float:
    """Mean over all processes of what each has counted, at least 1."""
    shared = torch.tensor(count, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(shared)
        shared /= torch.distributed.get_world_size()
    return max(1.0, shared.item())


class Criterion:
    """All losses of one training step.

    Every random number comes from ``rand``; the order of the draws is that of the official code:
    matching of the guided branch (one draw per image); then per prediction the matching (per
    image), the candidates and the random points of its mask losses.
    """

    def __init__(self, config: CriterionConfig | None = None, rand: Rand = torch.rand) -> None:
        """Set up with official values, or those in ``config``."""
        self.config = config or CriterionConfig()
        self.rand = rand
        self.matcher = Matcher(self.config.matcher, rand)

    def __call__(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Mapping[str, Tensor]],
        guide: Guide | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what training minimises.

        Args:
            outputs: of the network: ``pred_logits`` (B, Q, K + 1), ``pred_masks`` (B, Q, h, w),
                ``aux_outputs`` (a list of the same two), ``proposal_cls_logits`` (B, K + 1, h, w),
                ``query_locations`` (B, Q, 2) = (x, y) in 0..1; the guided branch also reads
                ``start``.
            targets: per image ``{"labels": int64 (n,), "masks": bool or float (n, H, W)}`` at the
                padded input size.
            guide: runs the guided branch of the network on this pass; None trains without it.
        """
        losses = self.losses(outputs, targets, guide)
        return {name: self.weight(name) * value for name, value in losses.items()}

    def weight(self, name: str) -> float:
        """Weight of a loss: of ``loss_mask`` for ``loss_mask_3``."""
        weights = {
            "ce": self.config.class_weight,
            "mask": self.config.mask_weight,
            "dice": self.config.dice_weight,
            "proposal": self.config.proposal_weight,
        }
        return weights[name.split("_")[1]]

    def losses(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Mapping[str, Tensor]],
        guide: Guide | None = None,
    ) -> dict[str, Tensor]:
        """The same without weights; no suffix = final head, ``_k`` = auxiliary prediction k."""
        device = outputs["pred_logits"].device
        batch = Targets.collate(targets, device)
        guided, guided_matches = self._guided(outputs, batch, guide)
        with torch.autocast(device.type, enabled=False):
            losses = {"loss_proposal": self.proposal_loss(outputs["proposal_cls_logits"], batch)}
            losses |= self._head(outputs, outputs, batch)
            for k, prediction in enumerate([*guided, *outputs["aux_outputs"]]):
                matches = guided_matches if k < len(guided) else None
                auxiliary = self._head(prediction, outputs, batch, matches)
                losses |= {f"{name}_{k}": value for name, value in auxiliary.items()}
        return losses

    def _guided(
        self, outputs: Mapping[str, Any], targets: Targets, guide: Guide | None
    ) -> tuple[Sequence[Mapping[str, Tensor]], Matches | None]:
        """The guided predictions and the matching that they were made for."""
        if guide is None:
            return [], None
        with torch.autocast(targets.masks.device.type, enabled=False):
            matches = self.matcher(as_float(outputs), outputs["query_locations"].float(), targets)
        shape = (*outputs["pred_logits"].shape[:2], *outputs["start"]["size_hw"])
        return guide(guided_blocks(matches, targets, shape)), matches

    def _head(
        self,
        prediction: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        targets: Targets,
        matches: Matches | None = None,
    ) -> dict[str, Tensor]:
        prediction = as_float(prediction)
        if matches is None:
            matches = self.matcher(prediction, outputs["query_locations"].float(), targets)
        return self.prediction_losses(prediction, targets, matches)

    def prediction_losses(
        self, prediction: Mapping[str, Tensor], targets: Targets, matches: Matches
    ) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_mask`` and ``loss_dice`` of one prediction head."""
        logits = prediction["pred_logits"]  # (B, Q, K + 1)
        no_object = logits.shape[-1] - 1
        classes = torch.full(logits.shape[:2], no_object, device=logits.device)
        classes[matches.image, matches.query] = targets.labels[matches.target]
        class_weights = logits.new_ones(no_object + 1)
        class_weights[no_object] = self.config.no_object_weight

        masks = prediction["pred_masks"][matches.image, matches.query].unsqueeze(1)  # (M, 1, h, w)
        with torch.no_grad():
            points = self.points(masks, targets, matches)
            truth = sample_rows(targets.masks, matches.target, points).squeeze(1)  # (M, P)
        masks = sample(masks, points).squeeze(1)
        count = object_count(targets)
        return {
            "loss_ce": F.cross_entropy(logits.transpose(1, 2), classes, class_weights),
            "loss_mask": bce_loss(masks, truth, count),
            "loss_dice": dice_loss(masks, truth, count),
        }

    def points(self, masks: Tensor, targets: Targets, matches: Matches) -> Tensor:
        """Where the mask losses are taken, (M, P, 2): uncertain, around the object, anywhere."""
        settings = self.config
        total = settings.num_points
        keep, boxed = int(settings.uncertain_ratio * total), int(settings.box_ratio * total)
        candidates = int(settings.oversample_ratio * total)
        points = [uncertain_points(masks, candidates, keep, self.rand)]
        if boxed:
            boxes = targets.boxes[matches.target]
            points.append(box_points(boxes, boxed, settings.box_scale, self.rand))
        if total > keep + boxed:
            points.append(self.rand(len(masks), total - keep - boxed, 2, device=masks.device))
        return torch.cat(points, dim=1)

    def proposal_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of the proposal cells (B, K + 1, h, w), mean over all cells."""
        logits = logits.float()
        matches = self.matcher.match_proposals(logits, targets)
        cells = logits.flatten(2)  # (B, K + 1, h * w)
        classes = torch.full_like(cells[:, 0], cells.shape[1] - 1, dtype=torch.int64)
        classes[matches.image, matches.query] = targets.labels[matches.target]
        return F.cross_entropy(cells, classes)


def as_float(prediction: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Class and mask logits of a prediction in float32 (losses are never taken in half)."""
    return {name: prediction[name].float() for name in ("pred_logits", "pred_masks")}
