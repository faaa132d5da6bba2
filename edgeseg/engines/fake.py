"""A scripted engine: bright blobs of the picture become instances. No network, no ONNX.

For tests and for trying a pipeline before there is a network. The same picture gives the same
outputs, and where the objects are is known to whoever drew the picture.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.engines.base import Engine, empty_outputs, network_file
from edgeseg.letterbox import axes, fit

BRIGHT = 128
LOGIT = 8.0


class FakeEngine(Engine):
    """Each connected region whose brightest channel is >= 128 is one instance.

    The picture is read at every ``mask_stride``-th pixel. Larger regions come first. Label: the
    brightest channel (0, 1, 2 in the order of ``spec.colour``; white is 0) modulo the number of
    classes. Scores: 0.95, then 0.01 less per rank, at least 0.6. Mask logits: +8 inside, -8
    outside; or their pixels in the frame, where the spec has a ``frame_hw``. Rows without an
    instance: score 0, label 0, no mask.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._outputs = empty_outputs(spec)
        self._logits = np.zeros((spec.max_instances, *spec.mask_hw), np.float32)

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> FakeEngine:
        """See `Engine.load`; the network file is not opened."""
        network_file(folder, spec, precision)
        return cls(spec)

    def _run(self) -> dict[str, NDArray[np.generic]]:
        scores, labels, masks = self._outputs["scores"], self._outputs["labels"], self._logits
        scores[:], labels[:], masks[:] = 0, 0, -LOGIT
        stride = self.spec.mask_stride
        picture = self.input[0, stride // 2 :: stride, stride // 2 :: stride]
        bright = (picture.max(2) >= BRIGHT).astype(np.uint8)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        largest_first = np.argsort(-areas, kind="stable")[: self.spec.max_instances]
        for row, index in enumerate(largest_first):
            inside = regions == index + 1
            channel = int(picture[inside].sum(0, dtype=np.int64).argmax())
            scores[row] = max(0.95 - 0.01 * row, 0.6)
            labels[row] = channel % len(self.spec.classes)
            masks[row][inside] = LOGIT
        self._outputs["masks"][:] = masks if self.spec.frame_hw is None else self._bits()
        return self._outputs

    def _bits(self) -> NDArray[np.uint8]:
        """The masks in the frame, eight pixels a byte."""
        geometry = fit(self.spec.frame_hw or (1, 1), self.spec.input_hw)
        rows, columns = axes(geometry, self.spec.mask_hw)
        return np.packbits(rows.weights @ self._logits @ columns.weights.T > 0, axis=2)

    def describe(self) -> str:
        """See `Engine.describe`."""
        return "fake engine: bright regions are objects"


def fake_spec(
    input_hw: tuple[int, int] = (240, 320), *, mask_stride: int = 4, max_instances: int = 20
) -> ModelSpec:
    """A spec for `FakeEngine` when there is no bundle: classes red, green and blue.

    >>> FakeEngine(fake_spec()).run()["masks"].shape
    (20, 60, 80)
    """
    return ModelSpec(
        name="fake",
        family="fastinst",
        task="instance",
        input_hw=input_hw,
        colour="rgb",
        pad_value=(0, 0, 0),
        classes=("red", "green", "blue"),
        max_instances=max_instances,
        mask_stride=mask_stride,
        precisions={"fp32": "model.onnx"},
    )
