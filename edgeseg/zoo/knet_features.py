"""The features that K-Net's kernels look at: FPN and semantic FPN.

Zhang et al., "K-Net", NeurIPS 2021, arXiv 2106.14855, section 3.4; Lin et al. 2017 (FPN), Kirillov
et al. 2019 (semantic FPN), and the sine positions of DETR. Facts checked against ZwwWayne/K-Net
(Apache-2.0), ``knet/det/semantic_fpn.py``, and mmdet 2.18.1; written anew. State-dict keys are the
official ones.

Sizes that are not multiples of 32 work too: every map is resized to the next finer one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.zoo.layers import norm_layer, upsample
from edgeseg.zoo.resnet import STAGES


class ConvModule(nn.Module):
    """Convolution, norm, ReLU; keys ``conv`` and ``gn`` or ``bn``. Without a norm: no ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        norm: str = "",
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=not norm)
        self.norm = norm.lower()
        if norm:
            self.add_module(self.norm, norm_layer(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        x = self.conv(x)
        return F.relu(getattr(self, self.norm)(x)) if self.norm else x


class FPN(nn.Module):
    """Feature pyramid: maps of equal width, no norm, nearest top-down.

    Args:
        channels: of the inputs, the finest first.
        dim: width of the outputs.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(c, dim, 1) for c in channels)
        self.fpn_convs = nn.ModuleList(ConvModule(dim, dim, 3) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H / s, W / s), s = ..., 16, 32, to maps (B, D, H / s, W / s)."""
        maps = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], maps[i - 1].shape[2:])
        return [conv(x) for conv, x in zip(self.fpn_convs, maps, strict=True)]


def sine_positions(size_hw: Sequence[int], dim: int, device: torch.device) -> Tensor:
    """Sine positions (D, h, w): D / 2 channels of y, then of x; sine and cosine take turns."""
    half = dim // 2
    index = torch.arange(half, device=device)
    period = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:
        place = torch.arange(1, length + 1, device=device) / (length + 1e-6) * (2 * math.pi)
        angle = place[:, None] / period  # (length, half)
        pairs = torch.stack([angle[:, ::2].sin(), angle[:, 1::2].cos()], 2)
        return pairs.flatten(1).T  # (half, length)

    height, width = size_hw
    rows = axis(height)[:, :, None].expand(-1, -1, width)
    columns = axis(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])


class SemanticFPN(nn.Module):
    """Localisation and semantic map from the maps of the pyramid, at stride 8 or 4.

    Args:
        dim: of the maps and of the result.
        norm: ``GN`` or ``BN``.
        stride: of the result.
        first: stage of the finest map: 0 for res2, as in the paper, or 1 for res3.
    """

    def __init__(self, dim: int, norm: str, stride: int, first: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.finest = (1 if stride == 8 else 0) - first  # the map with the stride of the result

        def level(stage: int) -> nn.Sequential:
            step = 2 if stage - first < self.finest else 1
            convs = [ConvModule(dim, dim, 3, norm=norm, stride=step) for _ in range(stage or 1)]
            level = nn.Sequential()
            for number, conv in enumerate(convs):
                level.add_module(f"conv{number}", conv)
            return level

        self.convs_all_levels = nn.ModuleList(level(i) for i in range(first, len(STAGES)))
        self.conv_pred = ConvModule(dim, dim, 1, norm=norm)
        self.aux_convs = nn.ModuleList([ConvModule(dim, dim, 1, norm=norm)])

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (B, D, H / s, W / s), s = ..., 16, 32, to two maps (B, D, H / 8, W / 8)."""
        coarsest = maps[-1]
        positions = sine_positions(coarsest.shape[2:], self.dim, coarsest.device)
        maps = [*maps[:-1], coarsest + positions.to(coarsest.dtype)]
        total = sum(self.refine(index, maps) for index in range(len(maps)))
        return self.conv_pred(total), self.aux_convs[0](total)

    def refine(self, index: int, maps: Sequence[Tensor]) -> Tensor:
        """One level at the stride of the result: convolutions, each followed by a step up."""
        x, finer = maps[index], index
        for conv in self.convs_all_levels[index]:
            x = conv(x)
            if finer > self.finest:
                finer -= 1
                x = upsample(x, maps[finer].shape[2:])
        return x
