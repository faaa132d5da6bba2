"""What a training run minimises, by family; and its network, ready to train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgeseg import bundle as bundles
from edgeseg.errors import BundleError, unknown
from edgeseg.export.network import weights_file
from edgeseg.export.weights import read_checkpoint, read_weights, weights_of
from edgeseg.train.knet_losses import KNetCriterion
from edgeseg.train.losses import Criterion, CriterionConfig
from edgeseg.train.matcher import MatcherConfig
from edgeseg.zoo import build, fastinst, knet

Objects = Sequence[dict[str, Tensor]]
Objective = Callable[[Any, Tensor, Objects, bool], dict[str, Tensor]]
"""Network, normalised images (B, 3, H, W), targets, whether the run is in its late part: losses."""

LOSSES = CriterionConfig(
    num_points=1024,
    oversample_ratio=1.5,
    uncertain_ratio=0.4375,
    box_ratio=0.4375,
    matcher=MatcherConfig(location_weight=100.0, num_points=0),
)
"""Losses for small networks: few points, half of them round the object; matching on whole maps."""
FAMILIES = {
    name: family
    for family, table in (("fastinst", fastinst.VARIANTS), ("knet", knet.VARIANTS))
    for name, known in table.items()
    if not getattr(known, "num_stuff", 0)  # the datasets have things only
}
VARIANTS: dict[str, Any] = {
    name: (fastinst.VARIANTS if family == "fastinst" else knet.VARIANTS)[name]
    for name, family in FAMILIES.items()
}
"""Networks that can be trained."""


def build_network(variant: str, num_classes: int) -> Any:
    """A network ready to train: few of its candidates are expected to hold an object.

    Raises:
        InputError: no such variant.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    config = replace(VARIANTS[variant], num_classes=num_classes)
    network: Any = build(FAMILIES[variant], **config.to_dict())
    if FAMILIES[variant] == "fastinst":
        proposal = network.sem_seg_head.predictor.query_proposal.conv_proposal_cls_logits[-1]
        nn.init.constant_(proposal.bias[-1:], 3.5)
    return network


def take_backbone(network: Any, source: str) -> None:
    """Start with the backbone of another network.

    Args:
        network: changed.
        source: a packaged bundle, a bundle folder, or a checkpoint.

    Raises:
        BundleError: no such file, or its backbone is another one.
    """
    path = Path(source)
    if path.is_file():
        state = weights_of(read_checkpoint(path), path)
    else:
        folder = bundles.find(source)
        state = read_weights(weights_file(folder, bundles.read(folder)))
    prefix, wanted = "backbone.", network.backbone.state_dict()
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    shapes = {key: tensor.shape for key, tensor in state.items()}
    if shapes != {key: tensor.shape for key, tensor in wanted.items()}:
        raise BundleError(
            f"got {source} with another backbone; wanted the one of this variant; choose another "
            "network to start from, or leave it out"
        )
    network.backbone.load_state_dict(state)


def objective(family: str) -> Objective:
    """The losses of a family; their sum is minimised."""
    return FastInstObjective() if family == "fastinst" else KNetObjective()


class FastInstObjective:
    """Losses of FastInst; late in the run with its GT-mask-guided branch."""

    def __init__(self) -> None:
        self.criterion = Criterion(LOSSES)

    def __call__(
        self, network: Any, images: Tensor, targets: Objects, late: bool
    ) -> dict[str, Tensor]:
        """See `Objective`."""
        outputs = network(images)
        decoder = network.sem_seg_head.predictor

        def guide(blocked: Tensor) -> list[dict[str, Tensor]]:
            return decoder.guided(outputs, decoder.with_auxiliary(blocked))

        return self.criterion(outputs, targets, guide if late else None)


class KNetObjective:
    """Losses of K-Net, the official ones."""

    def __init__(self) -> None:
        self.criterion = KNetCriterion()

    def __call__(
        self, network: Any, images: Tensor, targets: Objects, late: bool
    ) -> dict[str, Tensor]:
        """See `Objective`."""
        return self.criterion(network(images), targets)
