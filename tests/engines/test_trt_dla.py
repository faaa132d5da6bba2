"""What `trt-dla` sets, on a simulated TensorRT: it has never run on a DLA."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_gpu import FakeDevice, FakeTensorrt

from edgeseg import bundle, load, registry
from edgeseg.engines import trt
from edgeseg.engines.fake import fake_spec
from edgeseg.engines.trt import TrtEngine, key_of
from edgeseg.engines.trt_build import build
from edgeseg.engines.trt_dla import TrtDla1Engine, TrtDlaEngine
from edgeseg.errors import EngineError, InputError, MissingPartError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    precisions = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
    spec = replace(fake_spec((64, 96)), precisions=precisions)
    files: dict[str, Path | bytes] = {name: name.encode() for name in precisions.values()}
    bundle.write(tmp_path / "one", spec, files)
    return tmp_path / "one"


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorrt:
    """TensorRT on a machine with two DLA cores."""
    device = FakeDevice(integrated=True)
    library = FakeTensorrt(bundle.read(folder), device)
    library.dla_cores = 2
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt, "open_device", lambda: device)
    monkeypatch.setattr(trt, "library", lambda: library)
    monkeypatch.setattr(registry, "find_spec", lambda name: object())
    return library


@pytest.mark.parametrize(("name", "core"), [("trt-dla", 0), ("trt-dla1", 1)])
def test_engine_and_runtime_are_of_its_core(
    name: str, core: int, library: FakeTensorrt, folder: Path
) -> None:
    with load(folder, name, precision="fp16") as segmenter:
        assert segmenter.describe() == f"fake on tensorrt 10.3.0 Fake GPU fp16 DLA {core}"
    assert library.built == [f"DLA {core} ['GPU_FALLBACK']"]
    assert library.loaded_on == core


def test_the_gpu_is_left_as_it_was(library: FakeTensorrt, folder: Path) -> None:
    load(folder, "trt", precision="fp16").close()
    assert library.built == ["GPU -1 []"]
    assert library.loaded_on is None


def test_engines_of_gpu_and_cores_never_meet(library: FakeTensorrt, folder: Path) -> None:
    spec, path, device = bundle.read(folder), folder / "model.fp16.onnx", library.device
    kinds = (TrtEngine, TrtDlaEngine, TrtDla1Engine)
    keys = {key_of(library, spec, path, "fp16", device, kind.dla).name for kind in kinds}
    assert len(keys) == 3
    assert key_of(library, spec, path, "fp16", device).name in keys


def test_other_precisions_are_refused(library: FakeTensorrt, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(folder, "trt-dla", precision="fp32")
    assert str(caught.value) == (
        "got precision 'fp32' for a DLA; wanted 'fp16', the one that it takes; write it with "
        "'edgeseg build MODEL --dla 0 --out BUNDLE' and pass --precision fp16"
    )
    assert not library.built


@pytest.mark.parametrize(("cores", "core"), [(0, 0), (1, 1)])
def test_a_core_that_is_not_there_is_one_sentence(
    library: FakeTensorrt, folder: Path, cores: int, core: int
) -> None:
    library.dla_cores = cores
    with pytest.raises(EngineError) as caught:
        load(folder, ("trt-dla", "trt-dla1")[core], precision="fp16")
    assert str(caught.value) == (
        f"got DLA core {core}; wanted one of the {cores} that tensorrt 10.3.0 finds here (Jetson "
        "Orin has them, with TensorRT up to 10.7 or from 11.4.1 on); use engine 'trt', which is "
        "the GPU"
    )


def test_tensorrt_for_rtx_has_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs trt-rtx; run: make trt-env")
    with pytest.raises(
        EngineError, match=r"^got DLA core 0; wanted one of the 0 that tensorrt_rtx"
    ):
        build(trt.library("tensorrt_rtx"), folder / "model.fp16.onnx", target="sm89", dla=0)
    monkeypatch.setattr(registry, "find_spec", lambda name: name == "tensorrt_rtx" or None)
    with pytest.raises(MissingPartError, match=r"^got no module 'tensorrt'; this part needs it;"):
        load(folder, "trt-dla", precision="fp16")
