"""The one pass over pixels: from the camera's format into the engine's own input array."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
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
}
"""(pixel format, wanted colour order) -> OpenCV's conversion; no entry: nothing to convert."""
_SUBSAMPLED = ("nv12", "yuyv")


class Preprocessor:
    """Resizes and converts frames into a network input, reusing its scratch between frames.

    After the first frame of a size and format, nothing frame-sized is allocated. Not to be shared
    between threads.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._scratch = np.zeros(0, np.uint8)
        self._padded: tuple[Geometry, NDArray[np.uint8]] | None = None

    def __call__(self, frame: Frame, out: NDArray[np.uint8]) -> Geometry:
        """Fill ``out`` with the letterboxed picture in the spec's colour order.

        Args:
            frame: picture of any format; only read.
            out: uint8 (1, H, W, 3) at network size, all of it written. The padding is written when
                the geometry or ``out`` changes, so nobody else may write there in between.

        Returns:
            Where the picture lies in ``out``.
        """
        geometry = fit((frame.height, frame.width), self._spec.input_hw)
        self._pad(geometry, out)
        height, width = geometry.scaled_hw
        picture = out[0, :height, :width]
        code = _CONVERT.get((frame.format, self._spec.colour))
        if code is None:
            _resize(frame.pixels, picture)
        elif frame.format in _SUBSAMPLED:
            whole = self._take((frame.height, frame.width, 3))
            cv2.cvtColor(frame.pixels, code, dst=whole)
            _resize(whole, picture)
        else:
            small = self._take((height, width, *frame.pixels.shape[2:]))
            cv2.cvtColor(_resize(frame.pixels, small), code, dst=picture)
        return geometry

    def _take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A scratch array of this shape, valid until the next call."""
        size = int(np.prod(shape))
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch[:size].reshape(shape)

    def _pad(self, geometry: Geometry, out: NDArray[np.uint8]) -> None:
        """Write the padding right of and below the picture, once per geometry and array."""
        if self._padded is not None and self._padded[0] == geometry and self._padded[1] is out:
            return
        height, width = geometry.scaled_hw
        out[0, height:] = self._spec.pad_value
        out[0, :height, width:] = self._spec.pad_value
        self._padded = (geometry, out)


def preprocess(frame: Frame, spec: ModelSpec, out: NDArray[np.uint8]) -> Geometry:
    """One frame into ``out``, as `Preprocessor` does, with scratch of its own."""
    return Preprocessor(spec)(frame, out)


def _resize(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize into ``target``; averages where a side shrinks to half, so that nothing is missed."""
    shrink = max(source.shape[0] / target.shape[0], source.shape[1] / target.shape[1])
    method = cv2.INTER_AREA if shrink >= 2 else cv2.INTER_LINEAR
    cv2.resize(source, target.shape[1::-1], dst=target, interpolation=method)
    return target
