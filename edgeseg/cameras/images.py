"""Pictures from files, through OpenCV: one, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edgeseg.cameras.base import check_size
from edgeseg.cameras.files import FilesCamera, unreadable
from edgeseg.cameras.headers import SUFFIXES, read_header
from edgeseg.errors import CameraError, InputError
from edgeseg.frame import MAX_PIXELS, Frame, PixelFormat

KINDS = "PNG, JPEG, BMP, WebP, PGM or PPM"
MAX_FILE_BYTES = 4 * MAX_PIXELS + 1_000_000
FORMATS: dict[int, PixelFormat] = {1: "mono8", 3: "bgr8", 4: "bgra8"}


class _DamagedError(CameraError):
    """One picture can't be read; the next one may be."""


class ImageCamera(FilesCamera):
    """One picture, or a folder of pictures in the order of their names.

    Grey pictures come as ``mono8``, those with transparency as ``bgra8``, all others as ``bgr8``;
    each at its own size and in fresh memory. Damaged pictures of a folder are skipped and counted.
    Pictures of 16 bits are refused: only their maker knows which part of the range matters.

    Args:
        path: the picture or the folder.
        live: give them at the pace of ``fps``, see `FilesCamera`.
        fps: nominal pictures per second.

    Raises:
        CameraError: missing, empty, unreadable, damaged or too large.
        InputError: more than 8 bits per channel, or an ``fps`` that isn't above 0.
    """

    def __init__(self, path: str | Path, *, live: bool = False, fps: float = 30.0) -> None:
        super().__init__(path, live=live)
        self._paths = _pictures(self.path)
        self.frame_count = len(self._paths)
        self._start(fps)

    def _decode(self) -> Iterator[Frame | None]:
        for path in self._paths:
            try:
                frame = decode(_read(path), repr(str(path)))
            except _DamagedError:
                if path == self.path:
                    raise
                yield None
                continue
            yield frame


def decode(data: bytes, name: str) -> Frame:
    """Decode one picture into fresh memory, once its header has been found good.

    Args:
        data: the whole file.
        name: what errors call it.

    Raises:
        CameraError: no picture, a damaged or a too large one.
        InputError: more than 8 bits per channel.
    """
    header = read_header(data)
    if header is None:
        raise _DamagedError(
            f"got {name}, which is no picture that can be read; wanted {KINDS}; "
            "convert it, or copy it again"
        )
    check_size(f"a picture {name}", header.width, header.height)
    if header.bits > 8:
        raise InputError(
            f"got a picture {name} of {header.bits} bits per channel; wanted 8; scale "
            "the range that matters to 0..255 first"
        )
    flags = cv2.IMREAD_UNCHANGED if header.alpha else cv2.IMREAD_ANYCOLOR
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if header.whole else None
    if pixels is None:
        raise _DamagedError(
            f"got a picture {name} that is cut short or damaged; wanted a whole file; copy it again"
        )
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return Frame(pixels.view(np.uint8), FORMATS[channels])


def _pictures(path: Path) -> list[Path]:
    """The picture itself, or the pictures of a folder by name."""
    if path.is_file():
        return [path]
    try:
        paths = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise unreadable(path, error) from error
    if not paths:
        raise CameraError(
            f"got a folder {str(path)!r} without a picture; wanted {KINDS} files in it; "
            "check the path"
        )
    return paths


def _read(path: Path) -> bytes:
    """The whole file, unless its size alone is absurd."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CameraError(
                f"got a picture {str(path)!r} of {size / 1e6:.0f} MB; wanted at most "
                f"{MAX_FILE_BYTES / 1e6:.0f} MB; scale it down first"
            )
        data = path.read_bytes()
    except CameraError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    if not data:
        raise _DamagedError(f"got an empty file {str(path)!r}; wanted a picture; copy it again")
    return data
