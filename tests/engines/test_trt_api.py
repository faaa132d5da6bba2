"""Every name of TensorRT that the code uses is in the real Python bindings of all its versions.

NVIDIA's bindings of TensorRT itself are small wheels that need libraries of 2 GB, of which they ask
for nine symbols; libraries with nothing but those let them be imported, and their names listed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgeseg.engines import trt, trt_build

SOURCES = [Path(module.__file__) for module in (trt, trt_build)]
VERSIONS = {"10.3": 10, "10.13": 10, "11.4": 11}
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry"),
    "initLibNvInferPlugins",
)
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "fault": "ParserError",
    "config": "IBuilderConfig",
    "timed": "ITimingCache",
    "engine": "ICudaEngine",
    "_runtime": "Runtime",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
}
"""Variable or attribute in the code -> class of TensorRT; ``trt`` and ``_trt`` are the module."""
RTX_ONLY = {
    "module": {"ComputeCapability"},
    "IBuilderConfig": {"num_compute_capabilities", "set_compute_capability"},
}
ROWS = """
import json, sys
from edgeseg.engines.trt_build import make_logger, make_monitor
trt = __import__(sys.argv[1])
make_logger(trt), make_monitor(trt), 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
rows = {name: dir(getattr(trt, name)) for name in dir(trt)}
rows["module"] = dir(trt)
import numpy
assert [trt.nptype(getattr(trt, kind)) for kind in ("uint8", "int32", "float32")] == [
    numpy.uint8, numpy.int32, numpy.float32
]
print(json.dumps([trt.__version__, rows]))
"""


def used() -> dict[str, set[str]]:
    """Class of TensorRT (or ``module``) -> names that the code uses of it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = kind_of(node.value)
                if owner and not node.attr.startswith("__"):
                    found[owner].add(node.attr)
            elif isinstance(node, ast.ClassDef) and node.bases:
                owner = kind_of(node.bases[0])
                methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
                if owner:
                    found[owner] |= {name for name in methods if not name.startswith("__")}
    return found


def kind_of(node: ast.expr) -> str:
    """What an expression is: ``module``, a class of it, or "" for anything else."""
    name = node.id if isinstance(node, ast.Name) else ""
    if isinstance(node, ast.Attribute):
        if kind_of(node.value) == "module":
            return node.attr
        name = node.attr if isinstance(node.value, ast.Name) and node.value.id == "self" else ""
    return "module" if name in ("trt", "_trt") else CLASSES.get(name, "")


def lacking(rows: dict[str, list[str]]) -> dict[str, set[str]]:
    """Names that the code uses and that some bindings don't have."""
    missed = {owner: names - set(rows.get(owner, [])) for owner, names in used().items()}
    return {owner: names for owner, names in missed.items() if names}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libraries that hold the nine symbols and nothing else."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("stub")
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for version in set(VERSIONS.values()):
        for name in LIBRARIES:
            file = f"lib{name}.so.{version}"
            words = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", file, source.name]
            subprocess.run(words, cwd=folder, check=True)
    return folder


def listed(module: str, **environment: str) -> tuple[str, dict[str, list[str]]]:
    """Version of a TensorRT module, and the names in it and in its classes."""
    done = subprocess.run(
        [sys.executable, "-c", ROWS, module],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    version, rows = json.loads(done.stdout)
    return version, rows


def test_what_the_code_uses_is_found() -> None:
    """The list is of the code and not empty: a few names of every kind."""
    names = {f"{owner}.{name}" for owner, names in used().items() for name in names}
    assert names >= {
        *("module.Builder", "module.Runtime", "module.IProgressMonitor", "module.nptype"),
        *("Builder.build_serialized_network", "Builder.create_network"),
        *("NetworkDefinitionCreationFlag.STRONGLY_TYPED", "MemoryPoolType.WORKSPACE"),
        *("OnnxParser.parse_from_file", "ParserError.node_name", "IProgressMonitor.step_complete"),
        *("IBuilderConfig.set_memory_pool_limit", "IBuilderConfig.progress_monitor"),
        *("IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache"),
        *("ITimingCache.serialize", "DeviceType.DLA", "BuilderFlag.GPU_FALLBACK"),
        *("Builder.num_DLA_cores", "IBuilderConfig.DLA_core", "Runtime.DLA_core"),
        *("ICudaEngine.num_io_tensors", "ICudaEngine.get_tensor_dtype", "ILogger.log"),
        *("IExecutionContext.execute_async_v3", "IExecutionContext.set_tensor_address"),
        *("Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"),
    }
    assert len(names) > 35


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_has_all_but_what_only_rtx_has(stub: Path, version: str) -> None:
    folder = Path(sys.prefix) / "trt" / version
    if not (folder / "tensorrt_bindings").is_dir():
        pytest.skip("needs trt-rtx; run: make trt-env")
    got, rows = listed("tensorrt_bindings", LD_LIBRARY_PATH=str(stub), PYTHONPATH=str(folder))
    assert got.startswith(f"{version}.")
    assert lacking(rows) == RTX_ONLY


def test_tensorrt_for_rtx_has_all() -> None:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs trt-rtx; run: make trt-env")
    version, rows = listed("tensorrt_rtx")
    assert re.match(r"1\.\d", version)
    assert lacking(rows) == {}


def test_a_name_that_is_nowhere_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = trt_build.__file__
    changed = Path(code).read_text("utf-8").replace("parse_from_file", "parse_from_disk")
    (tmp_path / "changed.py").write_text(changed)
    monkeypatch.setattr(sys.modules[__name__], "SOURCES", [tmp_path / "changed.py"])
    assert "parse_from_disk" in used()["OnnxParser"]
