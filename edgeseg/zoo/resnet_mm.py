"""ResNet-50/101 as in mmdetection and mmsegmentation: torchvision's keys, trainable batch norm.

He et al. 2016 (ResNet), stride in the 3x3; Dai et al. 2017 (deformable 3x3, v1, one group, offsets
of its own); He et al. 2019, "Bag of Tricks" (V1c: deep stem); Chen et al. 2017, "Rethinking Atrous
Convolution" (dilated stages). Facts checked against mmdet 2.18.1 and mmsegmentation 0.20.2 (both
Apache-2.0) as K-Net uses them, through ``tests/parity``; written anew.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.zoo.resnet import BLOCKS, STAGES, DeformConv


class DeformConvPack(DeformConv):
    """Deformable 3x3 that computes its offsets from its own input."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.conv_offset = nn.Conv2d(channels, 18, 3, stride, 1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) to (B, C, H / stride, W / stride)."""
        return super().forward(x, self.conv_offset(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided or dilated), 1x1, with a projected shortcut where the shape changes."""

    def __init__(
        self, inputs: int, width: int, stride: int, dilation: int = 1, *, deform: bool = False
    ) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2: nn.Module = (
            DeformConvPack(width, stride)
            if deform
            else nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        if stride > 1 or inputs != outputs:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNetMM(nn.Module):
    """The backbone of K-Net.

    Args:
        depth: 50 or 101.
        deform_stages: which of res2..res5 have deformable 3x3 convolutions.
        strides, dilations: of the four stages; (1, 2, 1, 1) and (1, 1, 2, 4) keep stride 8.
        deep_stem: three 3x3 convolutions instead of a 7x7 (V1c).
        contract_dilation: the first block of a dilated stage has half its dilation.
        frozen: batch norm always with its running statistics; stem and first stage not trained.
    """

    channels: ClassVar = dict(zip(STAGES, (256, 512, 1024, 2048), strict=True))

    def __init__(
        self,
        depth: int = 50,
        deform_stages: tuple[bool, ...] = (False,) * 4,
        *,
        strides: tuple[int, ...] = (1, 2, 2, 2),
        dilations: tuple[int, ...] = (1, 1, 1, 1),
        deep_stem: bool = False,
        contract_dilation: bool = False,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        if deep_stem:
            self.stem = _deep_stem()
        else:
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for index, count in enumerate(BLOCKS[depth]):
            width, dilation = 64 * 2**index, dilations[index]
            first = dilation // 2 if contract_dilation and dilation > 1 else dilation
            blocks = []
            for block in range(count):
                stride, spread = (1, dilation) if block else (strides[index], first)
                deform = deform_stages[index]
                blocks.append(Bottleneck(inputs, width, stride, spread, deform=deform))
                inputs = 4 * width
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        if frozen:
            untrained = ("conv1.", "bn1.", "stem.", "layer1.")
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(not name.startswith(untrained))

    def train(self, mode: bool = True) -> ResNetMM:
        """Batch norms stay in eval mode where the backbone is frozen."""
        super().train(mode)
        for module in self.modules():
            if self.frozen and isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised image (B, 3, H, W) to features by stage, ``res2`` to ``res5``."""
        x = self.stem(x) if hasattr(self, "stem") else F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        features = {}
        for index, stage in enumerate(STAGES, 1):
            features[stage] = x = getattr(self, f"layer{index}")(x)
        return features


def _deep_stem() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)
