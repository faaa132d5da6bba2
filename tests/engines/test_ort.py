"""ONNX Runtime: what it refuses, in one line, and what it must not print."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from export_networks import write_tiny

from edgeseg.bundle import ModelSpec, read
from edgeseg.engines.ort import OrtEngine
from edgeseg.errors import EngineError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("ort") / "tiny")


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return read(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "wanted ONNX Runtime to load {path}; verify the bundle or export it again"),
        (b"not ONNX at all", "wanted ONNX Runtime to load {path}; verify the bundle"),
        (None, "File doesn't exist"),
    ],
)
def test_a_file_that_is_no_network(
    tmp_path: Path, spec: ModelSpec, content: bytes | None, text: str
) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError) as caught:
        OrtEngine(path, spec)
    assert text.replace("{path}", str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_beside_the_network(
    tmp_path: Path, folder: Path, spec: ModelSpec
) -> None:
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(EngineError, match=r"weights\.safetensors"):
        OrtEngine(tmp_path / "model.onnx", spec)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"max_instances": 5},
            "got float32 (12,) for 'scores' in {path}; wanted float32 (5,) as bundle.json says; "
            "export the bundle again",
        ),
        (
            {"input_hw": (128, 96)},
            "got float32 (12, 16, 24) for 'masks' in {path}; wanted float32 (12, 32, 24) as",
        ),
        (
            {"outputs": {"scores": "scores", "labels": "classes", "masks": "masks"}},
            "got nothing for 'classes' in {path}; wanted int32 (12,) as bundle.json says",
        ),
    ],
)
def test_a_network_of_another_spec(
    folder: Path, spec: ModelSpec, changes: dict[str, object], text: str
) -> None:
    path = folder / "model.onnx"
    with pytest.raises(EngineError) as caught:
        OrtEngine(path, replace(spec, **changes))
    assert str(caught.value).startswith(text.replace("{path}", str(path)))


def test_an_output_too_many(folder: Path, spec: ModelSpec, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    model.graph.output.append(onnx.ValueInfoProto(name=model.graph.node[0].output[0]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="wanted only scores, labels, masks, image"):
        OrtEngine(tmp_path / "model.onnx", spec)


def test_nothing_is_printed(
    folder: Path, spec: ModelSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    OrtEngine(folder / "model.onnx", spec, threads=2).run()
    (tmp_path / "model.onnx").write_bytes(b"no")
    with pytest.raises(EngineError):
        OrtEngine(tmp_path / "model.onnx", spec)
    assert capfd.readouterr() == ("", "")


def test_describe_names_library_and_precision(folder: Path, spec: ModelSpec) -> None:
    text = OrtEngine.load(folder, spec, "fp32", 1).describe()
    assert text.startswith("onnxruntime ")
    assert text.endswith(" cpu fp32")


@pytest.mark.parametrize("module", ["edgeseg.engines.ort", "edgeseg.export.calibrate"])
def test_nobody_is_told_that_it_was_used(tmp_path: Path, folder: Path, module: str) -> None:
    """ONNX Runtime 1.29 and later would leave an id in the home, and report from a thread."""
    code = (
        f"import {module}, os\nfrom pathlib import Path\n"
        "from edgeseg.bundle import read\nfrom edgeseg.engines.ort import OrtEngine\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        f"folder = Path({str(folder)!r})\nOrtEngine.load(folder, read(folder), 'fp32', 1).run()\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
        "print([name for name in os.listdir('/proc/self/fd') if "
        "'onnxruntime.db' in os.path.realpath(f'/proc/self/fd/{name}')])"
    )
    silent = {"CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**{k: v for k, v in os.environ.items() if k not in silent}, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("0\n[]\n", "")
    assert not list(home.iterdir())
