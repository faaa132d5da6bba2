"""Matching: costs against plain loops, whole maps instead of points, odd numbers of objects."""

import pytest
import torch
import torch.nn.functional as F

from edgeseg.train.matcher import (
    Matcher,
    MatcherConfig,
    Targets,
    pairwise_bce,
    pairwise_dice,
    sample,
    sample_rows,
)

CPU = torch.device("cpu")


def square(y, x, size=8, height=32, width=48):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + size, x : x + size] = True
    return mask


def image(*corners, labels=None):
    masks = [square(y, x) for y, x in corners]
    empty = torch.zeros(0, 32, 48, dtype=torch.bool)
    return {
        "labels": torch.tensor(labels or [0] * len(corners), dtype=torch.int64),
        "masks": torch.stack(masks) if masks else empty,
    }


def prediction(masks, logits=None):
    """Sharp stride-4 logits of boolean masks (B, Q, 32, 48); class logits 0 unless given."""
    small = F.max_pool2d(masks.float(), 4) * 20 - 10
    return {
        "pred_logits": torch.zeros(*masks.shape[:2], 4) if logits is None else logits,
        "pred_masks": small,
    }


def test_sample_reads_cell_centres_and_zero_outside():
    ramp = torch.arange(4.0).view(1, 1, 1, 4)
    x = torch.tensor([0.125, 0.375, 0.5, 0.875, -1.0])
    points = torch.stack([x, torch.full((5,), 0.5)], -1)[None]
    assert sample(ramp, points).flatten().tolist() == [0.0, 1.0, 1.5, 3.0, 0.0]


@pytest.mark.parametrize("rows", [[2, 0, 1], [1], [2, 1], []])
def test_sample_rows_is_sample_of_rows(rows):
    torch.manual_seed(0)
    maps, rows = torch.rand(3, 1, 5, 6), torch.tensor(rows, dtype=torch.int64)
    points = torch.rand(len(rows), 7, 2)
    assert torch.equal(sample_rows(maps, rows, points), sample(maps[rows], points))


def test_pairwise_costs_are_the_formulas():
    torch.manual_seed(0)
    logits, truth = torch.randn(3, 50), torch.rand(2, 50).round()
    for q in range(3):
        for n in range(2):
            x, t = logits[q], truth[n]
            bce = F.binary_cross_entropy_with_logits(x, t)
            p = x.sigmoid()
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            assert torch.isclose(pairwise_bce(logits, truth)[q, n], bce)
            assert torch.isclose(pairwise_dice(logits, truth)[q, n], dice)


def test_collate_keeps_images_apart():
    targets = Targets.collate([image((0, 0)), image(), image((8, 8), (0, 30))], CPU)
    assert targets.counts == [1, 0, 2]
    assert targets.image.tolist() == [0, 2, 2]
    assert targets.masks.shape == (3, 1, 32, 48)
    assert [len(part) for part in targets.split(targets.labels)] == [1, 0, 2]


def test_boxes_are_tight_and_empty_masks_have_no_extent():
    empty = {"labels": torch.zeros(1, dtype=torch.int64), "masks": torch.zeros(1, 32, 48)}
    targets = Targets.collate([image((8, 12)), empty], CPU)
    x, y, width, height = targets.boxes[0].tolist()
    assert (x * 48, y * 32, width * 48, height * 32) == pytest.approx((16, 12, 8, 8))
    assert targets.boxes[1, 2:].tolist() == [0, 0]


@pytest.mark.parametrize("num_points", [0, 256])
def test_each_query_gets_the_object_it_draws(num_points):
    torch.manual_seed(0)
    corners = [(0, 0), (16, 8), (8, 36)]
    masks = torch.stack([square(*corner) for corner in (corners[2], (24, 24), *corners[:2])])
    matcher = Matcher(MatcherConfig(num_points=num_points))
    targets = Targets.collate([image(*corners), image(corners[0])], CPU)
    far = torch.ones(2, 4, 2)  # no query was picked inside an object
    matches = matcher(prediction(torch.stack([masks, masks])), far, targets)
    assert matches.image.tolist() == [0, 0, 0, 1]
    assert matches.query.tolist() == [0, 2, 3, 2]
    assert matches.target.tolist() == [2, 0, 1, 3]


def test_a_query_picked_inside_the_object_beats_a_better_mask():
    targets = Targets.collate([image((0, 0))], CPU)
    masks = torch.stack([square(0, 0), square(16, 16)])[None]
    locations = torch.tensor([[[0.9, 0.9], [0.05, 0.05]]])
    for weight, query in ((1000.0, 1), (0.0, 0)):
        matcher = Matcher(MatcherConfig(num_points=0, location_weight=weight))
        assert matcher(prediction(masks), locations, targets).query.tolist() == [query]


def test_the_class_decides_between_equal_masks():
    targets = Targets.collate([image((0, 0), labels=[2])], CPU)
    logits = torch.zeros(1, 2, 4)
    logits[0, 1, 2] = 5
    masks = torch.stack([square(0, 0)] * 2)[None]
    matcher = Matcher(MatcherConfig(num_points=0))
    matches = matcher(prediction(masks, logits), torch.ones(1, 2, 2), targets)
    assert matches.query.tolist() == [1]


@pytest.mark.parametrize("objects", [0, 3])
def test_no_object_and_more_objects_than_queries(objects):
    targets = Targets.collate([image(*[(0, 8 * i) for i in range(objects)])], CPU)
    masks = torch.stack([square(0, 0), square(0, 8)])[None]
    matches = Matcher(MatcherConfig(num_points=0))(prediction(masks), torch.ones(1, 2, 2), targets)
    assert len(matches.query) == min(objects, 2)


def test_a_proposal_cell_lies_inside_its_object():
    targets = Targets.collate([image((16, 32), labels=[1])], CPU)
    logits = torch.zeros(1, 4, 2, 3)
    logits[0, 1, 0, 0] = 9  # the best class score, but far from the object
    matches = Matcher().match_proposals(logits, targets)
    assert matches.query.tolist() == [5]  # row 1, column 2
