"""K-Net for instance and panoptic segmentation: kernels that are updated with what they cover.

Zhang et al., "K-Net: Towards Unified Image Segmentation", NeurIPS 2021, arXiv 2106.14855,
sections 3.2 to 3.4. Facts checked against ZwwWayne/K-Net (Apache-2.0), ``knet/det/kernel_head.py``
and ``knet/det/kernel_iter_head.py``; written anew. State-dict keys, shapes and order are the
official ones. Semantic segmentation is in ``knet_semantic.py``.

For the small networks that edgeseg trains itself there are, beyond the paper: the backbone
ResNet-18-d, batch norm, a pyramid that begins at stride 8 (``light``), and masks of the last stage
at stride 4 (``fine_dim``).
Shapes: B images, N kernels (things, then stuff), K classes, D width, M kept instances, (h, w) =
(H / 8, W / 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.zoo.knet_features import FPN, ConvModule, SemanticFPN
from edgeseg.zoo.knet_update import PRIOR, SCALE, UpdateStage, gather, inside, product
from edgeseg.zoo.layers import FineMaskFeatures, doubled, mask_logits, to_pixels
from edgeseg.zoo.resnet import STAGES, ResNet18d
from edgeseg.zoo.resnet_mm import ResNetMM
from edgeseg.zoo.settings import Settings


@dataclass(frozen=True)
class KNetConfig(Settings):
    """Settings of one K-Net; the defaults are the official R50 for instances.

    Attributes:
        backbone: ``resnet`` (depth 50 or 101) or ``resnet18d``.
        width: first-stage channels of ``resnet18d``.
        deform_stages: which of res2..res5 of ``resnet`` use deformable 3x3.
        num_classes: classes of things.
        num_stuff: classes of stuff, each with a kernel of its own (panoptic segmentation).
        num_kernels: kernels of things.
        num_stages: update stages.
        hidden_dim: D.
        norm: of the features, ``GN`` or ``BN``.
        feature_stride: input pixels per cell of the shared features, 8 (official) or 4.
        light: pyramid of res3 to res5, without res2; only with features at stride 8.
        fine_dim: width of features at stride 4, from res2, which the last stage's masks are made
            of; 0 makes them of the shared features.
        size_divisibility: the input is padded to multiples of this.
        pixel_mean, pixel_std: per channel, 0..255, RGB.
    """

    backbone: str = "resnet"
    depth: int = 50
    width: int = 64
    deform_stages: tuple[bool, ...] = (False, False, False, False)
    num_classes: int = 80
    num_stuff: int = 0
    num_kernels: int = 100
    num_stages: int = 3
    hidden_dim: int = 256
    num_heads: int = 8
    ffn_dim: int = 2048
    norm: str = "GN"
    feature_stride: int = 8
    light: bool = False
    fine_dim: int = 0
    size_divisibility: int = 32
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)

    @property
    def mask_stride(self) -> int:
        """Input pixels per mask value of the deployed form."""
        return 4 if self.fine_dim else self.feature_stride // 2

    @property
    def levels(self) -> tuple[str, ...]:
        """Stages of the backbone that the pyramid is made of."""
        return STAGES[1:] if self.light else STAGES

    @property
    def num_queries(self) -> int:
        """Candidates among which a picture's instances are chosen: kernels of things."""
        return self.num_kernels


_DCN: dict[str, Any] = {"deform_stages": (False, True, True, True)}
_PANOPTIC: dict[str, Any] = {"num_stuff": 53}
_SMALL: dict[str, Any] = {
    "backbone": "resnet18d",
    "depth": 18,
    "width": 32,
    "num_classes": 8,
    "num_kernels": 50,
    "hidden_dim": 96,
    "num_heads": 4,
    "ffn_dim": 256,
    "norm": "BN",
    "light": True,
    "fine_dim": 64,
    "size_divisibility": 1,
}
VARIANTS = {
    "r50": KNetConfig(),
    "r101": KNetConfig(depth=101),
    "r101-dcn": KNetConfig(depth=101, **_DCN),
    "r50-panoptic": KNetConfig(**_PANOPTIC),
    "r101-panoptic": KNetConfig(depth=101, **_PANOPTIC),
    "r101-dcn-panoptic": KNetConfig(depth=101, **_DCN, **_PANOPTIC),
    "knet-nano": KNetConfig(**_SMALL),
    "knet-small": KNetConfig(**_SMALL),  # at twice the input size
}


class KernelHead(nn.Module):
    """First masks and first kernels, and the semantic logits that train the features."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        c, dim = config, config.hidden_dim
        self.num_things, self.num_stuff = c.num_classes, c.num_stuff
        self.localization_fpn = SemanticFPN(dim, c.norm, c.feature_stride, int(c.light))
        self.init_kernels = nn.Conv2d(dim, c.num_kernels, 1, bias=False)
        self.conv_seg = nn.Conv2d(dim, c.num_classes + c.num_stuff, 1)
        self.loc_convs = nn.ModuleList([ConvModule(dim, dim, 1, norm=c.norm)])
        self.seg_convs = nn.ModuleList([ConvModule(dim, dim, 1, norm=c.norm)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        nn.init.normal_(self.init_kernels.weight)
        nn.init.constant_(self.conv_seg.bias, PRIOR)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """The pyramid's maps to what the first update stage needs.

        Returns:
            ``loc_map`` and ``seg_map``, the semantic FPN's two maps (B, D, h, w); ``x`` (B, D, h,
            w), shared features; ``kernels`` (B, N, D) and ``masks`` (B, N, h, w) logits, things
            first; ``seg_logits`` (B, K, h, w).
        """
        loc_map, seg_map = self.localization_fpn(maps)
        loc, sem = self.loc_convs[0](loc_map), self.seg_convs[0](seg_map)
        masks, seg_logits = self.init_kernels(loc), self.conv_seg(sem)
        x = sem + loc
        kernels = self.init_kernels.weight.flatten(1) + gather(inside(masks), x) * (1 / SCALE)
        if self.num_stuff:
            stuff = self.conv_seg.weight[self.num_things :].flatten(1)
            kernels = torch.cat([kernels, stuff.expand(len(x), -1, -1)], 1)
            masks = torch.cat([masks, seg_logits[:, self.num_things :]], 1)
        return {
            "loc_map": loc_map,
            "seg_map": seg_map,
            "x": x,
            "kernels": kernels,
            "masks": masks,
            "seg_logits": seg_logits,
        }


class IterHead(nn.Module):
    """The update stages, under the official key ``mask_head``."""

    def __init__(self, config: KNetConfig, res2_channels: int) -> None:
        super().__init__()
        c, classes = config, config.num_classes + config.num_stuff
        dim, last = c.hidden_dim, c.num_stages - 1
        self.mask_head = nn.ModuleList(
            UpdateStage(dim, c.num_heads, c.ffn_dim, classes, mask_dim=c.fine_dim * (i == last))
            for i in range(c.num_stages)
        )
        if c.fine_dim:
            self.fine_mask_features = FineMaskFeatures(res2_channels, dim, c.fine_dim, c.norm)

    def paint(self, kernels: Tensor, features: Tensor, res2: Tensor) -> Tensor:
        """Mask logits (B, n, h, w) of the last stage from its mask kernels and features."""
        if not hasattr(self, "fine_mask_features"):
            return product(kernels, features)
        merged = self.fine_mask_features(res2, features)
        output = self.fine_mask_features.output
        return mask_logits(kernels, output, to_pixels(merged), merged.shape[2:])

    def forward(self, start: dict[str, Tensor], res2: Tensor) -> list[dict[str, Tensor]]:
        """What `UpdateStage.forward` gives, stage by stage; ``start`` is the kernel head's."""
        states, last = [], start
        for stage in self.mask_head:
            paint = partial(self.paint, res2=res2) if stage is self.mask_head[-1] else None
            last = stage(start["x"], last["kernels"], last["masks"], paint)
            states.append(last)
        return states


class KNet(nn.Module):
    """The whole network: backbone, pyramid, kernel head, update stages."""

    family: ClassVar = "knet"
    Config: ClassVar = KNetConfig
    score_threshold: ClassVar = 0.3  # the official one of panoptic things; focal scores are low

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = (
            ResNet18d(config.width)
            if config.backbone == "resnet18d"
            else ResNetMM(config.depth, config.deform_stages)
        )
        channels = self.backbone.channels
        self.neck = FPN([channels[s] for s in config.levels], config.hidden_dim)
        self.rpn_head = KernelHead(config)
        self.roi_head = IterHead(config, channels["res2"])
        for name, values in (("pixel_mean", config.pixel_mean), ("pixel_std", config.pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) 0..255 to the network's input, zero-padded right and bottom."""
        divisor = self.config.size_divisibility
        pad_h, pad_w = (-images.shape[2] % divisor, -images.shape[3] % divisor)
        images = (images.float() - self.pixel_mean) / self.pixel_std
        return F.pad(images, (0, pad_w, 0, pad_h)) if pad_h or pad_w else images

    def start(self, images: Tensor) -> dict[str, Any]:
        """Everything before the first stage: `KernelHead.forward`, ``features`` and ``maps``."""
        features = self.backbone(images)
        maps = self.neck([features[stage] for stage in self.config.levels])
        return self.rpn_head(maps) | {"features": features, "maps": maps}

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Normalised images (B, 3, H, W) to predictions.

        Returns:
            what `start` gives, and ``stages``: per stage ``logits`` (B, N, K), a sigmoid each,
            ``masks`` (B, N, h, w) logits at the features' stride (of the last stage at stride 4
            with ``fine_dim``), and what `UpdateStage.update` gives.
        """
        start = self.start(images)
        return start | {"stages": self.roi_head(start, start["features"]["res2"])}

    def deployed(self, max_instances: int) -> Deploy:
        """The network as it runs on a robot."""
        return Deploy(self, max_instances)


class Deploy(nn.Module):
    """The network as it runs on a robot: picture in, the M best instances out, no dynamic shape.

    Top-k over the N x K class scores of things and the gather of mask kernels come before the mask
    product, so only M masks are computed. The score is the class probability alone, as in the
    official code. That resizes probabilities of doubled masks to the picture, so these are given,
    less one half: above 0 is inside, as of logits. With ``fine_dim`` masks are logits.
    """

    def __init__(self, network: KNet, max_instances: int) -> None:
        super().__init__()
        self.network = network
        self.max_instances = max_instances

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (1, H, W, 3) RGB to scores (M,), labels (M,) int32, masks (M, h, w) > 0."""
        network = self.network
        picture = image.permute(0, 3, 1, 2).float()  # bytes are moved faster than floats
        start = network.start(network.normalise(picture))
        *stages, final = network.roi_head.mask_head
        last = start
        for stage in stages:
            last = stage(start["x"], last["kernels"], last["masks"])
        state = final.update(start["x"], last["kernels"], last["masks"])
        kernels, classes = network.config.num_kernels, network.config.num_classes
        things = state["kernels"][:, :kernels]
        scores = final.classify(things)[0, :, :classes].sigmoid().flatten()
        top, index = scores.topk(self.max_instances)
        rows = torch.div(index, classes, rounding_mode="floor")
        chosen = final.mask_kernels(things).index_select(1, rows)
        masks = network.roi_head.paint(chosen, state["features"], start["features"]["res2"])
        if not network.config.fine_dim:
            masks = doubled(masks).sigmoid() - 0.5
        labels = (index - rows * classes).to(torch.int32)
        return top, labels, masks[0]
