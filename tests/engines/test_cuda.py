"""Device memory without a GPU: cuda-bindings on a simulated driver (tests/fake_libcuda.c)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.engines import cuda
from edgeseg.engines.cuda import DeviceArray, open_device
from edgeseg.errors import InputError, MissingPartError

ROOT = Path(__file__).resolve().parents[2]
SUITE = "tests/gpu/test_cuda.py"
NO_GPU = (
    "wanted an NVIDIA driver and a GPU; install the driver, choose engine 'ort', or build for "
    "other GPUs with --targets"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulated libcuda.so.1."""
    if find_spec("cuda") is None:
        pytest.skip("needs trt-rtx; run: make trt-env")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("driver")
    words = ["gcc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1"]
    words += ["-o", str(folder / "libcuda.so.1"), str(ROOT / "tests" / "fake_libcuda.c"), "-ldl"]
    subprocess.run(words, check=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return folder


def python(driver: Path | None, *words: str, kind: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python with a simulated driver, or with none."""
    environment = {**os.environ, "FAKE_CUDA": kind, "LD_LIBRARY_PATH": str(driver or "")}
    environment |= {"EDGESEG_REQUIRE": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("kind", ["discrete", pytest.param("integrated", marks=pytest.mark.slow)])
def test_the_suite_of_gpus_passes_on_a_simulated_one(driver: Path, kind: str) -> None:
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE, "-k", "not pycuda")
    done = python(driver, *words, kind=kind)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\n12 passed, \d+ deselected in ", done.stdout), done.stdout


LEAKS = """
import ctypes, gc
from contextlib import suppress
from edgeseg.engines.cuda import open_device
device = open_device()
with device.current():
    kept, gone = device.host(64), device.host(64, mapped=True)
    device.allocate(64), device.event()
    stream = device.stream()
    device.capture(stream, lambda: device.upload(device.allocate(64), kept, stream))
    for wrong in (stream.synchronize, lambda: 1 / 0):
        with suppress(Exception):
            device.capture(stream, wrong)
live = ctypes.CDLL("libcuda.so.1").fake_live
print(live())
del gone
print(live())
device.close()
print(live())
del kept, stream
gc.collect()
print(live())
"""


def test_all_memory_is_given_back(driver: Path) -> None:
    done = python(driver, "-c", LEAKS)
    assert done.stdout.split() == ["7", "6", "1", "0"], done.stderr


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("none", f"got CUDA_ERROR_NO_DEVICE from cuInit; {NO_GPU}"),
        ("discrete", "Fake GPU, sm89, through cuda-bindings"),
    ],
)
def test_a_machine_says_what_gpu_it_has(driver: Path, kind: str, text: str) -> None:
    code = "from edgeseg.engines.cuda import describe; print(describe())"
    assert python(driver, "-c", code, kind=kind).stdout == f"{text}\n"


USES = """
from edgeseg.engines.cuda import open_device
device = open_device()
with device.current():
    device.allocate(64)
print("inside")
device.allocate(64)
"""


def test_use_outside_of_the_context_is_an_error(driver: Path) -> None:
    done = python(driver, "-c", USES)
    assert done.stdout == "inside\n"
    assert "got CUDA_ERROR_INVALID_CONTEXT from cuMemAlloc; wanted it to work;" in done.stderr


def test_no_driver_is_one_sentence(driver: Path) -> None:
    if os.path.exists("/proc/driver/nvidia"):  # noqa: PTH110
        pytest.skip("has a driver")
    code = "from edgeseg.engines.cuda import describe; print(describe())"
    assert python(None, "-c", code).stdout == f"got no libcuda.so.1; {NO_GPU}\n"


@pytest.mark.slow
def test_loading_the_engine_without_a_gpu_is_one_sentence(driver: Path) -> None:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs trt-rtx; run: make trt-env")
    done = python(driver, "-m", "edgeseg", "run", "synthetic", "--engine", "trt", kind="none")
    assert done.returncode == 2
    assert done.stderr == f"edgeseg run: got CUDA_ERROR_NO_DEVICE from cuInit; {NO_GPU}\n"


# Without any binding.


@pytest.mark.parametrize(
    ("binding", "module", "extra"),
    [("auto", "cuda", "rtx"), ("cuda-bindings", "cuda", "rtx"), ("pycuda", "pycuda", "pycuda")],
)
def test_a_missing_binding_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, binding: str, module: str, extra: str
) -> None:
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError) as caught:
        open_device(binding)
    assert str(caught.value) == (
        f"got no module {module!r}; this part needs it; run: pip install 'edgeseg[{extra}]'"
    )
    assert cuda.describe().startswith("got no module 'cuda'; ")


def test_an_unknown_binding_lists_the_known() -> None:
    with pytest.raises(InputError, match="got binding 'pycudda'; wanted one of cuda-bindings, pyc"):
        open_device("pycudda")


def test_pycuda_is_taken_where_only_it_is_there_or_its_context_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgeseg.engines import cuda_pycuda

    opened: list[Any] = []
    monkeypatch.setattr(cuda_pycuda, "PyCudaDevice", lambda *words: opened.append(words))
    monkeypatch.setattr(cuda, "find_spec", {"pycuda": object()}.get)
    open_device()
    monkeypatch.setattr(cuda, "find_spec", lambda name: object())
    open_device(context="yours", index=1)
    assert opened == [(0, None), (1, "yours")]


def test_importing_loads_no_binding() -> None:
    code = (
        "import sys, edgeseg.engines.cuda, edgeseg.engines.trt, edgeseg.engines.cuda_pycuda\n"
        "print([m for m in ('cuda', 'pycuda', 'tensorrt', 'tensorrt_rtx') if m in sys.modules])"
    )
    assert python(None, "-c", code).stdout == "[]\n"


def test_device_arrays_know_their_size() -> None:
    assert DeviceArray(16, (2, 3), np.float32).nbytes == 24
    assert DeviceArray(16, (), np.uint8).nbytes == 1
