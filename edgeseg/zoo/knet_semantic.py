"""K-Net for semantic segmentation: one kernel per class, on top of an ordinary head.

Zhang et al., "K-Net", NeurIPS 2021, arXiv 2106.14855, section 3.3. Facts checked against
ZwwWayne/K-Net (Apache-2.0), ``knet/kernel_update_head.py`` and ``configs/seg``, and against
mmsegmentation 0.20.2 (Apache-2.0) for the heads: FCN (Long et al. 2015), PSP (Zhao et al. 2017),
ASPP of DeepLabV3 (Chen et al. 2017), UPerNet (Xiao et al. 2018). Written anew; state-dict keys,
shapes and order are the official ones.

A head gives first logits, its last features, and its classifier as first kernels. The official FCN,
PSP and ASPP are 512 wide with an updator of 256: a kernel is two tokens in it (`UpdateStage`).
Shapes: B images, K classes, C width, (h, w) of the head's features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.zoo.knet_features import ConvModule
from edgeseg.zoo.knet_update import UpdateStage
from edgeseg.zoo.layers import upsample
from edgeseg.zoo.resnet import STAGES
from edgeseg.zoo.resnet_mm import ResNetMM
from edgeseg.zoo.settings import Settings

BINS = (1, 2, 3, 6)
SPREADS = (1, 12, 24, 36)


@dataclass(frozen=True)
class SemanticConfig(Settings):
    """Settings of one semantic K-Net; the defaults are the official R50-D8 with FCN.

    Attributes:
        head: ``fcn``, ``psp``, ``aspp`` or ``upernet``.
        depth: of the ResNet-V1c, 50 or 101.
        strides, dilations: of its stages; official UPerNet has (1, 2, 2, 2) and no dilation.
        num_classes: K.
        channels: C, of head and kernels.
        updator_dim: width of the kernel updator.
        aux_channels: of the auxiliary head on res4, which only training uses.
        pixel_mean, pixel_std: per channel, 0..255, RGB.
    """

    head: str = "fcn"
    depth: int = 50
    strides: tuple[int, ...] = (1, 2, 1, 1)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    contract_dilation: bool = True
    num_classes: int = 150
    channels: int = 512
    updator_dim: int = 256
    num_stages: int = 3
    num_heads: int = 8
    ffn_dim: int = 2048
    aux_channels: int = 256
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)


_PLAIN: dict[str, Any] = {"strides": (1, 2, 2, 2), "dilations": (1,) * 4}
VARIANTS = {
    "fcn-r50-d8": SemanticConfig(),
    "psp-r50-d8": SemanticConfig("psp"),
    "aspp-r50-d8": SemanticConfig("aspp"),
    "upernet-r50": SemanticConfig("upernet", **_PLAIN, channels=256),
}


def conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> ConvModule:
    """Convolution, batch norm, ReLU."""
    return ConvModule(inputs, outputs, kernel, norm="BN", dilation=dilation)


class SegHead(nn.Module):
    """A classifier on features that a subclass makes with `embed`."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """The backbone's four maps to features (B, C, h, w)."""
        raise NotImplementedError

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The backbone's four maps to logits (B, K, h, w) and features (B, C, h, w)."""
        x = self.embed(features)
        return self.conv_seg(F.dropout2d(x, 0.1, self.training)), x


class FCNHead(SegHead):
    """3x3 convolutions on one map; joined with it again where there is ``conv_cat``."""

    def __init__(
        self, inputs: Sequence[int], channels: int, num_classes: int, *, level: int = 3
    ) -> None:
        super().__init__(channels, num_classes)
        self.level, main = level, level == 3  # the auxiliary head has one convolution and no more
        first = conv(inputs[level], channels, 3)
        self.convs = nn.Sequential(first, *[conv(channels, channels, 3)] * main)
        if main:
            self.conv_cat = conv(inputs[level] + channels, channels, 3)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """See `SegHead.embed`."""
        x = self.convs(features[self.level])
        if not hasattr(self, "conv_cat"):
            return x
        return self.conv_cat(torch.cat([features[self.level], x], 1))


def pools(inputs: int, channels: int) -> nn.ModuleList:
    """Pyramid pooling: averages over 1, 2, 3 and 6 bins a side, each with a 1x1."""
    return nn.ModuleList(
        nn.Sequential(nn.AdaptiveAvgPool2d(bins), conv(inputs, channels, 1)) for bins in BINS
    )


def pooled(x: Tensor, modules: nn.ModuleList) -> Tensor:
    """Features (B, C, h, w) and their pyramid: (B, C + 4 channels, h, w)."""
    return torch.cat([x, *(upsample(module(x), x.shape[2:]) for module in modules)], 1)


class PSPHead(SegHead):
    """Pyramid pooling of res5."""

    def __init__(self, inputs: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        self.psp_modules = pools(inputs[-1], channels)
        self.bottleneck = conv(inputs[-1] + len(BINS) * channels, channels, 3)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """See `SegHead.embed`."""
        return self.bottleneck(pooled(features[-1], self.psp_modules))


class ASPPHead(SegHead):
    """Dilated convolutions of res5 and its mean, side by side."""

    def __init__(self, inputs: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(inputs[-1], channels, 1))
        self.aspp_modules = nn.ModuleList(
            conv(inputs[-1], channels, 1 if spread == 1 else 3, spread) for spread in SPREADS
        )
        self.bottleneck = conv((1 + len(SPREADS)) * channels, channels, 3)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """See `SegHead.embed`."""
        x = features[-1]
        mean = upsample(self.image_pool(x), x.shape[2:])
        return self.bottleneck(torch.cat([mean, *(module(x) for module in self.aspp_modules)], 1))


class UPerHead(SegHead):
    """Pyramid pooling of res5 as the top of a feature pyramid, all levels joined at stride 4."""

    def __init__(self, inputs: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        self.psp_modules = pools(inputs[-1], channels)
        self.bottleneck = conv(inputs[-1] + len(BINS) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(conv(c, channels, 1) for c in inputs[:-1])
        self.fpn_convs = nn.ModuleList(conv(channels, channels, 3) for _ in inputs[:-1])
        self.fpn_bottleneck = conv(len(inputs) * channels, channels, 3)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """See `SegHead.embed`."""
        maps = [c(x) for c, x in zip(self.lateral_convs, features[:-1], strict=True)]
        maps.append(self.bottleneck(pooled(features[-1], self.psp_modules)))
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + upsample(maps[i], maps[i - 1].shape[2:])
        maps[:-1] = [c(x) for c, x in zip(self.fpn_convs, maps[:-1], strict=True)]
        size = maps[0].shape[2:]
        joined = [maps[0], *(upsample(x, size) for x in maps[1:])]
        return self.fpn_bottleneck(torch.cat(joined, 1))


HEADS: dict[str, Callable[..., SegHead]] = {
    "fcn": FCNHead,
    "psp": PSPHead,
    "aspp": ASPPHead,
    "upernet": UPerHead,
}


class DecodeHead(nn.Module):
    """The head and the update stages, under the official keys."""

    def __init__(self, config: SemanticConfig, inputs: Sequence[int]) -> None:
        super().__init__()
        c = config
        self.kernel_generate_head = HEADS[c.head](inputs, c.channels, c.num_classes)
        self.kernel_update_head = nn.ModuleList(
            UpdateStage(c.channels, c.num_heads, c.ffn_dim, 0, c.updator_dim)
            for _ in range(c.num_stages)
        )

    def forward(self, features: Sequence[Tensor]) -> dict[str, Any]:
        """The backbone's maps to ``masks`` (logits), ``x``, ``kernels`` and ``stages``."""
        masks, x = self.kernel_generate_head(features)
        weight = self.kernel_generate_head.conv_seg.weight
        start = {"masks": masks, "x": x, "kernels": weight.flatten(1).expand(len(x), -1, -1)}
        states, last = [], start
        for stage in self.kernel_update_head:
            last = stage(x, last["kernels"], last["masks"])
            states.append(last)
        return {**start, "stages": states}


class SemanticKNet(nn.Module):
    """The whole network: ResNet-V1c, head, update stages; an auxiliary head for training."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNetMM(
            config.depth,
            strides=config.strides,
            dilations=config.dilations,
            contract_dilation=config.contract_dilation,
            deep_stem=True,
            frozen=False,
        )
        inputs = [self.backbone.channels[stage] for stage in STAGES]
        self.decode_head = DecodeHead(config, inputs)
        self.auxiliary_head = FCNHead(inputs, config.aux_channels, config.num_classes, level=2)
        for name, values in (("pixel_mean", config.pixel_mean), ("pixel_std", config.pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) 0..255 to the network's input; never padded."""
        return (images.float() - self.pixel_mean) / self.pixel_std

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Normalised images (B, 3, H, W) to predictions.

        Returns:
            ``features`` by stage of the backbone; ``masks`` (B, K, h, w), the head's own logits,
            ``x`` (B, C, h, w) and ``kernels`` (B, K, C), with which the stages begin; ``stages``,
            each with ``masks`` (B, K, h, w) and what `UpdateStage.update` gives; in training
            ``aux_masks``, the auxiliary head's logits.
        """
        features = self.backbone(images)
        maps = [features[stage] for stage in STAGES]
        outputs = {"features": features, **self.decode_head(maps)}
        return outputs | ({"aux_masks": self.auxiliary_head(maps)[0]} if self.training else {})
