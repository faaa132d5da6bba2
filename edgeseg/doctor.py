"""What is on this machine: the part of every record that says where a number comes from."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import edgeseg

BASE = ("numpy", "opencv-python-headless", "onnxruntime", "av", "faster-coco-eval", "PyYAML")
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "scipy", "safetensors"),
    "export": ("torch", "onnx", "onnxscript", "safetensors"),
    "tensorrt": ("tensorrt", "cuda-bindings"),
    "rtx": ("tensorrt-rtx", "cuda-bindings"),
    "pycuda": ("pycuda",),
    "ros": ("rclpy",),
    "gui": ("websockets",),
}


def machine() -> dict[str, Any]:
    """The machine card of a measurement: processor, cores, memory, system, library versions."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "edgeseg": edgeseg.__version__,
        "versions": {name: found for name in BASE if (found := installed(name))},
    }


def installed(distribution: str) -> str:
    """Version of an installed distribution, or ""."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def missing_modules(modules: tuple[str, ...]) -> list[str]:
    """Those of ``modules`` that can't be imported here; none of them is loaded."""
    return [name for name in modules if find_spec(name) is None]


def _cpu() -> str:
    """Name of the processor as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
