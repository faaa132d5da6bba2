"""Official checkpoints to bundles: read without running their code, loaded strictly.

FastInst's are detectron2 files: the state dict under ``model``, optimiser and counters beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeseg import bundle as bundles
from edgeseg.bundle import ModelSpec
from edgeseg.errors import BundleError, unknown
from edgeseg.export.coco import COCO_CLASSES
from edgeseg.export.network import check_size, network_of
from edgeseg.export.pack import pack, spec_of
from edgeseg.export.weights import differences, load_state, read_checkpoint, weights_of
from edgeseg.zoo.fastinst import VARIANTS, FastInst

OFFICIAL = ("r50-d1", "r50-d3", "r50vd-dcn-d1", "r50vd-dcn-d3", "r101-d3")
INPUT_HW = (480, 640)
# What a key says of the network that it comes from; the first that is found counts.
SIGNS = {
    "sem_seg_head.predictor.query_proposal.": "fastinst",
    "sem_seg_head.predictor.meta_pos_embed": "fastinst",
    "sem_seg_head.predictor.query_feat.": "mask2former",
    "sem_seg_head.predictor.transformer_cross_attention_layers.": "mask2former",
    "sem_seg_head.predictor.transformer.decoder.": "maskformer",
    "kernel_update": "knet",
    "roi_head.mask_predictor": "dynamask",
    "sem_seg_head.": "another segmenter of detectron2",
    "roi_head": "a box-based detector",
    "transformer.decoder.": "detr",
    "fc.weight": "an image classifier",
}


def convert(
    checkpoint: str | Path,
    family: str,
    variant: str,
    out: str | Path,
    *,
    input_hw: tuple[int, int] = INPUT_HW,
    max_instances: int = 100,
    half: bool = False,
    overwrite: bool = False,
) -> ModelSpec:
    """Write the bundle of an official checkpoint, with COCO class names.

    Args:
        checkpoint: ``.pth`` in Detectron2's layout, or ``.safetensors`` with the same keys.
        family: ``fastinst``.
        variant: one of `OFFICIAL`.
        out: the bundle's folder.
        input_hw: network input, pixels; pictures are letterboxed into it.
        max_instances: rows of the outputs.
        half: store kernels and matrices as float16.
        overwrite: replace an older bundle.

    Raises:
        BundleError: not a checkpoint, one with code in it, of another family or variant, or with
            missing keys.
        InputError: unknown family or variant, or a size that the network can't have.
        OutputError: ``out`` can't be written.
    """
    if family != "fastinst":
        raise unknown("family", family, ["fastinst"])
    if variant not in OFFICIAL:
        raise unknown("variant", variant, OFFICIAL)
    bundles.check_target(out, overwrite)
    check_size(VARIANTS[variant], input_hw, max_instances)
    path = Path(checkpoint)
    state = weights_of(read_checkpoint(path), path)
    network = FastInst(VARIANTS[variant]).eval()
    _check_family(network, state, path, variant)
    load_state(network, state, path.name)
    spec = spec_of(
        network,
        Path(out).name,
        COCO_CLASSES,
        input_hw=input_hw,
        max_instances=max_instances,
        source=f"{path.name}, FastInst {variant}, https://github.com/junjiehe96/FastInst",
        licence="MIT",
    )
    return pack(network, spec, out, half=half, overwrite=overwrite)


def _check_family(
    network: nn.Module, state: Mapping[str, Tensor], path: Path, variant: str
) -> None:
    """Refuse weights of another family or variant, and say which they look like."""
    looks = looks_like(state)
    if looks != "fastinst":
        raise BundleError(
            f"got {path} which looks like {looks}; wanted fastinst; choose another file or family"
        )
    if not differences(network.state_dict(), state):
        return
    for other in OFFICIAL:
        if other != variant and not differences(_keys_of(other), state):
            raise BundleError(
                f"got {path} which is fastinst {other}; wanted {variant}; use --variant {other}"
            )


def looks_like(state: Mapping[str, Tensor]) -> str:
    """The family of a state dict, by its keys."""
    for sign, family in SIGNS.items():
        if any(sign in key for key in state):
            return family
    return "no network that edgeseg knows"


def _keys_of(variant: str) -> dict[str, Tensor]:
    """Keys and shapes of a variant, without memory for its weights."""
    with torch.device("meta"):
        return network_of("fastinst", VARIANTS[variant].to_dict()).state_dict()
