"""One kernel update stage of K-Net: gather, update, attend, predict.

Zhang et al., "K-Net: Towards Unified Image Segmentation", NeurIPS 2021, arXiv 2106.14855,
section 3.2 (group features, adaptive kernel update, kernel interaction). Facts checked against
ZwwWayne/K-Net (Apache-2.0), ``knet/kernel_updator.py`` and ``knet/det/kernel_update_head.py``;
written anew. State-dict keys and their order are the official ones.

The sum of features over a mask grows with its area, beyond what float16 holds (65504). So it is
carried times `SCALE` until the first layer norm, which undoes any factor: with biases times
`SCALE` and eps times its square the results are the same to the last bit, for it is a power of 2.
Shapes: B images, N kernels, C their width, K classes, (h, w) of the features.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.zoo.layers import Attention, positive

Paint = Callable[[Tensor, Tensor], Tensor]
SCALE = 2.0**-8
PRIOR = -math.log(99)  # logit of 0.01


def inside(masks: Tensor) -> Tensor:
    """1.0 where a mask logit is above 0 (its sigmoid above 0.5), else 0.0; without gradient."""
    return positive(masks)


def shares(masks: Tensor) -> Tensor:
    """Share of each class in each pixel: softmax over the kernels of logits (B, N, h, w)."""
    return masks.softmax(1)


def gather(weights: Tensor, features: Tensor) -> Tensor:
    """Features (B, C, h, w) summed with weights (B, N, h, w), times `SCALE`: (B, N, C)."""
    return (weights.flatten(2) * SCALE) @ features.flatten(2).transpose(1, 2)


def product(kernels: Tensor, features: Tensor) -> Tensor:
    """Kernels (B, N, C) times features (B, C, h, w): mask logits (B, N, h, w)."""
    return (kernels @ features.flatten(2)).unflatten(2, features.shape[2:])


def scaled_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's result times `SCALE`, from its input times `SCALE`."""
    return F.linear(x, layer.weight, layer.bias * SCALE)


def scaled_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """The layer's result, from its input times `SCALE`."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps * SCALE**2)


class KernelUpdator(nn.Module):
    """Adaptive kernel update (equations 4 to 6): gates mix gathered features into kernels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dynamic_layer = nn.Linear(dim, 2 * dim)
        self.input_layer = nn.Linear(dim, 2 * dim)
        self.input_gate = nn.Linear(dim, dim)
        self.update_gate = nn.Linear(dim, dim)
        self.norm_in = nn.LayerNorm(dim)
        self.norm_out = nn.LayerNorm(dim)
        self.input_norm_in = nn.LayerNorm(dim)
        self.input_norm_out = nn.LayerNorm(dim)
        self.fc_layer = nn.Linear(dim, dim)
        self.fc_norm = nn.LayerNorm(dim)

    def forward(self, gathered: Tensor, kernels: Tensor) -> Tensor:
        """Gathered features, times `SCALE`, and kernels, both (..., C), to kernels (..., C)."""
        param_in, param_out = scaled_linear(self.dynamic_layer, gathered).chunk(2, -1)
        kernel_in, kernel_out = self.input_layer(kernels).chunk(2, -1)
        gate = param_in * kernel_in  # times SCALE
        keep = scaled_norm(self.input_norm_in, scaled_linear(self.input_gate, gate)).sigmoid()
        update = scaled_norm(self.norm_in, scaled_linear(self.update_gate, gate)).sigmoid()
        mixed = update * scaled_norm(self.norm_out, param_out)
        mixed = mixed + keep * self.input_norm_out(kernel_out)
        return F.relu(self.fc_norm(self.fc_layer(mixed)))


class KernelAttention(nn.Module):
    """Self-attention with its residual (kernel interaction); the norm is the stage's."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        return x + self.attn(x, x, x)


class FFN(nn.Module):
    """Linear, ReLU, linear, with its residual; the norm is the stage's."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(dim, ffn_dim), nn.ReLU())
        self.layers = nn.Sequential(first, nn.Linear(ffn_dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        return x + self.layers(x)


class FeatTransform(nn.Module):
    """1x1 convolution with bias under the key ``conv``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return self.conv(x)


def hidden(dim: int) -> nn.Sequential:
    """Linear without bias, layer norm, ReLU."""
    return nn.Sequential(nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU())


class UpdateStage(nn.Module):
    """One update of all kernels and their masks.

    Args:
        dim: C. heads, ffn_dim: of the attention and the feed-forward block.
        num_classes: K, sigmoid; 0 has no class branch and gathers softly (semantic segmentation).
        updator_dim: width of the updator; a kernel of twice that width is two tokens in it.
        mask_dim: width of the kernels that make the masks, where it isn't C.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_dim: int,
        num_classes: int,
        updator_dim: int = 0,
        *,
        mask_dim: int = 0,
    ) -> None:
        super().__init__()
        self.updator_dim = updator_dim or dim
        self.weigh = inside if num_classes else shares
        self.attention = KernelAttention(dim, heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.kernel_update_conv = KernelUpdator(self.updator_dim)
        self.feat_transform = FeatTransform(dim)
        self.ffn = FFN(dim, ffn_dim)
        self.ffn_norm = nn.LayerNorm(dim)
        if num_classes:
            self.cls_fcs = hidden(dim)
            self.fc_cls = nn.Linear(dim, num_classes)
        self.mask_fcs = hidden(dim)
        self.fc_mask = nn.Linear(dim, mask_dim or dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier matrices; class probabilities start at 0.01, as the focal loss wants."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        if hasattr(self, "fc_cls"):
            nn.init.constant_(self.fc_cls.bias, PRIOR)

    def update(self, x: Tensor, kernels: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The first half: features and kernels.

        Args:
            x: the shared features (B, C, h, w).
            kernels: (B, N, C) of the stage before.
            masks: their logits (B, N, h, w).

        Returns:
            ``features`` (B, C, h, w); ``gathered`` (times `SCALE`), ``updated``, ``attended`` and
            the new ``kernels``, each (B, N, C).
        """
        features = self.feat_transform(x)
        gathered = gather(self.weigh(masks), features)
        tokens = (-1, self.updator_dim)
        updated = self.kernel_update_conv(
            gathered.unflatten(2, tokens), kernels.unflatten(2, tokens)
        )  # (B, N, 1 or 2, updator_dim)
        updated = updated.flatten(2)
        attended = self.attention_norm(self.attention(updated))
        return {
            "features": features,
            "gathered": gathered,
            "updated": updated,
            "attended": attended,
            "kernels": self.ffn_norm(self.ffn(attended)),
        }

    def classify(self, kernels: Tensor) -> Tensor:
        """Kernels (B, N, C) to class logits (B, N, K), a sigmoid each, no background."""
        return self.fc_cls(self.cls_fcs(kernels))

    def mask_kernels(self, kernels: Tensor) -> Tensor:
        """Kernels (B, N, C) to those that make the masks, (B, N, C) or (B, N, ``mask_dim``)."""
        return self.fc_mask(self.mask_fcs(kernels))

    def forward(
        self, x: Tensor, kernels: Tensor, masks: Tensor, paint: Paint | None = None
    ) -> dict[str, Tensor]:
        """What `update` gives, new ``masks`` (B, N, h, w) and, with classes, ``logits``.

        ``paint`` makes the masks from their kernels and the stage's features; `product` if None.
        """
        state = self.update(x, kernels, masks)
        mask_kernels = self.mask_kernels(state["kernels"])
        state["masks"] = (paint or product)(mask_kernels, state["features"])
        if hasattr(self, "fc_cls"):
            state["logits"] = self.classify(state["kernels"])
        return state
