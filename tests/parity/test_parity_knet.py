"""K-Net against its official code: keys, every recorded array, post-processing.

One test per recorded array, as for FastInst. Tolerances are those of part E of the specification,
in standard deviations of the recorded array: 1e-4 up to the shared features, 1e-3 for a stage that
is fed with recorded inputs, 1e-2 from end to end.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity.fixture import agree, close, collect, equal, of, recorded, unpack
from parity.official import paired
from parity.official_knet import (
    config_of,
    input_of,
    is_semantic,
    network_of,
    semantic_config_of,
)
from parity.rules import rule_for

from edgeseg.train import knet_postprocess as postprocess
from edgeseg.train.postprocess import Instances
from edgeseg.zoo import knet, knet_semantic
from edgeseg.zoo.knet_update import SCALE
from edgeseg.zoo.layers import doubled
from edgeseg.zoo.resnet import deform_conv3x3

MODELS = of("knet", "model")
DETECTORS = [f for f in MODELS if not is_semantic(f)]
UNITS = [f for f in collect() if f.role == "units" and "dcn_weight" in f.names]
BEFORE, STAGE, END = 1e-4, 1e-3, 1e-2


@dataclass(eq=False, repr=False)
class Run:
    """One pass of our network over the image of a fixture."""

    fixture: object
    network: torch.nn.Module
    images: torch.Tensor
    outputs: dict

    @property
    def sizes(self):
        """Padded input, image and output size (height, width)."""
        facts = self.fixture.facts["preprocess"]
        padded = tuple(self.images.shape[2:])
        image = tuple(facts.get("img_shape", padded)[:2])
        return padded, image, self.fixture.arrays["image_rgb"].shape[:2]

    @property
    def num_stuff(self):
        return self.network.config.num_stuff


@functools.lru_cache(maxsize=1)
def run_of(fixture):
    network = network_of(fixture)
    images = input_of(fixture, network)
    with torch.no_grad():
        return Run(fixture, network, images, network(images))


@functools.lru_cache(maxsize=1)
def probability_of(run):
    """Probabilities of the masks of all kernels at the output size."""
    return postprocess.restore(run.outputs["stages"][-1]["masks"][0], *run.sizes)


@functools.lru_cache(maxsize=1)
def instances_of(run):
    """Our instances, each in the place of the recorded one it agrees with best."""
    theirs = run.fixture.arrays
    things = run.outputs["stages"][-1]["logits"][0, : run.network.config.num_kernels]
    logits = things[:, : run.network.config.num_classes]
    ours = postprocess.instances(logits, probability_of(run), len(theirs["post_labels"]))
    masks = unpack(theirs["post_masks_packed"], ours.masks.shape)
    return Instances(*paired(ours, theirs["post_scores"], theirs["post_labels"], masks))


@functools.lru_cache(maxsize=1)
def semantic_of(run):
    return postprocess.semantic(run.outputs["stages"][-1]["masks"][0], run.sizes[2])


@functools.lru_cache(maxsize=4)
def stage_of(run, index):
    """A stage fed with what the official code fed it with."""
    array, before = run.fixture.tensor, f"s{index - 1}"
    kernels = array(f"{before}_object_feats" if index else "init_proposal_feats")
    masks = array(f"{before}_mask_logits" if index else "init_mask_logits")
    with torch.no_grad():
        return run.network.roi_head.mask_head[index](
            array("x_feats")[None], kernels[None], masks[None]
        )


def near(ours, theirs, share):
    """Every value within ``share`` of the recorded array's standard deviation."""
    close(ours, theirs, share * float(theirs.std()))


def shown(run, masks):
    """The masks of the first two results: detections, or kernels in panoptic segmentation."""
    if run.num_stuff:
        return masks[:2]
    count = run.fixture.arrays.get("post_labels", np.zeros(2)).size
    return masks[postprocess.best(run.outputs["stages"][-1]["logits"][0], count)[2][:2]]


# --------------------------------------------------------------------- one rule per kind of array
def check_override(run, theirs, key):
    assert key in run.fixture.facts["overrides"]
    equal(run.network.state_dict()[key], theirs)


def check_image(run, theirs):
    assert theirs.dtype == np.uint8  # what the network is fed with; see net_input


def check_net_input(run, theirs):
    equal(run.images[0], theirs)


def check_backbone(run, theirs, stage, step):
    near(run.outputs["features"][f"res{stage}"][0, :: int(step)], theirs, BEFORE)


def check_pyramid(run, theirs, level, step):
    near(run.outputs["maps"][int(level) - 2][0, :: int(step)], theirs, BEFORE)


def check_map(run, theirs, name, step):
    near(run.outputs[f"{name}_map"][0, :: int(step)], theirs, BEFORE)


def check_start(run, theirs, name):
    ours = {
        "x_feats": "x",
        "init_proposal_feats": "kernels",
        "init_mask_logits": "masks",
        "init_seg_logits": "masks" if is_semantic(run.fixture) else "seg_logits",
    }[name]
    near(run.outputs[ours][0], theirs, BEFORE)


def check_start_every(run, theirs, name, step):
    ours = run.outputs[{"feats_chan": "x", "init_kernels": "kernels"}[name]]
    near(ours[0, :: int(step)], theirs, BEFORE)


PARTS = {
    "cls_logits": "logits",
    "mask_logits": "masks",
    "object_feats": "kernels",
    "gathered_feats": "gathered",
    "kernel_updator_out": "updated",
    "attn_norm_out": "attended",
}


def check_stage(run, theirs, index, name, step):
    """One part of a stage: from recorded inputs, and from end to end."""
    kinds = ((stage_of(run, int(index)), STAGE), (run.outputs["stages"][int(index)], END))
    for state, share in kinds:
        ours = state[PARTS[name]][0, :: int(step or 1)]
        near(ours / SCALE if name == "gathered_feats" else ours, theirs, share)


def check_semantic_stage(run, theirs, index, name, step):
    ours = run.outputs["stages"][int(index)][{"seg_logits": "masks", "kernels": "kernels"}[name]]
    near(ours[0, :: int(step or 1)], theirs, END)


def check_doubled(run, theirs):
    masks = doubled(run.outputs["stages"][-1]["masks"])[0]
    near(shown(run, masks), theirs, END)


def check_probabilities(run, theirs):
    near(shown(run, probability_of(run)), theirs, END)


def check_scores(run, theirs):
    near(instances_of(run).scores, theirs, END)


def check_labels(run, theirs):
    equal(instances_of(run).labels, theirs)


def check_masks(run, theirs):
    masks = instances_of(run).masks
    agree(masks, unpack(theirs, tuple(masks.shape)))


def check_masks_shape(run, theirs):
    equal(instances_of(run).masks.shape, theirs)


def check_areas(run, theirs):
    masks = instances_of(run).masks
    away = (masks.flatten(1).sum(1) - torch.from_numpy(theirs)).abs()
    assert away.sum() <= 1e-4 * masks.numel()


def check_panoptic(run, theirs):
    """The panoptic map, whatever the fixture calls it; its parts must keep their numbers."""
    assert theirs.shape == run.sizes[2]
    official = run.fixture.facts["model_hyper_parameters"]["test_cfg"]["rcnn"]["merge_stuff_thing"]
    limits = (official["instance_score_thr"], official["overlap_thr"])
    logits = run.outputs["stages"][-1]["logits"][0]
    agree(postprocess.panoptic(logits, probability_of(run), run.num_stuff, *limits), theirs)


def check_classes_probability(run, theirs, step):
    near(semantic_of(run)[:: int(step)], theirs, END)


def check_classes(run, theirs):
    agree(semantic_of(run).argmax(0), theirs)


RULES = {
    r"override/(.+)": check_override,
    r"image_rgb": check_image,
    r"net_input": check_net_input,
    r"c(\d)_chan_every_(\d+)": check_backbone,
    r"p(\d)_chan_every_(\d+)": check_pyramid,
    r"locfpn_(loc|seg)_chan_every_(\d+)": check_map,
    r"(x_feats|init_proposal_feats|init_mask_logits|init_seg_logits)": check_start,
    r"(feats_chan|init_kernels)_every_(\d+)": check_start_every,
    rf"s(\d+)_({'|'.join(PARTS)})(?:_every_(\d+))?": check_stage,
    r"s(\d+)_(seg_logits|kernels)(?:_every_(\d+))?": check_semantic_stage,
    r"scaled_mask_logits_first_k": check_doubled,
    r"rescaled_probs_first_k": check_probabilities,
    r"post_scores": check_scores,
    r"post_labels": check_labels,
    r"post_masks_packed": check_masks,
    r"post_masks_shape": check_masks_shape,
    r"post_mask_areas": check_areas,
    r"(?:post_)?pan(?:optic)?(?:_\w+)?": check_panoptic,
    r"probs_class_every_(\d+)": check_classes_probability,
    r"pred": check_classes,
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
    assert sum(p.numel() for p in network.parameters()) == fixture.facts["params"]


@pytest.mark.parametrize("fixture", DETECTORS, ids=str)
def test_no_mask_logit_changes_its_side(fixture):
    """A hard mask that flips would change its kernel: seeds were chosen so that none does."""
    run = run_of(fixture)
    for name, state in (("init", run.outputs), ("s0", run.outputs["stages"][0])):
        equal(state["masks"][0] > 0, fixture.arrays[f"{name}_mask_logits"] > 0)


@pytest.mark.parametrize("fixture", UNITS, ids=lambda f: f"knet-{f.path.stem}")
def test_deformable_convolution(fixture):
    """Each of the recorded two groups is a convolution of one group, as in K-Net's backbone."""
    x, weight, offset = (fixture.tensor(n) for n in ("feat", "dcn_weight", "dcn_offset"))
    ours = F.conv2d(x, fixture.tensor("dcn_off_weight"), fixture.tensor("dcn_off_bias"), padding=1)
    near(ours, fixture.arrays["dcn_offset"], 1e-5)
    groups = zip(x.chunk(2, 1), offset.chunk(2, 1), weight.chunk(2, 1), strict=True)
    near(sum(deform_conv3x3(*group, 1) for group in groups), fixture.arrays["dcn_out"], 1e-5)


def changed(facts, changes):
    """Official settings with some of a nested dict replaced."""
    return facts | {k: facts[k] | v for k, v in changes.items()}


DCN = {"depth": 101, "dcn": {"type": "DCN"}, "stage_with_dcn": [False, True, True, True]}
THINGS_AND_STUFF = {"num_classes": 133, "cat_stuff_mask": True}


@pytest.mark.parametrize("fixture", [f for f in DETECTORS if f.path.stem == "knet_s3_r50_fpn_coco"])
@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("r50", {}),
        ("r101", {"backbone": {"depth": 101}}),
        ("r101-dcn", {"backbone": DCN}),
        ("r50-panoptic", {"rpn_head": THINGS_AND_STUFF}),
        ("r101-dcn-panoptic", {"backbone": DCN, "rpn_head": THINGS_AND_STUFF}),
    ],
)
def test_official_settings_are_our_variants(fixture, variant, changes):
    official = changed(fixture.facts["model_hyper_parameters"], changes)
    assert config_of(official) == knet.VARIANTS[variant]


@pytest.mark.parametrize("fixture", [f for f in MODELS if "s3_fcn_r50_d8" in f.path.stem])
@pytest.mark.parametrize(
    ("variant", "head", "channels"),
    [("fcn", "FCN", 512), ("psp", "PSP", 512), ("aspp", "ASPP", 512), ("upernet", "UPer", 256)],
)
def test_official_semantic_settings_are_our_variants(fixture, variant, head, channels):
    official = fixture.facts["model_hyper_parameters"]
    generate = {"type": f"{head}KernelHead", "channels": channels}
    decode = changed(official["decode_head"], {"kernel_generate_head": generate})
    plain = {"strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1]} if variant == "upernet" else {}
    official = changed(official, {"backbone": plain}) | {"decode_head": decode}
    (name,) = (known for known in knet_semantic.VARIANTS if known.startswith(variant))
    assert semantic_config_of(official) == knet_semantic.VARIANTS[name]


@pytest.mark.parametrize("name", knet_semantic.VARIANTS)
def test_semantic_heads(name):
    """Those without a recorded run: sizes, and keys as in mmsegmentation."""
    network = knet_semantic.SemanticKNet(knet_semantic.VARIANTS[name]).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, 64, 96))
    stride = 4 if name.startswith("upernet") else 8
    for state in (outputs, *outputs["stages"]):
        assert state["masks"].shape == (1, 150, 64 // stride, 96 // stride)
    head = "decode_head.kernel_generate_head."
    keys = [key.removeprefix(head) for key in network.state_dict() if key.startswith(head)]
    assert keys[:2] == ["conv_seg.weight", "conv_seg.bias"]
    expected = {
        "fcn": ("convs.1.conv.weight", "conv_cat.bn.bias"),
        "psp": ("psp_modules.3.1.conv.weight", "bottleneck.bn.weight"),
        "aspp": ("image_pool.1.conv.weight", "aspp_modules.3.conv.weight"),
        "upernet": ("psp_modules.0.1.bn.weight", "lateral_convs.2.conv.weight"),
    }
    assert set(expected[name.split("-")[0]]) <= set(keys)
