"""What is on this machine: for people who wonder, and for every record of a measurement."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import edgeseg
from edgeseg import registry
from edgeseg.bundle import find, packaged, read
from edgeseg.engines import cuda
from edgeseg.errors import EdgesegError

BASE = (
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "av",
    "faster-coco-eval",
    "PyYAML",
    "tqdm",
)
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "scipy", "safetensors"),
    "export": ("torch", "onnx", "safetensors"),
    "bag": ("rosbags", "mcap"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "cuda"),
    "rtx": ("tensorrt_rtx", "cuda"),
    "pycuda": ("pycuda",),
    "ros": ("rclpy",),
    "gui": ("websockets",),
}
"""Extra -> modules that it brings; the distributions are in ``setup.py``."""


def machine() -> dict[str, Any]:
    """The machine card of a measurement: processor, cores, memory, system, library versions."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "edgeseg": edgeseg.__version__,
        "versions": {name: _installed(name) for name in BASE},
    }


def report() -> dict[str, Any]:
    """The machine card, packaged bundles, parts that load here, and extras with what they lack."""
    return {
        **machine(),
        "bundles": {name: _bundle(name) for name in packaged()},
        "engines": _parts("engine"),
        "cameras": _parts("camera"),
        "sinks": _parts("sink"),
        "gpu": cuda.describe(),
        "extras": {name: _lacking(modules) for name, modules in EXTRAS.items()},
    }


def table(found: Mapping[str, Any]) -> str:
    """The `report` as text for a person."""
    lines = [f"{key:11} {found[key]}" for key in ("edgeseg", "python", "system")]
    lines.append(f"{'cpu':11} {found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB")
    lines += [f"{'':11} {name} {number}" for name, number in found["versions"].items()]
    lines += [f"{'bundles':11} {name}: {text}" for name, text in found["bundles"].items()]
    for kind in ("engines", "cameras", "sinks"):
        for name, trouble in found[kind].items():
            lines.append(f"{kind:11} {name}{f': {trouble}' if trouble else ''}")
    lines.append(f"{'gpu':11} {found['gpu']}")
    for name, lacking in found["extras"].items():
        advice = f"pip install 'edgeseg[{name}]'" if name != "ros" else "source a ROS 2 workspace"
        state = f"not here ({', '.join(lacking)}); {advice}" if lacking else "here"
        lines.append(f"{'extras':11} {name}: {state}")
    return "\n".join(lines)


def _bundle(name: str) -> str:
    """A packaged bundle in some words, or why it can't be used."""
    folder = find(name)
    try:
        spec = read(folder)
    except EdgesegError as error:
        return str(error)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return (
        f"{spec.input_hw[1]}x{spec.input_hw[0]}, {' and '.join(spec.precisions)}, "
        f"{len(spec.classes)} classes, {megabytes:.1f} MB"
    )


def _parts(kind: str) -> dict[str, str]:
    """Name -> why it doesn't load, or "", for every part of a kind."""
    found = {}
    for name in registry.rows(kind):
        try:
            registry.resolve(kind, name)
            found[name] = ""
        except EdgesegError as error:
            found[name] = str(error)
    return found


def _lacking(modules: tuple[str, ...]) -> list[str]:
    """Those of ``modules`` that aren't installed; none of them is loaded."""
    return [name for name in modules if find_spec(name) is None]


def _installed(distribution: str) -> str:
    """Version of a distribution, or "missing"."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"


def _cpu() -> str:
    """Name of the processor as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
