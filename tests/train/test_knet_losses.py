"""K-Net's losses where the recorded step doesn't look: stuff, ranks, empty pictures, labels."""

import math

import pytest

torch = pytest.importorskip("torch")

from edgeseg.train.knet_losses import (  # noqa: E402
    IGNORED,
    KNetCriterion,
    KNetLossConfig,
    Truth,
    at_size,
    rank_loss,
    semantic_losses,
)

THINGS, STUFF, KERNELS = 3, 2, 4
CLASSES = THINGS + STUFF


def squares(*corners, side=16, size_hw=(32, 48)):
    masks = torch.zeros(len(corners), *size_hw)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = 1
    return masks


def targets():
    """Two pictures: two things and one stuff; nothing."""
    floor = torch.zeros(1, 32, 48)
    floor[:, 16:] = 1
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32, 48)
    one = {"labels": torch.tensor([2, 0]), "masks": squares((0, 0), (8, 24))}
    one |= {"stuff_labels": torch.tensor([4]), "stuff_masks": floor}
    two = {"labels": none[0], "masks": none[1], "stuff_labels": none[0], "stuff_masks": none[1]}
    return [one, two]


def truth():
    return Truth.collate(targets(), THINGS, STUFF, torch.device("cpu"))


def masks_like(*which):
    """Mask logits (2, 6, 8, 12): kernel k is sure of thing ``which[k]``, or of nothing."""
    logits = torch.full((2, KERNELS + STUFF, 8, 12), -9.0)
    things = truth().things.masks.squeeze(1)
    for kernel, thing in enumerate(which):
        if thing is not None:
            logits[0, kernel] = 18 * things[thing] - 9
    return logits


@pytest.fixture
def assigned():
    """Kernel 1 is the first thing, kernel 3 the second."""
    criterion = KNetCriterion(num_stuff=STUFF)
    return criterion.assign(None, masks_like(None, 0, None, 1), truth(), CLASSES)


def test_stuff_has_its_own_kernels(assigned):
    assert assigned.labels.tolist() == [[5, 2, 5, 0, 5, 4], [5] * 6]
    assert sorted(zip(assigned.image.tolist(), assigned.kernel.tolist(), strict=True)) == [
        (0, 1),
        (0, 3),
        (0, 5),
    ]
    torch.testing.assert_close(assigned.masks[2], truth().stuff[0, 1])


def test_things_are_not_trained_on_classes_of_stuff_nor_the_other_way(assigned):
    things, stuff = assigned.weights[0, :KERNELS], assigned.weights[0, KERNELS:]
    assert things.tolist() == [[1, 1, 1, 0, 0]] * KERNELS
    assert stuff.tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_the_last_kernel_of_a_pixel_is_its_rank(assigned):
    target = assigned.rank_target()
    assert target.shape == (2, 8, 12)
    assert target[0, 1, 1] == 1 and target[0, 3, 8] == 3
    assert target[0, 5, 8] == 5  # the floor comes after the things
    assert target[0, 0, 11] == IGNORED and (target[1] == IGNORED).all()


def test_things_are_painted_over_stuff(assigned):
    """The semantic target of the kernel head, unlike the rank, has things on top."""
    target = assigned.seg_target(CLASSES, KERNELS)
    assert target[0, 5, 8] == 0 and target[0, 7, 0] == 4 and target[0, 0, 11] == CLASSES


def test_ignored_pixels_count_in_the_mean_of_the_rank_loss():
    logits = torch.zeros(1, 5, 2, 2)
    target = torch.tensor([[[0, IGNORED], [IGNORED, IGNORED]]])
    assert rank_loss(logits, target).item() == pytest.approx(math.log(5) / 4)


def outputs(stages=2):
    torch.manual_seed(0)
    masks = [torch.randn(2, KERNELS + STUFF, 4, 6, requires_grad=True) for _ in range(stages + 1)]
    logits = [torch.randn(2, KERNELS + STUFF, CLASSES, requires_grad=True) for _ in range(stages)]
    return {
        "masks": masks[0],
        "seg_logits": torch.randn(2, CLASSES, 4, 6, requires_grad=True),
        "stages": [{"logits": a, "masks": b} for a, b in zip(logits, masks[1:], strict=True)],
    }


def test_panoptic_losses_have_the_official_names_and_reach_every_output():
    found, given = {}, outputs()
    found = KNetCriterion(num_stuff=STUFF)(given, targets())
    parts = [f"s{i}_loss_{p}" for i in (0, 1) for p in ("cls", "mask", "dice", "rank")]
    first = [f"loss_rpn_{p}" for p in ("mask", "dice", "rank", "seg")]
    assert set(found) == {*parts, *first}
    sum(found.values()).backward()
    leaves = [given["masks"], given["seg_logits"], *(s["masks"] for s in given["stages"])]
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves)
    assert given["masks"].grad[:, KERNELS:].abs().sum() == 0  # those are semantic logits


def test_pictures_without_objects_train_classes_only():
    empty = targets()[1:] * 2
    found = KNetCriterion(num_stuff=STUFF)(outputs(), empty)
    zero = [name for name, value in found.items() if value == 0]
    assert {name.split("_")[-1] for name in zero} == {"mask", "dice", "rank"}
    assert found["s0_loss_cls"] > 0 and found["loss_rpn_seg"] > 0


def test_instances_need_no_stuff():
    given = outputs()
    given["seg_logits"] = given["seg_logits"][:, :THINGS]
    for stage in given["stages"]:
        stage["logits"] = stage["logits"][..., :THINGS]
    plain = [{name: t[name] for name in ("labels", "masks")} for t in targets()]
    found = KNetCriterion(KNetLossConfig())(given, plain)
    assert not [name for name in found if "rank" in name]
    assert all(value.isfinite() for value in found.values())


def test_masks_are_resized_after_the_positive_are_chosen(assigned):
    """Which gives the same as the official order."""
    criterion, masks = KNetCriterion(num_stuff=STUFF), outputs()["masks"].detach()
    whole = criterion.mask_losses(at_size(masks, (8, 12)), assigned)
    assert criterion.mask_losses(masks, assigned) == whole


def test_semantic_losses():
    zeros = torch.zeros(1, 5, 4, 6)
    given = {"masks": zeros, "aux_masks": zeros, "stages": [{"masks": zeros}] * 3}
    labels = torch.zeros(1, 32, 48, dtype=torch.int64)
    labels[:, 16:] = IGNORED  # half of the pixels, which still count
    found = semantic_losses(given, labels)
    half = math.log(5) / 2
    assert found.pop("aux.loss_ce").item() == pytest.approx(0.4 * half)
    assert set(found) == {f"decode.loss_ce.s{i}" for i in range(4)}
    assert [value.item() for value in found.values()] == pytest.approx([half] * 4)
