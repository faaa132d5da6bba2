"""ResNet backbones, in the two official key layouts and one small trainable one.

* `ResNet`: ResNet-50/101 v1.5 as in Detectron2 (stride in the 3x3), keys ``stem`` and ``res2..5``.
* `ResNetVd`: ResNet-50-vd-DCN as in timm's resnet50d, keys ``conv1 bn1 layer1..4``, deformable
  3x3 (v1, offsets only) in the stages that ask for it.
* `ResNet18d`: 18-layer vd network of plain 3x3 + ReLU blocks at any width, trainable batch norm.

Papers: He et al. 2016 (ResNet); He et al. 2019, "Bag of Tricks" (vd: deep stem, pooled shortcut);
Dai et al. 2017 (deformable convolution). Each returns ``{"res2": ..., "res5": ...}`` at strides
4, 8, 16, 32.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.zoo.layers import Conv, FrozenBatchNorm2d

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGES = ("res2", "res3", "res4", "res5")


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 with a projection shortcut in the first block of a stage."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        norm = "FrozenBN"
        if stride > 1 or inputs != outputs:
            self.shortcut = Conv(inputs, outputs, 1, stride, norm=norm)
        self.conv1 = Conv(inputs, width, 1, norm=norm, relu=True)
        self.conv2 = Conv(width, width, 3, stride, norm=norm, relu=True)
        self.conv3 = Conv(width, outputs, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        shortcut = self.shortcut(x) if hasattr(self, "shortcut") else x
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


class Stem(nn.Module):
    """7x7 stride 2, norm, ReLU, 3x3 max-pool stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv(3, 64, 7, 2, norm="FrozenBN", relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 64, H / 4, W / 4)."""
        return F.max_pool2d(self.conv1(x), 3, 2, 1)


class ResNet(nn.Module):
    """ResNet-50 or -101 with frozen batch norm and Detectron2 keys."""

    channels: ClassVar = dict(zip(STAGES, (256, 512, 1024, 2048), strict=True))

    def __init__(self, depth: int = 50) -> None:
        super().__init__()
        self.stem = Stem()
        inputs = 64
        for index, (stage, count) in enumerate(zip(STAGES, BLOCKS[depth], strict=True)):
            width = 64 * 2**index
            blocks = []
            for block in range(count):
                blocks.append(Bottleneck(inputs, width, 2 if index and not block else 1))
                inputs = 4 * width
            self.add_module(stage, nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised image (B, 3, H, W) to features by stage."""
        features, x = {}, self.stem(x)
        for stage in STAGES:
            features[stage] = x = getattr(self, stage)(x)
        return features


def deform_conv3x3(x: Tensor, offset: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Deformable 3x3 convolution v1 (Dai et al. 2017), padding 1, as gathers and one product.

    Args:
        x: (B, C, H, W).
        offset: (B, 18, h, w); channel 2t is dy and 2t + 1 is dx of tap t (row-major), pixels.
        weight: (D, C, 3, 3).
        stride: of the sampling grid.

    Returns:
        (B, D, h, w). Corners outside the map contribute 0.
    """
    batch, _, height, width = x.shape
    rows, cols = offset.shape[2:]
    # A border of zeros wide enough for every clamped corner makes "outside is 0" a plain read.
    cells = F.pad(x, (1, 2, 1, 2)).permute(0, 2, 3, 1).flatten(0, 2)  # (B (H + 3) (W + 3), C)
    row_length = width + 3
    tap = torch.arange(9, device=x.device)[:, None, None]
    base_y = torch.arange(rows, device=x.device)[:, None] * stride - 1 + tap // 3  # (9, h, 1)
    base_x = torch.arange(cols, device=x.device) * stride - 1 + tap % 3  # (9, 1, w)
    y = (base_y + offset[:, ::2]).clamp(-1.0, float(height))  # (B, 9, h, w)
    z = (base_x + offset[:, 1::2]).clamp(-1.0, float(width))
    y0, x0 = y.detach().floor(), z.detach().floor()
    dy, dx = (y - y0).unsqueeze(-1), (z - x0).unsqueeze(-1)
    image = torch.arange(batch, device=x.device).view(-1, 1, 1, 1) * ((height + 3) * row_length)
    corner = image + (y0.long() + 1) * row_length + x0.long() + 1

    def read(step: int) -> Tensor:
        return cells.index_select(0, (corner + step).flatten()).unflatten(0, corner.shape)

    top = read(0) * (1 - dx) + read(1) * dx  # (B, 9, h, w, C)
    bottom = read(row_length) * (1 - dx) + read(row_length + 1) * dx
    columns = (top * (1 - dy) + bottom * dy).permute(0, 2, 3, 4, 1).flatten(3)  # (B, h, w, 9 C)
    return F.linear(columns, weight.flatten(1)).permute(0, 3, 1, 2)


class DeformConv(nn.Module):
    """3x3 deformable convolution; its offsets come from the caller."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.stride = stride

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / stride, W / stride), in float32 under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return deform_conv3x3(x.float(), offset.float(), self.weight.float(), self.stride)


def pooled_shortcut(inputs: int, outputs: int, stride: int, norm: nn.Module) -> nn.Sequential:
    """Vd shortcut: 2x2 average (ceil, padding not counted) where strided, 1x1, norm."""
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    project = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(pool if stride > 1 else nn.Identity(), project, norm)


class BottleneckVd(nn.Module):
    """Bottleneck with a pooled shortcut and an optional deformable 3x3 (timm keys)."""

    def __init__(self, inputs: int, width: int, stride: int, *, first: bool, deform: bool) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        if deform:
            self.conv2_offset = nn.Conv2d(width, 18, 3, stride, 1)
            nn.init.zeros_(self.conv2_offset.weight)
            nn.init.zeros_(self.conv2_offset.bias)
            self.conv2: nn.Module = DeformConv(width, stride)
        else:
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(outputs)
        if first:
            self.downsample = pooled_shortcut(inputs, outputs, stride, FrozenBatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.conv2(x, self.conv2_offset(x)) if hasattr(self, "conv2_offset") else self.conv2(x)
        return F.relu(self.bn3(self.conv3(F.relu(self.bn2(x)))) + shortcut)


class _Vd(nn.Module):
    """Deep stem and four stages; subclasses fill ``conv1 bn1 layer1..4``."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised image (B, 3, H, W) to features by stage."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        features = {}
        for index, stage in enumerate(STAGES, 1):
            features[stage] = x = getattr(self, f"layer{index}")(x)
        return features


def _deep_stem(half: int, full: int, norm: type[nn.Module]) -> nn.Sequential:
    def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)

    return nn.Sequential(
        *(conv(3, half, 2), norm(half), nn.ReLU()),
        *(conv(half, half), norm(half), nn.ReLU()),
        conv(half, full),
    )


class ResNetVd(_Vd):
    """ResNet-50-vd with frozen batch norm, deformable 3x3 in chosen stages, timm keys."""

    channels: ClassVar = ResNet.channels

    def __init__(
        self, depth: int = 50, deform: tuple[bool, ...] = (False, False, True, True)
    ) -> None:
        super().__init__()
        self.conv1 = _deep_stem(32, 64, FrozenBatchNorm2d)
        self.bn1 = FrozenBatchNorm2d(64)
        inputs = 64
        for index, count in enumerate(BLOCKS[depth]):
            width = 64 * 2**index
            blocks = []
            for block in range(count):
                stride = 2 if index and not block else 1
                blocks.append(
                    BottleneckVd(inputs, width, stride, first=not block, deform=deform[index])
                )
                inputs = 4 * width
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))


class BasicBlockVd(nn.Module):
    """Two 3x3 convolutions with a pooled shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn2.weight)  # every block starts as its shortcut
        if stride > 1 or inputs != outputs:
            self.downsample = pooled_shortcut(inputs, outputs, stride, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18d(_Vd):
    """18 layers of plain 3x3 + ReLU; ``width`` channels in the first stage (64 is full size)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = _deep_stem(width // 2, width, nn.BatchNorm2d)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        self.channels = {}
        for index, stage in enumerate(STAGES):
            outputs = self.channels[stage] = width * 2**index
            first = BasicBlockVd(inputs, outputs, 2 if index else 1)
            layer = nn.Sequential(first, BasicBlockVd(outputs, outputs, 1))
            self.add_module(f"layer{index + 1}", layer)
            inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
