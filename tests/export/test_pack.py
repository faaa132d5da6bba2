"""Bundles made from networks, training checkpoints and other bundles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_networks import COLOURS, TINY, tiny_network

from edgeseg.bundle import read, write
from edgeseg.errors import BundleError, EdgesegError, InputError, OutputError
from edgeseg.export.check import check, drawn
from edgeseg.export.network import restore
from edgeseg.export.pack import export_bundle, pack, spec_of
from edgeseg.zoo.fastinst import FastInst


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden things too."""
    return sorted(path.name for path in folder.iterdir())


def test_the_spec_describes_the_network() -> None:
    spec = spec_of(tiny_network(), "tiny", COLOURS, input_hw=(64, 96), licence="MIT")
    assert (spec.max_instances, spec.mask_stride, spec.mask_hw) == (12, 4, (16, 24))
    assert spec.pad_value == (124, 116, 104)
    assert spec.licence == "MIT"


def test_torch_gets_its_weights_back(tiny: Path) -> None:
    network = restore(tiny, read(tiny))
    assert not network.training
    for key, tensor in tiny_network().state_dict().items():
        torch.testing.assert_close(network.state_dict()[key], tensor, rtol=0, atol=0)


def test_a_bundle_at_another_size(tiny: Path, tmp_path: Path) -> None:
    spec = export_bundle(tiny, tmp_path / "large", input_hw=(128, 160), max_instances=5)
    assert (spec.name, spec.input_hw, spec.mask_hw) == ("large", (128, 160), (32, 40))
    assert spec == read(tmp_path / "large")
    weights = [f / "weights.safetensors" for f in (tiny, tmp_path / "large")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert check(tmp_path / "large", pictures=[drawn(120, 160, 1)]).ok


def test_a_checkpoint_of_training(tmp_path: Path) -> None:
    network = tiny_network()
    content = {
        "model": network.state_dict(),
        "network": network.config.to_dict(),
        "classes": list(COLOURS),
        "input_hw": [64, 96],
        "position": [10, 160, 3.5, 0.1],
    }
    torch.save(content, tmp_path / "best.pt")
    spec = export_bundle(tmp_path / "best.pt", tmp_path / "b")
    assert (spec.input_hw, spec.classes, spec.family) == ((64, 96), COLOURS, "fastinst")
    assert spec.source == "edgeseg train"
    assert spec.licence == "Apache-2.0"
    stored = restore(tmp_path / "b", spec).state_dict()
    for key, tensor in network.state_dict().items():
        exact = tensor.half().float() if tensor.ndim >= 2 else tensor
        torch.testing.assert_close(stored[key], exact, rtol=0, atol=0)


REFUSED: list[tuple[dict[str, object], type[EdgesegError], str]] = [
    (
        {"input_hw": (72, 96)},
        InputError,
        "got input size 96x72; wanted multiples of 16; try 96x80",
    ),
    (
        {"input_hw": (32, 48)},
        InputError,
        "got input size 48x32 with 12 queries; wanted at least as many cells of 16x16 pixels; "
        "choose a larger input",
    ),
    (
        {"max_instances": 37},
        InputError,
        "got max_instances 37; wanted at most 12 queries times 3 classes; choose fewer",
    ),
    (
        {"max_instances": 0},
        BundleError,
        "got max_instances 0; wanted 1..1000; correct that field",
    ),
    (
        {"input_hw": (66, 96)},
        InputError,
        "got input size 96x66; wanted multiples of 16; try 96x80",
    ),
    (
        {"input_hw": (0, 0)},
        InputError,
        "got input size 0x0 with 12 queries; wanted at least as many cells of 16x16 pixels; "
        "choose a larger input",
    ),
]


@pytest.mark.parametrize(("settings", "kind", "text"), REFUSED)
def test_a_size_that_the_network_cannot_have(
    tiny: Path, tmp_path: Path, settings: dict[str, object], kind: type[EdgesegError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        export_bundle(tiny, tmp_path / "b", **settings)
    assert str(caught.value) == text
    assert names(tmp_path) == []


def test_a_bundle_without_torch_weights(tiny: Path, tmp_path: Path) -> None:
    spec = replace(read(tiny), weights="", name="bare")
    write(tmp_path / "bare", spec, {"model.onnx": tiny / "model.onnx"})
    with pytest.raises(BundleError, match="got bundle 'bare' without torch weights; wanted some"):
        export_bundle(tmp_path / "bare", tmp_path / "b")


def test_an_official_checkpoint_is_told_where_to_go(tmp_path: Path) -> None:
    torch.save({"model": tiny_network().state_dict()}, tmp_path / "model_final.pth")
    with pytest.raises(BundleError, match="for an official checkpoint use 'edgeseg convert'"):
        export_bundle(tmp_path / "model_final.pth", tmp_path / "b")


def test_settings_that_the_family_does_not_know(tiny: Path, tmp_path: Path) -> None:
    spec = replace(read(tiny), network={"layers": 3})
    files = {name: tiny / name for name in ("model.onnx", "weights.safetensors")}
    write(tmp_path / "odd", spec, files)
    with pytest.raises(BundleError, match="got network settings that fastinst can't use"):
        export_bundle(tmp_path / "odd", tmp_path / "b")


def test_weights_of_another_network(tiny: Path, tmp_path: Path) -> None:
    settings = replace(TINY, num_queries=16).to_dict()
    files = {name: tiny / name for name in ("model.onnx", "weights.safetensors")}
    write(tmp_path / "odd", replace(read(tiny), network=settings), files)
    with pytest.raises(BundleError) as caught:
        export_bundle(tmp_path / "odd", tmp_path / "b")
    assert str(caught.value) == (
        "got weights.safetensors with 1 wrongly shaped keys "
        "(sem_seg_head.predictor.meta_pos_embed (1, 32, 3, 3) instead of (1, 32, 4, 4)); "
        "wanted the weights of this network; choose the variant that they were trained as"
    )


def test_an_output_that_exists_is_refused_before_the_work(tiny: Path) -> None:
    with pytest.raises(OutputError, match="which is there already"):
        pack(FastInst(TINY), spec_of(FastInst(TINY), "t", COLOURS, input_hw=(64, 96)), tiny)


def test_packing_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = tiny_network()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    pack(network, spec_of(network, "b", COLOURS, input_hw=(64, 96)), tmp_path / "b", half=True)
    for key, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[key].numpy())
