"""Official K-Net settings, as the fixtures tell them, to our networks and their inputs."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from parity.fixture import Fixture, fill_knet

from edgeseg.zoo.knet import KNet, KNetConfig
from edgeseg.zoo.knet_semantic import SemanticConfig, SemanticKNet


def is_semantic(fixture: Fixture) -> bool:
    """Whether a fixture is of the semantic variant."""
    return fixture.facts["model_hyper_parameters"]["type"] == "EncoderDecoder"


def config_of(official: dict[str, Any]) -> KNetConfig:
    """Our config for ``model_hyper_parameters`` of a detector."""
    backbone, head, stages = official["backbone"], official["rpn_head"], official["roi_head"]
    stage = stages["mask_head"][0]
    stuff = head.get("num_stuff_classes", 53) if head.get("cat_stuff_mask") else 0
    return KNetConfig(
        depth=backbone["depth"],
        deform_stages=tuple(backbone["stage_with_dcn"] if backbone.get("dcn") else (False,) * 4),
        num_classes=head["num_classes"] - stuff,
        num_stuff=stuff,
        num_kernels=head["num_proposals"],
        num_stages=stages["num_stages"],
        hidden_dim=stage["in_channels"],
        num_heads=stage["num_heads"],
        ffn_dim=stage["feedforward_channels"],
        feature_stride={2: 8, 3: 4}[head["localization_fpn"]["upsample_times"]],
    )


def semantic_config_of(official: dict[str, Any]) -> SemanticConfig:
    """Our config for ``model_hyper_parameters`` of a semantic segmenter."""
    backbone, decode = official["backbone"], official["decode_head"]
    head, stage = decode["kernel_generate_head"], decode["kernel_update_head"][0]
    name = head["type"].removesuffix("Head").removesuffix("Kernel").lower()
    return SemanticConfig(
        head="upernet" if name.startswith("up") else name,
        depth=backbone["depth"],
        strides=tuple(backbone.get("strides", (1, 2, 2, 2))),
        dilations=tuple(backbone.get("dilations", (1, 1, 1, 1))),
        contract_dilation=backbone.get("contract_dilation", False),
        num_classes=head["num_classes"],
        channels=head["channels"],
        updator_dim=stage["kernel_updator_cfg"]["in_channels"],
        num_stages=decode["num_stages"],
        num_heads=stage["num_heads"],
        ffn_dim=stage["feedforward_channels"],
        aux_channels=official["auxiliary_head"]["channels"],
    )


@functools.lru_cache(maxsize=1)
def network_of(fixture: Fixture) -> torch.nn.Module:
    """The network that a fixture describes, with the fixture's weights, in eval mode."""
    official = fixture.facts["model_hyper_parameters"]
    network: torch.nn.Module = (
        SemanticKNet(semantic_config_of(official))
        if is_semantic(fixture)
        else KNet(config_of(official))
    )
    fill_knet(network, fixture)
    return network.eval()


def input_of(fixture: Fixture, network: Any) -> torch.Tensor:
    """The fixture's image, resized with kept aspect where it says so, normalised and padded."""
    image = fixture.arrays["image_rgb"]
    if limits := fixture.facts["preprocess"].get("keep_ratio_resize_to"):
        sides = image.shape[:2]
        scale = min(max(limits) / max(sides), min(limits) / min(sides))
        height, width = (int(side * scale + 0.5) for side in sides)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    normal = network.normalise(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None])
    height, width = fixture.facts["preprocess"].get("batch_input_shape", normal.shape[2:])
    return F.pad(normal, (0, width - normal.shape[3], 0, height - normal.shape[2]))
