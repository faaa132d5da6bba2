"""What the tests of quantising bundles share."""

from __future__ import annotations

from pathlib import Path

from edgeseg.export.calibrate import read_calibration

NETWORKS = ("model.int8.onnx", "model.int8.u8.onnx", "model.int8.trt.onnx", "model.int8.weights")


def networks(folder: Path) -> list[bytes]:
    """The INT8 files of a bundle."""
    return [(folder / name).read_bytes() for name in NETWORKS]


class Accuracy:
    """Stands for an evaluation: every harmful layer that is INT8 costs its points."""

    def __init__(self, harm: dict[str, float]) -> None:
        self.harm = harm
        self.asked: list[tuple[str, str]] = []

    def __call__(self, folder: Path, precision: str) -> float:
        self.asked.append((folder.name, precision))
        if precision == "fp32":
            return 0.6
        left = read_calibration(folder / "calibration.json").float_layers
        return 0.6 - sum(points for name, points in self.harm.items() if name not in left) / 100
