"""Official checkpoints: real files in both formats, strict keys, no code run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgeseg.bundle import read
from edgeseg.errors import BundleError, EdgesegError, InputError, OutputError
from edgeseg.export.checkpoints import OFFICIAL, convert, looks_like
from edgeseg.export.coco import COCO_CLASSES
from edgeseg.export.network import restore
from edgeseg.zoo.fastinst import VARIANTS, FastInst

SMALL = (192, 256)
FASTINST, KNET = OFFICIAL["fastinst"].variants, OFFICIAL["knet"].variants


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The state dict of an R50-D1 with untrained weights."""
    torch.manual_seed(0)
    return FastInst(VARIANTS["r50-d1"]).state_dict()


def detectron2(state: dict[str, Tensor]) -> dict[str, Any]:
    """What detectron2 writes: optimiser and scheduler state beside the weights."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.AdamW([parameter], lr=1e-4)
    parameter.sum().backward()
    optimiser.step()
    return {
        "model": state,
        "optimizer": optimiser.state_dict(),
        "scheduler": {"base_lrs": [1e-4], "last_epoch": 368750, "_step_count": 368751},
        "iteration": 368749,
    }


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "fastinst_R50_x1.pth"
    torch.save(detectron2(state), path)
    return path


# ---------------------------------------------------------------------------------- what works
def test_a_detectron2_checkpoint_becomes_a_bundle(
    checkpoint: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    spec = convert(checkpoint, "fastinst", "r50-d1", tmp_path / "r50", input_hw=SMALL)
    assert spec == read(tmp_path / "r50")
    assert (spec.family, spec.input_hw, spec.mask_stride) == ("fastinst", SMALL, 8)
    assert (spec.max_instances, spec.pad_value) == (100, (124, 116, 104))
    assert spec.classes == COCO_CLASSES
    assert "fastinst_R50_x1.pth" in spec.source
    assert spec.licence == "MIT"
    stored = restore(tmp_path / "r50", spec).state_dict()
    assert list(stored) == list(state)
    for key in state:
        torch.testing.assert_close(stored[key], state[key], rtol=0, atol=0)


@pytest.mark.slow
def test_safetensors_give_the_same_bundle(
    checkpoint: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "r50.safetensors")
    one = convert(checkpoint, "fastinst", "r50-d1", tmp_path / "a", input_hw=SMALL)
    two = convert(
        tmp_path / "r50.safetensors", "fastinst", "r50-d1", tmp_path / "b", input_hw=SMALL
    )
    assert one.files == two.files


@pytest.mark.slow
def test_older_extras_and_half_precision_are_accepted(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    halved = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    config = VARIANTS["r50-d1"]
    extras = {
        name: torch.tensor(getattr(config, name)).view(3, 1, 1)
        for name in ("pixel_mean", "pixel_std")
    }
    torch.save(
        {"model": {**extras, **halved}},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
    spec = convert(tmp_path / "old.pth", "fastinst", "r50-d1", tmp_path / "b", input_hw=SMALL)
    assert restore(tmp_path / "b", spec).state_dict().keys() == state.keys()


def test_coco_has_eighty_classes() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[39], COCO_CLASSES[-1]) == (
        "person",
        "bottle",
        "toothbrush",
    )


# ------------------------------------------------------------------------------ what is refused
class Malicious:
    """A pickle that runs a command when it is loaded by ``pickle.load``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("layout", ["torch.save", "legacy torch.save", "plain pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    state: dict[str, Tensor], tmp_path: Path, layout: str
) -> None:
    marker, path = tmp_path / "executed", tmp_path / "model.pth"
    content = {"model": dict(list(state.items())[:2]), "extra": Malicious(marker)}
    if layout == "plain pickle":
        path.write_bytes(pickle.dumps({"model": {}, "extra": Malicious(marker)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "torch.save")
    with pytest.raises(BundleError) as caught:
        convert(path, "fastinst", "r50-d1", tmp_path / "b")
    assert str(caught.value) == (
        f"got {path} with code in it (posix.system), which was not run; wanted weights only; "
        "save its state dict as .safetensors where you trust it"
    )
    assert not marker.exists()
    assert not (tmp_path / "b").exists()


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _save(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def _truncate(path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(100_000)}}, path)
    path.write_bytes(path.read_bytes()[:200_000])


NO_CHECKPOINT = "got {path} which is no checkpoint, or a damaged one; wanted a file of torch.save"
FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("model.pth", lambda p: None, "got no file '{path}'; wanted a checkpoint; check"),
    "a folder": ("model.pth", lambda p: p.mkdir(), "got no file '{path}'; wanted a checkpoint"),
    "empty": ("model.pth", _write(b""), NO_CHECKPOINT),
    "text": ("model.pth", _write(b"hello, this is no checkpoint"), NO_CHECKPOINT),
    "truncated": ("model.pth", _truncate, NO_CHECKPOINT),
    "a list": ("model.pth", _save([1, 2]), "got a list in {path}; wanted a dict of weights"),
    "no tensors": (
        "model.pth",
        _save({"model": {}, "iteration": 3}),
        "got no weights in {path}, only model, iteration; wanted a state dict, at the top or "
        "under 'model' or 'state_dict'; choose another file",
    ),
    "nothing": ("model.pth", _save({}), "got no weights in {path}, only nothing; wanted a state"),
    "false safetensors": (
        "model.safetensors",
        _write(b"\xff" * 64),
        "got {path} which can't be read (",
    ),
    "empty safetensors": ("model.safetensors", _write(b""), "got {path} which can't be read ("),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, case: str) -> None:
    name, make, text = FILES[case]
    path = tmp_path / name
    make(path)
    with pytest.raises(BundleError) as caught:
        convert(path, "fastinst", "r50-d1", tmp_path / "b")
    message = str(caught.value)
    assert message.startswith(text.replace("{path}", str(path)))
    assert message.count(";") >= 2
    assert "\n" not in message


FAMILIES = {
    "maskformer": ["sem_seg_head.predictor.transformer.decoder.layers.0.linear1.weight"],
    "mask2former": ["sem_seg_head.predictor.query_feat.weight"],
    "knet": ["roi_head.mask_head.0.kernel_update_conv.dynamic_layer.weight"],
    "dynamask": ["roi_head.mask_predictor.conv.weight"],
    "a box-based detector": ["roi_heads.box_head.fc1.weight"],
    "detr": ["transformer.decoder.layers.0.linear1.weight"],
    "an image classifier": ["layer1.0.conv1.weight", "fc.weight"],
    "no network that edgeseg knows": ["encoder.weight"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_another_family_is_named(tmp_path: Path, family: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": {key: torch.zeros(2) for key in FAMILIES[family]}}, path)
    with pytest.raises(BundleError) as caught:
        convert(path, "fastinst", "r50-d1", tmp_path / "b")
    assert str(caught.value) == (
        f"got {path} which looks like {family}; wanted fastinst; choose another file or family"
    )


def skeleton(variant: str) -> dict[str, Tensor]:
    """Keys and shapes of a variant; one number, expanded, keeps its file small."""
    with torch.device("meta"):
        keys = FastInst(VARIANTS[variant]).state_dict()
    return {key: torch.zeros(()).expand(tensor.shape) for key, tensor in keys.items()}


@pytest.mark.parametrize("variant", [name for name in FASTINST if name != "r50-d3"])
def test_another_variant_is_named(tmp_path: Path, variant: str) -> None:
    path = tmp_path / "model.pth"
    torch.save(skeleton("r50-d3"), path)
    with pytest.raises(BundleError) as caught:
        convert(path, "fastinst", variant, tmp_path / "b")
    assert str(caught.value) == (
        f"got {path} which is fastinst r50-d3; wanted {variant}; use --variant r50-d3"
    )


def _without(*keys: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: [state.pop(key) for key in keys]


LAST = "sem_seg_head.predictor.class_embed_layers.1.layers.2"
KEYS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "one missing": (
        _without(f"{LAST}.bias"),
        f"got model.pth with 1 missing keys ({LAST}.bias); wanted the weights of this network; "
        "choose the variant that they were trained as",
    ),
    "the second class weights missing": (
        _without("criterion.empty_weight"),
        "got model.pth with 1 missing keys (criterion.empty_weight); wanted",
    ),
    "one too many": (
        lambda s: s.update({"sem_seg_head.extra.weight": torch.zeros(1)}),
        "got model.pth with 1 unexpected keys (sem_seg_head.extra.weight); wanted",
    ),
    "another number of classes": (
        lambda s: s.update({f"{LAST}.weight": torch.zeros(134, 256)}),
        f"got model.pth with 1 wrongly shaped keys ({LAST}.weight (134, 256) instead of "
        "(81, 256)); wanted",
    ),
    "many missing and one too many": (
        lambda s: (
            [s.pop(key) for key in list(s) if key.startswith("backbone.res5.2.conv")],
            s.update({"backbone.res6.weight": torch.zeros(1)}),
        ),
        "got model.pth with 15 missing keys (backbone.res5.2.conv1.weight, "
        "backbone.res5.2.conv1.norm.weight, backbone.res5.2.conv1.norm.bias, "
        "backbone.res5.2.conv1.norm.running_mean, backbone.res5.2.conv1.norm.running_var, "
        "and 10 more) and 1 unexpected keys (backbone.res6.weight); wanted",
    ),
    "whole numbers": (
        lambda s: s.update({f"{LAST}.weight": torch.zeros(81, 256, dtype=torch.int8)}),
        f"got model.pth with 1 wrongly typed keys ({LAST}.weight int8); wanted",
    ),
    "not a number": (
        lambda s: s.update({f"{LAST}.bias": torch.full((81,), torch.nan)}),
        f"got model.pth with NaN or infinity in {LAST}.bias; wanted numbers; get the file again,",
    ),
}


def test_pictures_normalised_otherwise_are_refused(tmp_path: Path) -> None:
    bgr = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)}
    torch.save({"model": {**skeleton("r50-d1"), **bgr}}, tmp_path / "model.pth")
    with pytest.raises(
        BundleError, match=r"with pixel_mean \[103.5\d+, .*; wanted \[123.6\d+, .*RGB"
    ):
        convert(tmp_path / "model.pth", "fastinst", "r50-d1", tmp_path / "b")


def test_another_family_is_named_before_its_pixels(tmp_path: Path) -> None:
    zeros = torch.zeros(3)
    torch.save({"model": {"pixel_mean": zeros, "roi_heads.x": zeros}}, tmp_path / "model.pth")
    with pytest.raises(BundleError, match="which looks like a box-based detector; wanted fastinst"):
        convert(tmp_path / "model.pth", "fastinst", "r50-d1", tmp_path / "b")


@pytest.mark.parametrize("case", KEYS)
def test_keys_are_strict_and_named(tmp_path: Path, case: str) -> None:
    change, text = KEYS[case]
    changed = skeleton("r50-d1")
    change(changed)
    torch.save({"model": changed}, tmp_path / "model.pth")
    with pytest.raises(BundleError) as caught:
        convert(tmp_path / "model.pth", "fastinst", "r50-d1", tmp_path / "b")
    assert str(caught.value).startswith(text)
    assert not (tmp_path / "b").exists()


SETTINGS: list[tuple[dict[str, Any], type[EdgesegError], str]] = [
    (
        {"family": "fastints"},
        InputError,
        "got family 'fastints'; wanted one of fastinst, knet; did you",
    ),
    (
        {"variant": "r50-d2"},
        InputError,
        "got variant 'r50-d2'; wanted one of r101-d3, r50-d1, r50-d3, r50vd-dcn-d1, r50vd-dcn-d3; "
        "did you mean",
    ),
    (
        {"input_hw": (480, 648)},
        InputError,
        "got input size 648x480; wanted multiples of 32; try 672x480",
    ),
    (
        {"input_hw": (96, 128)},
        InputError,
        "got input size 128x96 with 100 queries; wanted at least as many cells of 16x16 pixels",
    ),
]


@pytest.mark.parametrize(("settings", "kind", "text"), SETTINGS)
def test_settings_that_cannot_be(
    checkpoint: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    kind: type[EdgesegError],
    text: str,
) -> None:
    given = {"family": "fastinst", "variant": "r50-d1", **settings}
    with pytest.raises(kind) as caught:
        convert(checkpoint, out=tmp_path / "b", **given)
    assert str(caught.value).startswith(text)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be made in"):
        convert(checkpoint, "fastinst", "r50-d1", tmp_path / "file" / "b")


def test_looks_like_tells_our_own() -> None:
    with torch.device("meta"):
        for variant in FASTINST:
            assert looks_like(FastInst(VARIANTS[variant]).state_dict()) == "fastinst"
