"""Fixtures for everybody, and skips that can't hide.

A test that needs what a machine may lack is skipped there; the variable ``EDGESEG_REQUIRE`` lists
what must be there (``cuda,v4l2``, or ``all``), and turns every skip that names one of them into a
failure. ``.ci/run`` sets it, so a broken build can't look green.
"""

from __future__ import annotations

import ctypes.util
import os
import re
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REQUIRED = tuple(filter(None, re.split(r"[,\s]+", os.environ.get("EDGESEG_REQUIRE", "").lower())))
PARTS_OF_MARKS: dict[str, tuple[str, Callable[[], bool]]] = {
    "gpu": ("cuda", lambda: ctypes.util.find_library("cuda") is not None),
    "trt": ("trt", lambda: any(map(find_spec, ("tensorrt", "tensorrt_rtx")))),
    "v4l2": ("v4l2", lambda: any(Path("/dev").glob("video*"))),
    "ros": ("ros", lambda: find_spec("rclpy") is not None),
}


# What was measured or built on this machine is no test's business.
CACHE = tempfile.TemporaryDirectory(prefix="edgeseg-cache-")
os.environ["EDGESEG_CACHE"] = str(Path(CACHE.name) / "engines")
TORCH_FOLDERS = ("parity", "export", "train")


def pytest_configure(config: pytest.Config) -> None:
    """Write down what the run finds, where a record is asked for."""
    if path := os.environ.get("EDGESEG_RECORD"):
        from recording import Recorder

        config.pluginmanager.register(Recorder(Path(path).absolute()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders that run torch networks take minutes: not for `make check`."""
    here = Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(here / folder) for folder in TORCH_FOLDERS):
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test where its part is missing."""
    for mark, (part, is_here) in PARTS_OF_MARKS.items():
        if item.get_closest_marker(mark) and not is_here():
            pytest.skip(f"needs {part}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _unhidden((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _unhidden((yield))


def _unhidden(report: Any) -> Any:
    """The report, failed where it is a skip for want of a required part."""
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    hidden = [part for part in REQUIRED if part == "all" or _names(reason, part)]
    if hidden:
        report.outcome = "failed"
        report.longrepr = f"EDGESEG_REQUIRE names {', '.join(hidden)}, but: {reason}"
    return report


def _names(reason: str, part: str) -> bool:
    return re.search(rf"\b{re.escape(part)}\b", reason, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Spoken:
    """What one call of the command line gave back."""

    code: int
    out: str
    err: str


@pytest.fixture
def edgeseg_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Spoken]:
    """Call ``edgeseg`` with words, in this process."""
    from edgeseg.cli import main

    def call(*words: object) -> Spoken:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as leave:  # argparse: --help, or a usage error
            code = int(leave.code or 0)
        return Spoken(code, *capsys.readouterr())

    return call


def blobs(number: int, height: int = 96, width: int = 128) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """BGR picture ``number`` of a scene with two bright squares that move on a dark ground."""
    picture = np.full((height, width, 3), 20, np.uint8)
    x, y = 8 + number % 40, 10 + number % 20
    picture[y : y + 24, x : x + 24] = (60, 220, 240)
    picture[50:74, 100 - x : 124 - x] = (240, 200, 60)
    return picture


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 video of 24 frames, 128x96, 30 fps, bright squares on a dark ground."""
    import av

    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(blobs(number), "bgr24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNG of 128x96 with two bright squares on a dark ground."""
    import cv2

    path = tmp_path_factory.mktemp("picture") / "squares.png"
    cv2.imwrite(str(path), blobs(0))
    return path


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle for the engine ``fake``: 320x240, classes red, green and blue; no real network."""
    from edgeseg.bundle import write
    from edgeseg.engines.fake import fake_spec

    folder = tmp_path_factory.mktemp("bundles") / "fake"
    write(folder, fake_spec(), {"model.onnx": b"not a network"})
    return folder
