"""Where the node's frames come from: an image topic as a camera of edgeseg, or a camera itself."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from rclpy.exceptions import InvalidHandle

from edgeseg import messages
from edgeseg.bundle import PACKAGED
from edgeseg.cameras import open_camera
from edgeseg.cameras.base import Camera
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg_ros.inbox import Inbox
from edgeseg_ros.settings import NodeSettings

CLIP = "tabletop"
"""The device that means the packaged clip."""


def open_source(settings: NodeSettings) -> Camera:
    """The camera or file inside the node.

    Raises:
        CameraError: it can't be opened.
        InputError: settings that it doesn't have.
    """
    live = settings.source == "camera" if settings.camera.live is None else settings.camera.live
    how: dict[str, Any] = {"live": live}
    if settings.camera.topic is not None:
        how["topic"] = settings.camera.topic
    return open_camera(device(settings.camera.source), **how)


def device(name: str) -> str:
    """What to open for the name of a device: `CLIP` is the packaged clip."""
    return str(PACKAGED / "clip" / "tabletop.mp4") if name == CLIP else name


class TopicCamera(Camera):
    """Frames from image messages; the newest message wins.

    A Frame's pixels are the message's own bytes, its ``header`` the message's header, its stamp
    the time of arrival: what a publisher says of the time is passed on, never trusted.

    Args:
        inbox: whose messages get to `offer`. Stays the caller's.
        on_refused: called with one sentence for each message that is no usable image.

    All is called in the thread that reads.

    Attributes:
        newest_header: of the message that came last, usable or not; None before the first.
    """

    def __init__(self, inbox: Inbox, on_refused: Callable[[str], None]) -> None:
        super().__init__(inbox.topic, live=True)
        self._inbox, self._on_refused = inbox, on_refused
        self._newest: tuple[Any, int, int] | None = None
        self._count = 0
        self.newest_header: Any = None

    def offer(self, message: Any) -> None:
        """Take a message that came; all that the subscription's callback does."""
        self._newest = (message, monotonic_ns(), self._count)
        self._count += 1
        self.newest_header = message.header

    def interrupt(self) -> None:
        """See `Camera.interrupt`."""
        super().interrupt()
        self._inbox.wake()

    def _read(self) -> Frame | None:
        while not self._interrupted.is_set():
            try:
                self._inbox.serve()
                if self._newest is not None:
                    (message, stamp_ns, number), self._newest = self._newest, None
                    return messages.frame(message, stamp_ns=stamp_ns, sequence=number)
            except InputError as error:
                self.dropped["corrupt"] += 1
                self._on_refused(str(error))
            except InvalidHandle:
                return None
        return None
