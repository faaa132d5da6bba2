"""Frame: leased pixels on their way through edgeseg."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError

PixelFormat = Literal["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "nv12", "yuyv", "uyvy"]
MAX_PIXELS = 64_000_000
"""Largest picture that is taken, width x height: keeps a small file from filling the memory."""
MAX_SIDE = 32_768
CHANNELS: dict[str, int] = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "yuyv": 2,
    "uyvy": 2,
}
_WANTED = {"mono8": "(H, W)", "nv12": "(H*3/2, W), W even"}
_WANTED |= dict.fromkeys(("yuyv", "uyvy"), "(H, W, 2), W even")


@dataclass(slots=True)
class Frame:
    """One picture: a view of somebody's memory, with a lease that says how long it is valid.

    Attributes:
        pixels: uint8. ``rgb8 bgr8 rgba8 bgra8 yuyv uyvy``: (H, W, C); ``mono8``: (H, W);
            ``nv12``: (H * 3 / 2, W), the Y plane above the interleaved UV plane. Rows may be
            padded (any stride along axis 0). Valid until `release`: owned by the camera.
        format: how the bytes are to be read, colour order included.
        stamp_ns: CLOCK_MONOTONIC time at which the picture was taken, nanoseconds.
        sequence: counts from 0 at the source; gaps are pictures that the source lost.
        frame_id: name of the optical frame (ROS meaning).
        header: what the source wants to find again beside the result, e.g. the header of the ROS
            message that the pixels lie in; carried along untouched.

    Raises:
        InputError: shape or dtype of the pixels doesn't fit the format.

    A Frame is a context manager; leaving it releases the lease. Releasing twice is harmless.

    >>> with Frame(np.zeros((480, 640, 3), np.uint8), "bgr8") as frame:
    ...     frame
    Frame(640x480 bgr8, sequence=0, stamp_ns=0, frame_id='camera')
    """

    pixels: NDArray[np.uint8]
    format: PixelFormat
    stamp_ns: int = 0
    sequence: int = 0
    frame_id: str = "camera"
    on_release: Callable[[], None] | None = field(default=None, repr=False)
    header: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        known = get_args(PixelFormat)
        if self.format not in known:
            raise InputError(
                f"got pixel format {self.format!r}; wanted one of {', '.join(known)}; "
                "convert the picture first"
            )
        if not isinstance(self.pixels, np.ndarray):
            raise InputError(
                f"got pixels of type {type(self.pixels).__name__}; wanted a numpy array of uint8; "
                "convert with numpy.asarray"
            )
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or 0 in shape or not _fits(shape, self.format):
            wanted = _WANTED.get(self.format, f"(H, W, {CHANNELS.get(self.format)})")
            raise InputError(
                f"got pixels {dtype} {shape} for {self.format}; wanted uint8 {wanted} with no "
                "empty side; check the camera's format"
            )

    @property
    def height(self) -> int:
        """Rows of the picture, pixels."""
        rows: int = self.pixels.shape[0]
        return rows * 2 // 3 if self.format == "nv12" else rows

    @property
    def width(self) -> int:
        """Columns of the picture, pixels."""
        columns: int = self.pixels.shape[1]
        return columns

    def release(self) -> None:
        """Give the pixels back to their owner; they must not be read afterwards."""
        done, self.on_release = self.on_release, None
        if done is not None:
            done()

    def __enter__(self) -> Frame:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return (
            f"Frame({self.width}x{self.height} {self.format}, sequence={self.sequence}, "
            f"stamp_ns={self.stamp_ns}, frame_id={self.frame_id!r})"
        )


def _fits(shape: tuple[int, ...], pixel_format: str) -> bool:
    """Whether an array of this shape can hold a picture of the format."""
    if pixel_format == "mono8":
        return len(shape) == 2
    if pixel_format == "nv12":
        return len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
    if len(shape) != 3 or shape[2] != CHANNELS[pixel_format]:
        return False
    return pixel_format not in ("yuyv", "uyvy") or shape[1] % 2 == 0
