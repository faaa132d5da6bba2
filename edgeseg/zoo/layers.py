"""Small torch pieces that several networks share."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEEP = 1e20
"""Times any positive number that networks make: at least 1. Engines may put this factor into the
weights of a convolution before it, whose sums must stay finite; OpenVINO takes its inverse, which
must not be a denormal number."""


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and scale: four buffers, eps 1e-5, no counter."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels) - self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if not (self.training and x.requires_grad):
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # Training rounds as Detectron2 does: a ReLU input that rounds to the other side of 0 sends
        # its gradient elsewhere, and such flips add up to 1e-3 of a layer's gradient.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def norm_layer(name: str, channels: int) -> nn.Module:
    """``GN`` (32 groups), ``BN`` (trainable) or ``FrozenBN`` for ``channels``."""
    layers = {
        "GN": lambda: nn.GroupNorm(32, channels),
        "BN": lambda: nn.BatchNorm2d(channels),
        "FrozenBN": lambda: FrozenBatchNorm2d(channels),
    }
    return layers[name]()


class Conv(nn.Conv2d):
    """Convolution, norm, activation; the norm's keys are under ``norm``, as in Detectron2."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        norm: str = "",
        relu: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)
        if norm:
            self.norm = norm_layer(norm, outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        x = super().forward(x)
        if hasattr(self, "norm"):
            x = self.norm(x)
        return F.relu(x) if self.relu else x


class FineMaskFeatures(nn.Module):
    """Mask features at stride 4 from coarser ones and res2 (ours, not in the papers).

    The last layer, ``output``, is the caller's to apply: being linear, it may as well be applied to
    the kernels.
    """

    def __init__(self, res2_channels: int, dim: int, mask_dim: int, norm: str) -> None:
        super().__init__()
        self.lateral = Conv(res2_channels, mask_dim, 1, norm=norm)
        self.project = Conv(dim, mask_dim, 1, norm=norm)
        self.merge = Conv(mask_dim, mask_dim, 3, norm=norm, relu=True)
        self.output = nn.Conv2d(mask_dim, mask_dim, 1)

    def forward(self, res2: Tensor, coarse: Tensor) -> Tensor:
        """res2 (B, C, H / 4, W / 4), coarse (B, D, H / 8, W / 8) to (B, mask_dim, H / 4, W / 4)."""
        lateral = self.lateral(res2)
        return self.merge(lateral + upsample(self.project(coarse), lateral.shape[2:]))


class MLP(nn.Module):
    """Linear layers with ReLU between them; keys ``layers.i``."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int = 3) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (depth - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention, batch first, with the packed keys of ``nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Q (B, n, D), k and v (B, m, D), bias (B, n, m) added to every head; gives (B, n, D)."""
        dim = q.shape[-1]
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((q, k, v), weights, biases, strict=True)
        )
        logits = (q * (dim // self.heads) ** -0.5) @ k.transpose(2, 3)
        if bias is not None:
            logits = logits + bias[:, None]
        return self.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Post-norm cross-attention: LN(x + attention)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, memory: Tensor, pos: Tensor, memory_pos: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """X (B, n, D) looks at memory (B, m, D); positions go to queries and keys."""
        return self.norm(x + self.multihead_attn(x + pos, memory + memory_pos, memory, bias))


class SelfAttention(nn.Module):
    """Post-norm self-attention: LN(x + attention)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """(B, n, D) to the same shape."""
        return self.norm(x + self.self_attn(x + pos, x + pos, x))


class FeedForward(nn.Module):
    """Post-norm feed-forward block: LN(x + W2 relu(W1 x))."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, D) to the same shape."""
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


def upsample(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear resize, align_corners False, to an explicit size."""
    return F.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)


def doubled(masks: Tensor) -> Tensor:
    """Masks (B, N, h, w) at twice the size, bilinear."""
    return upsample(masks, (2 * masks.shape[2], 2 * masks.shape[3]))


def to_pixels(features: Tensor) -> Tensor:
    """A map (B, D, h, w) as pixels (B, h w, D)."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(pixel: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Pixels (B, h w, D) as a map (B, D, h, w)."""
    return pixel.unflatten(1, size_hw).permute(0, 3, 1, 2)


def mask_logits(
    kernels: Tensor, layer: nn.Module, pixel: Tensor, size_hw: tuple[int, int]
) -> Tensor:
    """Kernels (..., n, mask_dim) times mask features, the latter by ``layer`` from pixels.

    The layer is linear, so it is applied to the kernels, which are few, instead of to each pixel:
    k (W f + b) = (k W) f + k b.

    Args:
        kernels: of n masks.
        layer: from C to mask_dim channels, without activation.
        pixel: (..., h w, C).
        size_hw: h, w.

    Returns:
        (..., n, h, w).
    """
    masks = kernels @ layer.weight.flatten(1) @ pixel.transpose(-2, -1)
    return masks.unflatten(-1, size_hw) + (kernels * layer.bias).sum(-1)[..., None, None]


def positive(x: Tensor) -> Tensor:
    """1.0 where ``x > 0``, else 0.0; without gradient.

    In float arithmetic only, so that it exports without booleans; exact down to 1e-20. For masks:
    ONNX Runtime takes a third of the time that it takes for a sign.
    """
    return (x.detach() * STEEP).clamp(0, 1)


def at_least(a: Tensor, b: Tensor | float) -> Tensor:
    """1.0 where ``a >= b``, else 0.0; without gradient, and without booleans.

    Not by `positive`: OpenVINO's INT8 would move ``b`` into the limits, where it swallows them.
    """
    return 1.0 - F.relu(torch.sign(b - a))
