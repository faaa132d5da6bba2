"""K-Net as a bundle: operators, agreement with torch, sums that survive float16 and INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_networks import ALLOWED, COLOURS
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from parity.fixture import Fixture, fill_knet, of
from parity.official_knet import config_of, is_semantic

from edgeseg.bundle import read
from edgeseg.decode.queries import QueryDecoder
from edgeseg.engines.ort import onnxruntime
from edgeseg.errors import BundleError, InputError
from edgeseg.export.check import check, drawn
from edgeseg.export.checkpoints import OFFICIAL, convert
from edgeseg.export.fold import folded
from edgeseg.export.half import FLOAT, for_tensorrt
from edgeseg.export.network import deployed
from edgeseg.export.pack import export_bundle, pack, spec_of
from edgeseg.export.quantize import layers, quantized
from edgeseg.letterbox import fit
from edgeseg.train.knet_postprocess import instances, restore
from edgeseg.zoo import build
from edgeseg.zoo.knet import VARIANTS, KNet, KNetConfig
from edgeseg.zoo.knet_update import SCALE, KernelUpdator, gather, inside
from edgeseg.zoo.layers import doubled

OPERATORS = ALLOWED | {"Split"}
KINDS: dict[str, dict[str, Any]] = {
    "official": {"norm": "GN", "num_stages": 2},
    "nano": {"norm": "BN", "light": True, "fine_dim": 16},
    "stride 4": {"norm": "BN", "feature_stride": 4},
    "things of a panoptic one": {"norm": "GN", "num_stuff": 4},
}
DETECTORS = [f for f in of("knet", "model") if not is_semantic(f)]


def tiny(**changes: Any) -> KNet:
    """An untrained K-Net of 12 kernels and 3 classes, with lively outputs."""
    torch.manual_seed(5)
    small = {"backbone": "resnet18d", "width": 8, "num_classes": 3, "num_kernels": 12}
    size = {"hidden_dim": 64, "num_heads": 4, "ffn_dim": 96, "size_divisibility": 1}
    network = KNet(KNetConfig(**{**small, **size, **changes}))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5)
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.3)
            if "rpn_head" in name and tensor.ndim == 4:
                tensor.normal_(0, tensor[0].numel() ** -0.5)
    return network.eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knet") / "nano"
    network = tiny(**KINDS["nano"])
    pack(network, spec_of(network, "nano", COLOURS, input_hw=(80, 96)), folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("input_hw", [(64, 96), (80, 112)])
def test_torch_and_onnx_runtime_agree(kind: str, input_hw: tuple[int, int], tmp_path: Path) -> None:
    network = tiny(**KINDS[kind])
    spec = pack(network, spec_of(network, "b", COLOURS, input_hw=input_hw), tmp_path / "b")
    assert (spec.family, spec.score_threshold) == ("knet", 0.3)
    assert spec.mask_stride == (2 if kind == "stride 4" else 4)
    report = check(tmp_path / "b", pictures=[drawn(*input_hw, seed) for seed in (1, 2)])
    print(report.table())
    assert all(row.verdict == "ok" and row.mask < 1e-3 for row in report.rows)
    model = onnx.load(tmp_path / "b" / "model.onnx", load_external_data=False)
    assert {node.op_type for node in model.graph.node} - OPERATORS == set()


@pytest.mark.parametrize("kind", KINDS)
def test_deployed_is_the_best_of_the_whole(kind: str) -> None:
    """Top-k before the mask product gives the rows of the whole network's outputs."""
    network = tiny(**KINDS[kind])
    picture = torch.from_numpy(drawn(64, 96, 3))[None]
    with torch.no_grad():
        scores, labels, masks = network.deployed(20)(picture)
        last = network(network.normalise(picture.permute(0, 3, 1, 2)))["stages"][-1]
    top, index = last["logits"][0, :12, :3].sigmoid().flatten().topk(20)
    torch.testing.assert_close(scores, top)
    assert labels.dtype == torch.int32 and labels.tolist() == (index % 3).tolist()
    chosen = last["masks"][:, index // 3]
    if kind != "nano":
        chosen = doubled(chosen).sigmoid() - 0.5
    torch.testing.assert_close(masks, chosen[0], rtol=1e-4, atol=1e-4)


def test_masks_are_the_official_ones() -> None:
    """Deployed and decoded: those of the official post-processing, to the pixel."""
    network = tiny(**KINDS["official"])
    spec = spec_of(network, "t", COLOURS, input_hw=(96, 128), max_instances=20)
    picture, geometry = drawn(96, 128, 3)[None], fit((270, 480), (96, 128))
    with torch.no_grad():
        deployed = network.deployed(20)(torch.from_numpy(picture))
        images = network.normalise(torch.from_numpy(picture).permute(0, 3, 1, 2))
        last = network(images)["stages"][-1]
    outputs = dict(zip(("scores", "labels", "masks"), (a.numpy() for a in deployed), strict=True))
    got = QueryDecoder(spec, score_threshold=0)(outputs, geometry)
    probability = restore(
        last["masks"][0], geometry.input_hw, geometry.scaled_hw, geometry.frame_hw
    )
    wanted = instances(last["logits"][0, :12], probability, 20)
    masks = [mask for mask in wanted.masks.numpy() if mask.any()]
    assert len(got) == len(masks) > 5
    for i, mask in enumerate(masks):
        assert (got.mask(i) != mask).sum() <= 1


def test_a_light_pyramid_reads_nothing_of_stride_4() -> None:
    network = tiny(norm="BN", light=True)
    picture = network.normalise(torch.rand(1, 3, 64, 96) * 255)
    features = network.backbone(picture)
    maps = network.neck([features[stage] for stage in network.config.levels])
    assert [tuple(one.shape[2:]) for one in maps] == [(8, 12), (4, 6), (2, 3)]
    assert network.rpn_head(maps)["x"].shape == (1, 64, 8, 12)


def test_only_the_last_stage_has_fine_masks() -> None:
    network = tiny(**KINDS["nano"])
    stages = network(network.normalise(torch.rand(1, 3, 64, 96) * 255))["stages"]
    assert [stage["masks"].shape[2:] for stage in stages] == [(8, 12), (8, 12), (16, 24)]
    assert [stage.fc_mask.out_features for stage in network.roi_head.mask_head] == [64, 64, 16]


@pytest.mark.parametrize("fixture", DETECTORS, ids=str)
def test_official_from_checkpoint_to_onnx_runtime(fixture: Fixture, tmp_path: Path) -> None:
    """With the weights of the parity fixture, in the layout that mmdetection writes."""
    config = config_of(fixture.facts["model_hyper_parameters"])
    variants = [name for name, known in OFFICIAL["knet"].variants.items() if known == config]
    if not variants:
        pytest.skip("not a network for bundles")
    network = KNet(config)
    fill_knet(network, fixture)
    names = tuple(f"part {i}" for i in range(80))
    meta = {"CLASSES": names, "epoch": 12, "config": "model = dict()"}
    path = tmp_path / "knet_s3_r50_fpn_1x_coco.pth"
    torch.save({"meta": meta, "state_dict": network.state_dict(), "optimizer": {}}, path)
    input_hw = fixture.facts["preprocess"]["batch_input_shape"]
    spec = convert(path, "knet", variants[0], tmp_path / "b", input_hw=tuple(input_hw))
    assert (spec.family, spec.mask_stride, spec.classes) == ("knet", 4, names)
    assert spec.licence == "Apache-2.0" and "K-Net r50" in spec.source
    report = check(tmp_path / "b", pictures=[fixture.arrays["image_rgb"][..., ::-1].copy()])
    print(report.table())
    assert [row.verdict for row in report.rows] == ["ok"]


def skeleton(variant: str) -> dict[str, torch.Tensor]:
    """Keys and shapes of a variant; one number, expanded, keeps its file small."""
    with torch.device("meta"):
        keys = build("knet", **VARIANTS[variant].to_dict()).state_dict()
    return {key: torch.zeros(()).expand(tensor.shape) for key, tensor in keys.items()}


OTHERS = {
    ("r101", "r50"): "got {path} which is knet r101; wanted r50; use --variant r101",
    ("r101-dcn", "r101"): "got {path} which is knet r101-dcn; wanted r101; use --variant r101-dcn",
    ("r50-panoptic", "r50"): "got {path} which is knet r50-panoptic; wanted r50; a bundle holds "
    "networks for instances only, run that one in torch",
}


@pytest.mark.parametrize(("got", "wanted"), OTHERS)
def test_another_variant_is_named(tmp_path: Path, got: str, wanted: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": skeleton(got)}, path)
    with pytest.raises(BundleError) as caught:
        convert(path, "knet", wanted, tmp_path / "b")
    assert str(caught.value) == OTHERS[got, wanted].format(path=path)


def test_a_semantic_checkpoint_is_named(tmp_path: Path) -> None:
    key = "decode_head.kernel_generate_head.conv_seg.weight"
    torch.save({"state_dict": {key: torch.zeros(2)}}, tmp_path / "model.pth")
    with pytest.raises(BundleError, match="looks like knet for semantic segmentation; wanted knet"):
        convert(tmp_path / "model.pth", "knet", "r50", tmp_path / "b")


def test_class_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    meta = {"CLASSES": ("person", "bicycle")}
    torch.save({"meta": meta, "state_dict": skeleton("r50")}, tmp_path / "model.pth")
    with pytest.raises(BundleError, match=r"with 2 class names \(person, bicycle\); wanted 80"):
        convert(tmp_path / "model.pth", "knet", "r50", tmp_path / "b")


def test_a_variant_that_is_not_official(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got variant 'knet-nano'; wanted one of r101, r101-dcn"):
        convert(tmp_path / "model.pth", "knet", "knet-nano", tmp_path / "b")


def test_a_checkpoint_of_training_keeps_its_family(tmp_path: Path) -> None:
    network = tiny(**KINDS["nano"])
    content = {"model": network.state_dict(), "network": network.config.to_dict()}
    content |= {"family": "knet", "classes": list(COLOURS), "input_hw": [64, 96]}
    torch.save(content, tmp_path / "best.pt")
    spec = export_bundle(tmp_path / "best.pt", tmp_path / "b")
    assert read(tmp_path / "b") == spec
    assert (spec.family, spec.mask_hw) == ("knet", (16, 24))


# ------------------------------------------------------------------------- sums over a picture
def unscaled(updator: KernelUpdator, gathered: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """The update as the specification has it, without a factor."""
    u = updator
    a, b = u.dynamic_layer(gathered).chunk(2, -1)
    c, d = u.input_layer(kernels).chunk(2, -1)
    keep = u.input_norm_in(u.input_gate(a * c)).sigmoid()
    update = u.norm_in(u.update_gate(a * c)).sigmoid()
    mixed = update * u.norm_out(b) + keep * u.input_norm_out(d)
    return u.fc_norm(u.fc_layer(mixed)).relu()


@pytest.mark.parametrize("pixels", [1, 50, 100_000])
def test_the_factor_of_gathered_features_is_exact(pixels: int) -> None:
    torch.manual_seed(0)
    updator, features = KernelUpdator(32), torch.randn(1, 32, 400, 300)
    kernels, masks = torch.randn(1, 5, 32), torch.full((1, 5, 400, 300), -1.0)
    masks.flatten(2)[..., :pixels] = 1.0
    gathered = gather(inside(masks), features)
    with torch.no_grad():
        ours = updator(gathered, kernels)
        torch.testing.assert_close(
            ours, unscaled(updator, gathered / SCALE, kernels), rtol=0, atol=0
        )


def test_a_mask_of_the_whole_picture_fits_in_float16() -> None:
    features = torch.full((1, 32, 60, 80), 50.0)  # 4800 cells
    gathered = gather(inside(torch.ones(1, 1, 60, 80)), features)
    assert gathered.half().isfinite().all()
    assert not (gathered / SCALE).half().isfinite().all()


def test_float16_agrees(bundle: Path) -> None:
    network = for_tensorrt(folded(bundle / "model.onnx").finish())
    picture = drawn(80, 96, 4)[None]
    full, half = (
        onnxruntime.InferenceSession(model).run(None, {"image": picture})
        for model in (str(bundle / "model.onnx"), network.SerializeToString())
    )
    np.testing.assert_allclose(half[0], full[0], atol=0.05)
    assert np.isfinite(half[2]).all()
    assert float(np.corrcoef(half[2].ravel(), full[2].ravel())[0, 1]) > 0.99


def test_large_masks_of_large_features_fit_in_float16(tmp_path: Path) -> None:
    """ONNX's reference keeps float16 as strictly as TensorRT does; ONNX Runtime doesn't."""
    network, picture = tiny(**KINDS["nano"], num_stages=2), drawn(64, 96, 4)[None]
    with torch.no_grad():
        network.rpn_head.init_kernels.weight.abs_()  # features are positive: all is inside
        for convs in (network.rpn_head.loc_convs, network.rpn_head.seg_convs):
            convs[0].bn.weight.mul_(600)
        start = network.start(network.normalise(torch.from_numpy(picture).permute(0, 3, 1, 2)))
        wanted = network.deployed(12)(torch.from_numpy(picture))[0]
    assert (start["masks"] > 0).all()
    assert start["x"].max() < 65504 < start["kernels"].max(), "of float16, and more than it holds"
    pack(network, spec_of(network, "b", COLOURS, input_hw=(64, 96)), tmp_path / "b")
    half = for_tensorrt(folded(tmp_path / "b" / "model.onnx").finish())
    scores, _, masks = ReferenceEvaluator(half).run(None, {"image": picture})
    np.testing.assert_allclose(scores, wanted, atol=0.02)
    assert np.isfinite(masks).all()


def test_sums_are_float32_beside_int8_too(bundle: Path) -> None:
    graph = folded(bundle / "model.onnx")
    chosen = layers(graph)
    ranges = {name: 1.0 for layer in chosen for name in layer.tensors}
    model = onnx.shape_inference.infer_shapes(for_tensorrt(quantized(graph, chosen, ranges)))
    types = {one.name: one.type.tensor_type.elem_type for one in model.graph.value_info}
    sums = [name for name in types if ".kernel_update_conv/" in name and "/half" not in name]
    assert len(sums) > 30
    assert {types[name] for name in [*sums, "rpn_head/Add_2"]} <= {FLOAT, TensorProto.INT64}


def test_the_updator_stays_float(bundle: Path) -> None:
    names = [layer.name for layer in layers(folded(bundle / "model.onnx"))]
    assert any("mask_head.0.ffn" in name for name in names)
    assert any("feat_transform" in name for name in names)
    assert not [name for name in names if "kernel_update_conv" in name]


def test_deployed_form_of_every_variant_is_described() -> None:
    for name, config in VARIANTS.items():
        assert KNetConfig.from_dict(config.to_dict()) == config, name
    assert deployed(tiny(), spec_of(tiny(), "t", COLOURS, input_hw=(64, 96))).max_instances == 12


def test_large_first_kernels_stay_exact(tmp_path: Path) -> None:
    """ONNX Runtime puts the steep factor of a comparison into the convolution before it."""
    network = tiny(**KINDS["nano"])
    with torch.no_grad():
        network.rpn_head.init_kernels.weight.mul_(100)
    pack(network, spec_of(network, "b", COLOURS, input_hw=(64, 96)), tmp_path / "b")
    report = check(tmp_path / "b", pictures=[drawn(64, 96, seed) for seed in (1, 2)])
    assert all(row.verdict == "ok" for row in report.rows)
