"""A record of what a run of the tests found on this machine, for docs/support.md.

``EDGESEG_RECORD=docs/results/support/NAME.json`` makes pytest write one.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from datetime import date
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from edgeseg import record
from edgeseg.doctor import machine
from edgeseg.engines.cuda import open_device
from edgeseg.errors import EdgesegError

PARTS = {
    "engine ort": r"contract/test_engines\.py::.*\[ort\b",
    "engine openvino": r"contract/test_engines\.py::.*\[openvino\b",
    "engine trt": r"contract/test_engines\.py::.*\[trt\b",
    "engine trt-dla": r"gpu/test_trt\.py::test_dla",
    "masks on the GPU": r"gpu/test_trt\.py::test_masks",
    "TensorRT builds": r"export/test_build\.py::",
    "cuda-bindings": r"gpu/test_cuda\.py::.*\[cuda-bindings\b",
    "pycuda": r"gpu/test_cuda\.py::.*\[pycuda\b",
    "ROS 2 node": r"tests/ros/(?!test_launch)",
    "ros2 launch": r"tests/ros/test_launch\.py::",
}
"""What a test is about, by its name; the others say nothing of a device."""
LIBRARIES = re.compile(
    r"onnxruntime|openvino|tensorrt(_|-)?(rtx)?|cuda-bindings|pycuda|ros-rclpy|launch(_|-)ros"
)


class Recorder:
    """A plug-in of pytest that counts outcomes by part, and writes them down at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test once: by its call, or by what kept it from being called."""
        if report.when != "call" and report.outcome == "passed":
            return
        for part, pattern in PARTS.items():
            if re.search(pattern, report.nodeid):
                self._parts.setdefault(part, Counter())[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        record.write(
            self._path,
            {
                "date": date.today().isoformat(),
                "commit": commit(),
                "machine": machine(),
                "gpu": gpu(),
                "libraries": libraries(),
                "parts": {part: dict(counts) for part, counts in sorted(self._parts.items())},
            },
        )


def commit() -> str:
    """The commit that was tested, with ``+`` where the tree differs from it."""
    words = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    folder = Path(__file__).parent
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def gpu() -> str:
    """Name of the GPU; "" where there is none to use."""
    try:
        return open_device().name
    except EdgesegError:
        return ""


def libraries() -> dict[str, str]:
    """Versions of what an engine or a node runs on."""
    found = {each.metadata["Name"]: each.version for each in distributions()}
    return {name: found[name] for name in sorted(found) if name and LIBRARIES.fullmatch(name)}
