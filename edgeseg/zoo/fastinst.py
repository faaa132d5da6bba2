"""FastInst: real-time instance segmentation with instance-activation-guided queries.

He et al., "FastInst: A Simple Query-Based Model for Real-Time Instance Segmentation", CVPR 2023,
arXiv 2303.08594. Facts checked against junjiehe96/FastInst (MIT) commit 4996a61; written anew.

State-dict keys, shapes and order are the official ones, so that official checkpoints load
strictly. Two things go beyond the paper, for the small networks that edgeseg trains itself: any
backbone and norm of `edgeseg.zoo.resnet`, and masks at stride 4 (`FineMaskFeatures`).
Comparisons are written in float arithmetic (`at_least`), so that one form serves training,
parity and export. Shapes: B images, Q queries, A auxiliary queries, K classes, D hidden width,
P = (H / 8)(W / 8) pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.zoo.layers import (
    MLP,
    Conv,
    CrossAttention,
    FeedForward,
    FineMaskFeatures,
    SelfAttention,
    at_least,
    mask_logits,
    positive,
    to_map,
    to_pixels,
    upsample,
)
from edgeseg.zoo.resnet import ResNet, ResNet18d, ResNetVd
from edgeseg.zoo.settings import Settings

BLOCKED = -60.0
"""Attention bias of a blocked pixel: its weight is lost in float32 beside any other. A larger one
makes denormal numbers of it, with which ONNX Runtime's softmax takes four times as long."""


@dataclass(frozen=True)
class FastInstConfig(Settings):
    """Settings of one FastInst network; the defaults are the official R50-D1.

    Attributes:
        backbone: ``resnet`` (depth 50 or 101), ``resnet-vd`` (depth 50) or ``resnet18d``.
        width: first-stage channels of ``resnet18d``.
        deform_stages: which of res2..res5 of ``resnet-vd`` use deformable 3x3.
        num_classes: K, without the no-object class.
        num_layers: decoder layers, 0 or more.
        hidden_dim: D, width of neck and decoder. mask_dim: width of mask kernels.
        norm: of the pixel decoder, ``GN`` or ``BN``.
        mask_stride: input pixels per mask logit, 8 (official) or 4.
        size_divisibility: the input is padded to multiples of this.
        pixel_mean, pixel_std: per channel, 0..255, RGB.
    """

    backbone: str = "resnet"
    depth: int = 50
    width: int = 64
    deform_stages: tuple[bool, ...] = (False, False, False, False)
    num_classes: int = 80
    num_layers: int = 1
    hidden_dim: int = 256
    mask_dim: int = 256
    num_queries: int = 100
    num_aux_queries: int = 8
    num_heads: int = 8
    ffn_dim: int = 1024
    norm: str = "GN"
    mask_stride: int = 8
    size_divisibility: int = 32
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)


_DCN: dict[str, Any] = {"backbone": "resnet-vd", "deform_stages": (False, False, True, True)}
VARIANTS = {
    "r50-d1": FastInstConfig(),
    "r50-d3": FastInstConfig(num_layers=3),
    "r50vd-dcn-d1": FastInstConfig(**_DCN),
    "r50vd-dcn-d3": FastInstConfig(**_DCN, num_layers=3),
    "r101-d3": FastInstConfig(depth=101, num_layers=3),
    "nano": FastInstConfig(
        backbone="resnet18d",
        depth=18,
        width=32,
        num_classes=8,
        hidden_dim=128,
        mask_dim=64,
        num_queries=50,
        num_aux_queries=4,
        num_heads=4,
        ffn_dim=256,
        norm="BN",
        mask_stride=4,
        size_divisibility=1,
    ),
}


def build_backbone(config: FastInstConfig) -> nn.Module:
    """The backbone a config names; it has ``channels`` by stage."""
    if config.backbone == "resnet":
        return ResNet(config.depth)
    if config.backbone == "resnet-vd":
        return ResNetVd(config.depth, config.deform_stages)
    return ResNet18d(config.width)


# ------------------------------------------------------------------------- pixel decoder (§3.1)
def pool_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """(bins, size) matrix of adaptive average pooling along one axis."""
    matrix = torch.zeros(bins, size)
    for i in range(bins):
        start, end = i * size // bins, math.ceil((i + 1) * size / bins)
        matrix[i, start:end] = 1.0 / (end - start)
    return matrix.to(like)


class PyramidPooling(nn.Module):
    """Pyramid pooling: averages over 1, 2, 3 and 6 bins a side, joined with the input."""

    bins = (1, 2, 3, 6)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Identity(), nn.Conv2d(dim, dim // 4, 1)) for _ in self.bins
        )
        self.bottleneck = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) to the same shape."""
        size = x.shape[2:]
        levels = []
        for bins, stage in zip(self.bins, self.stages, strict=True):
            rows, cols = pool_matrix(size[0], bins, x), pool_matrix(size[1], bins, x)
            pooled = rows @ x @ cols.T
            levels.append(upsample(F.relu(stage(pooled)), size))
        return F.relu(self.bottleneck(torch.cat([*levels, x], 1)))


class PixelDecoder(nn.Module):
    """PPM-FPN: res3..res5 to three maps of D channels at strides 32, 16, 8."""

    def __init__(self, channels: dict[str, int], dim: int, norm: str) -> None:
        super().__init__()
        for index, stage in enumerate(("res3", "res4", "res5"), 1):
            self.add_module(f"adapter_{index}", Conv(channels[stage], dim, 1, norm=norm))
            self.add_module(f"layer_{index}", Conv(dim, dim, 3, norm=norm, relu=True))
        self.ppm = PyramidPooling(dim)

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Backbone features to [o5, o4, o3], each (B, D, H / s, W / s) for s = 32, 16, 8."""
        out5 = self.layer_3(self.ppm(self.adapter_3(features["res5"])))
        lateral = self.adapter_2(features["res4"])
        out4 = self.layer_2(lateral + upsample(out5, lateral.shape[2:]))
        lateral = self.adapter_1(features["res3"])
        out3 = self.layer_1(lateral + upsample(out4, lateral.shape[2:]))
        return [out5, out4, out3]


# ------------------------------------------------------- instance-activation-guided queries (§3.2)
def local_maxima(won: Tensor) -> Tensor:
    """1.0 where a cell of (B, K, h, w) is no less than its 8 neighbours and >= 1e-6, else 0.0."""
    return at_least(won, F.max_pool2d(won, 3, 1, 1)) * at_least(won, 1e-6)


def activation_scores(probabilities: Tensor) -> Tensor:
    """Score of each cell: its best class probability, plus 1 where that is a local maximum.

    Args:
        probabilities: (B, K, h, w) softmax over K + 1 classes, no-object left out.

    Returns:
        (B, h, w). A cell counts only in the class it wins; ties and plateaus are all maxima.
    """
    best = probabilities.amax(1, keepdim=True)
    won = probabilities * at_least(probabilities, best)
    return (won + local_maxima(won)).amax(1)


def cell_locations(cells: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Row-major cells (..., ) of an (h, w) map to (..., 2): x, y in 0..1, first to last cell."""
    height, width = size_hw
    rows = torch.div(cells, width, rounding_mode="floor")
    return torch.stack([(cells - rows * width) / (width - 1), rows / (height - 1)], -1)


class QueryProposal(nn.Module):
    """Picks the Q most promising cells of the stride-16 map as queries."""

    def __init__(self, dim: int, num_queries: int, num_classes: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.conv_proposal_cls_logits = nn.Sequential(
            nn.Conv2d(dim, dim, 3, 1, 1), nn.ReLU(), nn.Conv2d(dim, num_classes + 1, 1)
        )

    def forward(self, x: Tensor, pos: Tensor) -> dict[str, Tensor]:
        """Features (B, D, h, w) and positions (1, D, h, w) to queries.

        Returns:
            ``features`` and ``pos`` (B, Q, D), ``indices`` (B, Q) row-major cells, best first,
            ``scores`` (B, Q), ``logits`` (B, K + 1, h, w), ``locations`` (B, Q, 2) as x, y in
            0..1 from the first to the last cell.
        """
        logits = self.conv_proposal_cls_logits(x).float()
        scores = activation_scores(logits.detach().softmax(1)[:, :-1]).flatten(1)
        top, indices = scores.topk(self.num_queries, 1)
        index = indices[:, None].expand(-1, x.shape[1], -1)
        features = x.flatten(2).gather(2, index).transpose(1, 2)
        positions = pos.flatten(2).expand(x.shape[0], -1, -1).gather(2, index).transpose(1, 2)
        return {
            "features": features,
            "pos": positions,
            "indices": indices,
            "scores": top,
            "logits": logits,
            "locations": cell_locations(indices, x.shape[2:]),
        }


# ---------------------------------------------------------------------- dual-path decoder (§3.4)
class ClassWeights(nn.Module):
    """Holds the loss's class weights (1, no-object 0.1): official checkpoints carry them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("empty_weight", torch.tensor([*[1.0] * num_classes, 0.1]))


def attention_bias(blocked: Tensor) -> Tensor:
    """Blocked pixels (B, n, P) as 0 or 1 to an additive bias; a row all blocked is released."""
    full = blocked.amin(-1, keepdim=True)
    return blocked * (BLOCKED * (1 - full))


class Decoder(nn.Module):
    """Dual-path decoder: pixels look at queries, then queries look at pixels, layer by layer."""

    def __init__(self, config: FastInstConfig, res2_channels: int) -> None:
        super().__init__()
        c, dim = config, config.hidden_dim
        self.num_queries, self.num_layers = c.num_queries, c.num_layers
        side = round(math.sqrt(c.num_queries))
        self.meta_pos_embed = nn.Parameter(torch.empty(1, dim, side, side))
        nn.init.trunc_normal_(self.meta_pos_embed, std=0.02)
        self.empty_query_features = nn.Embedding(c.num_aux_queries, dim)
        self.empty_query_pos_embed = nn.Embedding(c.num_aux_queries, dim)
        self.query_proposal = QueryProposal(dim, c.num_queries, c.num_classes)

        def layers(make: Any, count: int = c.num_layers) -> nn.ModuleList:
            return nn.ModuleList(make() for _ in range(count))

        cross = layers(lambda: CrossAttention(dim, c.num_heads))
        self.transformer_query_cross_attention_layers = cross
        own = layers(lambda: SelfAttention(dim, c.num_heads))
        self.transformer_query_self_attention_layers = own
        self.transformer_query_ffn_layers = layers(lambda: FeedForward(dim, c.ffn_dim))
        pixel = layers(lambda: CrossAttention(dim, c.num_heads))
        self.transformer_mask_cross_attention_layers = pixel
        self.transformer_mask_ffn_layers = layers(lambda: FeedForward(dim, c.ffn_dim))
        heads = c.num_layers + 1
        self.decoder_query_norm_layers = layers(lambda: nn.LayerNorm(dim), heads)
        self.class_embed_layers = layers(lambda: MLP(dim, dim, c.num_classes + 1), heads)
        self.mask_embed_layers = layers(lambda: MLP(dim, dim, c.mask_dim), heads)
        # At stride 4 the last head's masks come from FineMaskFeatures instead.
        coarse = heads - (c.mask_stride == 4)
        self.mask_features_layers = layers(lambda: nn.Linear(dim, c.mask_dim), coarse)
        if c.mask_stride == 4:
            self.fine_mask_features = FineMaskFeatures(res2_channels, dim, c.mask_dim, c.norm)
        self.criterion = ClassWeights(c.num_classes)

    def layer(
        self, i: int, query: Tensor, pixel: Tensor, pos: tuple[Tensor, Tensor], blocked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Layer ``i`` (equations of §3.4): pixels first; queries then see the new pixels.

        Args:
            i: index of the layer.
            query: (B, Q + A, D).
            pixel: (B, P, D).
            pos: positions of queries and of pixels.
            blocked: (B, Q + A, P), 1 where a query may not look.

        Returns:
            New queries and pixels.
        """
        query_pos, pixel_pos = pos
        pixel = self.transformer_mask_cross_attention_layers[i](pixel, query, pixel_pos, query_pos)
        pixel = self.transformer_mask_ffn_layers[i](pixel)
        attend = self.transformer_query_cross_attention_layers[i]
        query = attend(query, pixel, query_pos, pixel_pos, attention_bias(blocked))
        query = self.transformer_query_self_attention_layers[i](query, query_pos)
        return self.transformer_query_ffn_layers[i](query), pixel

    def kernels(self, j: int, query: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, Q, K + 1) and mask kernels (B, Q, mask_dim) of head ``j``."""
        embedded = self.decoder_query_norm_layers[j](query[:, : self.num_queries])
        return self.class_embed_layers[j](embedded), self.mask_embed_layers[j](embedded)

    def mask_pixels(
        self, j: int, pixel: Tensor, size_hw: Any, res2: Tensor | None
    ) -> tuple[nn.Module, Tensor, Any]:
        """What `mask_logits` needs for head ``j``; only the last head may be at stride 4.

        Returns:
            The last layer of the mask features, the pixels (B, h w, C) that it reads, and (h, w).
        """
        if j < len(self.mask_features_layers):
            return self.mask_features_layers[j], pixel, size_hw
        merged = self.fine_mask_features(res2, to_map(pixel, size_hw))
        return self.fine_mask_features.output, to_pixels(merged), merged.shape[2:]

    def predict(
        self, j: int, query: Tensor, pixel: Tensor, size_hw: Any, res2: Tensor | None
    ) -> dict[str, Tensor]:
        """Head ``j``: ``pred_logits`` (B, Q, K + 1) and ``pred_masks`` (B, Q, h, w)."""
        logits, kernels = self.kernels(j, query)
        masks = mask_logits(kernels, *self.mask_pixels(j, pixel, size_hw, res2))
        return {"pred_logits": logits.float(), "pred_masks": masks}

    def start(self, maps: list[Tensor]) -> dict[str, Any]:
        """Queries, pixels and positions before the first layer."""
        _, out4, out3 = maps
        pixel_pos = upsample(self.meta_pos_embed, out3.shape[2:]).flatten(2).transpose(1, 2)
        proposal = self.query_proposal(out4, upsample(self.meta_pos_embed, out4.shape[2:]))
        batch = out3.shape[0]
        auxiliary = self.empty_query_features.weight.expand(batch, -1, -1)
        auxiliary_pos = self.empty_query_pos_embed.weight.expand(batch, -1, -1)
        return {
            "proposal": proposal,
            "query": torch.cat([proposal["features"], auxiliary.to(proposal["features"])], 1),
            "pixel": to_pixels(out3),
            "pos": (torch.cat([proposal["pos"], auxiliary_pos], 1), pixel_pos),
            "size_hw": out3.shape[2:],
        }

    def blocked(self, masks: Tensor) -> Tensor:
        """Stride-8 mask logits (B, Q, h, w) to (B, Q + A, P): 1 where negative, 0 for auxiliary."""
        return self.with_auxiliary(positive(0 - masks.float()))

    def with_auxiliary(self, blocked: Tensor) -> Tensor:
        """Blocked pixels (B, Q, h, w) to float (B, Q + A, P); auxiliary queries see everything."""
        blocked = blocked.flatten(2).float()
        auxiliary = self.empty_query_features.num_embeddings
        return torch.cat([blocked, torch.zeros_like(blocked[:, :1]).expand(-1, auxiliary, -1)], 1)

    def run_layers(self, start: dict[str, Any]) -> list[dict[str, Tensor]]:
        """All layers in turn; each gives its ``query``, ``pixel``, ``blocked`` and the head before.

        At inference only what steers the attention is computed: the masks of heads 0..L-1.
        """
        query, pixel, size = start["query"], start["pixel"], start["size_hw"]
        states = []
        for i in range(self.num_layers):
            head = self.predict(i, query, pixel, size, None)
            blocked = self.blocked(head["pred_masks"])
            query, pixel = self.layer(i, query, pixel, start["pos"], blocked)
            states.append({"query": query, "pixel": pixel, "blocked": blocked, "head": head})
        return states

    def forward(self, maps: list[Tensor], res2: Tensor | None) -> dict[str, Any]:
        """Maps [o5, o4, o3] of the pixel decoder, res2 for stride-4 masks, to predictions.

        Returns:
            ``pred_logits``, ``pred_masks`` of the last head, ``aux_outputs`` of heads 0..L-1 in
            order, ``proposal_cls_logits``, ``topk_indices``, ``topk_scores``,
            ``query_locations``, and ``start`` and ``states`` for `guided` and for tests.
        """
        start = self.start(maps)
        states = self.run_layers(start)
        last = states[-1] if states else start
        outputs: dict[str, Any] = self.predict(
            self.num_layers, last["query"], last["pixel"], start["size_hw"], res2
        )
        proposal = start["proposal"]
        return outputs | {
            "aux_outputs": [state["head"] for state in states],
            "proposal_cls_logits": proposal["logits"],
            "topk_indices": proposal["indices"],
            "topk_scores": proposal["scores"],
            "query_locations": proposal["locations"],
            "start": start | {"res2": res2},
            "states": states,
        }

    def guided(self, outputs: dict[str, Any], blocked: Tensor) -> list[dict[str, Tensor]]:
        """GT-mask-guided predictions (§4.3, training): each layer again, on its own outputs.

        Args:
            outputs: what `forward` gave.
            blocked: (B, Q + A, P), 1 outside the matched object's mask.

        Returns:
            One prediction per layer, from head i + 1.
        """
        start = outputs["start"]
        predictions = []
        for i, state in enumerate(outputs["states"]):
            query, pixel = self.layer(i, state["query"], state["pixel"], start["pos"], blocked)
            head = self.predict(i + 1, query, pixel, start["size_hw"], start["res2"])
            predictions.append(head)
        return predictions


class Head(nn.Module):
    """Pixel decoder and decoder, under the official key ``sem_seg_head``."""

    def __init__(self, config: FastInstConfig, channels: dict[str, int]) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(channels, config.hidden_dim, config.norm)
        self.predictor = Decoder(config, channels["res2"])


class FastInst(nn.Module):
    """The whole network: backbone, pixel decoder, dual-path decoder."""

    family: ClassVar = "fastinst"
    Config: ClassVar = FastInstConfig
    score_threshold: ClassVar = 0.5

    def __init__(self, config: FastInstConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        self.sem_seg_head = Head(config, self.backbone.channels)
        self.criterion = ClassWeights(config.num_classes)
        for name, values in (("pixel_mean", config.pixel_mean), ("pixel_std", config.pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) 0..255 to the network's input, zero-padded right and bottom."""
        divisor = self.config.size_divisibility
        pad_h, pad_w = (-images.shape[2] % divisor, -images.shape[3] % divisor)
        images = (images.float() - self.pixel_mean) / self.pixel_std
        return F.pad(images, (0, pad_w, 0, pad_h)) if pad_h or pad_w else images

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Normalised images (B, 3, H, W) to the outputs of `Decoder.forward`."""
        features = self.backbone(images)
        maps = self.sem_seg_head.pixel_decoder(features)
        outputs = self.sem_seg_head.predictor(maps, features["res2"])
        return outputs | {"features": features, "maps": maps}

    def deployed(self, max_instances: int) -> Deploy:
        """The network as it runs on a robot."""
        return Deploy(self, max_instances)


class Deploy(nn.Module):
    """The network as it runs on a robot: picture in, the M best instances out, no dynamic shape.

    Top-k over the Q x K class scores and the gather of mask kernels come before the mask product,
    so only M masks are computed (§6). Scores follow §3.5: class probability times the mean of the
    mask's sigmoid over its positive pixels, here at mask resolution.
    """

    def __init__(self, network: FastInst, max_instances: int) -> None:
        super().__init__()
        self.network = network
        self.max_instances = max_instances

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (1, H, W, 3) RGB to scores (M,), labels (M,) int32, masks (M, h, w) logits."""
        network = self.network
        picture = image.permute(0, 3, 1, 2).float()  # bytes are moved faster than floats
        features = network.backbone(network.normalise(picture))
        decoder = network.sem_seg_head.predictor
        start = decoder.start(network.sem_seg_head.pixel_decoder(features))
        states = decoder.run_layers(start)
        last = states[-1] if states else start
        logits, kernels = decoder.kernels(decoder.num_layers, last["query"])
        classes = network.config.num_classes
        probabilities = logits[0].softmax(-1)[:, :classes].flatten()
        top, index = probabilities.topk(self.max_instances)
        rows = torch.div(index, classes, rounding_mode="floor")
        layer, pixels, size_hw = decoder.mask_pixels(
            decoder.num_layers, last["pixel"], start["size_hw"], features["res2"]
        )
        masks = mask_logits(kernels[0].index_select(0, rows), layer, pixels[0], size_hw)
        inside = positive(masks)
        quality = (masks.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
        labels = (index - rows * classes).to(torch.int32)
        return top * quality, labels, masks
