"""K-Net's panoptic merging by hand: thresholds, overlap, order, numbers of segments."""

import pytest

torch = pytest.importorskip("torch")

from edgeseg.train.knet_postprocess import (  # noqa: E402
    instances,
    panoptic,
    panoptic_scores,
    restore,
    semantic,
)

THINGS, STUFF, CLASSES = 3, 2, 5


def logit(p):
    return torch.logit(torch.tensor(p))


def kernels(*things, stuff=(0.2, 0.1)):
    """Class logits of kernels: (class, probability) of each thing, probability of each stuff."""
    logits = torch.full((len(things) + STUFF, CLASSES), -9.0)
    for row, (label, p) in enumerate(things):
        logits[row, label] = logit(p)
    for j, p in enumerate(stuff):
        logits[len(things) + j, THINGS + j] = logit(p)
        logits[len(things) + j, 0] = 5.0  # a stuff kernel's thing classes count for nothing
    logits[0, CLASSES - 1] = 5.0  # nor a thing's stuff classes
    return logits


def test_scores_of_things_and_stuff():
    score, label = panoptic_scores(kernels((1, 0.9), (2, 0.4)), STUFF)
    torch.testing.assert_close(score, torch.tensor([0.9, 0.4, 0.2, 0.1]))
    assert label.tolist() == [1, 2, 3, 4]


def halves(*rows):
    """Masks (n, 4, 8) of 0.9 in the columns of each range, 0.01 elsewhere."""
    masks = torch.full((len(rows), 4, 8), 0.01)
    for mask, (start, stop) in zip(masks, rows, strict=True):
        mask[:, start:stop] = 0.9
    return masks


@pytest.mark.parametrize(
    ("things", "masks", "expected"),
    [
        # things by score, then stuff: 2000 is the third segment
        ([(1, 0.9), (2, 0.6)], [(0, 3), (3, 6), (6, 8), (0, 0)], [1] * 3 + [1002] * 3 + [2003] * 2),
        # a better kernel is counted first, whatever its place
        ([(1, 0.6), (2, 0.9)], [(0, 3), (3, 6), (6, 8), (0, 0)], [1001] * 3 + [2] * 3 + [2003] * 2),
        # a thing below 0.3 is left out, its pixels too
        ([(1, 0.9), (2, 0.25)], [(0, 3), (3, 6), (6, 8), (0, 0)], [1] * 3 + [5] * 3 + [1003] * 2),
        # stuff is never too weak, but must win 60 % of its mask: here 2 of 5 columns
        ([(1, 0.9), (2, 0.6)], [(0, 3), (3, 6), (3, 8), (0, 0)], [1] * 3 + [1002] * 3 + [5] * 2),
    ],
)
def test_panoptic(things, masks, expected):
    painted = panoptic(kernels(*things), halves(*masks), STUFF)
    assert painted.dtype == torch.int32
    assert painted.tolist() == [expected] * 4


def test_instances_are_the_best_pairs():
    logits = torch.full((2, 3), -9.0)
    logits[1, 0], logits[1, 2], logits[0, 1] = 2.0, 1.0, 0.0
    found = instances(logits, halves((0, 2), (4, 8)), 3)
    assert found.labels.tolist() == [0, 2, 1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0, 0.0]).sigmoid())
    assert found.masks.sum((1, 2)).tolist() == [16, 16, 8]


def test_sizes():
    masks = torch.randn(3, 8, 12)
    assert restore(masks, (64, 96), (60, 90), (120, 181)).shape == (3, 120, 181)
    probability = semantic(masks, (50, 70))
    torch.testing.assert_close(probability.sum(0), torch.ones(50, 70))
