"""The small interface of `edgeseg.engines.cuda` over PyCUDA, for programs that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgeseg.engines.cuda import NO_DRIVER, Device, Event, Graph, HostMemory, Stream, first_line
from edgeseg.errors import EngineError


class PyCudaDevice(Device):
    """A GPU through PyCUDA, for programs that use it: their context, streams and arrays.

    PyCUDA has no graphs.
    """

    binding = "pycuda"

    def __init__(self, index: int = 0, context: Any = None) -> None:
        super().__init__()
        try:
            import pycuda.driver as driver
        except ImportError as error:  # linked against the driver's library
            raise EngineError(f"got {first_line(error)}; {NO_DRIVER}") from None
        self._driver = driver
        with self._translated("a GPU"):
            driver.init()
            one = driver.Device(index)
            self.name = one.name()
            major, minor = one.compute_capability()
            self.capability = (major, minor)
            self.integrated = bool(one.get_attribute(driver.device_attribute.INTEGRATED))
            self._context = one.retain_primary_context() if context is None else context

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise EngineError(
                f"got {first_line(error)!r} from PyCUDA; wanted {what}; "
                "see if another program uses the GPU's memory, or restart"
            ) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device.current`."""
        self._context.push()
        try:
            with self._translated("it to work"):
                yield
        finally:
            self._driver.Context.pop()

    def allocate(self, nbytes: int) -> int:
        """See `Device.allocate`."""
        memory = self._driver.mem_alloc(nbytes)
        self._undo.append(memory.free)
        return int(memory)

    def host(self, nbytes: int, *, mapped: bool = False) -> HostMemory:
        """See `Device.host`; PyCUDA frees it with the array."""
        flags = self._driver.host_alloc_flags
        wanted = flags.PORTABLE | (flags.DEVICEMAP if mapped else 0)
        array = self._driver.pagelocked_zeros(nbytes, np.uint8, mem_flags=wanted)
        return HostMemory(array, int(array.base.get_device_pointer()) if mapped else 0)

    def stream(self) -> Stream:
        """See `Device.stream`."""
        stream: Stream = self._driver.Stream(1)  # waits for no other
        return stream

    def event(self) -> Event:
        """See `Device.event`."""
        flags = self._driver.event_flags
        event: Event = self._driver.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)
        return event

    def upload(self, target: int, source: HostMemory, stream: Any) -> None:
        """See `Device.upload`."""
        self._driver.memcpy_htod_async(target, source.array, stream)

    def download(self, target: HostMemory, source: int, stream: Any) -> None:
        """See `Device.download`."""
        self._driver.memcpy_dtoh_async(target.array, source, stream)

    def capture(self, stream: Any, work: Callable[[], object]) -> Graph | None:
        """See `Device.capture`: PyCUDA has none."""
        return None
