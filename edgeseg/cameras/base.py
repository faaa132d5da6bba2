"""The contract of every camera, and the pool of buffers that they lend.

A camera is an iterator of `Frame` and a context manager, with no thread of its own. It may block
while it waits for a picture; `interrupt` ends such a wait from another thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from threading import Event, Lock
from time import monotonic_ns
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import CameraError, InputError
from edgeseg.frame import MAX_PIXELS, MAX_SIDE, Frame


class Camera(ABC):
    """A source of frames.

    Members: iteration, `interrupt`, `close`, and these attributes.

    Attributes:
        name: for people and records, e.g. the file's name.
        width, height: size of the first picture, pixels.
        fps: nominal pictures per second.
        live: True where pictures that nobody takes are lost; False where the source waits.
        frame_count: number of pictures in the source; None where unknown or endless.
        dropped: pictures that never became a Frame, by cause: ``driver`` (lost at the source,
            as the reader was late or has left), ``corrupt`` (couldn't be decoded).
        copies: whole-picture copies made between the source's own memory and the Frames.

    Iterating gives each Frame with a lease: release it, or use it as a context manager. Sequence
    and stamp never go back. `CameraError` ends the iteration where the source fails for good.
    """

    def __init__(self, name: str, *, live: bool) -> None:
        self.name = name
        self.width = self.height = 0
        self.fps = 30.0
        self.live = live
        self.frame_count: int | None = None
        self.dropped = {"driver": 0, "corrupt": 0}
        self.copies = 0
        self._interrupted = Event()
        self._reading = Lock()  # held during a read, so that close() never pulls the rug
        self._released = False

    @classmethod
    def open(cls, address: str, **settings: Any) -> Camera:
        """Open the camera at ``address``: the text after the camera's name in a spec."""
        return cls(address, **settings)

    def __iter__(self) -> Camera:
        return self

    def __next__(self) -> Frame:
        """The next picture; waits for it.

        Raises:
            StopIteration: the source has ended, or the camera was interrupted or closed.
            CameraError: the source failed for good.
        """
        with self._reading:
            frame = None if self._interrupted.is_set() else self._read()
        if self._interrupted.is_set():
            self.close()
            if frame is not None:  # it may not even be due yet
                frame.release()
                self.dropped["driver"] += 1
                frame = None
        if frame is None:
            raise StopIteration
        return frame

    @abstractmethod
    def _read(self) -> Frame | None:
        """The next picture, or None at the end. Never called twice at a time."""

    def _release(self) -> None:  # noqa: B027 (a camera with nothing to free needs none)
        """Free what the camera holds; called once, never during `_read`."""

    def interrupt(self) -> None:
        """End the iteration soon, also from another thread. A waiting read returns early."""
        self._interrupted.set()

    def close(self) -> None:
        """Free the source; harmless when called twice.

        Returns at once also while another thread is stuck inside a read: that thread then frees
        the source when its read returns.
        """
        self.interrupt()
        if self._reading.acquire(timeout=0.2):
            try:
                if not self._released:
                    self._released = True
                    self._release()
            finally:
                self._reading.release()

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.width}x{self.height}@{self.fps:g})"


class Pace:
    """The clock of a source that has none of its own: picture k is due k periods after picture 0.

    Args:
        fps: pictures per second.
        stop: ends a wait early.
    """

    def __init__(self, fps: float, stop: Event) -> None:
        self._period_ns = 1e9 / fps
        self._stop = stop
        self._start_ns: int | None = None

    def due_ns(self, number: int) -> int:
        """When picture ``number`` is taken, CLOCK_MONOTONIC ns; the first call is time 0."""
        if self._start_ns is None:
            self._start_ns = monotonic_ns()
        return self._start_ns + round(number * self._period_ns)

    def newest(self) -> int:
        """Number of the newest picture that is due by now."""
        return int((monotonic_ns() - self.due_ns(0)) / self._period_ns)

    def wait(self, number: int) -> int:
        """Wait until picture ``number`` is due, or until stopped; its time, nanoseconds."""
        due_ns = self.due_ns(number)
        late_ns = monotonic_ns() - due_ns
        if late_ns < 0:
            self._stop.wait(-late_ns / 1e9)
        return due_ns


class BufferPool:
    """``count`` reused picture buffers, of which at most ``count - 2`` are lent at a time.

    A reader that keeps more than that gets fresh memory, so that frames never share pixels.

    Attributes:
        lent: leases now out.
        fresh: buffers handed out beyond the pool, each one an allocation.

    >>> pool = BufferPool()
    >>> pixels, give_back = pool.lend((480, 640, 3))
    >>> pixels.shape, pool.lent
    ((480, 640, 3), 1)
    >>> give_back()
    >>> pool.lent
    0
    """

    def __init__(self, count: int = 6) -> None:
        if count < 3:
            raise InputError(f"got a pool of {count} buffers; wanted 3 or more; leave the default")
        self._free: list[NDArray[np.uint8]] = []
        self._lock = Lock()
        self._limit = count - 2
        self.lent = 0
        self.fresh = 0

    def lend(self, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], Callable[[], None] | None]:
        """A uint8 array of ``shape`` with unknown content, and the function that gives it back.

        The function may be called from any thread; it is None for memory beyond the pool.
        """
        size = int(np.prod(shape))
        with self._lock:
            if self.lent >= self._limit:
                self.fresh += 1
                return np.empty(shape, np.uint8), None
            self.lent += 1
            memory = self._free.pop() if self._free else np.empty(size, np.uint8)
        if memory.size < size:
            memory = np.empty(size, np.uint8)

        def give_back() -> None:
            with self._lock:
                self.lent -= 1
                self._free.append(memory)

        return memory[:size].reshape(shape), give_back


def check_size(name: str, width: int, height: int) -> None:
    """Refuse a picture by its size alone, before anything is decoded.

    Raises:
        CameraError: an empty side, a side above `MAX_SIDE`, or more than `MAX_PIXELS`.
    """
    if width < 1 or height < 1:
        raise CameraError(
            f"got {name} of {width}x{height} pixels; wanted 1x1 or more; the file is damaged"
        )
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise CameraError(
            f"got {name} of {width}x{height} pixels; wanted at most {MAX_PIXELS // 10**6} "
            f"megapixels and {MAX_SIDE} a side; scale it down first"
        )
