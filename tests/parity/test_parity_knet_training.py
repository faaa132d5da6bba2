"""One official training step of K-Net, and its parts: costs, assignments, losses, gradients."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from parity.fixture import Fixture, close, collect, equal, fill_knet, of, recorded
from parity.official_knet import config_of
from parity.rules import rule_for

from edgeseg.train import knet_losses as losses
from edgeseg.train.matcher import Targets
from edgeseg.zoo.knet import KNet

STEPS = of("knet", "train")
RELATIVE = 1e-5


@dataclass(eq=False, repr=False)
class Step:
    """What a whole training step and the losses of given arrays left behind."""

    fixture: object
    network: torch.nn.Module
    losses: dict
    assigned: list
    outputs: dict


class Recorder(losses.KNetCriterion):
    """The criterion, remembering what it matched."""

    def __init__(self, num_stuff=0):
        super().__init__(num_stuff=num_stuff)
        self.assigned = []

    def assign(self, *given):
        self.assigned.append(super().assign(*given))
        return self.assigned[-1]


def model_of(fixture):
    """The model fixture whose weights a step was made with."""
    name = next(word for word in fixture.facts["weights"].split() if word.endswith(".npz"))
    return next(f for f in collect() if f.npz.name == name.rstrip("."))


def targets_of(fixture, height, width):
    arrays, targets = fixture.arrays, []
    for image, count in enumerate(arrays["e_gt_count"]):
        bits = np.unpackbits(arrays[f"e_gt_masks_{image}"], count=count * height * width)
        masks = torch.from_numpy(bits.reshape(count, height, width))
        targets.append({"labels": fixture.tensor(f"e_gt_labels_{image}"), "masks": masks})
    return targets


@functools.lru_cache(maxsize=1)
def step_of(fixture):
    """Forward, losses, backward, in training mode."""
    model: Fixture = model_of(fixture)
    network = KNet(config_of(model.facts["model_hyper_parameters"]))
    fill_knet(network, model)
    network.train()
    images = fixture.tensor("e_image_rgb").permute(0, 3, 1, 2)
    outputs = network(network.normalise(images))
    criterion = Recorder(network.config.num_stuff)
    found = criterion(outputs, targets_of(fixture, *images.shape[2:]))
    sum(found.values()).backward()
    return Step(fixture, network, found, criterion.assigned, outputs)


@functools.lru_cache(maxsize=1)
def unit_of(fixture):
    """The losses of the recorded predictions, and their gradients."""
    masks = fixture.tensor("u_mask_pred").requires_grad_()
    logits = fixture.tensor("u_cls_pred").requires_grad_()
    targets = [
        {"labels": fixture.tensor(f"u_gt_labels_{i}"), "masks": fixture.tensor(f"u_gt_bitmaps_{i}")}
        for i in range(len(masks))
    ]
    config = losses.KNetLossConfig(rank_weight=0.1)  # the official unit has the rank loss on
    criterion = losses.KNetCriterion(config)
    truth = losses.Truth.collate(targets, 80, 0, masks.device)
    assigned = criterion.assign(logits.detach(), masks.detach(), truth, 80)
    first = criterion.assign(None, masks.detach(), truth, 80)
    head = criterion.stage_losses(logits, masks, assigned)
    sum(head.values()).backward()
    seg = fixture.tensor("u_seg_pred")
    rpn = criterion.first_losses(masks.detach(), seg, first)
    return {
        "masks": masks,
        "logits": logits,
        "truth": truth,
        "assigned": assigned,
        "first": first,
        "head": head,
        "rpn": rpn,
    }


def accuracy(logits, assigned):
    """Percent of the positive kernels whose best class is right."""
    best = logits[assigned.image, assigned.kernel].argmax(-1)
    right = best == assigned.labels[assigned.image, assigned.kernel]
    return 100 * right.float().mean(0, keepdim=True)


# --------------------------------------------------------------------- one rule per kind of array
def check_given(fixture, theirs, *_):
    """What the step is fed with."""
    assert theirs.size


def check_soft_masks(fixture, theirs, image):
    things: Targets = unit_of(fixture)["truth"].things
    close(things.split(things.masks.squeeze(1))[int(image)], theirs, 1e-6)


def check_cost(fixture, theirs, kind, image):
    unit, image = unit_of(fixture), int(image)
    things = unit["truth"].things
    mask, truth = unit["masks"][image].flatten(1), things.split(things.masks.flatten(1))[image]
    logits, labels = unit["logits"][image], things.split(things.labels)[image]
    ours = {
        "cls": lambda: 2 * losses.class_cost(logits, labels),
        "mask": lambda: losses.mask_cost(mask.sigmoid(), truth),
        "dice": lambda: 4 * losses.dice_cost(mask.sigmoid(), truth),
    }[kind]()
    close(ours, theirs, 1e-6, RELATIVE)


def check_assigned(fixture, theirs, kind, image):
    """Official: 0 for none, else 1 + index of the object."""
    unit, image = unit_of(fixture), int(image)
    assigned = unit["first" if "nocls" in kind else "assigned"]
    things = unit["truth"].things
    rows = assigned.image == image
    ours = torch.zeros(len(theirs), dtype=torch.int64)
    masks = things.split(things.masks.squeeze(1))[image]
    for kernel, mask in zip(assigned.kernel[rows], assigned.masks[rows], strict=True):
        ours[kernel] = 1 + next(i for i, m in enumerate(masks) if torch.equal(m, mask))
    equal(ours, theirs)


def check_label(fixture, theirs, image):
    """Official: -1 for none."""
    labels = unit_of(fixture)["assigned"].labels[int(image)]
    equal(torch.where(labels == 80, -1, labels), theirs)


def check_labels(fixture, theirs):
    equal(unit_of(fixture)["assigned"].labels.flatten(), theirs)


def check_label_weights(fixture, theirs):
    equal(unit_of(fixture)["assigned"].weights.flatten(0, 1), theirs)


def check_mask_targets(fixture, theirs):
    assigned = unit_of(fixture)["assigned"]
    ours = torch.zeros(theirs.shape)
    ours[assigned.image * assigned.labels.shape[1] + assigned.kernel] = assigned.masks
    close(ours, theirs, 1e-6)


def check_unit_loss(fixture, theirs, part, name):
    close(unit_of(fixture)[part][name], theirs, 0.0, RELATIVE)


def check_unit_accuracy(fixture, theirs):
    unit = unit_of(fixture)
    close(accuracy(unit["logits"], unit["assigned"]), theirs, 1e-4)


def check_unit_gradient(fixture, theirs, name):
    ours = unit_of(fixture)[{"mask": "masks", "cls": "logits"}[name]].grad
    close(ours, theirs, 1e-5 * float(np.abs(theirs).max()), RELATIVE)


def check_seg_targets(fixture, theirs):
    first = unit_of(fixture)["first"]
    equal(first.seg_target(80, first.labels.shape[1]), theirs)


def check_loss(fixture, theirs, name):
    close(step_of(fixture).losses[name], theirs, 0.0, 1e-4)


def check_accuracy(fixture, theirs, index):
    step = step_of(fixture)
    logits = step.outputs["stages"][int(index)]["logits"]
    close(accuracy(logits, step.assigned[int(index)]), theirs, 1e-4)


def check_total(fixture, theirs):
    close(sum(step_of(fixture).losses.values()), theirs, 0.0, 1e-4)


RULES = {
    r"u_(mask_pred|cls_pred|seg_pred|gt_labels_\d+|gt_bitmaps_\d+)": check_given,
    r"e_(image_rgb|gt_count|gt_masks_\d+|gt_labels_\d+)": check_given,
    r"u_gt_masks_(\d+)": check_soft_masks,
    r"u_cost_(cls|mask|dice)_(\d+)": check_cost,
    r"u_(assigned_gt(?:_nocls)?)_(\d+)": check_assigned,
    r"u_assigned_label_(\d+)": check_label,
    r"u_t_labels": check_labels,
    r"u_t_label_weights": check_label_weights,
    r"u_t_mask_targets": check_mask_targets,
    r"u_(head)_loss_(\w+)": check_unit_loss,
    r"u_(rpn)_loss_rpn_(\w+)": check_unit_loss,
    r"u_head_pos_acc": check_unit_accuracy,
    r"u_head_grad_(mask|cls)": check_unit_gradient,
    r"u_seg_targets": check_seg_targets,
    r"e_(s\d+_loss_\w+|loss_rpn_\w+)": check_loss,
    r"e_s(\d+)_pos_acc": check_accuracy,
    r"e_total_loss": check_total,
}


@pytest.mark.parametrize(("fixture", "name"), recorded(STEPS))
def test_array(fixture, name):
    rule, caught = rule_for(name, RULES)
    rule(fixture, fixture.arrays[name], *caught)


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_there_are_no_other_losses(fixture):
    theirs = {name.removeprefix("e_") for name in fixture.names if name.startswith("e_")}
    assert set(step_of(fixture).losses) == {name for name in theirs if "loss_" in name}


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_gradients(fixture):
    parameters = dict(step_of(fixture).network.named_parameters())
    theirs = fixture.facts["grad_norms"]
    ours = [parameters[name].grad.double().norm().item() for name in theirs]
    close(ours, list(theirs.values()), 1e-9, 1e-3)


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_stem_and_first_stage_are_not_trained(fixture):
    for name, parameter in step_of(fixture).network.named_parameters():
        frozen = name.startswith(("backbone.conv1.", "backbone.bn1.", "backbone.layer1."))
        assert (parameter.grad is None) == frozen, name
