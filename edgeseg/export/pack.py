"""From a torch network, a training checkpoint or another bundle to a bundle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from edgeseg import bundle as bundles
from edgeseg.bundle import ModelSpec
from edgeseg.errors import BundleError
from edgeseg.export.network import check_size, deployed, network_of, weights_file
from edgeseg.export.onnx import export
from edgeseg.export.weights import load_state, read_checkpoint, read_weights, write_weights

NETWORK, WEIGHTS = "model.onnx", "weights.safetensors"
TRAINED_HW = (240, 320)


def spec_of(network: Any, name: str, classes: tuple[str, ...], **fields: Any) -> ModelSpec:
    """The description of a ``network``; ``fields`` are those of `ModelSpec`."""
    config = network.config
    mean = tuple(round(value) for value in config.pixel_mean)
    standard: dict[str, Any] = {
        "name": name,
        "family": network.family,
        "task": "instance",
        "input_hw": TRAINED_HW,
        "colour": "rgb",
        "pad_value": mean,  # the nearest to the 0 after normalisation of the official padding
        "classes": classes,
        "max_instances": config.num_queries,
        "mask_stride": config.mask_stride,
        "score_threshold": network.score_threshold,
        "precisions": {"fp32": NETWORK},
        "weights": WEIGHTS,
        "network": config.to_dict(),
    }
    return ModelSpec(**standard | fields)


def pack(
    network: nn.Module,
    spec: ModelSpec,
    out: str | Path,
    *,
    half: bool = False,
    overwrite: bool = False,
) -> ModelSpec:
    """Write the bundle of a torch network: ``model.onnx`` and ``weights.safetensors``.

    Args:
        network: its weights are copied; not changed.
        spec: description, e.g. of `spec_of`.
        out: the bundle's folder.
        half: store kernels and matrices as float16. The bundle's network, in torch as in ONNX,
            then has the rounded weights.
        overwrite: replace an older bundle.

    Raises:
        BundleError: the network can't be exported.
        InputError: an input size or ``max_instances`` that it can't have.
        OutputError: ``out`` can't be written.
    """
    bundles.check_target(out, overwrite)
    with TemporaryDirectory(prefix="edgeseg-") as scratch:
        weights = Path(scratch) / WEIGHTS
        write_weights(weights, network.state_dict(), half=half)
        return _pack(spec, weights, out, overwrite)


def _pack(spec: ModelSpec, weights: Path, out: str | Path, overwrite: bool) -> ModelSpec:
    """Write the bundle of a weights file; its ONNX file is made beside it."""
    network = network_of(spec.family, spec.network)
    load_state(network, read_weights(weights), weights.name)
    path = weights.with_name(NETWORK)
    export(deployed(network, spec), spec, path, weights)
    return bundles.write(out, spec, {NETWORK: path, WEIGHTS: weights}, overwrite=overwrite)


def export_bundle(
    source: str | Path,
    out: str | Path,
    *,
    input_hw: tuple[int, int] | None = None,
    max_instances: int | None = None,
    half: bool = True,
    overwrite: bool = False,
) -> ModelSpec:
    """Write a bundle from a checkpoint of ``edgeseg train``, or from another bundle.

    Args:
        source: ``best.pt`` of a training run; or a bundle, for another input size.
        out: the new bundle's folder.
        input_hw: network input, pixels; as in ``source`` when left out.
        max_instances: rows of the outputs; as in ``source`` when left out.
        half: store weights as float16. A bundle's weights are always taken as they are.
        overwrite: replace an older bundle.

    Raises:
        BundleError: ``source`` is neither, or damaged.
        InputError: an input size or ``max_instances`` that the network can't have.
        OutputError: ``out`` can't be written.
    """
    bundles.check_target(out, overwrite)
    if Path(source).is_file():
        network, spec = read_trained(Path(source))
        spec = _changed(network, spec, out, input_hw, max_instances)
        return pack(network, spec, out, half=half, overwrite=overwrite)
    folder = bundles.find(source)
    spec = bundles.read(folder)
    weights = weights_file(folder, spec)
    spec = replace(spec, precisions={"fp32": NETWORK}, weights=WEIGHTS)
    spec = _changed(network_of(spec.family, spec.network), spec, out, input_hw, max_instances)
    with TemporaryDirectory(prefix="edgeseg-") as scratch:
        return _pack(spec, shutil.copyfile(weights, Path(scratch) / WEIGHTS), out, overwrite)


def _changed(
    network: nn.Module,
    spec: ModelSpec,
    out: str | Path,
    input_hw: tuple[int, int] | None,
    max_instances: int | None,
) -> ModelSpec:
    """``spec`` with the name of ``out`` and the sizes that were asked for."""
    size = spec.input_hw if input_hw is None else input_hw
    rows = spec.max_instances if max_instances is None else max_instances
    check_size(network.config, size, rows)
    return replace(spec, name=Path(out).name, input_hw=size, max_instances=rows)


def read_trained(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Network and description of a checkpoint of ``edgeseg train``.

    Raises:
        BundleError: another file; an official checkpoint is told to go to ``edgeseg convert``.
    """
    state = read_checkpoint(path)
    if not {"model", "network", "classes"} <= state.keys():
        raise BundleError(
            f"got {path} which 'edgeseg train' did not write; wanted its best.pt; "
            "for an official checkpoint use 'edgeseg convert'"
        )
    network = network_of(state.get("family", "fastinst"), state["network"])
    load_state(network, state["model"], path.name)
    spec = spec_of(
        network,
        path.parent.name or "model",
        tuple(state["classes"]),
        input_hw=tuple(state.get("input_hw", TRAINED_HW)),
        source="edgeseg train",
        licence="Apache-2.0",
    )
    return network, spec
