"""One official training step of FastInst: draws, costs, assignments, losses, gradients.

The recorded random draws are fed in call order, so nothing depends on torch's generator.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity.fixture import agree, close, equal, fill_rule, of, recorded, unpack
from parity.official import batch_of, network_of
from parity.rules import rule_for

from edgeseg.train import losses, matcher
from edgeseg.zoo.fastinst import attention_bias

STEPS = of("fastinst", "train")


class Draws:
    """Gives the recorded random numbers, one array per call."""

    def __init__(self, fixture):
        self.left = fixture.numbered("rand{:02d}")

    def __call__(self, *shape, device):
        draw = self.left.pop(0)
        assert shape == draw.shape, f"draw of {shape}; recorded {draw.shape}"
        return torch.from_numpy(draw).to(device)


class Recorder(losses.Criterion):
    """The criterion, remembering what it matched and where it took its losses."""

    def __init__(self, config, rand):
        super().__init__(config, rand)
        self.taken = []  # one entry per prediction, in call order

    def prediction_losses(self, prediction, targets, matches):
        masks = prediction["pred_masks"][matches.image, matches.query]
        first = torch.tensor([0, *targets.counts]).cumsum(0)[matches.image]
        pairs = torch.stack([matches.image, matches.query, matches.target - first], dim=1)
        self.taken.append({"masks": masks, "pairs": pairs})
        return super().prediction_losses(prediction, targets, matches)

    def points(self, masks, targets, matches):
        self.taken[-1]["points"] = super().points(masks, targets, matches)
        return self.taken[-1]["points"]


@dataclass(eq=False, repr=False)
class Step:
    """Everything that one training step left behind."""

    fixture: object
    network: torch.nn.Module
    outputs: dict
    guided: list
    blocked: list
    criterion: Recorder
    draws: Draws
    costs: list = field(default_factory=list)
    assignments: list = field(default_factory=list)
    losses: dict = field(default_factory=dict)


def criterion_of(fixture):
    facts = fixture.facts
    return losses.CriterionConfig(
        num_points=facts["num_points"],
        oversample_ratio=facts["oversample_ratio"],
        uncertain_ratio=facts["importance_sample_ratio"],
        matcher=matcher.MatcherConfig(num_points=facts["num_points"]),
    )


def targets_of(fixture, padded_hw):
    """Labels and masks of each image, the masks padded with background."""
    targets = []
    for index, (height, width) in enumerate(fixture.facts["image_sizes_hw"]):
        labels = fixture.tensor(f"gt{index}_labels")
        packed = fixture.arrays[f"gt{index}_masks_packed"]
        masks = torch.from_numpy(unpack(packed, (len(labels), height, width)))
        padding = (0, padded_hw[1] - width, 0, padded_hw[0] - height)
        targets.append({"labels": labels, "masks": F.pad(masks, padding)})
    return targets


@functools.lru_cache(maxsize=1)
def step_of(fixture):
    """Run the step once: forward, losses, backward."""
    network = network_of(fixture)
    decoder = network.sem_seg_head.predictor
    images = batch_of(fixture, network)
    outputs = network(images)
    draws = Draws(fixture)
    blocked = [state["blocked"] for state in outputs["states"]]
    criterion = Recorder(criterion_of(fixture), draws)
    step = Step(fixture, network, outputs, [], blocked, criterion, draws)

    def guide(blocked):
        blocked = decoder.with_auxiliary(blocked)
        step.blocked += [blocked] * len(outputs["states"])
        step.guided = decoder.guided(outputs, blocked)
        return step.guided

    def solve(cost):
        step.costs.append(cost)
        step.assignments.append([part.tolist() for part in real_solve(cost)])
        return real_solve(cost)

    real_solve = matcher.linear_sum_assignment
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matcher, "linear_sum_assignment", solve)
        targets = targets_of(fixture, images.shape[2:])
        step.losses = step.criterion.losses(outputs, targets, guide)
    total = sum(step.criterion.weight(name) * value for name, value in step.losses.items())
    network.zero_grad()
    total.backward()
    return step


def predictions(step):
    """All predictions in the order of ``p<k>``: guided layers, earlier heads, final head."""
    return [*step.guided, *step.outputs["aux_outputs"], step.outputs]


# --------------------------------------------------------------------- one rule per kind of array
def check_override(step, theirs, key):
    equal(step.network.state_dict()[key], theirs)


def check_image(step, theirs, index):
    height, width = step.fixture.facts["image_sizes_hw"][int(index)]
    seed = step.fixture.facts["image_seeds"][int(index)]
    equal(fill_rule.image(height, width, seed), theirs)


def check_given(step, theirs, *_):
    """Ground truth and draws are what the step is fed with."""
    assert theirs.size


def check_proposals(step, theirs):
    close(step.outputs["proposal_cls_logits"], theirs, 2e-4)


def check_locations(step, theirs):
    close(step.outputs["query_locations"], theirs, 1e-6)


def check_logits(step, theirs, index):
    close(predictions(step)[int(index)]["pred_logits"], theirs, 1e-3)


def check_masks(step, theirs, index, stride):
    close(predictions(step)[int(index)]["pred_masks"][:, :: int(stride)], theirs, 1e-3)


def check_pairs(step, theirs, index):
    equal(step.criterion.taken[int(index)]["pairs"], theirs)


def check_matched(step, theirs, index):
    close(step.criterion.taken[int(index)]["masks"], theirs, 1e-3)


def check_points(step, theirs, index):
    # Sorted: two points of nearly equal uncertainty may change places.
    ours = np.sort(step.criterion.taken[int(index)]["points"].numpy(), axis=1)
    agree(ours, np.sort(theirs, axis=1), 0.0)


def check_attention(step, theirs, index):
    blocked = attention_bias(step.blocked[int(index)]) != 0
    equal(blocked, unpack(theirs, tuple(blocked.shape)))


def check_cost(step, theirs, index):
    close(step.costs[int(index)], theirs, 1e-3)


RULES = {
    r"override/(.+)": check_override,
    r"image(\d+)": check_image,
    r"gt(\d+)_(labels|masks_packed)": check_given,
    r"rand(\d+)": check_given,
    r"proposal_cls_logits": check_proposals,
    r"query_locations": check_locations,
    r"p(\d+)_logits": check_logits,
    r"p(\d+)_masks_q(\d+)": check_masks,
    r"loss(\d+)_batch_query_target": check_pairs,
    r"loss(\d+)_matched_masks": check_matched,
    r"loss_coords(\d+)": check_points,
    r"attn_mask(\d+)_packed": check_attention,
    r"cost(\d+)": check_cost,
}


@pytest.mark.parametrize(("fixture", "name"), recorded(STEPS))
def test_array(fixture, name):
    rule, caught = rule_for(name, RULES)
    rule(step_of(fixture), fixture.arrays[name], *caught)


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_every_draw_is_used(fixture):
    assert step_of(fixture).draws.left == []


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_draws_come_in_the_official_order(fixture):
    torch.manual_seed(fixture.facts["torch_manual_seed_before_forward"])
    for theirs in fixture.numbered("rand{:02d}"):
        equal(torch.rand(*theirs.shape), theirs)


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_assignments(fixture):
    assert step_of(fixture).assignments == fixture.facts["assignments_in_call_order"]


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_losses(fixture):
    step, facts = step_of(fixture), fixture.facts
    ours = {name: value.item() for name, value in step.losses.items()}
    weights = {name: step.criterion.weight(name) for name in ours}
    weighted = {name: weights[name] * ours[name] for name in ours}
    assert weights == facts["weight_dict"]
    assert ours.keys() == facts["losses_unweighted"].keys() == facts["losses_weighted"].keys()
    for mine, theirs in ((ours, "losses_unweighted"), (weighted, "losses_weighted")):
        values = [facts[theirs][name] for name in mine]
        close(list(mine.values()), values, 1e-9, 1e-5)
    close(sum(weighted.values()), facts["total_weighted"], 0.0, 1e-5)
    objects = matcher.Targets.collate(targets_of(fixture, (640, 640)), torch.device("cpu"))
    assert losses.object_count(objects) == facts["num_masks"]


@pytest.mark.parametrize("fixture", STEPS, ids=str)
def test_gradients(fixture):
    parameters = dict(step_of(fixture).network.named_parameters())
    without = [name for name, value in parameters.items() if value.grad is None]
    assert without == fixture.facts["params_without_grad"]
    theirs = fixture.facts["grad_norm_and_first"]
    assert [name for name in parameters if name not in without] == list(theirs)
    norms, firsts, scale = [], [], []
    for name in theirs:
        gradient = parameters[name].grad.double()
        norms.append(gradient.norm().item())
        firsts.append(gradient.flatten()[0].item())
        scale.append(theirs[name][0] / gradient.numel() ** 0.5)
    recorded_norms, recorded_firsts = np.array(list(theirs.values())).T
    close(norms, recorded_norms, 1e-9, 1e-3)
    # A single element may be almost 0: its error counts against the mean size of its tensor.
    scale = np.array(scale) + 1e-9
    close(firsts / scale, recorded_firsts / scale, 1e-3, 1e-3)
