"""An image topic as a camera of edgeseg."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition
from time import monotonic_ns
from typing import Any

from edgeseg import messages
from edgeseg.cameras.base import Camera
from edgeseg.errors import InputError
from edgeseg.frame import Frame


class TopicCamera(Camera):
    """Frames from image messages; the newest message wins.

    A Frame's pixels are the message's own bytes, its ``header`` the message's header, its stamp
    the time of arrival: what a publisher says of the time is passed on, never trusted.

    Args:
        topic: name, for people.
        on_refused: called with one sentence for each message that is no usable image, from the
            thread that reads.

    Attributes:
        newest_header: of the message that came last, usable or not; None before the first.
    """

    def __init__(self, topic: str, on_refused: Callable[[str], None]) -> None:
        super().__init__(topic, live=True)
        self._on_refused = on_refused
        self._changed = Condition()
        self._newest: tuple[Any, int, int] | None = None
        self._count = 0
        self.newest_header: Any = None

    def offer(self, message: Any) -> None:
        """Take a message that came; all that the subscription's callback does."""
        with self._changed:
            if self._newest is not None:
                self.dropped["driver"] += 1
            self._newest = (message, monotonic_ns(), self._count)
            self._count += 1
            self.newest_header = message.header
            self._changed.notify()

    def interrupt(self) -> None:
        """See `Camera.interrupt`."""
        super().interrupt()
        with self._changed:
            self._changed.notify()

    def _read(self) -> Frame | None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._interrupted.is_set())
                if self._interrupted.is_set() or self._newest is None:
                    return None
                (message, stamp_ns, number), self._newest = self._newest, None
            try:
                return messages.frame(message, stamp_ns=stamp_ns, sequence=number)
            except InputError as error:
                self.dropped["corrupt"] += 1
                self._on_refused(str(error))
