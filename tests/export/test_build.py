"""Engines of TensorRT for RTX, built without a GPU, and what their build logs say of INT8."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_networks import COLOURS, tiny_network
from fake_gpu import FakeDevice
from onnx import TensorProto, helper

from edgeseg import bundle
from edgeseg.engines import cache, trt, trt_build
from edgeseg.engines.trt import engine_file, key_of, library
from edgeseg.engines.trt_build import build
from edgeseg.errors import BundleError, EngineError, InputError, MissingPartError, OutputError
from edgeseg.export import build as building
from edgeseg.export.build import Engine, build_engines
from edgeseg.export.calibrate import read_calibration
from edgeseg.export.fold import folded
from edgeseg.export.int8 import quantize
from edgeseg.export.pack import pack, spec_of
from edgeseg.export.quantize import FLOAT_MODULE, layers
from edgeseg.zoo import knet
from edgeseg.zoo.fastinst import VARIANTS, FastInst
from edgeseg.zoo.knet import KNet

Cli = Callable[..., Any]
TARGETS = ("sm86", "sm89", "sm120")


@pytest.fixture(autouse=True)
def rtx(request: pytest.FixtureRequest) -> Any:
    """TensorRT for RTX, for all but the tests that do without."""
    if "without" in request.node.name:
        return None
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs trt-rtx; run: make trt-env")
    return library("tensorrt_rtx")


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def r50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FastInst R50-D1 as published, untrained, at 320x320, with INT8."""
    torch.manual_seed(0)
    return packed(FastInst(VARIANTS["r50-d1"]).eval(), tmp_path_factory.mktemp("r50"))


@pytest.fixture(scope="module")
def knet_r50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """K-Net R50 for instances, likewise."""
    torch.manual_seed(0)
    return packed(KNet(knet.VARIANTS["r50"]).eval(), tmp_path_factory.mktemp("knet-r50"))


def packed(network: Any, root: Path) -> Path:
    """A network of 80 classes as a bundle of 320x320 with INT8."""
    classes = tuple(f"class {i}" for i in range(80))
    pack(network, spec_of(network, "float", classes, input_hw=(320, 320)), root / "float")
    clip = bundle.PACKAGED / "clip" / "tabletop.mp4"
    quantize(root / "float", root / "int8", images=clip, limit=2)
    return root / "int8"


# INT8 that is INT8.


MODELS = [*bundle.packaged(), "r50", "knet_r50"]


def meant_of(folder: Path) -> int:
    """Convolutions of a bundle in INT8: all that can be, but those that its ranges leave float."""
    left = read_calibration(folder / "calibration.json").float_layers
    possible = layers(folded(folder / "model.onnx"))
    return sum(one.kind == "conv" and one.name not in left for one in possible)


def test_how_many_convolutions_are_meant_is_known(r50: Path) -> None:
    assert meant_of(bundle.find("fastinst-nano")) == 37
    assert meant_of(r50) == 65


@pytest.mark.parametrize("model", MODELS)
def test_convolutions_meant_to_be_int8_are_int8(model: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(model) if "r50" in model else model
    engines = build_engines(source, targets=TARGETS, precisions=["int8"], say=silent)
    assert [engine.target for engine in engines] == list(TARGETS)
    meant = meant_of(bundle.find(source))
    for engine in engines:
        convolutions = [one for one in engine.layers if one.kind == "correlation"]
        assert len(convolutions) >= meant + 1, "the first one stays float"
        assert engine.meant == meant
        assert engine.share >= 0.95, engine.missed
        assert sum(one.is_int8 for one in convolutions) >= 0.95 * meant
        others = [one for one in engine.layers if one.kind == "gemm" and not one.is_int8]
        updator = {one.inputs[0] for one in others if FLOAT_MODULE in one.name}
        assert updator == ({"Float"} if "knet" in model else set())
        assert {one.inputs[0] for one in others if FLOAT_MODULE not in one.name} == {"Half"}
        assert engine.nbytes > 5e6


@pytest.mark.parametrize("model", MODELS)
def test_convolutions_of_fp16_are_fp16(model: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(model) if "r50" in model else model
    (engine,) = build_engines(source, targets=["sm89"], precisions=["fp16"], say=silent)
    convolutions = [one for one in engine.layers if one.kind == "correlation"]
    assert len(convolutions) > 30
    assert {one.inputs[0] for one in convolutions} == {"Half"}
    assert {one.constants[0] for one in convolutions} == {"Half"}
    assert (engine.meant, engine.share) == (0, 1.0)


def test_a_dead_channel_is_taken(images: Path, tmp_path: Path) -> None:
    network = tiny_network()
    with torch.no_grad():
        network.backbone.layer2[0].conv1.weight[3] = 0
    spec = spec_of(network, "float", COLOURS, input_hw=(64, 96))
    pack(network, spec, tmp_path / "float")
    quantize(tmp_path / "float", tmp_path / "int8", images=images)
    build_engines(tmp_path / "int8", targets=["sm89"], precisions=["int8"], say=silent)


def test_a_gpu_without_int8_is_seen(edgeseg_cli: Cli, tmp_path: Path) -> None:
    """Turing has none in TensorRT for RTX, which says nothing of it."""
    words = ("build", "fastinst-nano", "--targets", "sm75", "--precision", "int8", "--report")
    spoken = edgeseg_cli(*words)
    assert spoken.code == 1
    assert "0 of 37 convolutions in INT8\n" in spoken.out
    assert "       not INT8: backbone.conv1.3/Conv\n" in spoken.out
    assert edgeseg_cli(*words[:-1]).code == 0


# The verb.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged bundle as TensorRT takes it."""
    folder = tmp_path_factory.mktemp("made") / "nano"
    build_engines("fastinst-nano", targets=["sm89"], out=folder, say=silent)
    return folder


def test_the_report_says_what_engines_are_made_of(edgeseg_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    spoken = edgeseg_cli(
        *("build", "fastinst-nano", "--targets", "sm86,sm89", "--report", "--json", file)
    )
    assert spoken.code == 0, spoken.err
    assert re.search(r"^int8 sm86: \d+ layers\n +\d+ \w+ .* -> ", spoken.out, re.MULTILINE)
    assert re.search(r"^ +37 correlation Int8 x Int8 -> ", spoken.out, re.MULTILINE)
    line = r"^int8 sm89: [\d.]+ MB in [\d.]+ s, 37 of 37 convolutions in INT8$"
    assert re.search(line, spoken.out, re.MULTILINE)
    assert re.search(r"^fp16 sm89: [\d.]+ MB in [\d.]+ s$", spoken.out, re.MULTILINE)
    assert "int8 sm86: building with tensorrt_rtx 1." in spoken.err
    report = json.loads(file.read_text())
    assert report["model"] == "fastinst-nano"
    rows = [(row["precision"], row["target"], row["share"]) for row in report["engines"]]
    assert rows == [
        ("int8", "sm86", 1.0), ("int8", "sm89", 1.0), ("fp16", "sm86", 1.0), ("fp16", "sm89", 1.0)
    ]  # fmt: skip
    for row in report["engines"]:
        assert row["library"].startswith("tensorrt_rtx ")
        assert sum(row["layers"].values()) > 50 and row["seconds"] > 0 and row["nbytes"] > 1e6


def test_the_bundle_for_tensorrt_is_a_bundle(made: Path) -> None:
    spec = bundle.read(made)
    assert list(spec.precisions) == ["int8", "fp32", "fp16"]
    assert spec.name == "nano"
    source = bundle.read(bundle.find("fastinst-nano"))
    assert {name: spec.files[name] for name in source.files} == source.files
    new = {"model.fp16.onnx", "model.trt.weights"}
    assert set(spec.files) - set(source.files) == new
    assert engine_file(made, spec, "int8").name == "model.int8.trt.onnx"
    assert engine_file(made, spec, "fp16").name == "model.fp16.onnx"
    assert engine_file(made, spec, "fp32").name == "model.onnx"
    assert all((made / name).stat().st_size < 2e6 for name in new if name.endswith("onnx"))


def test_its_networks_are_taken_as_they_are(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "for_tensorrt", lambda model: pytest.fail("made once more"))
    engines = build_engines(made, targets=["sm120"], say=silent)
    assert [engine.share for engine in engines] == [1.0, 1.0]


def test_its_fp16_runs_on_a_cpu_too(made: Path) -> None:
    from edgeseg import load

    picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    with load(made, "ort", precision="fp16") as half, load(made, "ort", precision="fp32") as full:
        assert len(half(picture)) == len(full(picture))


# This machine's GPU, simulated.


def test_engines_of_this_machine_are_kept_where_loading_finds_them(
    rtx: Any, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = FakeDevice()
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "open_device", lambda: device)
    monkeypatch.setattr(trt, "MODULES", ("tensorrt_rtx",))
    (engine,) = build_engines(made, precisions=["int8"], say=silent)
    assert (engine.target, engine.share) == ("sm89", 1.0)
    spec = bundle.read(made)
    key = key_of(rtx, spec, engine_file(made, spec, "int8"), "int8", device)
    assert len(cache.fetch(key, lambda: pytest.fail("not kept"))) == engine.nbytes


def test_the_packaged_int8_is_kept_as_it_is(
    rtx: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = FakeDevice()
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "open_device", lambda: device)
    monkeypatch.setattr(trt, "MODULES", ("tensorrt_rtx",))
    said: list[str] = []
    engines = build_engines("fastinst-nano", say=said.append)
    assert [engine.precision for engine in engines] == ["int8", "fp16"]
    assert said[-1].startswith("not kept: fp16, ")
    folder = bundle.find("fastinst-nano")
    spec = bundle.read(folder)
    key = key_of(rtx, spec, engine_file(folder, spec, "int8"), "int8", device)
    assert len(cache.fetch(key, lambda: pytest.fail("not kept"))) == engines[0].nbytes
    assert len(list((tmp_path / "cache").glob("*.engine"))) == 1


def test_engines_that_nobody_would_find_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path
) -> None:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "open_device", FakeDevice)
    monkeypatch.setattr(trt, "MODULES", ("tensorrt_rtx",))
    said: list[str] = []
    build_engines(tiny, precisions=["fp16"], say=said.append)
    assert not (tmp_path / "cache").exists()
    assert said[-1].startswith("not kept: ") and "--out" in said[-1]


# Builds that take time, or end.


def test_a_build_tells_what_it_does(rtx: Any, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_build, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(building, "QUIET_SECONDS", 0.1)
    said: list[str] = []
    build_engines(made, targets=["sm86"], precisions=["int8"], say=said.append)
    assert re.match(r"int8 sm86: building with tensorrt_rtx [\d.]+$", said[0])
    ticks = [re.match(r"int8 sm86: (\d+) s, (.+)$", text) for text in said[1:]]
    assert len(ticks) >= 2 and all(ticks)
    assert {tick[2] for tick in ticks if tick} & {"Determining refit engines", "Building engine"}


def test_ctrl_c_ends_a_build_at_once(made: Path) -> None:
    targets = ",".join(["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
    words = [sys.executable, "-m", "edgeseg", "build", str(made), "--targets", targets]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "building with" in line:
                break
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        left = process.stderr.read()
        assert process.wait(20) == 130, left
    assert time.monotonic() - started < 10
    assert "Traceback" not in left and "terminate" not in left


# Refusals.


def test_what_tensorrt_refuses_is_one_sentence(rtx: Any, tmp_path: Path) -> None:
    picture = helper.make_tensor_value_info("image", TensorProto.UINT8, (1, 4, 4, 3))
    out = helper.make_tensor_value_info("out", TensorProto.UINT8, (1, 3, 4, 4))
    node = helper.make_node("Transpose", ["image"], ["out"], name="planes", perm=[0, 3, 1, 2])
    graph = helper.make_graph([node], "g", [picture], [out])
    path = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    with pytest.raises(EngineError) as caught:
        build(rtx, path, target="sm89")
    text = str(caught.value)
    assert "UInt8" in text and "at node 'planes' (Transpose)" in text and "\n" not in text
    assert text.endswith(
        f"wanted it to build an engine of {path}; write a bundle as TensorRT takes it with "
        "'edgeseg build MODEL --out BUNDLE'"
    )


@pytest.mark.parametrize("content", [None, b"", b"no network"])
def test_a_file_that_is_none_is_one_sentence(
    rtx: Any, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "network.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"^got .+ from tensorrt_rtx [\d.]+; wanted it to build"):
        build(rtx, path, target="sm89")


def test_a_build_that_fails_leaves_nothing_to_the_garbage_collector(
    rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A builder that is freed while TensorRT calls a logger waits for ever."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not ONNX")
    builders: list[weakref.ref[Any]] = []

    class Builder(rtx.Builder):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            builders.append(weakref.ref(self))

    monkeypatch.setattr(rtx, "Builder", Builder)
    gc.disable()
    try:
        with pytest.raises(EngineError) as caught:
            build(rtx, path, target="sm89")
        assert [one() for one in builders] == [None]
    finally:
        gc.enable()
    assert caught.value.__traceback__ is not None


def test_a_float_bundle_gets_fp16_alone(tiny: Path) -> None:
    (engine,) = build_engines(tiny, targets=["sm89"], say=silent)
    assert (engine.precision, engine.meant, engine.share) == ("fp16", 0, 1.0)


def test_fp32_stays_fp32(tiny: Path) -> None:
    (engine,) = build_engines(tiny, targets=["sm89"], precisions=["fp32"], say=silent)
    kinds = {one.inputs[0] for one in engine.layers if one.kind == "correlation"}
    assert kinds == {"Float"}


MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"targets": ["sm99"]}, InputError, "got target 'sm99'; wanted one that tensorrt_rtx 1."),
    ({"targets": ["sm87"]}, InputError, "or use TensorRT itself on that GPU"),
    ({"targets": []}, InputError, "got 0 targets and 0 bytes of workspace; wanted 1 or more,"),
    ({"workspace_bytes": -1}, InputError, "got 1 targets and -1 bytes of workspace; wanted"),
    ({"precisions": ["int4"]}, InputError, "got precision 'int4'; wanted one of fp16, fp32, int8"),
    ({"precisions": ["int8"]}, InputError, "got precision 'int8'; wanted one of fp32"),
    (
        {"precisions": ["int8"], "dla": 0},
        InputError,
        "got precision 'int8' for a DLA; wanted 'fp16'",
    ),
    ({"model": "no-such"}, BundleError, "got bundle 'no-such'; wanted a folder with bundle.json"),
]


@pytest.mark.parametrize(("settings", "kind", "text"), MISTAKES)
def test_mistakes_are_told_before_the_work(
    settings: dict[str, Any],
    kind: type[Exception],
    text: str,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "build", lambda *words, **settings: pytest.fail("too late"))
    settings = {"model": tiny, "targets": ["sm89"], "say": silent, **settings}
    with pytest.raises(kind) as caught:
        build_engines(**settings)
    assert text in str(caught.value)


def test_an_older_bundle_is_replaced_only_on_wish(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = {"targets": ["sm89"], "out": out, "say": silent}
    build_engines(tiny, **settings)
    with pytest.raises(OutputError, match="which is there already; wanted a new folder"):
        build_engines(tiny, **settings)
    build_engines(tiny, **settings, overwrite=True)


def test_a_dla_that_is_not_here_is_one_sentence(edgeseg_cli: Cli, tiny: Path) -> None:
    spoken = edgeseg_cli("build", tiny, "--targets", "sm89", "--dla", "1")
    assert spoken.code == 2
    assert "got DLA core 1; wanted one of the 0 that tensorrt_rtx 1." in spoken.err
    assert "argument --dla: " in edgeseg_cli("build", tiny, "--dla", "2").err


def test_a_workspace_that_is_enough_changes_nothing(tiny: Path) -> None:
    (engine,) = build_engines(tiny, targets=["sm89"], workspace_bytes=1 << 30, say=silent)
    assert engine.layers


def test_without_a_gpu_current_is_one_sentence(edgeseg_cli: Cli) -> None:
    if os.path.exists("/proc/driver/nvidia"):  # noqa: PTH110
        pytest.skip("has a GPU")
    spoken = edgeseg_cli("build", "fastinst-nano")
    assert spoken.code in (2, 3)
    assert spoken.err.startswith("edgeseg build: got ") and spoken.err.count("\n") == 1


def test_without_tensorrt_a_build_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError) as caught:
        build_engines("fastinst-nano", targets=["sm89"])
    assert str(caught.value) == (
        "got no module tensorrt_rtx; wanted TensorRT; "
        "run: pip install 'edgeseg[rtx]' (on a Jetson use the one of JetPack)"
    )


def test_shares_without_tensorrt() -> None:
    engine = Engine("int8", "sm89", "tensorrt 11", 1.0, 2_000_000, meant=4, missed=("a",))
    assert engine.share == 0.75
    assert str(engine) == "int8 sm89: 2.0 MB in 1.0 s, 3 of 4 convolutions in INT8"
    assert engine.to_dict()["share"] == 0.75
