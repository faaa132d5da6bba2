"""TrtEngine on a simulated GPU (tests/fake_gpu.py); builds are in tests/export/test_build.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeDevice, FakeTensorrt

from edgeseg import bundle, load, registry
from edgeseg.bundle import ModelSpec
from edgeseg.engines import trt
from edgeseg.engines.fake import FakeEngine, fake_spec
from edgeseg.engines.trt import TrtEngine, engine_file, key_of
from edgeseg.engines.trt_build import Built, build
from edgeseg.errors import EngineError, InputError, MissingPartError

DEVICES: dict[str, dict[str, bool]] = {
    "discrete": {},
    "integrated": {"integrated": True},
    "without graphs": {"graphs": False},
    "integrated without graphs": {"integrated": True, "graphs": False},
}


@pytest.fixture
def spec() -> ModelSpec:
    outputs = {"scores": "s", "labels": "l", "masks": "m"}
    return replace(fake_spec((64, 96)), outputs=outputs)


@pytest.mark.parametrize("device", ["discrete", "integrated"], indirect=True)
def test_masks_for_frames_of_one_size_come_as_bits(device: FakeDevice, spec: ModelSpec) -> None:
    spec = replace(spec, frame_hw=(128, 190))
    engine = engine_on(device, spec)
    engine.input[:] = picture(1, engine.input.shape)
    outputs = engine.run()
    assert (outputs["masks"].dtype, outputs["masks"].shape) == (np.uint8, (20, 128, 24))
    assert outputs["masks"].any()
    assert_is(outputs, 1, spec)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> FakeDevice:
    return FakeDevice(**DEVICES[request.param])


def engine_on(device: FakeDevice, spec: ModelSpec, broken: str = "") -> TrtEngine:
    return TrtEngine(b"", spec, "int8", trt=FakeTensorrt(spec, device, broken), device=device)


@pytest.fixture
def engine(device: FakeDevice, spec: ModelSpec) -> TrtEngine:
    return engine_on(device, spec)


def picture(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Ground with a square that is at another place for each number."""
    drawn = np.zeros(shape, np.uint8)
    drawn[0, 8 : 24 + number, 8 * number : 8 * number + 16] = (200, 10, 10)
    return drawn


def wanted(number: int, spec: ModelSpec) -> dict[str, np.ndarray]:
    network = FakeEngine(spec)
    network.input[:] = picture(number, network.input.shape)
    return {name: array.copy() for name, array in network.run().items()}


def assert_is(outputs: dict[str, Any], number: int, spec: ModelSpec) -> None:
    assert list(outputs) == ["scores", "labels", "masks"]
    for name, array in wanted(number, spec).items():
        np.testing.assert_array_equal(outputs[name], array, err_msg=f"{name} of {number}")


def test_pictures_become_results(engine: TrtEngine, spec: ModelSpec) -> None:
    kept, first = engine.input, engine.run()
    for number in (1, 5, 2):
        engine.input[:] = picture(number, engine.input.shape)
        outputs = engine.run()
        assert_is(outputs, number, spec)
        assert all(outputs[name] is first[name] for name in outputs)
    assert engine.input is kept


def test_a_frame_costs_one_copy_each_way_or_none(engine: TrtEngine, device: FakeDevice) -> None:
    engine.run()
    copies, launches = device.copies, device.launches
    engine.run()
    if device.graphs:
        assert device.launches == launches + 1
    uploads = 0 if device.integrated else 1
    downloads = 0 if device.integrated or device.graphs else 3  # in the graph where there is one
    assert device.copies == copies + uploads + downloads


@pytest.mark.parametrize("device", ["discrete", "without graphs"], indirect=True)
def test_two_frames_may_be_under_way(engine: TrtEngine, spec: ModelSpec) -> None:
    shape = engine.input.shape
    engine.input[:] = picture(1, shape)
    engine.start()
    for number in (2, 3, 4, 5):
        engine.input[:] = picture(number, shape)  # while the frame before is under way
        engine.start()
        assert_is(engine.finish(), number - 1, spec)
    assert_is(engine.finish(), 5, spec)


def test_results_stay_until_the_second_start(engine: TrtEngine, spec: ModelSpec) -> None:
    shape = engine.input.shape
    results = []
    for number in (1, 2):
        engine.input[:] = picture(number, shape)
        engine.start()
        results.append(engine.finish())
    assert_is(results[0], 1, spec)
    assert_is(results[1], 2, spec)


def test_halves_of_a_run_in_the_wrong_order_are_sentences(engine: TrtEngine) -> None:
    with pytest.raises(EngineError, match=r"^got no frame under way; wanted one; call start"):
        engine.finish()
    engine.start()
    with pytest.raises(EngineError, match=r"^got run between start and finish; wanted no frame"):
        engine.run()
    engine.start()
    with pytest.raises(EngineError, match=r"^got a third frame; wanted two under way at most"):
        engine.start()
    engine.finish()
    engine.finish()
    engine.run()


def test_the_network_alone_runs_from_device_memory_in_a_stream_of_yours(
    engine: TrtEngine, device: FakeDevice, spec: ModelSpec
) -> None:
    assert set(engine.memory) == {"image", "scores", "labels", "masks"}
    assert engine.memory["image"].__cuda_array_interface__["shape"] == engine.input.shape
    with device.current():
        yours = device.stream()
        results = {name: device.host(array.nbytes) for name, array in engine.memory.items()}
        image = device.host(engine.input.nbytes)
    pointer = engine.memory["image"].pointer
    shown = picture(3, engine.input.shape)
    image.array[:] = shown.reshape(-1)
    yours.put(lambda: memmove(pointer, image.array))
    engine.enqueue(yours.handle)
    for name, host in results.items():
        source = engine.memory[name].pointer
        yours.put(lambda host=host, source=source: memmove(host.array.ctypes.data, source, host))
    yours.synchronize()
    masks = results["masks"].view(engine.memory["masks"].shape, np.float32)
    np.testing.assert_array_equal(masks, wanted(3, spec)["masks"])


def memmove(target: int, source: Any, host: Any = None) -> None:
    import ctypes

    if host is None:
        ctypes.memmove(target, source.ctypes.data, source.nbytes)
    else:
        ctypes.memmove(target, source, host.array.nbytes)


def test_closing_gives_all_back_but_what_you_hold(engine: TrtEngine, device: FakeDevice) -> None:
    given, outputs = engine.input, engine.run()
    engine.start()
    engine.close()
    engine.close()
    assert not device.memory and not device.streams
    assert given.shape[0] == 1 and outputs["scores"].shape
    closed = "^got a run of a closed engine; wanted an open one; load it again$"
    for call in (engine.run, engine.start, engine.enqueue):
        with pytest.raises(EngineError, match=closed):
            call()


def test_describe_is_one_line(engine: TrtEngine) -> None:
    assert engine.describe() == "tensorrt 10.3.0 Fake GPU int8"


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("load", "got 'Version tag does not match' from tensorrt 10.3.0; wanted to load the"),
        ("context", "got 'no reason' from tensorrt 10.3.0; wanted memory for the network; free"),
        ("run", "got 'no reason' from tensorrt 10.3.0; wanted to run the network; load it again"),
    ],
)
def test_what_fails_is_one_sentence(spec: ModelSpec, broken: str, text: str) -> None:
    with pytest.raises(EngineError) as caught:
        engine_on(FakeDevice(), spec, broken)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("image", ((1, 64, 96, 3), np.float32), "got float32 (1, 64, 96, 3) for 'image' in the en"),
        ("m", ((20, 8, 8), np.float32), "got float32 (20, 8, 8) for 'm' in the engine; wanted"),
        ("more", ((1,), np.int32), "got inputs or outputs more in the engine; wanted only s, l,"),
    ],
)
def test_an_engine_of_another_network_is_refused(
    spec: ModelSpec, name: str, row: Any, text: str
) -> None:
    device = FakeDevice()
    library = FakeTensorrt(spec, device)
    library.rows[name] = row
    with pytest.raises(EngineError) as caught:
        TrtEngine(b"", spec, "int8", trt=library, device=device)
    assert str(caught.value).startswith(text)


# Loading.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        name: name.encode() for name in ("model.onnx", "model.int8.onnx", "model.int8.trt.onnx")
    }
    spec = replace(
        fake_spec((64, 96)), precisions={"int8": "model.int8.onnx", "fp32": "model.onnx"}
    )
    bundle.write(tmp_path / "one", spec, {**files, "model.int8.weights": b"w"})
    return tmp_path / "one"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str]]:
    """File and target of every build, on a machine with a simulated GPU and TensorRT."""
    spec, calls = bundle.read(folder), []

    def build(library: Any, path: Path, *, target: str, progress: Any, **settings: Any) -> Built:
        calls.append((path.name, target))
        progress(1.0, "Optimizing graph")
        progress(6.0, "Optimizing graph")
        return Built(b"engine", 1.0)

    devices = [FakeDevice() for _ in range(9)]
    monkeypatch.setattr(trt, "open_device", lambda: devices[len(calls)])
    monkeypatch.setattr(trt, "library", lambda: FakeTensorrt(spec, devices[len(calls)]))
    monkeypatch.setattr(trt, "build", build)
    monkeypatch.setattr(registry, "find_spec", lambda name: object())
    return calls


def test_the_first_load_builds_and_the_second_finds_it(
    built: list[tuple[str, str]], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert load(folder, "trt").describe() == "fake on tensorrt 10.3.0 Fake GPU int8"
    assert built == [("model.int8.trt.onnx", "sm89")]
    assert caplog.messages == [
        "building fake int8 for Fake GPU with tensorrt 10.3.0: 6 s, Optimizing graph; once"
    ]
    load(folder, "trt").close()
    assert len(built) == 1
    load(folder, "trt", precision="fp32").close()
    assert built[1:] == [("model.onnx", "sm89")]


def test_a_build_uses_what_earlier_ones_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    spec = bundle.read(folder)

    def measured(version: str, precision: str) -> list[str]:
        device = FakeDevice()
        library = FakeTensorrt(spec, device)
        library.__version__ = version  # type: ignore[misc]
        monkeypatch.setattr(trt, "open_device", lambda: device)
        monkeypatch.setattr(trt, "library", lambda: library)
        TrtEngine.load(folder, spec, precision, 0).close()
        return library.measured

    assert measured("10.3.0", "int8") == ["model.int8.trt.onnx"]
    for path in (tmp_path / "cache").glob("*.engine*"):
        path.unlink()
    assert measured("10.3.0", "fp32") == ["model.onnx"]
    assert measured("10.3.0", "int8") == []
    assert measured("10.4.0", "int8") == ["model.int8.trt.onnx"]
    assert len(list((tmp_path / "cache").glob("*.timings"))) == 2


@pytest.mark.parametrize("given", [b"", b"10.2.0 of another version", b"10.3.0 conv"])
def test_timings_that_do_not_fit_are_left_out(given: bytes, folder: Path) -> None:
    library = FakeTensorrt(bundle.read(folder), FakeDevice())
    built = build(library, folder / "model.onnx", target="sm87", timings=given)
    assert built.content == b"engine of model.onnx"
    kept = given if given.startswith(b"10.3.0") else b"10.3.0"
    assert built.timings == kept + b" model.onnx"


def test_an_unknown_precision_lists_the_known(built: list[tuple[str, str]], folder: Path) -> None:
    with pytest.raises(InputError, match="got precision 'fp16'; wanted one of fp32, int8"):
        load(folder, "trt", precision="fp16")
    assert not built


def test_every_part_of_the_key_counts(folder: Path) -> None:
    spec, device = bundle.read(folder), FakeDevice()
    library = FakeTensorrt(spec, device)
    path = engine_file(folder, spec, "int8")

    def key(spec: ModelSpec = spec, path: Path = path, precision: str = "int8") -> str:
        return key_of(library, spec, path, precision, device).name

    keys = [key(), key(path=folder / "model.onnx"), key(precision="fp16")]
    keys.append(key(replace(spec, files={**spec.files, "model.int8.weights": "0" * 64})))
    for thing, name, value in (
        (library, "__version__", "10.4.0"),
        (library, "__name__", "tensorrt_rtx"),
        (device, "name", "Other GPU"),
        (device, "capability", (8, 6)),
    ):
        before = getattr(thing, name)
        setattr(thing, name, value)
        keys.append(key())
        setattr(thing, name, before)
    assert len(set(keys)) == len(keys)
    assert key(replace(spec, files={**spec.files, "calibration.json": "0" * 64})) == keys[0]


# Without TensorRT or without a GPU.


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which modules are installed."""

    def say(*names: str) -> None:
        for module in (trt, registry):
            monkeypatch.setattr(
                module, "find_spec", lambda name: object() if name in names else None
            )

    return say


def test_without_tensorrt_loading_is_one_sentence(
    installed: Callable[..., None], folder: Path
) -> None:
    installed()
    with pytest.raises(MissingPartError) as caught:
        load(folder, "trt")
    assert str(caught.value) == (
        "got no module 'tensorrt or tensorrt_rtx'; this part needs it; "
        "run: pip install 'edgeseg[rtx]'"
    )
    with pytest.raises(MissingPartError, match=r"^got no module tensorrt or tensorrt_rtx; wanted "):
        trt.library()
    with pytest.raises(MissingPartError, match=r"^got no module tensorrt_rtx; wanted TensorRT; ru"):
        trt.library("tensorrt_rtx")


def test_a_tensorrt_that_does_not_load_is_one_sentence(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    installed("tensorrt_rtx")
    monkeypatch.setattr(trt, "import_module", refuse)
    with pytest.raises(MissingPartError) as caught:
        trt.library()
    assert str(caught.value) == (
        "got libnvinfer.so.10: cannot open shared object file; wanted module 'tensorrt_rtx' to "
        "load; reinstall that library"
    )


def test_tensorrt_itself_comes_first(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "import_module", lambda name: name)
    installed("tensorrt", "tensorrt_rtx")
    assert trt.library() == "tensorrt"
    assert trt.library("tensorrt_rtx") == "tensorrt_rtx"
    installed("tensorrt_rtx")
    assert trt.library() == "tensorrt_rtx"


def test_an_engine_that_fails_to_load_gives_its_device_back(
    built: list[tuple[str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, device = bundle.read(folder), FakeDevice()
    monkeypatch.setattr(trt, "open_device", lambda: device)
    monkeypatch.setattr(trt, "library", lambda: FakeTensorrt(spec, device, broken="run"))
    with pytest.raises(EngineError, match="wanted to run the network"):
        TrtEngine.load(folder, spec, "fp32", 0)
    assert not device.memory and not device.streams
