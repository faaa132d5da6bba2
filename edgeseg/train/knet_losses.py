"""The training objective of K-Net: matching and losses of kernel head and update stages.

Zhang et al., "K-Net", NeurIPS 2021, arXiv 2106.14855, section 3.4; focal loss of Lin et al. 2017,
dice loss of Milletari et al. 2016. Checked against ZwwWayne/K-Net (Apache-2.0) by
``tests/parity``; no code is taken from it.

    L = L_seg + (L_mask + 4 L_dice + w L_rank) of the kernel head
        + sum over stages of (2 L_class + L_mask + 4 L_dice + w L_rank)

with w = 0.1 in panoptic segmentation, else 0. A stage is matched by what the one before predicted;
the first, like the kernel head, by the first masks alone. Masks are compared at a quarter of the
input's size, where those of the ground truth are soft.
Shapes: B images, N kernels (T of things, then S of stuff), K classes, P positive kernels in the
whole batch, (h, w) = (H // 4, W // 4), (h', w') of the network's masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.train.losses import shared_count
from edgeseg.train.matcher import Matches, Targets, assign
from edgeseg.zoo.layers import upsample

IGNORED = 255
"""Pixels that no loss looks at, in rank targets and in label maps."""
Objects = Sequence[Mapping[str, Tensor]]
"""Per image ``labels`` (n,) and ``masks`` (n, H, W); in panoptic segmentation also ``stuff_labels``
(s,), K - S or more, each at most once, and ``stuff_masks`` (s, H, W)."""


@dataclass(frozen=True)
class KNetLossConfig:
    """Weights of costs and losses; the defaults are the official ones.

    Attributes:
        class_weight, mask_weight, dice_weight: of the costs and of the losses.
        rank_weight: of the loss that sets masks against each other; 0.1 in panoptic segmentation.
        seg_weight: of the semantic loss of the kernel head.
    """

    class_weight: float = 2.0
    mask_weight: float = 1.0
    dice_weight: float = 4.0
    rank_weight: float = 0.0
    seg_weight: float = 1.0


# ------------------------------------------------------------------------------------- matching
def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal cost of kernels (N, K) for objects of classes (n,): (N, n)."""
    p = logits.sigmoid()
    negative = -(1 - p + 1e-12).log() * 0.75 * p**2
    positive = -(p + 1e-12).log() * 0.25 * (1 - p) ** 2
    return (positive - negative)[:, labels]


def mask_cost(p: Tensor, truth: Tensor) -> Tensor:
    """Minus the share of pixels that agree, of masks (N, P), 0..1, with objects (n, P): (N, n)."""
    return -(p @ truth.T + (1 - p) @ (1 - truth).T) / p.shape[1]


def dice_cost(p: Tensor, truth: Tensor) -> Tensor:
    """Minus the dice overlap of masks (N, P), 0..1, with objects (n, P): (N, n)."""
    total = (p**2).sum(1, keepdim=True) + 1e-3 + (truth**2).sum(1) + 1e-3
    return -2 * (p @ truth.T) / total


# --------------------------------------------------------------------------------------- losses
def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Sigmoid focal loss of each element, alpha 0.25, gamma 2; truth is 0 or 1."""
    p = logits.sigmoid()
    missed = (1 - p) * truth + p * (1 - truth)
    weight = (0.25 * truth + 0.75 * (1 - truth)) * missed**2
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Labels (...) to float (..., K); a label of K is background, all zero."""
    return F.one_hot(labels, count + 1)[..., :count].float()


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean dice distance of masks (P, h, w)."""
    p, t = logits.sigmoid().flatten(1), truth.flatten(1)
    total = (p**2).sum(1) + 1e-3 + (t**2).sum(1) + 1e-3
    return (1 - 2 * (p * t).sum(1) / total).mean()


def rank_loss(masks: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over kernels (B, N, h, w) of each pixel (B, h, w).

    Ignored pixels count as 0, but count.
    """
    return F.cross_entropy(masks, target, ignore_index=IGNORED, reduction="none").mean()


@dataclass
class Assigned:
    """What the kernels of a batch should be.

    Attributes:
        labels: (B, N) int64, K where a kernel has no object.
        weights: (B, N, K) float32, 0 where a class logit is not trained.
        image, kernel: (P,) int64, which kernels are positive.
        masks: (P, h, w) float32, soft masks of the positive.
    """

    labels: Tensor
    weights: Tensor
    image: Tensor
    kernel: Tensor
    masks: Tensor

    def on_top(self, image: int, lowest: int = 0) -> tuple[Tensor, Tensor]:
        """Per pixel (h, w) of an image the positive kernel painted last, and whether any was.

        Kernels are painted in their order, from ``lowest`` on and round to the one before it.
        """
        rows, count = self.image == image, self.labels.shape[1]
        inside = self.masks[rows] > 0  # (p, h, w)
        if not len(inside):
            empty = torch.zeros(self.masks.shape[1:], dtype=torch.int64, device=inside.device)
            return empty, empty.bool()
        turn = (self.kernel[rows] - lowest) % count
        last = torch.where(inside, turn[:, None, None], -1).amax(0)
        return (last + lowest) % count, last >= 0

    def rank_target(self) -> Tensor:
        """(B, h, w) int64: the last positive kernel of each pixel, `IGNORED` where there is none.

        More than 255 kernels would collide with that value, as in the official code.
        """
        images = [self.on_top(image) for image in range(len(self.labels))]
        return torch.stack([torch.where(found, kernel, IGNORED) for kernel, found in images])

    def seg_target(self, background: int, kernels: int) -> Tensor:
        """(B, h, w) int64: the class of each pixel, ``background`` where there is none.

        The ``kernels`` of things are painted over those of stuff.
        """
        target = []
        for image, labels in enumerate(self.labels):
            kernel, found = self.on_top(image, kernels)
            target.append(torch.where(found, labels[kernel], background))
        return torch.stack(target)

    def first(self, count: int) -> Assigned:
        """The same of the first ``count`` kernels alone."""
        rows = self.kernel < count
        return Assigned(
            self.labels[:, :count],
            self.weights[:, :count],
            self.image[rows],
            self.kernel[rows],
            self.masks[rows],
        )


@dataclass
class Truth:
    """The objects of a batch at the size of the masks.

    Attributes:
        things: labels and soft masks (n, 1, h, w) of the things.
        present: (B, S) bool, which stuff an image shows.
        stuff: (B, S, h, w) float32, soft masks of the stuff.
    """

    things: Targets
    present: Tensor
    stuff: Tensor

    @classmethod
    def collate(cls, targets: Objects, first_stuff: int, num_stuff: int, device: Any) -> Truth:
        """Join the objects of single images; classes of stuff are ``first_stuff`` and on."""
        things = Targets.collate(targets, device)
        size_hw = tuple(side // 4 for side in targets[0]["masks"].shape[1:])
        things.masks = upsample(things.masks, size_hw)
        present = torch.zeros(len(targets), num_stuff, dtype=torch.bool, device=device)
        stuff = torch.zeros(len(targets), num_stuff, *size_hw, device=device)
        for image, target in enumerate(targets if num_stuff else []):
            if len(target["stuff_labels"]):
                index = target["stuff_labels"].to(device) - first_stuff
                present[image, index] = True
                masks = target["stuff_masks"].to(device).float()
                stuff[image, index] = upsample(masks[None], size_hw)[0]
        return cls(things, present, stuff)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of the masks: a quarter of the input's."""
        return tuple(self.things.masks.shape[2:])


def assigned_of(matches: Matches, truth: Truth, kernels: int, classes: int) -> Assigned:
    """Targets of every kernel: of the ``kernels`` of things as matched, of stuff as it is."""
    images, num_stuff = truth.present.shape
    device, things = truth.present.device, classes - num_stuff
    labels = torch.full((images, kernels + num_stuff), classes, device=device)
    labels[matches.image, matches.query] = truth.things.labels[matches.target]
    stuff = torch.arange(things, classes, device=device)
    labels[:, kernels:] = torch.where(truth.present, stuff, classes)
    weights = torch.zeros(images, kernels + num_stuff, classes, device=device)
    weights[:, :kernels, :things] = 1.0
    weights[:, kernels:, things:] = torch.eye(num_stuff, device=device)
    image, row = truth.present.nonzero(as_tuple=True)
    return Assigned(
        labels,
        weights,
        torch.cat([matches.image, image]),
        torch.cat([matches.query, row + kernels]),
        torch.cat([truth.things.masks.squeeze(1)[matches.target], truth.stuff[image, row]]),
    )


class KNetCriterion:
    """All losses of one training step.

    Args:
        config: weights; the official ones when left out.
        num_stuff: S.
    """

    def __init__(self, config: KNetLossConfig | None = None, num_stuff: int = 0) -> None:
        self.config = config or KNetLossConfig(rank_weight=0.1 if num_stuff else 0.0)
        self.num_stuff = num_stuff

    def __call__(self, outputs: Mapping[str, Any], targets: Objects) -> dict[str, Tensor]:
        """Weighted losses by their official names; their sum is what training minimises.

        Args:
            outputs: of `edgeseg.zoo.knet.KNet`: ``masks``, ``seg_logits`` and ``stages``.
            targets: the objects at the padded input size.
        """
        device, classes = outputs["masks"].device, outputs["seg_logits"].shape[1]
        truth = Truth.collate(targets, classes - self.num_stuff, self.num_stuff, device)
        with torch.autocast(device.type, enabled=False):
            logits, masks = None, outputs["masks"]
            assigned = self.assign(logits, masks, truth, classes)
            first = self.first_losses(masks, outputs["seg_logits"], assigned)
            losses = {f"loss_rpn_{name}": value for name, value in first.items()}
            for index, stage in enumerate(outputs["stages"]):
                if index:
                    assigned = self.assign(logits, masks, truth, classes)
                logits, masks = stage["logits"].float(), stage["masks"]
                own = self.stage_losses(logits, masks, assigned)
                losses |= {f"s{index}_loss_{name}": value for name, value in own.items()}
        return losses

    def assign(self, logits: Tensor | None, masks: Tensor, truth: Truth, classes: int) -> Assigned:
        """Match things to kernels by logits (B, N, K) and masks (B, N, h', w')."""
        kernels = masks.shape[1] - self.num_stuff
        if logits is not None:
            logits = logits[:, :kernels, : classes - self.num_stuff]
        matches = assign(self.costs(logits, masks[:, :kernels], truth.things), truth.things)
        return assigned_of(matches, truth, kernels, classes)

    @torch.no_grad()
    def costs(self, logits: Tensor | None, masks: Tensor, things: Targets) -> list[Tensor]:
        """Cost matrices (T, n) per image from masks (B, T, h', w') and class logits (B, T, K)."""
        weights, costs = self.config, []
        labels, truths = things.split(things.labels), things.split(things.masks.flatten(1))
        for image, mask in enumerate(masks):
            p = at_size(mask[None], things.masks.shape[2:])[0].flatten(1).sigmoid()
            cost = weights.mask_weight * mask_cost(p, truths[image])
            cost = cost + weights.dice_weight * dice_cost(p, truths[image])
            if logits is not None:
                cost = cost + weights.class_weight * class_cost(logits[image], labels[image])
            costs.append(cost)
        return costs

    def stage_losses(self, logits: Tensor, masks: Tensor, assigned: Assigned) -> dict[str, Tensor]:
        """``cls``, ``mask``, ``dice`` and ``rank`` of logits (B, N, K), masks (B, N, h', w')."""
        truth = one_hot(assigned.labels, logits.shape[2])
        positive = shared_count(float(len(assigned.image)), logits.device)
        loss = (focal_loss(logits, truth) * assigned.weights).sum() / positive
        return {"cls": self.config.class_weight * loss} | self.mask_losses(masks, assigned)

    def mask_losses(self, masks: Tensor, assigned: Assigned) -> dict[str, Tensor]:
        """``mask``, ``dice`` and ``rank`` of masks (B, N, h', w').

        Masks of another size than the objects' are resized after the positive are chosen, a tenth
        of them.
        """
        weights, size_hw = self.config, assigned.masks.shape[1:]
        chosen = masks[assigned.image, assigned.kernel]  # (P, h', w')
        ranked = bool(weights.rank_weight)
        if not len(chosen):
            return dict.fromkeys(("mask", "dice", *["rank"] * ranked), masks.float().sum() * 0)
        chosen = at_size(chosen[None], size_hw)[0]
        bce = F.binary_cross_entropy_with_logits(chosen, assigned.masks)
        losses = {
            "mask": weights.mask_weight * bce,
            "dice": weights.dice_weight * dice_loss(chosen, assigned.masks),
        }
        if ranked:
            losses["rank"] = weights.rank_weight * rank_loss(
                at_size(masks, size_hw), assigned.rank_target()
            )
        return losses

    def first_losses(self, masks: Tensor, seg: Tensor, assigned: Assigned) -> dict[str, Tensor]:
        """``mask``, ``dice`` and ``rank`` of the kernels of things; ``seg`` of (B, K, h', w')."""
        kernels = masks.shape[1] - self.num_stuff
        losses = self.mask_losses(masks[:, :kernels], assigned.first(kernels))
        target = assigned.seg_target(seg.shape[1], kernels)  # (B, h, w)
        seg = at_size(seg, target.shape[1:])
        truth = one_hot(target, seg.shape[1]).permute(0, 3, 1, 2)
        pixels = (target < seg.shape[1]).sum().clamp(min=1)
        return losses | {"seg": self.config.seg_weight * focal_loss(seg, truth).sum() / pixels}


def at_size(masks: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Logits (B, N, h', w') in float32 at the size at which masks are compared."""
    height, width = size_hw
    masks = masks.float()
    return masks if masks.shape[2:] == (height, width) else upsample(masks, (height, width))


def semantic_losses(outputs: Mapping[str, Any], labels: Tensor) -> dict[str, Tensor]:
    """Losses of `edgeseg.zoo.knet_semantic.SemanticKNet`, weighted, by their official names.

    Args:
        outputs: of the network in training mode.
        labels: (B, H, W) int64 class of each pixel, `IGNORED` where it does not count; such a
            pixel still counts in the mean.
    """

    def loss(masks: Tensor) -> Tensor:
        logits = at_size(masks, tuple(labels.shape[1:]))
        return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").mean()

    predictions = [outputs, *outputs["stages"]]
    losses = {f"decode.loss_ce.s{i}": loss(p["masks"]) for i, p in enumerate(predictions)}
    return losses | {"aux.loss_ce": 0.4 * loss(outputs["aux_masks"])}
