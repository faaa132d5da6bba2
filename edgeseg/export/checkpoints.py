"""Official checkpoints to bundles: read without running their code, loaded strictly.

FastInst's are detectron2 files: the state dict under ``model``, optimiser and counters beside it.
K-Net's are mmdetection files: under ``state_dict``, with settings and class names beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg import bundle as bundles
from edgeseg.bundle import ModelSpec
from edgeseg.errors import BundleError, unknown
from edgeseg.export.coco import COCO_CLASSES
from edgeseg.export.network import check_size, network_of
from edgeseg.export.pack import pack, spec_of
from edgeseg.export.weights import SHOWN, differences, load_state, read_checkpoint, weights_of
from edgeseg.zoo import fastinst, knet


@dataclass(frozen=True)
class Official:
    """The official checkpoints of a family.

    Attributes:
        title: of the family. url: of its repository. licence: of that.
        variants: name -> settings, what can be converted.
        others: name -> settings, what is known but runs in torch only.
    """

    title: str
    url: str
    licence: str
    variants: Mapping[str, Any]
    others: Mapping[str, Any] = field(default_factory=dict)


OFFICIAL = {
    "fastinst": Official(
        "FastInst",
        "https://github.com/junjiehe96/FastInst",
        "MIT",
        {name: known for name, known in fastinst.VARIANTS.items() if name != "nano"},
    ),
    "knet": Official(
        "K-Net",
        "https://github.com/ZwwWayne/K-Net",
        "Apache-2.0",
        {name: knet.VARIANTS[name] for name in ("r50", "r101", "r101-dcn")},
        {name: known for name, known in knet.VARIANTS.items() if known.num_stuff},
    ),
}
"""K-Net ``r50`` is the network of both its schedules, 1x and 3x."""
INPUT_HW = (480, 640)
PIXELS = ("pixel_mean", "pixel_std")
"""Keys that older files of Detectron2 carry beside the weights."""
# What a key says of the network that it comes from; the first that is found counts.
SIGNS = {
    "sem_seg_head.predictor.query_proposal.": "fastinst",
    "sem_seg_head.predictor.meta_pos_embed": "fastinst",
    "sem_seg_head.predictor.query_feat.": "mask2former",
    "sem_seg_head.predictor.transformer_cross_attention_layers.": "mask2former",
    "sem_seg_head.predictor.transformer.decoder.": "maskformer",
    "decode_head.kernel_generate_head.": "knet for semantic segmentation",
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
    """Write the bundle of an official checkpoint, with its class names or else those of COCO.

    Args:
        checkpoint: ``.pth`` as the family's authors wrote it, or ``.safetensors`` with its keys.
        family: ``fastinst`` or ``knet``.
        variant: one of the family's in `OFFICIAL`.
        out: the bundle's folder.
        input_hw: network input, pixels; pictures are letterboxed into it.
        max_instances: rows of the outputs.
        half: store kernels and matrices as float16.
        overwrite: replace an older bundle.

    Raises:
        BundleError: not a checkpoint, one with code in it, of another family or variant, with
            missing keys, other classes than it has outputs for, or other pixel statistics.
        InputError: unknown family or variant, or a size that the network can't have.
        OutputError: ``out`` can't be written.
    """
    if family not in OFFICIAL:
        raise unknown("family", family, OFFICIAL)
    official = OFFICIAL[family]
    if variant not in official.variants:
        raise unknown("variant", variant, official.variants)
    bundles.check_target(out, overwrite)
    check_size(official.variants[variant], input_hw, max_instances)
    path = Path(checkpoint)
    content = read_checkpoint(path)
    state = weights_of(content, path)
    statistics = {name: state.pop(name) for name in PIXELS if name in state}
    network = network_of(family, official.variants[variant].to_dict())
    _check_family(network, state, path, family, variant)
    _check_pixels(network, statistics, path)
    load_state(network, state, path.name)
    spec = spec_of(
        network,
        Path(out).name,
        _classes_of(content, network, path),
        input_hw=input_hw,
        max_instances=max_instances,
        source=f"{path.name}, {official.title} {variant}, {official.url}",
        licence=official.licence,
    )
    return pack(network, spec, out, half=half, overwrite=overwrite)


def _classes_of(content: Mapping[str, Any], network: nn.Module, path: Path) -> tuple[str, ...]:
    """Class names that mmdetection wrote beside the weights; those of COCO where it did not."""
    meta = content.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    names = (names,) if isinstance(names, str) else tuple(map(str, names or COCO_CLASSES))
    wanted: Any = network.config.num_classes
    if len(names) != wanted:
        raise BundleError(
            f"got {path} with {len(names)} class names ({', '.join(names[:SHOWN])}); wanted "
            f"{wanted}, one for each class it predicts; put them into meta.CLASSES"
        )
    return names


def _check_pixels(network: nn.Module, statistics: Mapping[str, Tensor], path: Path) -> None:
    """Refuse another normalisation: the network would see other pictures than it learned from."""
    for name, tensor in statistics.items():
        ours, theirs = getattr(network, name).flatten(), tensor.flatten().float()
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-3):
            raise BundleError(
                f"got {path} with {name} {theirs.tolist()}; wanted {ours.tolist()}, RGB; convert "
                "the first convolution to that order and scale, or train again"
            )


def _check_family(
    network: nn.Module, state: Mapping[str, Tensor], path: Path, family: str, variant: str
) -> None:
    """Refuse weights of another family or variant, and say which they look like."""
    looks = looks_like(state)
    if looks != family:
        raise BundleError(
            f"got {path} which looks like {looks}; wanted {family}; choose another file or family"
        )
    if not differences(network.state_dict(), state):
        return
    official = OFFICIAL[family]
    for other, known in {**official.variants, **official.others}.items():
        if differences(_keys_of(family, known), state):
            continue
        advice = f"use --variant {other}"
        if other in official.others:
            advice = "a bundle holds networks for instances only, run that one in torch"
        raise BundleError(f"got {path} which is {family} {other}; wanted {variant}; {advice}")


def looks_like(state: Mapping[str, Tensor]) -> str:
    """The family of a state dict, by its keys."""
    for sign, family in SIGNS.items():
        if any(sign in key for key in state):
            return family
    return "no network that edgeseg knows"


def _keys_of(family: str, settings: Any) -> dict[str, Tensor]:
    """Keys and shapes of a variant, without memory for its weights."""
    with torch.device("meta"):
        return network_of(family, settings.to_dict()).state_dict()
