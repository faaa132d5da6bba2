"""The training objective: settings that parity doesn't reach, and what it teaches a network."""

import pytest
import torch
import torch.nn.functional as F

from edgeseg.train.losses import (
    Criterion,
    CriterionConfig,
    box_points,
    guided_blocks,
    object_count,
    uncertain_points,
)
from edgeseg.train.matcher import MatcherConfig, Matches, Targets
from edgeseg.zoo.fastinst import FastInst, FastInstConfig

CPU = torch.device("cpu")
SMALL = CriterionConfig(
    num_points=64, uncertain_ratio=0.5, box_ratio=0.25, matcher=MatcherConfig(num_points=0)
)


def targets(*counts, height=96, width=128):
    torch.manual_seed(0)
    batch = []
    for count in counts:
        masks = torch.zeros(count, height, width)
        for index, mask in enumerate(masks):
            mask[8 + 20 * index : 24 + 20 * index, 16:56] = 1
        batch.append({"labels": torch.arange(count) % 3, "masks": masks})
    return batch


def network(mask_stride=8):
    torch.manual_seed(0)
    return FastInst(
        FastInstConfig(
            backbone="resnet18d",
            depth=18,
            width=16,
            num_classes=3,
            num_layers=2,
            hidden_dim=32,
            mask_dim=16,
            num_queries=9,
            num_aux_queries=2,
            num_heads=2,
            ffn_dim=32,
            norm="BN",
            mask_stride=mask_stride,
        )
    )


def test_uncertain_points_are_those_nearest_zero():
    logits = torch.linspace(-3, 5, 64).view(1, 1, 1, 64)
    points = uncertain_points(logits, candidates=400, keep=40)
    at_zero = (0 - -3) / 8  # where the ramp crosses 0
    assert points.shape == (1, 40, 2)
    assert (points[..., 0] - at_zero).abs().max() < 0.12


def test_box_points_stay_in_the_enlarged_box_and_the_picture():
    boxes = torch.tensor([[0.5, 0.4, 0.2, 0.1], [0.05, 0.5, 0.2, 1.0]])
    points = box_points(boxes, 500, 1.5)
    low, high = points.amin(1), points.amax(1)
    assert low[0].tolist() == pytest.approx([0.35, 0.325], abs=0.01)
    assert high[0].tolist() == pytest.approx([0.65, 0.475], abs=0.01)
    assert low[1].tolist() == [0, 0]
    assert high[1, 1] == 1


@pytest.mark.parametrize(
    ("uncertain", "box", "kinds"), [(0.75, 0.0, 2), (0.5, 0.25, 3), (0.5, 0.5, 2), (0.0, 0.0, 2)]
)
def test_points_add_up(uncertain, box, kinds):
    draws = []

    def rand(*shape, device):
        draws.append(shape)
        return torch.rand(*shape, device=device)

    config = CriterionConfig(num_points=100, uncertain_ratio=uncertain, box_ratio=box)
    batch = Targets.collate(targets(2), CPU)
    pair = torch.arange(2)
    points = Criterion(config, rand).points(
        torch.randn(2, 1, 12, 16), batch, Matches(torch.zeros(2).long(), pair, pair)
    )
    assert points.shape == (2, 100, 2)
    assert draws[0] == (2, 300, 2)
    assert len(draws) == kinds


def test_guided_blocks_leave_the_object_open():
    batch = Targets.collate(targets(2, 1), CPU)
    matches = Matches(torch.tensor([0, 1]), torch.tensor([3, 0]), torch.tensor([1, 2]))
    blocked = guided_blocks(matches, batch, (2, 5, 12, 16))
    seen = ~blocked[0, 3]
    assert torch.equal(seen, F.interpolate(batch.masks, (12, 16))[1, 0] > 0)
    assert not blocked[0, 0].any()
    assert blocked[1, 0].any()


@pytest.mark.parametrize(("counts", "expected"), [((0, 0), 1.0), ((2, 1), 3.0)])
def test_object_count_is_at_least_one(counts, expected):
    assert object_count(Targets.collate(targets(*counts), CPU)) == expected


@pytest.mark.parametrize("mask_stride", [8, 4])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_losses_of_every_prediction_reach_the_network(mask_stride, guided, bfloat16):
    model = network(mask_stride).train()
    decoder = model.sem_seg_head.predictor
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        outputs = model(torch.randn(2, 3, 96, 128))

        def guide(blocked):
            return decoder.guided(outputs, decoder.with_auxiliary(blocked))

        losses = Criterion(SMALL)(outputs, targets(3, 1), guide if guided else None)
    suffixes = ["", *(f"_{k}" for k in range(4 if guided else 2))]
    names = {f"loss_{part}{end}" for part in ("ce", "mask", "dice") for end in suffixes}
    assert losses.keys() == names | {"loss_proposal"}
    assert all(value.dtype == torch.float32 and value > 0 for value in losses.values())
    sum(losses.values()).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == []


def test_pictures_without_objects_teach_no_object():
    model = network().train()
    outputs = model(torch.randn(2, 3, 96, 128))
    losses = Criterion(SMALL)(outputs, targets(0, 0))
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert losses["loss_ce"] > 0
    sum(losses.values()).backward()


def test_perfect_outputs_cost_next_to_nothing():
    batch = targets(3, 2)
    small = [F.avg_pool2d(target["masks"], 8) for target in batch]
    masks = torch.full((2, 5, 12, 16), -30.0)
    logits = torch.zeros(2, 5, 4)
    logits[..., 3] = 30
    for index, (target, maps) in enumerate(zip(batch, small, strict=True)):
        masks[index, : len(maps)] = maps * 60 - 30
        logits[index, : len(maps)] = 30 * F.one_hot(target["labels"], 4)
    outputs = {
        "pred_logits": logits,
        "pred_masks": masks,
        "aux_outputs": [],
        "proposal_cls_logits": torch.zeros(2, 4, 6, 8),
        "query_locations": torch.ones(2, 5, 2),
    }
    anywhere = CriterionConfig(
        num_points=512, uncertain_ratio=0.0, matcher=MatcherConfig(num_points=0)
    )
    losses = Criterion(anywhere)(outputs, batch)
    assert losses["loss_ce"] < 1e-6
    assert losses["loss_dice"] < 0.25
    wrong = dict(outputs, pred_masks=-masks)
    assert Criterion(anywhere)(wrong, batch)["loss_dice"] > 4
