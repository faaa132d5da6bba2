"""Single functions of the official code: costs, losses, points, local maxima, post-processing."""

import re

import pytest
import torch
from parity.fixture import agree, close, equal, of, unpack
from parity.official import paired, things_of
from parity.rules import rule_for

from edgeseg.train import losses, matcher, postprocess
from edgeseg.zoo.fastinst import cell_locations, local_maxima

UNITS = of("fastinst", "units")
MASKFORMER = re.compile(r"mf_.*|sine_.*")


def check_given(unit, theirs, *_):
    """Inputs of the other arrays."""
    assert theirs.size


def check_dice(unit, theirs):
    logits = unit.tensor("l_x")
    close(losses.dice_loss(logits, unit.tensor("l_t"), len(logits)), theirs, 0.0, 1e-5)


def check_bce(unit, theirs):
    logits = unit.tensor("l_x")
    close(losses.bce_loss(logits, unit.tensor("l_t"), len(logits)), theirs, 0.0, 1e-5)


def check_pairwise_dice(unit, theirs):
    close(matcher.pairwise_dice(unit.tensor("l_x"), unit.tensor("l_tm")), theirs, 1e-6, 1e-5)


def check_pairwise_bce(unit, theirs):
    close(matcher.pairwise_bce(unit.tensor("l_x"), unit.tensor("l_tm")), theirs, 1e-6, 1e-5)


def check_sampling(unit, theirs):
    close(matcher.sample(unit.tensor("ps_map"), unit.tensor("ps_pts")), theirs, 1e-6)


def check_uncertain(unit, theirs):
    draws = unit.numbered("up_rand{}")

    def rand(*shape, device):
        draw = torch.from_numpy(draws.pop(0))
        assert draw.shape == shape
        return draw

    criterion = losses.Criterion(losses.CriterionConfig(num_points=theirs.shape[1]), rand)
    equal(criterion.points(unit.tensor("up_logits"), None, None), theirs)
    assert not draws


def check_maxima(unit, theirs):
    equal(local_maxima(unit.tensor("lm_in")), theirs)


def check_locations(unit, theirs, *size_hw):
    height, width = map(int, size_hw)
    ours = cell_locations(torch.arange(height * width), (height, width))
    close(ours.T.view(1, 2, height, width), theirs, 1e-6)


def instances(unit, group):
    """Ours for one group of recorded instances, in their order."""
    logits, masks = unit.tensor("pp_cls"), unit.tensor("pp_masks")
    top = re.search(r"top(\d+)", group)
    things = things_of(unit.facts) if "thingsonly" in group else None
    ours = postprocess.instances(logits, masks, int(top[1]) if top else 100, things)
    theirs = [unit.arrays[f"{group}_{part}"] for part in ("scores", "classes", "masks_packed")]
    assert len(theirs[0]) == len(ours.scores) == unit.facts["meta"][f"{group}_n"]
    return paired(ours, *theirs[:2], unpack(theirs[2], ours.masks.shape))


def check_scores(unit, theirs, group):
    close(instances(unit, group).scores, theirs, 5e-4)


def check_classes(unit, theirs, group):
    equal(instances(unit, group).labels, theirs)


def check_masks(unit, theirs, group):
    ours = instances(unit, group).masks
    agree(ours, unpack(theirs, ours.shape))


def check_semantic(unit, theirs):
    ours = postprocess.semantic(unit.tensor("pp_cls"), unit.tensor("pp_masks"))
    step = ours.shape[1] // theirs.shape[1]
    close(ours[:, ::step, ::step], theirs, 5e-4)


def check_semantic_best(unit, theirs):
    ours = postprocess.semantic(unit.tensor("pp_cls"), unit.tensor("pp_masks"))
    best, second = ours.topk(2, dim=0).values
    clear = (best - second >= 1e-4).numpy()
    equal(ours.argmax(0).numpy()[clear], theirs[clear])


def check_panoptic(unit, theirs, group, *thresholds):
    logits, masks = unit.tensor("pp_cls"), unit.tensor("pp_masks")
    limits = map(float, thresholds)
    painted, segments = postprocess.panoptic(logits, masks, things_of(unit.facts), *limits)
    agree(painted, theirs)
    assert [s._asdict() for s in segments] == unit.facts["meta"][f"{group}_segments"]


def check_resize(unit, theirs):
    image_hw, output_hw = re.findall(r"\((\d+),(\d+)\)", unit.facts["meta"]["resize"])
    ours = postprocess.crop_resize(
        unit.tensor("resize_in"), tuple(map(int, image_hw)), tuple(map(int, output_hw))
    )
    close(ours, theirs, 1e-6)


RULES = {
    r"l_(x|t|tm)|ps_(map|pts)|up_(logits|rand\d+)|lm_in|pp_(cls|masks)|resize_in": check_given,
    r"fi_dice": check_dice,
    r"fi_ce": check_bce,
    r"fi_pair_dice": check_pairwise_dice,
    r"fi_pair_ce": check_pairwise_bce,
    r"ps_out": check_sampling,
    r"up_coords": check_uncertain,
    r"lm_out": check_maxima,
    r"coords_(\d+)x(\d+)": check_locations,
    r"(fi_inst\w*?)_scores": check_scores,
    r"(fi_inst\w*?)_classes": check_classes,
    r"(fi_inst\w*?)_masks_packed": check_masks,
    r"sem": check_semantic,
    r"sem_argmax": check_semantic_best,
    r"(fi_pan_([\d.]+)_([\d.]+))": check_panoptic,
    r"resize_out": check_resize,
}


def cases():
    """One parameter per recorded array, under the family that it belongs to."""
    for unit in UNITS:
        for name in unit.names:
            family = "maskformer" if MASKFORMER.fullmatch(name) else unit.family
            yield pytest.param(unit, name, family, id=f"{family}-{unit.path.stem}-{name}")


@pytest.mark.parametrize(("unit", "name", "family"), list(cases()))
def test_array(unit, name, family):
    if family == "maskformer":
        pytest.xfail(family)
    rule, caught = rule_for(name, RULES)
    rule(unit, unit.arrays[name], *caught)


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_panoptic_map_of_nothing(unit):
    masks = unit.tensor("pp_masks")
    painted, segments = postprocess.panoptic(unit.tensor("pp_cls"), masks, {0}, 1.1)
    assert [int(painted.max()), segments] == unit.facts["meta"]["pan_nothing"]
