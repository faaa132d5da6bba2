"""Official FastInst settings, as the fixtures tell them, to our network and its input."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from parity.fixture import Fixture, fill
from scipy.optimize import linear_sum_assignment

from edgeseg.train.postprocess import Instances
from edgeseg.zoo.fastinst import FastInst, FastInstConfig

BACKBONES = {"build_resnet_backbone": "resnet", "build_resnet_vd_backbone": "resnet-vd"}

# Settings that have one value in every official FastInst; another value is another network.
FIXED = {
    "norm": "FrozenBN",
    "stride_in_1x1": False,
    "in_features": ["res3", "res4", "res5"],
    "pixel_decoder": "PyramidPoolingModuleFPN",
    "decoder": "FastInstDecoder",
    "pre_norm": False,
    "input_format": "RGB",
}


def config_of(official: dict[str, Any]) -> FastInstConfig:
    """Our config for the json's ``config``."""
    other = {k: official[k] for k in FIXED if official.get(k, FIXED[k]) != FIXED[k]}
    assert not other, f"not a FastInst that edgeseg builds: {other}"
    assert official["convs_dim"] == official["hidden_dim"], "neck and decoder of unequal width"
    return FastInstConfig(
        backbone=BACKBONES[official["backbone"]],
        depth=official["depth"],
        deform_stages=tuple(official["deform_on_per_stage"]),
        num_classes=official["num_classes"],
        num_layers=official["dec_layers"],
        hidden_dim=official["hidden_dim"],
        mask_dim=official["mask_dim"],
        num_queries=official["num_object_queries"],
        num_aux_queries=official["num_aux_queries"],
        num_heads=official["nheads"],
        ffn_dim=official["dim_feedforward"],
        norm=official["head_norm"],
        size_divisibility=official["size_divisibility"],
        pixel_mean=tuple(official["pixel_mean"]),
        pixel_std=tuple(official["pixel_std"]),
    )


def config_of_training(fixture: Fixture) -> FastInstConfig:
    """Our config for a training fixture, which names parameters and shapes but no config."""
    if "config" in fixture.facts:
        return config_of(fixture.facts["config"])
    parameters = list(fixture.facts["grad_norm_and_first"]) + fixture.facts["params_without_grad"]
    vd = "backbone.conv1.0.weight" in parameters
    stage = "backbone.layer{}." if vd else "backbone.res{}."
    first = 1 if vd else 2

    def keys(index: int) -> list[str]:
        return [k for k in parameters if k.startswith(stage.format(index + first))]

    blocks = Counter(key.split(".")[2] for key in keys(2))
    rows = fixture.facts["attn_mask_shapes_head0"][0][1]
    _, queries, channels = fixture.arrays["p0_logits"].shape
    return FastInstConfig(
        backbone="resnet-vd" if vd else "resnet",
        depth={6: 50, 23: 101}[len(blocks)],
        deform_stages=tuple(any("conv2_offset" in k for k in keys(i)) for i in range(4)),
        num_classes=channels - 1,
        num_layers=fixture.facts["dec_layers"],
        num_queries=queries,
        num_aux_queries=rows - queries,
    )


@functools.lru_cache(maxsize=1)
def network_of(fixture: Fixture) -> FastInst:
    """The network that a fixture describes, with the fixture's weights."""
    model = fixture.role == "model"
    network = FastInst(config_of(fixture.facts["config"]) if model else config_of_training(fixture))
    fill(network, fixture)
    return network.train(not model)


def batch_of(fixture: Fixture, network: FastInst) -> torch.Tensor:
    """The fixture's images, each normalised, padded right and bottom to the size of the largest."""
    images = [
        network.normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
        for image in fixture.numbered("image{}")
    ]
    height, width = (max(image.shape[axis] for image in images) for axis in (2, 3))
    return torch.cat([F.pad(i, (0, width - i.shape[3], 0, height - i.shape[2])) for i in images])


def things_of(facts: dict[str, Any]) -> set[int]:
    """Classes with instances, from ``[first, last, count]`` or a list of ids; else COCO's 80."""
    for place in (facts, facts.get("config", {}), facts.get("meta", {})):
        if ids := place.get("thing_contiguous_ids"):
            is_range = len(ids) == 3 and ids[1] - ids[0] + 1 == ids[2]
            return set(range(ids[0], ids[1] + 1) if is_range else ids)
    return set(range(80))


def paired(ours: Instances, scores: Any, classes: Any, masks: Any) -> Instances:
    """Put ``ours`` in the order of the recorded ones: each beside the one it agrees with best.

    The official order is not specified, so neither sorting nor position would do.
    """
    mine, yours = ours.masks.flatten(1).float(), torch.from_numpy(masks).flatten(1).float()
    differ = mine.sum(1)[:, None] + yours.sum(1) - 2 * mine @ yours.T
    cost = differ / mine.shape[1] + (ours.scores[:, None] - torch.from_numpy(scores)).abs()
    cost += (ours.labels[:, None] != torch.from_numpy(classes)).float()
    order = linear_sum_assignment(cost.T.numpy())[1]
    return Instances(*(part[order] for part in ours))
