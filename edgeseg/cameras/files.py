"""Cameras that read files: which one it is, and what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from time import monotonic_ns
from typing import Any

from edgeseg.cameras.base import Camera, Pace
from edgeseg.cameras.headers import SUFFIXES
from edgeseg.errors import CameraError, InputError
from edgeseg.frame import Frame
from edgeseg.registry import resolve

SOURCES = "a video, a picture, a folder of pictures or a bag"
BAGS = {".mcap", ".db3", ".bag"}
UNREAD = {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".exr", ".dng", ".svg", ".psd"}


class FilesCamera(Camera):
    """What the cameras that read files share; `open` chooses between them.

    Not live unless asked: pictures come as fast as they are taken, and none is lost. With
    ``live=True`` they come at the pace of ``fps``, and those that nobody takes in time are lost
    (``dropped["driver"]``), as from a real camera. The stamp is the time of reading; in live mode
    the time at which the picture was due. The sequence counts damaged pictures too.
    """

    def __init__(self, path: str | Path, *, live: bool) -> None:
        self.path = existing(path)
        super().__init__(self.path.name, live=live)
        self._sequence = 0
        self._given = 0

    @classmethod
    def open(cls, address: str, **settings: Any) -> Camera:
        """The camera for the video, picture, folder or bag at ``address``."""
        path = existing(address)
        if is_bag(path):
            bag: Camera = resolve("camera", "bag")(path, **settings)
            return bag
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            from edgeseg.cameras.images import ImageCamera

            return ImageCamera(path, **settings)
        if path.suffix.lower() in UNREAD:
            raise CameraError(
                f"got picture {str(path)!r}; wanted one of {', '.join(sorted(SUFFIXES))}; "
                "save it as PNG"
            )
        from edgeseg.cameras.video import VideoCamera

        return VideoCamera(path, **settings)

    def _start(self, fps: float) -> None:
        """Decode the first picture, which tells the size and proves that the file can be read."""
        if not 0 < fps < 1e6:
            raise InputError(f"got {fps:g} fps; wanted a number above 0, e.g. 30; leave it out")
        self.fps = fps
        self._pace = Pace(fps, self._interrupted)
        self._pictures = self._decode()
        self._first = self._advance()
        if self._first is None:
            raise CameraError(
                f"got no readable picture in {str(self.path)!r} ({self.dropped['corrupt']} "
                "damaged); wanted at least one; copy or record it again"
            )
        self.width, self.height = self._first.width, self._first.height

    @abstractmethod
    def _decode(self) -> Iterator[Frame | None]:
        """Each picture in turn, without sequence and stamp; None for a damaged one."""

    def _advance(self) -> Frame | None:
        for frame in self._pictures:
            self._sequence += 1
            if frame is not None:
                frame.sequence = self._sequence - 1
                return frame
            self.dropped["corrupt"] += 1
        return None

    def _read(self) -> Frame | None:
        frame, self._first = self._first or self._advance(), None
        while self.live and frame is not None and self._pace.newest() > frame.sequence:
            frame.release()
            self.dropped["driver"] += 1
            frame = self._advance()
        if frame is not None:
            frame.stamp_ns = self._pace.wait(frame.sequence) if self.live else monotonic_ns()
        return frame


def existing(path: str | Path) -> Path:
    """The path of a file or folder that is there.

    Raises:
        CameraError: nothing there, not allowed to look, or neither a file nor a folder.
    """
    path = Path(path)
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, RuntimeError, ValueError) as error:
        # The last two: no such home folder, a NUL byte.
        raise CameraError(f"got no file {str(path)!r}; wanted {SOURCES}; check the path") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise CameraError(
            f"got the device or pipe {str(path)!r}; wanted {SOURCES}; record it to a file first"
        )
    return path


def is_bag(path: Path) -> bool:
    """Whether this is a ROS bag: by its ending, or a folder that holds one and no pictures.

    A folder with ``metadata.yaml`` beside a bag is one in any case.
    """
    if not path.is_dir():
        return path.suffix.lower() in BAGS
    try:
        names = [each.name.lower() for each in path.iterdir()]
    except OSError:
        return False
    index = "metadata.yaml" in names
    holds = any(BAGS.intersection(Path(name).suffixes) for name in names)
    pictures = any(Path(name).suffix in SUFFIXES for name in names)
    return index and holds if pictures else index or holds


def unreadable(path: Path, error: OSError) -> CameraError:
    """The error for a file or folder that the system doesn't let us read."""
    return CameraError(
        f"got {error.strerror or error} for {str(path)!r}; wanted to read it; "
        "check its permissions and the disk"
    )
