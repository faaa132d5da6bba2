"""FastInst against its official code: keys, every recorded array, post-processing.

One test per recorded array. ``RULES`` tells, by the array's name, what of ours it is compared with
and how closely; a name without a rule fails. Tolerances are those of ``data/.../README.md``.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from parity.fixture import agree, close, equal, fill_rule, of, recorded, samples, unpack
from parity.official import batch_of, network_of, paired, things_of
from parity.rules import rule_for

from edgeseg.train import postprocess
from edgeseg.zoo.fastinst import attention_bias
from edgeseg.zoo.layers import upsample

MODELS = of("fastinst", "model")


@dataclass(eq=False, repr=False)
class Run:
    """One pass of our network over the images of a fixture."""

    fixture: object
    network: torch.nn.Module
    images: torch.Tensor
    outputs: dict

    @property
    def config(self):
        return self.fixture.facts["config"]

    def sizes(self, image):
        """Padded input, image and output size (height, width)."""
        facts = self.fixture.facts
        image_hw, output_hw = facts["image_sizes_hw"][image], facts["output_sizes_hw"][image]
        return tuple(self.images.shape[2:]), tuple(image_hw), tuple(output_hw)


@functools.lru_cache(maxsize=2)
def masks_of(run, image):
    """Mask logits at the output size."""
    return postprocess.restore(run.outputs["pred_masks"][image], *run.sizes(image))


@functools.lru_cache(maxsize=2)
def semantic_of(run, image):
    """Class scores of every pixel; masks are resized before it only if other tasks are on too."""
    logits = run.outputs["pred_logits"][image]
    if run.config["instance_on"] or run.config["panoptic_on"]:
        return postprocess.semantic(logits, masks_of(run, image))
    padded_hw, *sizes = run.sizes(image)
    padded = upsample(run.outputs["pred_masks"][image][None], padded_hw)[0]
    return postprocess.crop_resize(postprocess.semantic(logits, padded), *sizes)


@functools.lru_cache(maxsize=2)
def instances_of(run, image):
    """Our instances, each in the place of the recorded one it agrees with best."""
    ours = postprocess.instances(
        run.outputs["pred_logits"][image],
        masks_of(run, image),
        run.config["topk_per_image"],
        things_of(run.fixture.facts) if run.config["panoptic_on"] else None,
    )
    theirs = run.fixture.arrays
    classes = theirs[f"inst{image}_classes"]
    assert len(classes) == len(ours.labels)
    masks = unpack(theirs[f"inst{image}_masks_packed"], ours.masks.shape)
    return paired(ours, theirs[f"inst{image}_scores"], classes, masks)


@functools.lru_cache(maxsize=2)
def panoptic_of(run, image):
    """Our panoptic map and its segments."""
    return postprocess.panoptic(
        run.outputs["pred_logits"][image],
        masks_of(run, image),
        things_of(run.fixture.facts),
        run.config["object_mask_threshold"],
        run.config["overlap_threshold"],
    )


@functools.lru_cache(maxsize=1)
def run_of(fixture):
    network = network_of(fixture)
    images = batch_of(fixture, network)
    with torch.no_grad():
        return Run(fixture, network, images, network(images))


def intermediate(run, name):
    """The tensor that the json calls ``name``, in the official layout."""
    features, maps = run.outputs["features"], run.outputs["maps"]
    proposal, states = run.outputs["start"]["proposal"], run.outputs["states"]
    part, item, *rest = name.split("/")
    if part == "backbone":
        return features[item]
    if part == "pixel_decoder":
        return maps[int(item.removeprefix("out"))]
    if part == "decoder":  # sequence first
        return states[int(item.removeprefix("layer"))][rest[0]].transpose(0, 1)
    positions = upsample(run.network.sem_seg_head.predictor.meta_pos_embed, maps[1].shape[2:])
    recorded_shape = run.fixture.facts["intermediates"][name]["shape"]
    return {
        "features": proposal["features"].transpose(1, 2),
        "pos": proposal["pos"].transpose(1, 2),
        "cls_logits": proposal["logits"],
        "pos_in": positions.expand(recorded_shape[0], -1, -1, -1),
        "x": maps[1],
    }[item]


def tolerance_of(run, name):
    """1e-3, as for masks; more for backbone features, which reach 2e4 in a random network."""
    facts = run.fixture.facts["intermediates"][name]
    return max(1e-3, 5e-6 * facts["max"])


def blocked(run, layer):
    """Attention mask of a decoder layer (B, Q + A, P) after the release of full rows."""
    return attention_bias(run.outputs["states"][layer]["blocked"]) != 0


# --------------------------------------------------------------------- one rule per kind of array
def check_override(run, theirs, key):
    assert key in run.fixture.facts["overrides"]
    equal(run.network.state_dict()[key], theirs)


def check_image(run, theirs, index):
    height, width = run.fixture.facts["image_sizes_hw"][int(index)]
    seed = run.fixture.facts["image_seeds"][int(index)]
    equal(fill_rule.image(height, width, seed), theirs)


def check_net_input(run, theirs):
    equal(run.images, theirs)


def check_prediction(run, theirs, name):
    close(run.outputs[name], theirs, 1e-3)


def check_proposals(run, theirs):
    close(run.outputs["proposal_cls_logits"], theirs, 2e-4)


def check_queries(run, theirs):
    equal(run.outputs["topk_indices"], theirs)


def check_query_scores(run, theirs):
    close(run.outputs["topk_scores"], theirs, 5e-4)


def check_aux_logits(run, theirs, head):
    close(run.outputs["aux_outputs"][int(head)]["pred_logits"], theirs, 1e-3)


def check_aux_masks(run, theirs, head, step):
    close(run.outputs["aux_outputs"][int(head)]["pred_masks"][:, :: int(step)], theirs, 1e-3)


def check_samples(run, theirs, name):
    close(samples(intermediate(run, name)), theirs, tolerance_of(run, name))


def check_attention(run, theirs, layer):
    facts = run.fixture.facts["intermediates"][f"decoder/layer{layer}/attn_mask"]
    equal(blocked(run, int(layer)), unpack(theirs, facts["packed_shape"]))


def check_scores(run, theirs, image):
    close(instances_of(run, int(image)).scores, theirs, 5e-4)


def check_classes(run, theirs, image):
    equal(instances_of(run, int(image)).labels, theirs)


def check_masks(run, theirs, image):
    shape = run.fixture.facts[f"inst{image}_mask_shape"]
    agree(instances_of(run, int(image)).masks, unpack(theirs, shape))


def check_semantic(run, theirs, image):
    scores = semantic_of(run, int(image))
    best, second = scores.topk(2, dim=0).values
    clear = (best - second >= 1e-4).numpy()
    equal(scores.argmax(0).numpy()[clear], theirs[clear])


def check_semantic_scores(run, theirs, image, step):
    close(semantic_of(run, int(image))[:, :: int(step), :: int(step)], theirs, 5e-4)


def check_panoptic(run, theirs, image):
    painted, segments = panoptic_of(run, int(image))
    agree(painted, theirs)
    assert [s._asdict() for s in segments] == run.fixture.facts[f"pan{image}_segments"]


RULES = {
    r"override/(.+)": check_override,
    r"image(\d+)": check_image,
    r"net_input": check_net_input,
    r"(pred_logits|pred_masks)": check_prediction,
    r"proposal_cls_logits": check_proposals,
    r"topk_indices": check_queries,
    r"topk_scores": check_query_scores,
    r"aux(\d+)_logits": check_aux_logits,
    r"aux(\d+)_masks_q(\d+)": check_aux_masks,
    r"samp/(.+)": check_samples,
    r"packed/decoder/layer(\d+)/attn_mask": check_attention,
    r"inst(\d+)_scores": check_scores,
    r"inst(\d+)_classes": check_classes,
    r"inst(\d+)_masks_packed": check_masks,
    r"sem(\d+)_argmax": check_semantic,
    r"sem(\d+)_strided(\d+)": check_semantic_scores,
    r"pan(\d+)_seg": check_panoptic,
}


@pytest.mark.parametrize(("fixture", "name"), recorded(MODELS))
def test_array(fixture, name):
    rule, caught = rule_for(name, RULES)
    rule(run_of(fixture), fixture.arrays[name], *caught)


@pytest.mark.parametrize("fixture", MODELS, ids=str)
def test_state_dict_is_the_official_one(fixture):
    ours = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network_of(fixture).state_dict().items()
    ]
    assert ours == fixture.facts["state_dict"]


@pytest.mark.parametrize("fixture", MODELS, ids=str)
def test_number_of_parameters(fixture):
    network = network_of(fixture)
    assert sum(p.numel() for p in network.parameters()) == fixture.facts["parameters"]


@pytest.mark.parametrize("fixture", MODELS, ids=str)
def test_statistics_of_intermediates(fixture):
    run = run_of(fixture)
    for name, facts in fixture.facts["intermediates"].items():
        if "packed_shape" in facts:
            rows = blocked(run, int(name.split("/")[1].removeprefix("layer")))
            assert int(rows.all(-1).sum()) == facts["fully_masked_rows"] == 0, name
            assert rows.float().mean() == pytest.approx(facts["true_fraction"], abs=1e-6), name
            continue
        value = intermediate(run, name)
        assert list(value.shape) == facts["shape"], name
        ours = [value.mean(), value.std(), value.min(), value.max()]
        theirs = [facts[key] for key in ("mean", "std", "min", "max")]
        close(torch.stack(ours), theirs, tolerance_of(run, name))


@pytest.mark.parametrize("fixture", MODELS, ids=str)
def test_queries_blocked_everywhere_are_the_recorded_ones(fixture):
    heads = [*run_of(fixture).outputs["aux_outputs"], run_of(fixture).outputs]
    full = [int((head["pred_masks"] < 0).flatten(2).all(-1).sum()) for head in heads]
    assert full == fixture.facts["outputs"]["fully_negative_rows_per_head"]


def test_a_wrong_array_is_noticed():
    with pytest.raises(AssertionError, match="times the tolerance"):
        close(np.ones(3), np.array([1, 1, 1.0021]), 1e-3)
    with pytest.raises(AssertionError):
        close(np.ones(3), np.array([1, 1, np.nan]), 1e-3)
    with pytest.raises(AssertionError, match="values differ"):
        agree(np.ones(100, bool), np.arange(100) > 0)
    with pytest.raises(pytest.fail.Exception, match="no rule for the recorded array 'new'"):
        rule_for("new", RULES)
