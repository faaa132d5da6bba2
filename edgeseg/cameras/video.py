"""Video files, through FFmpeg (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from edgeseg.cameras.base import BufferPool, check_size
from edgeseg.cameras.files import FilesCamera, unreadable
from edgeseg.errors import CameraError
from edgeseg.frame import MAX_PIXELS, Frame

# Without this list FFmpeg would also play text as ANSI art, and follow play lists to other files.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,m4v,mjpeg,ivf,flv,"
    "ogg,asf,yuv4mpegpipe,gif"
)
TURNS = {  # degrees counter-clockwise
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    -90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
}


class VideoCamera(FilesCamera):
    """A video file, decoded to ``bgr8`` in the colour space that the file declares.

    Pixels are a view of FFmpeg's own converted picture (padded rows): nothing is copied, and they
    live as long as the Frame does. Only a video with a rotation tag is copied once per frame, as
    it is turned into a reused buffer. Damaged frames are skipped and counted.

    Args:
        path: the file.
        live: play it at its own pace, see `FilesCamera`.
        threads: decoder threads; 1 has the lowest latency and is enough up to 1080p.

    Raises:
        CameraError: missing, empty, unreadable, not a video, cut short, or too large.
    """

    def __init__(self, path: str | Path, *, live: bool = False, threads: int = 1) -> None:
        super().__init__(path, live=live)
        self._container = _open(self.path)
        try:
            self._stream = _video_stream(self._container, self.path)
            self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            self._stream.codec_context.thread_type = "NONE" if threads == 1 else "AUTO"
            self._stream.codec_context.thread_count = threads
            self._to_bgr = VideoReformatter()
            self._pool = BufferPool()
            self.frame_count = self._stream.frames or None
            self._start(float(self._stream.average_rate or self._stream.guessed_rate or 30))
        except BaseException:
            self._container.close()
            raise

    def _decode(self) -> Iterator[Frame | None]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, IndexError) as error:  # PyAV 18 on a track born late
                raise CameraError(
                    f"got a damaged video {str(self.path)!r} after {self._sequence} frames; wanted "
                    "a whole file; copy or record it again"
                ) from error
            if packet is None:
                return
            try:
                pictures = packet.decode()
            except av.error.InvalidDataError:
                yield None
                continue
            for picture in pictures:
                yield None if picture.is_corrupt else self._frame(picture)

    def _frame(self, picture: VideoFrame) -> Frame:
        plane = self._to_bgr.reformat(picture, format="bgr24", threads=1).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        pixels = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
        turn = TURNS.get(picture.rotation)
        if turn is None:
            return Frame(pixels, "bgr8")
        quarter = turn != cv2.ROTATE_180
        height, width = (plane.width, plane.height) if quarter else (plane.height, plane.width)
        upright, give_back = self._pool.lend((height, width, 3))
        cv2.rotate(pixels, turn, upright)  # the one copy: strides can't say a quarter turn
        self.copies += 1
        return Frame(upright, "bgr8", on_release=give_back)

    def _release(self) -> None:
        self._container.close()


def _open(path: Path) -> InputContainer:
    """Open a container of one of `FORMATS`."""
    try:
        if path.stat().st_size == 0:
            raise CameraError(
                f"got an empty file {str(path)!r}; wanted a video; copy or record it again"
            )
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        return av.open(f"file:{path}", options=options, metadata_errors="replace")
    except PermissionError as error:
        raise unreadable(path, error) from error
    except av.error.FFmpegError as error:
        raise CameraError(
            f"got {str(path)!r}, which FFmpeg can't read as a video; wanted e.g. MP4, MKV or AVI; "
            "if it is one, it was cut short: copy or record it again"
        ) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream, once its size and length have been found good."""
    if not container.streams.video:
        raise CameraError(
            f"got {str(path)!r} without a picture track; wanted a video; choose another file"
        )
    stream = container.streams.video[0]
    codec = stream.codec_context
    if codec is None:
        raise CameraError(
            f"got a video {str(path)!r} in a coding that FFmpeg doesn't know; wanted e.g. H.264; "
            "convert it first"
        )
    check_size(f"a video {str(path)!r}", codec.width, codec.height)
    size = path.stat().st_size
    index = list(stream.index_entries)
    missing = sum(entry.pos + entry.size > size for entry in index)
    if missing:
        raise CameraError(
            f"got a video {str(path)!r} that is cut short: {missing} of {len(index)} frames lie "
            "behind its end; wanted a whole file; copy or record it again"
        )
    return stream
