"""What the tests of export share: one tiny bundle, it in INT8, and a quiet torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from conftest import blobs
from export_networks import write_tiny

from edgeseg.bundle import read
from edgeseg.export import int8
from edgeseg.export.int8 import Result, float_network, quantize
from edgeseg.export.quantize import Layer, layers
from edgeseg.export.sensitivity import Loss

logging.getLogger("torch.__trace").propagate = False  # thousands of lines for each failed test


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an untrained FastInst at 96x64, 12 queries."""
    return write_tiny(tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures."""
    folder = tmp_path_factory.mktemp("pictures") / "images"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), blobs(number))
    return folder


@pytest.fixture(scope="session")
def done(tiny: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The tiny bundle in INT8."""
    out = tmp_path_factory.mktemp("bundles") / "robot"
    return out, quantize(tiny, out, images=images)


@pytest.fixture(scope="session")
def possible(tiny: Path) -> list[Layer]:
    return layers(float_network(tiny, read(tiny)))


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch, possible: list[Layer]) -> Iterator[list[str]]:
    """A ranking of layers in the place of a measured one: the last layer is the worst."""
    names = [layer.name for layer in possible][::-1]
    rows = [Loss(name, "conv", 1 / (i + 1)) for i, name in enumerate(names)]
    monkeypatch.setattr(int8, "sensitivity", lambda *given: list(rows))
    return names
