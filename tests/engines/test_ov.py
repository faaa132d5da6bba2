"""OpenVINO: what it refuses, what it says of itself, and that it keeps to itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from export_networks import write_tiny

from edgeseg.bundle import ModelSpec, find, read
from edgeseg.cameras import open_camera
from edgeseg.engines.ort import OrtEngine
from edgeseg.errors import EngineError
from edgeseg.preprocess import Preprocessor

if find_spec("openvino") is None:
    pytest.skip("needs openvino", allow_module_level=True)

from edgeseg.engines.ov import OvEngine, openvino

CLIP = Path(find("fastinst-nano")).parent / "clip" / "tabletop.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("ov") / "tiny")


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return read(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "got nothing for 'scores' in {path}; wanted float32 (12,) as bundle.json says; "),
        (
            b"not ONNX at all",
            'got "Model can\'t be parsed"; wanted OpenVINO to load {path}; '
            "verify the bundle or export it again",
        ),
        (None, "got 'Could not open the file: \"{path}\"'; wanted OpenVINO to load {path}"),
    ],
)
def test_a_file_that_is_no_network(
    tmp_path: Path, spec: ModelSpec, content: bytes | None, text: str
) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError) as caught:
        OvEngine(path, spec)
    assert str(caught.value).startswith(text.replace("{path}", str(path)))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_beside_the_network(
    tmp_path: Path, folder: Path, spec: ModelSpec
) -> None:
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(EngineError, match=r"weights\.safetensors"):
        OvEngine(tmp_path / "model.onnx", spec)


def test_a_network_of_another_spec(folder: Path, spec: ModelSpec) -> None:
    path = folder / "model.onnx"
    with pytest.raises(EngineError) as caught:
        OvEngine(path, replace(spec, max_instances=5))
    assert str(caught.value) == (
        f"got float32 (12,) for 'scores' in {path}; wanted float32 (5,) as bundle.json says; "
        "export the bundle again"
    )


def test_precisions_that_no_cpu_has(folder: Path, spec: ModelSpec) -> None:
    path = folder / "model.onnx"
    with pytest.raises(EngineError, match=r"Wrong value int3 .* wanted OpenVINO to compile"):
        OvEngine(path, spec, floats="int3")


def test_the_picture_is_read_in_place(folder: Path, spec: ModelSpec) -> None:
    engine = OvEngine(folder / "model.onnx", spec, threads=1)
    bound = engine._request.get_tensor("image").data
    assert bound.ctypes.data == engine.input.ctypes.data


# What it says of itself.


def test_describe_says_which_precisions_really_run(folder: Path, spec: ModelSpec) -> None:
    text = OvEngine.load(folder, spec, "fp32", 1).describe()
    assert re.fullmatch(r"openvino 20[\d.]+ cpu fp32 \(convolutions: \d+ f32; else f32\)", text)


def test_describe_says_so_where_floats_are_not_exact(folder: Path, spec: ModelSpec) -> None:
    """Asked for bf16, a CPU without it still calculates in f32."""
    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    text = OvEngine(folder / "model.onnx", spec, floats="bf16").describe()
    assert text.endswith("; else bf16)" if able else "; else f32)")


def test_int8_runs_in_int8() -> None:
    packaged = find("fastinst-nano")
    text = OvEngine.load(packaged, read(packaged), "int8", 1).describe()
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (\w+)[,;]", text)}
    whole = sum(counts.values())
    assert counts.get("u8", 0) + counts.get("i8", 0) >= whole - 1 > 30, "all but the first"


def test_int8_finds_what_onnx_runtime_finds() -> None:
    """The same integers in two libraries, which round and order additions as they like."""
    packaged = find("fastinst-nano")
    spec = read(packaged)
    engines = [kind.load(packaged, spec, "int8", 1) for kind in (OrtEngine, OvEngine)]
    with open_camera(CLIP) as camera, next(camera) as frame:
        for engine in engines:
            Preprocessor(spec)(frame, engine.input)
    wanted, got = (engine.run() for engine in engines)
    sure = np.flatnonzero(wanted["scores"] >= 0.7)
    assert len(sure) > 3
    overlaps = []
    for row in sure:
        mask = wanted["masks"][row] > 0
        alike = (got["labels"] == wanted["labels"][row]) & (got["scores"] > 0.5)
        masks = got["masks"][alike] > 0
        overlaps.append(max((masks & mask).sum((1, 2)) / (masks | mask).sum((1, 2)), default=0.0))
    assert min(overlaps) > 0.8
    assert np.mean(overlaps) > 0.95


# That it keeps to itself.


@pytest.mark.parametrize("ending", ["one.close()", "Thread(target=one.close).start()"])
def test_signals_still_arrive_when_engines_are_gone(folder: Path, ending: str) -> None:
    code = (
        "import gc, signal\nfrom pathlib import Path\nfrom threading import Thread\n"
        "from edgeseg.bundle import read\nfrom edgeseg.engines.ov import OvEngine\n"
        f"folder = Path({str(folder)!r})\n"
        "one, two = (OvEngine.load(folder, read(folder), 'fp32', 1) for _ in range(2))\n"
        f"{ending}\ndel one, two\ngc.collect()\n"
        "try:\n    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    print('arrived')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "arrived\n"), done.stderr


def test_nothing_is_printed(
    folder: Path, spec: ModelSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    OvEngine(folder / "model.onnx", spec, threads=2).run()
    (tmp_path / "model.onnx").write_bytes(b"no")
    with pytest.raises(EngineError):
        OvEngine(tmp_path / "model.onnx", spec)
    assert capfd.readouterr() == ("", "")


def test_nobody_is_told_that_it_was_used(tmp_path: Path, folder: Path) -> None:
    """OpenVINO's telemetry would leave an id in the home, and send it, when it is imported."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from edgeseg.bundle import read\nfrom edgeseg.engines.ov import OvEngine\n"
        f"folder = Path({str(folder)!r})\nOvEngine.load(folder, read(folder), 'fp32', 1).run()\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    home = tmp_path / "home"
    home.mkdir()
    without_ci = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**without_ci, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not list(home.iterdir())
