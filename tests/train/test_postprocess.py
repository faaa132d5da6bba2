"""Post-processing on outputs small enough to tell the answer by hand."""

import torch

from edgeseg.train import postprocess


def outputs():
    """Two queries on a 4x4 map, 3 classes: left half is class 0, top row class 2."""
    logits = torch.full((2, 4), -9.0)
    logits[0, 0] = logits[1, 2] = 9.0
    masks = torch.full((2, 4, 4), -9.0)
    masks[0, :, :2] = masks[1, 0] = 9.0
    return logits, masks


def test_instances_keep_the_best_pairs():
    found = postprocess.instances(*outputs(), count=2)
    areas = dict(zip(found.labels.tolist(), found.masks.flatten(1).sum(1).tolist(), strict=True))
    assert areas == {0: 8, 2: 4}
    assert found.scores.min() > 0.99


def test_instances_of_things_only():
    found = postprocess.instances(*outputs(), count=2, things={2})
    assert found.labels.tolist() == [2]


def test_an_empty_mask_scores_zero():
    logits, masks = outputs()
    found = postprocess.instances(logits, -masks.abs(), count=2)
    assert found.scores.tolist() == [0, 0]


def test_one_query_may_come_with_two_classes():
    logits, masks = outputs()
    logits[0, 1] = 8.5
    found = postprocess.instances(logits, masks, count=3)
    assert sorted(found.labels.tolist()) == [0, 1, 2]


def test_panoptic_gives_a_pixel_to_one_segment():
    logits, masks = outputs()
    masks[1] += 1  # the top row is surer
    painted, segments = postprocess.panoptic(logits, masks, things={0}, overlap_threshold=0.5)
    assert [tuple(s) for s in segments] == [(1, True, 0), (2, False, 2)]
    assert painted[0].tolist() == [2, 2, 2, 2]
    assert painted[1].tolist() == [1, 1, 0, 0]


def test_panoptic_drops_what_is_mostly_covered():
    logits, masks = outputs()
    masks[1] += 1
    painted, segments = postprocess.panoptic(logits, masks, things={0}, overlap_threshold=0.8)
    assert [s.category_id for s in segments] == [2]
    assert painted.unique().tolist() == [0, 1]


def test_stuff_of_one_class_is_one_segment():
    logits, masks = outputs()
    logits[1] = logits[0]
    masks[1] = -9.0
    masks[1, :, 3] = 9.0
    for things, count in (({0}, 2), ({1}, 1)):
        painted, segments = postprocess.panoptic(logits, masks, things)
        assert len(segments) == count
        assert (painted[:, 3] == count).all()


def test_restore_cuts_the_padding_off():
    masks = torch.zeros(1, 4, 8)
    masks[..., 4:] = 5.0
    restored = postprocess.restore(masks, (32, 64), (32, 32), (64, 64))
    assert restored.shape == (1, 64, 64)
    assert (restored[..., :48] == 0).all()  # only the border to the cut-off half bleeds in
    assert restored[..., -1].min() > 1
