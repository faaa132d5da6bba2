"""Which query is responsible for which object: the bipartite matching of FastInst training.

Paper: "FastInst: A Simple Query-Based Model for Real-Time Instance Segmentation", He et al.,
CVPR 2023, section 3.5 (matching as in Mask2Former, with an extra location cost).
Checked against ``junjiehe96/FastInst@4996a61`` (MIT) by ``tests/parity``; no code is taken from it.

    C[q, n] = 2 * (-p_q(class n)) + 5 * BCE(mask q, mask n) + 5 * Dice(mask q, mask n)
              + 1000 * (-[query q was picked inside object n])

Official training compares masks at random points that all masks of an image share.
``MatcherConfig(num_points=0)`` compares whole maps instead: the objects are area-pooled to the
resolution of the predictions. Small networks train as well with it, at half the cost on a CPU.

Shapes: B images, Q queries, K classes, N objects in the whole batch, P points or pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Rand = Callable[..., Tensor]
"""Source of uniform random numbers in [0, 1): called as ``rand(*shape, device=device)``."""


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of ``maps`` (N, C, H, W) at ``points`` (N, P, 2) = (x, y) in 0..1: (N, C, P).

    0 and 1 are the outer edges of the map; what lies outside counts as 0.
    """
    grid = 2.0 * points.unsqueeze(1) - 1.0  # (N, 1, P, 2)
    return F.grid_sample(maps, grid, align_corners=False).squeeze(2)


def sample_rows(maps: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """``sample(maps[rows], points)``, without copying ``maps`` when every row is used once."""
    order = rows.argsort()
    used = maps if len(rows) == len(maps) else maps[rows[order]]
    return sample(used, points[order])[order.argsort()]


@dataclass
class Targets:
    """The objects of a whole batch in one row, image after image.

    Attributes:
        counts: objects of each image, B numbers.
        image: (N,) int64, the image that each object is in.
        labels: (N,) int64, class of each object.
        masks: (N, 1, H, W) float32, 0 or 1, at the padded size of the network's input.
    """

    counts: list[int]
    image: Tensor
    labels: Tensor
    masks: Tensor
    _pooled: dict[torch.Size, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def collate(cls, targets: Sequence[Mapping[str, Tensor]], device: torch.device) -> Targets:
        """Join the targets of single images.

        Args:
            targets: per image ``{"labels": int64 (n,), "masks": bool or float (n, H, W)}``; H and W
                are equal for all images (the padded input size), n may be 0.
            device: where the network's outputs are.
        """
        counts = [len(target["labels"]) for target in targets]
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        labels = torch.cat([target["labels"] for target in targets])
        masks = torch.cat([target["masks"] for target in targets]).unsqueeze(1)
        return cls(counts, image.to(device), labels.to(device), masks.to(device).float())

    def pooled(self, size_hw: torch.Size) -> Tensor:
        """Share of each cell that the object covers, (N, h, w) float32 in 0..1."""
        if size_hw not in self._pooled:
            self._pooled[size_hw] = F.adaptive_avg_pool2d(self.masks, size_hw).squeeze(1)
        return self._pooled[size_hw]

    @cached_property
    def boxes(self) -> Tensor:
        """Tight box of each object as centre x, centre y, width, height in 0..1: (N, 4)."""
        middle, extent = [], []
        for axis in (2, 3):  # x, then y
            used = self.masks.amax(axis).squeeze(1) > 0  # (N, length)
            length = used.shape[1]
            cell = torch.arange(length, device=used.device)
            low = torch.where(used, cell, length).amin(-1) / length
            high = (torch.where(used, cell, -1).amax(-1) + 1) / length
            middle.append((low + high) / 2)
            extent.append((high - low).clamp(min=0))  # 0 for an empty mask
        return torch.stack(middle + extent, dim=-1)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut ``values`` (N, ...) into the B images."""
        return values.split(self.counts)


class Matches(NamedTuple):
    """Matched pairs of a whole batch, image after image, M pairs.

    Attributes:
        image: (M,) int64.
        query: (M,) int64, the query (or proposal cell) within its image, rising.
        target: (M,) int64, the object as an index into the batch-wide ``Targets``.
    """

    image: Tensor
    query: Tensor
    target: Tensor


def assign(costs: Sequence[Tensor], targets: Targets) -> Matches:
    """The cheapest one-to-one assignment of each image; costs are (Q, n) per image."""
    device = targets.labels.device
    packed = torch.cat([cost.detach() for cost in costs], dim=1).cpu()  # one copy from a GPU
    image, query, target, first = [], [], [], 0
    for index, cost in enumerate(packed.split(targets.counts, dim=1)):
        rows, columns = linear_sum_assignment(cost.numpy())
        image.append(torch.full((len(rows),), index))
        query.append(torch.as_tensor(rows))
        target.append(torch.as_tensor(columns) + first)
        first += cost.shape[1]
    return Matches(*(torch.cat(part).to(device) for part in (image, query, target)))


@dataclass(frozen=True)
class MatcherConfig:
    """Weights of the matching costs; the defaults are the official ones.

    Attributes:
        class_weight: of the negative class probability.
        mask_weight: of the binary cross-entropy between masks.
        dice_weight: of the dice distance between masks.
        location_weight: reward for a query that was picked inside the object.
        num_points: random points per image at which masks are compared; 0 compares whole maps.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    location_weight: float = 1000.0
    num_points: int = 12544


def pairwise_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy of every mask (Q, P) with every object (n, P), mean over P: (Q, n)."""
    # t * softplus(-x) + (1 - t) * softplus(x) = softplus(x) - t * x
    return F.softplus(logits).mean(-1, keepdim=True) - logits @ truth.T / logits.shape[-1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice distance of every mask (Q, P) to every object (n, P): (Q, n) in 0..1."""
    mask = logits.sigmoid()
    total = mask.sum(-1, keepdim=True) + truth.sum(-1)
    return 1.0 - (2.0 * mask @ truth.T + 1.0) / (total + 1.0)


class Matcher:
    """Matches queries, and proposal cells, to objects. Draws points through ``rand``."""

    def __init__(self, config: MatcherConfig | None = None, rand: Rand = torch.rand) -> None:
        """Set up; ``rand`` is called once per image and call with the shape (1, num_points, 2)."""
        self.config = config or MatcherConfig()
        self.rand = rand

    @torch.no_grad()
    def __call__(
        self, prediction: Mapping[str, Tensor], locations: Tensor, targets: Targets
    ) -> Matches:
        """Match the queries of one prediction head.

        Args:
            prediction: ``pred_logits`` (B, Q, K + 1), ``pred_masks`` (B, Q, h, w) logits.
            locations: (B, Q, 2), where each query was picked, (x, y) in 0..1.
            targets: the objects of the batch.
        """
        return assign(self.decoder_costs(prediction, locations, targets), targets)

    @torch.no_grad()
    def match_proposals(self, logits: Tensor, targets: Targets) -> Matches:
        """Match cells of the proposal map (B, K + 1, h, w) to objects; ``query`` is y * w + x."""
        return assign(self.proposal_costs(logits, targets), targets)

    def decoder_costs(
        self, prediction: Mapping[str, Tensor], locations: Tensor, targets: Targets
    ) -> list[Tensor]:
        """Cost matrices of one prediction head, (Q, n) per image."""
        weights = self.config
        probability = prediction["pred_logits"].softmax(-1)  # (B, Q, K + 1)
        logits, truth = self._comparable(prediction["pred_masks"], targets)  # (B, Q, P), (N, P)
        inside = sample(targets.masks, locations[targets.image]).squeeze(1) > 0  # (N, Q)
        return [
            weights.mask_weight * pairwise_bce(x, t)
            + weights.dice_weight * pairwise_dice(x, t)
            - weights.class_weight * p[:, label]
            - weights.location_weight * here.T.float()
            for x, t, p, label, here in zip(
                logits,
                targets.split(truth),
                probability,
                targets.split(targets.labels),
                targets.split(inside),
                strict=True,
            )
        ]

    def proposal_costs(self, logits: Tensor, targets: Targets) -> list[Tensor]:
        """Cost matrices of the proposal cells, (h * w, n) per image."""
        weights = self.config
        probability = logits.softmax(1).flatten(2)  # (B, K + 1, h * w)
        inside = targets.pooled(logits.shape[-2:]).flatten(1) > 0  # (N, h * w)
        return [
            -weights.class_weight * p[label].T - weights.location_weight * here.T.float()
            for p, label, here in zip(
                probability, targets.split(targets.labels), targets.split(inside), strict=True
            )
        ]

    def _comparable(self, masks: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Predicted logits (B, Q, P) and true masks (N, P) at the same places."""
        if not self.config.num_points:
            return masks.flatten(2), targets.pooled(masks.shape[-2:]).flatten(1)
        shape = (1, self.config.num_points, 2)
        points = torch.cat([self.rand(*shape, device=masks.device) for _ in masks])  # (B, P, 2)
        return sample(masks, points), sample(targets.masks, points[targets.image]).squeeze(1)
