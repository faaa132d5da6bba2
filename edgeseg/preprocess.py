"""The one pass over pixels: from the camera's format into the engine's own input array."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.errors import EngineError
from edgeseg.frame import Frame
from edgeseg.letterbox import Geometry, fit

_CONVERT: dict[tuple[str, str], int] = {
    ("bgr8", "rgb"): cv2.COLOR_BGR2RGB,
    ("rgb8", "bgr"): cv2.COLOR_RGB2BGR,
    ("bgra8", "rgb"): cv2.COLOR_BGRA2RGB,
    ("bgra8", "bgr"): cv2.COLOR_BGRA2BGR,
    ("rgba8", "rgb"): cv2.COLOR_RGBA2RGB,
    ("rgba8", "bgr"): cv2.COLOR_RGBA2BGR,
    ("mono8", "rgb"): cv2.COLOR_GRAY2RGB,
    ("mono8", "bgr"): cv2.COLOR_GRAY2BGR,
    ("nv12", "rgb"): cv2.COLOR_YUV2RGB_NV12,
    ("nv12", "bgr"): cv2.COLOR_YUV2BGR_NV12,
    ("yuyv", "rgb"): cv2.COLOR_YUV2RGB_YUYV,
    ("yuyv", "bgr"): cv2.COLOR_YUV2BGR_YUYV,
    ("uyvy", "rgb"): cv2.COLOR_YUV2RGB_UYVY,
    ("uyvy", "bgr"): cv2.COLOR_YUV2BGR_UYVY,
}
"""(pixel format, wanted colour order) -> OpenCV's conversion; no entry: nothing to convert."""
_SUBSAMPLED = ("nv12", "yuyv", "uyvy")


class Preprocessor:
    """Resizes and converts frames into a network input, reusing its scratch between frames.

    A picture that shrinks to less than half is halved first, by the mean of 2 x 2 pixels, as often
    as needed: nothing falls between the samples, at a fraction of the price of an area resize.
    After the first frame of a size and format nothing frame-sized is allocated. Not to be shared
    between threads.

    Args:
        spec: says the size, colour order and padding of the input.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._key: tuple[str, tuple[int, ...]] | None = None
        self._out: NDArray[np.uint8] | None = None

    def __call__(self, frame: Frame, out: NDArray[np.uint8]) -> Geometry:
        """Fill ``out`` with the letterboxed picture in the spec's colour order.

        Args:
            frame: picture of any format; only read.
            out: uint8 (1, H, W, 3) at network size, all of it written. The padding is written when
                the kind of frame or ``out`` changes, so nobody else may write there in between.

        Returns:
            Where the picture lies in ``out``.

        Raises:
            EngineError: ``out`` is not of the network's size, as that of a closed engine.
        """
        if self._key != (frame.format, frame.pixels.shape):
            self._prepare(frame)
        if self._out is not out:
            self._pad(out)
        height, width = self._geometry.scaled_hw
        picture = out[0, :height, :width]
        if self._code is None:
            self._resize(frame.pixels, picture)
        elif frame.format in _SUBSAMPLED:
            cv2.cvtColor(frame.pixels, self._code, dst=self._converted)
            self._resize(self._converted, picture)
        else:
            self._resize(frame.pixels, self._small)
            cv2.cvtColor(self._small, self._code, dst=picture)
        return self._geometry

    def _prepare(self, frame: Frame) -> None:
        """Plan the steps and make the scratch for frames of this size and format."""
        size_hw = (frame.height, frame.width)
        self._geometry = fit(size_hw, self._spec.input_hw)
        target_hw = self._geometry.scaled_hw
        self._code = _CONVERT.get((frame.format, self._spec.colour))
        subsampled = frame.format in _SUBSAMPLED
        channels = (3,) if subsampled else frame.pixels.shape[2:]
        self._converted = np.empty((*size_hw, 3) if subsampled else 0, np.uint8)
        self._small = np.empty((*target_hw, *channels), np.uint8)
        self._halves: list[NDArray[np.uint8]] = []
        while (half_hw := _halve(size_hw, target_hw)) != size_hw:
            self._halves.append(np.empty((*half_hw, *channels), np.uint8))
            size_hw = half_hw
        self._key, self._out = (frame.format, frame.pixels.shape), None

    def _pad(self, out: NDArray[np.uint8]) -> None:
        """Check ``out`` and write the padding right of and below the picture."""
        if out.shape != (1, *self._spec.input_hw, 3):
            raise EngineError(
                f"got a network input of shape {out.shape}; wanted {(1, *self._spec.input_hw, 3)}; "
                "load the network again if it was closed"
            )
        height, width = self._geometry.scaled_hw
        out[0, height:] = self._spec.pad_value
        out[0, :height, width:] = self._spec.pad_value
        self._out = out

    def _resize(self, source: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Resize ``source`` into ``target`` by way of the halves."""
        for step in (*self._halves, target):
            cv2.resize(source, step.shape[1::-1], dst=step, interpolation=cv2.INTER_LINEAR)
            source = step


def preprocess(frame: Frame, spec: ModelSpec, out: NDArray[np.uint8]) -> Geometry:
    """One frame into ``out``, as `Preprocessor` does, with scratch of its own."""
    return Preprocessor(spec)(frame, out)


def _halve(size_hw: tuple[int, int], target_hw: tuple[int, int]) -> tuple[int, int]:
    """The size with each side halved that is more than twice its target."""
    height, width = (
        side // 2 if side > 2 * target else side
        for side, target in zip(size_hw, target_hw, strict=True)
    )
    return height, width
