"""Results as a picture: an H.264 video with the instances drawn in."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.sinks.base import FileSink
from edgeseg.sinks.overlay import Overlay, to_bgr

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
SMPTE170M, LIMITED = 6, 1  # the colour space that we write, told to players


class VideoSink(FileSink):
    """Writes an annotated video: H.264, yuv420p, at the frames' own size (made even).

    A gap in the sequence is a gap in the video's time, so that it plays at the true speed. No
    frame, no file.

    Args:
        path: ``.mp4``, ``.mov`` or ``.mkv``; appears when the sink is closed.
        fps: frames per second of the source.
        classes: name of each label, for the text.
        crf: x264's quality, 0 (lossless) to 51.

    Raises:
        InputError: another suffix, a number out of range, or a frame of another size than the
            first.
        OutputError: the path can't be written.
    """

    _errors = (OSError, av.error.FFmpegError)

    def __init__(
        self, path: str | Path, *, fps: float = 30.0, classes: Sequence[str] = (), crf: int = 23
    ) -> None:
        suffix = Path(path).suffix.lower()
        if suffix not in CONTAINERS:
            raise InputError(
                f"got a video named {str(path)!r}; wanted a name that ends in "
                f"{', '.join(CONTAINERS)}; rename it"
            )
        if not (0.001 <= fps <= 1000 and 0 <= crf <= 51):
            raise InputError(
                f"got {fps:g} fps and crf {crf}; wanted 0.001 to 1000 fps and 0 to 51; "
                "leave out what you don't know"
            )
        super().__init__(path)
        self._rate = Fraction(fps).limit_denominator(1001)
        self._options = {"preset": "veryfast", "crf": str(crf)}
        self._overlay = Overlay(classes)
        self._to_yuv = VideoReformatter()
        self._file = self.part.open("wb")  # ours, so that the system's own errors come through
        self._container: OutputContainer | None = None
        self._first_sequence = 0

    def _write(self, frame: Frame, instances: Instances) -> None:
        size = frame.height, frame.width
        container = self._container or self._start(frame)
        height, width = self._size
        if size != self._size:
            raise InputError(
                f"got a frame of {size[1]}x{size[0]} after {width}x{height}; wanted one size per "
                "video; write a video for each size"
            )
        picture = self._canvas[:height, :width]
        to_bgr(frame, picture)
        self._overlay.draw(picture, instances)
        self._canvas[height:, :width] = picture[-1:]  # the even size's odd row and column
        self._canvas[:, width:] = self._canvas[:, width - 1 : width]
        self._encode(container, frame.sequence - self._first_sequence)

    def _start(self, frame: Frame) -> OutputContainer:
        self._size = frame.height, frame.width
        even = (frame.height + frame.height % 2, frame.width + frame.width % 2)
        self._canvas: NDArray[np.uint8] = np.zeros((*even, 3), np.uint8)
        self._first_sequence = frame.sequence
        container = av.open(self._file, "w", format=CONTAINERS[self.path.suffix.lower()])
        stream = container.add_stream("libx264", rate=self._rate, options=self._options)
        stream.height, stream.width = even
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = SMPTE170M
        stream.codec_context.color_range = LIMITED
        self._container, self._stream = container, stream
        return container

    def _encode(self, container: OutputContainer, number: int) -> None:
        picture = av.VideoFrame.from_ndarray(self._canvas, format="bgr24")
        yuv = self._to_yuv.reformat(picture, format="yuv420p", threads=1)
        yuv.pts, yuv.time_base = number, 1 / self._rate
        container.mux(self._stream.encode(yuv))

    def _finish(self) -> bool:
        container, self._container = self._container, None
        with self._file:
            if container is None:
                return False
            with container:
                container.mux(self._stream.encode(None))
        return True

    def _drop(self) -> None:
        container, self._container = self._container, None
        with contextlib.suppress(*self._errors), self._file:
            if container is not None:
                container.close()
