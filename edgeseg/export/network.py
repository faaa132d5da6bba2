"""Torch networks out of bundles, and their deployed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgeseg.bundle import ModelSpec
from edgeseg.errors import BundleError, InputError
from edgeseg.export.weights import load_state, read_weights
from edgeseg.zoo import build
from edgeseg.zoo.fastinst import FastInstConfig
from edgeseg.zoo.knet import KNetConfig


def restore(folder: Path, spec: ModelSpec) -> nn.Module:
    """The torch network of a verified bundle, float32, in eval mode.

    Raises:
        BundleError: the bundle ships no torch weights, or weights of another network.
    """
    network = network_of(spec.family, spec.network)
    path = weights_file(folder, spec)
    load_state(network, read_weights(path), path.name)
    return network


def weights_file(folder: Path, spec: ModelSpec) -> Path:
    """The torch weights of a bundle.

    Raises:
        BundleError: the bundle ships none.
    """
    if not spec.weights:
        raise BundleError(
            f"got bundle {spec.name!r} without torch weights; wanted some; "
            "use the bundle that 'edgeseg export' or 'edgeseg convert' wrote"
        )
    return folder / spec.weights


def network_of(family: str, settings: Mapping[str, Any]) -> nn.Module:
    """An untrained network of ``family``, in eval mode.

    Raises:
        BundleError: settings that the family doesn't know.
    """
    try:
        return build(family, **settings).eval()
    except (TypeError, ValueError, KeyError) as error:
        raise BundleError(
            f"got network settings that {family} can't use ({error}); wanted those that an "
            "export wrote; export the bundle again"
        ) from error


def deployed(network: Any, spec: ModelSpec) -> nn.Module:
    """The network as it runs on a robot: uint8 (1, H, W, 3) to scores, labels, masks.

    Raises:
        InputError: an input size or ``max_instances`` that the network can't have.
    """
    check_size(network.config, spec.input_hw, spec.max_instances)
    return network.deployed(spec.max_instances).eval()


def check_size(
    config: FastInstConfig | KNetConfig, input_hw: tuple[int, int], max_instances: int
) -> None:
    """Refuse sizes that a network of ``config`` can't have.

    Raises:
        InputError: an input size or ``max_instances`` that the network can't have.
    """
    step = max(config.size_divisibility, 16)
    height, width = input_hw
    if height % step or width % step:
        raise InputError(
            f"got input size {width}x{height}; wanted multiples of {step}; "
            f"try {-(-width // step) * step}x{-(-height // step) * step}"
        )
    cells = (height // 16) * (width // 16)
    if isinstance(config, FastInstConfig) and cells < config.num_queries:
        raise InputError(
            f"got input size {width}x{height} with {config.num_queries} queries; wanted at least "
            "as many cells of 16x16 pixels; choose a larger input"
        )
    if max_instances > config.num_queries * config.num_classes:
        raise InputError(
            f"got max_instances {max_instances}; wanted at most {config.num_queries} queries "
            f"times {config.num_classes} classes; choose fewer"
        )
