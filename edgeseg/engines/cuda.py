"""Device memory, streams and graphs: one small interface over cuda-bindings and over PyCUDA.

::

    device = open_device()                       # cuda-bindings, or PyCUDA where only that is there
    with device.current():                       # on every thread, around every use
        picture = device.host(nbytes)            # pinned: `picture.array` is numpy
        image = device.allocate(nbytes)          # a pointer
        stream, done = device.stream(), device.event()
        device.upload(image, picture, stream)
        done.record(stream)
        done.synchronize()

Pointers and stream handles are plain integers, so that those of a PyCUDA, CuPy or torch program go
in and out as they are; `DeviceArray` tells such programs shape and type without a copy.

A discrete GPU gets pinned memory and one asynchronous copy each way. An integrated one (Jetson)
shares its memory with the CPU: mapped memory needs no copy at all.

Nothing is loaded when this module is imported.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, EngineError, missing, unknown

NO_DRIVER = (
    "wanted an NVIDIA driver and a GPU; install the driver, choose engine 'ort', or build for "
    "other GPUs with --targets"
)


class Stream(Protocol):
    """Work that the device does in order; `handle` is what other libraries take."""

    @property
    def handle(self) -> int:
        """The CUstream as an integer."""
        ...

    def synchronize(self) -> object:
        """Wait until all of it is done."""
        ...


class Event(Protocol):
    """A mark in a stream to wait for; waiting sleeps, it doesn't spin."""

    def record(self, stream: Any) -> object:
        """Put the mark behind what the stream has to do by now."""
        ...

    def synchronize(self) -> object:
        """Wait until the device has passed the mark."""
        ...


class Graph(Protocol):
    """Captured work that is launched as one."""

    def launch(self, stream: Any) -> None:
        """Let the stream do all of it once more."""
        ...


@dataclass(frozen=True)
class HostMemory:
    """Memory of the host that the device reaches; freed when nobody holds the array any more.

    Attributes:
        array: uint8 (nbytes,), to be viewed as any type.
        address: where the device sees it, for mapped memory; else 0.
    """

    array: NDArray[np.uint8]
    address: int = 0

    def view(self, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        """The memory as an array of another shape and type."""
        return self.array.view(kind).reshape(shape)


@dataclass(frozen=True)
class DeviceArray:
    """Memory of the device that CuPy, torch, Numba and PyCUDA understand without a copy.

    Attributes:
        pointer: device address; the memory belongs to whoever made it.
        shape: in elements.
        kind: type of an element.
    """

    pointer: int
    shape: tuple[int, ...]
    kind: type[np.generic]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.kind).itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the protocol."""
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.kind).str,
            "data": (self.pointer, False),
            "version": 3,
        }


class Device(ABC):
    """One GPU and what was taken from it; `close` gives that back.

    Everything but `current` and the attributes is to be used inside `current`.

    Attributes:
        name: e.g. ``NVIDIA GeForce RTX 4060``.
        capability: compute capability, e.g. (8, 9).
        integrated: whether it shares its memory with the CPU.
        binding: ``cuda-bindings`` or ``pycuda``.
    """

    name: str
    capability: tuple[int, int]
    integrated: bool
    binding: str

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    @property
    def target(self) -> str:
        """The compute capability as people write it: ``sm89``, say."""
        return f"sm{self.capability[0]}{self.capability[1]}"

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Make the device's context this thread's, as long as the block lasts."""

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Device memory, freed by `close`: its pointer."""

    @abstractmethod
    def host(self, nbytes: int, *, mapped: bool = False) -> HostMemory:
        """Pinned memory, zeroed; ``mapped``: the device has an address for it."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream that waits for no other."""

    @abstractmethod
    def event(self) -> Event:
        """A new event."""

    @abstractmethod
    def upload(self, target: int, source: HostMemory, stream: Any) -> None:
        """Copy host memory to the device, in the stream's turn."""

    @abstractmethod
    def download(self, target: HostMemory, source: int, stream: Any) -> None:
        """Copy device memory to the host, in the stream's turn."""

    @abstractmethod
    def capture(self, stream: Any, work: Callable[[], object]) -> Graph | None:
        """What ``work`` puts into the stream, as a graph; None where the binding has no graphs.

        Raises:
            EngineError: it does what can't be captured.
        """

    def array(self, shape: tuple[int, ...], kind: type[np.generic]) -> DeviceArray:
        """Device memory of a shape and type, freed by `close`."""
        return DeviceArray(self.allocate(DeviceArray(0, shape, kind).nbytes), shape, kind)

    def close(self) -> None:
        """Give back all but host memory that somebody holds. Harmless when called twice."""
        if not self._undo:
            return
        with self.current():
            while self._undo:
                self._undo.pop()()


def open_device(binding: str = "auto", *, index: int = 0, context: Any = None) -> Device:
    """Open a GPU.

    Args:
        binding: ``cuda-bindings``, ``pycuda``, or ``auto``: the first of them that is installed.
        index: which GPU.
        context: a ``pycuda.driver.Context`` to use, for PyCUDA programs that made one.

    Raises:
        EngineError: no driver or no such GPU.
        InputError: an unknown binding.
        MissingPartError: the binding isn't installed.
    """
    modules = {"cuda-bindings": "cuda", "pycuda": "pycuda"}
    if binding == "auto":
        here = [name for name, module in modules.items() if find_spec(module) is not None]
        binding = "pycuda" if context is not None else next(iter(here), "cuda-bindings")
    if binding not in modules:
        raise unknown("binding", binding, modules)
    if find_spec(modules[binding]) is None:
        raise missing(modules[binding], "rtx" if binding == "cuda-bindings" else "pycuda")
    if binding == "cuda-bindings":
        return BindingsDevice(index)
    from edgeseg.engines.cuda_pycuda import PyCudaDevice

    return PyCudaDevice(index, context)


def describe() -> str:
    """The GPU of this machine in a line, or why there is none to use."""
    try:
        device = open_device()
    except EdgesegError as error:
        return str(error)
    return f"{device.name}, {device.target}, through {device.binding}"


def view_of(pointer: int, nbytes: int, free: Callable[[], object]) -> NDArray[np.uint8]:
    """Host memory at an address as an array; ``free`` is called when the last view of it goes."""
    buffer = (ctypes.c_uint8 * nbytes).from_address(pointer)
    weakref.finalize(buffer, free)
    array: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)
    array[:] = 0
    return array


class _Handle:
    """Something that the driver made."""

    def __init__(self, device: BindingsDevice, raw: Any) -> None:
        self._call, self.raw = device.call, raw


class _Stream(_Handle):
    @property
    def handle(self) -> int:
        return int(self.raw)

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", self.raw)


class _Event(_Handle):
    def record(self, stream: Stream) -> None:
        self._call("cuEventRecord", self.raw, stream.handle)

    def synchronize(self) -> None:
        self._call("cuEventSynchronize", self.raw)


class _Graph(_Handle):
    def launch(self, stream: Stream) -> None:
        self._call("cuGraphLaunch", self.raw, stream.handle)


class BindingsDevice(Device):
    """A GPU through NVIDIA's cuda-bindings, in its primary context, which TensorRT uses too.

    The context is kept until the process ends: host memory may outlive every engine.
    """

    binding = "cuda-bindings"

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        from cuda.bindings import driver

        self._driver = driver
        try:
            self.call("cuInit", 0)
        except RuntimeError as error:  # the driver's library isn't there, or finds no GPU
            ours = isinstance(error, EngineError)
            reason = first_line(error).partition(";")[0] if ours else "got no libcuda.so.1"
            raise EngineError(f"{reason}; {NO_DRIVER}") from None
        count = self.call("cuDeviceGetCount")
        if index >= count:
            raise EngineError(f"got GPU {index} of {count}; wanted one that is here; choose 0")
        one = self.call("cuDeviceGet", index)
        self.name = self.call("cuDeviceGetName", 96, one).partition(b"\0")[0].decode()
        kind = driver.CUdevice_attribute
        major = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        self.capability = (self._attribute(major, one), self._attribute(minor, one))
        self.integrated = bool(self._attribute(kind.CU_DEVICE_ATTRIBUTE_INTEGRATED, one))
        self._context = self.call("cuDevicePrimaryCtxRetain", one)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the driver; gives what the function gives beside its status.

        Raises:
            EngineError: the status isn't success.
        """
        status, *results = getattr(self._driver, function)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise EngineError(
                f"got {status.name} from {function}; wanted it to work; "
                "see if another program uses the GPU's memory, or restart"
            )
        return results[0] if results else None

    def _attribute(self, kind: Any, device: Any) -> int:
        return int(self.call("cuDeviceGetAttribute", kind, device))

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device.current`."""
        self.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent")

    def allocate(self, nbytes: int) -> int:
        """See `Device.allocate`."""
        pointer = self.call("cuMemAlloc", nbytes)
        self._undo.append(lambda: self.call("cuMemFree", pointer))
        return int(pointer)

    def host(self, nbytes: int, *, mapped: bool = False) -> HostMemory:
        """See `Device.host`."""
        flags = self._driver.CU_MEMHOSTALLOC_PORTABLE
        pointer = self.call(
            "cuMemHostAlloc", nbytes, flags | (self._driver.CU_MEMHOSTALLOC_DEVICEMAP * mapped)
        )
        address = int(self.call("cuMemHostGetDevicePointer", pointer, 0)) if mapped else 0

        def free() -> None:
            # Perhaps on another thread, or while Python ends, when the driver may be gone.
            self._driver.cuCtxPushCurrent(self._context)
            self._driver.cuMemFreeHost(pointer)
            self._driver.cuCtxPopCurrent()

        return HostMemory(view_of(int(pointer), nbytes, free), address)

    def stream(self) -> Stream:
        """See `Device.stream`."""
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        raw = self.call("cuStreamCreate", int(flag))
        self._undo.append(lambda: self.call("cuStreamDestroy", raw))
        return _Stream(self, raw)

    def event(self) -> Event:
        """See `Device.event`."""
        kind = self._driver.CUevent_flags
        flags = int(kind.CU_EVENT_BLOCKING_SYNC) | int(kind.CU_EVENT_DISABLE_TIMING)
        raw = self.call("cuEventCreate", flags)
        self._undo.append(lambda: self.call("cuEventDestroy", raw))
        return _Event(self, raw)

    def upload(self, target: int, source: HostMemory, stream: Any) -> None:
        """See `Device.upload`."""
        address, nbytes = source.array.ctypes.data, source.array.nbytes
        self.call("cuMemcpyHtoDAsync", target, address, nbytes, stream.handle)

    def download(self, target: HostMemory, source: int, stream: Any) -> None:
        """See `Device.download`."""
        address, nbytes = target.array.ctypes.data, target.array.nbytes
        self.call("cuMemcpyDtoHAsync", address, source, nbytes, stream.handle)

    def capture(self, stream: Any, work: Callable[[], object]) -> Graph | None:
        """See `Device.capture`."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", stream.handle, mode)
        try:
            work()
        except BaseException:
            self._driver.cuGraphDestroy(self._driver.cuStreamEndCapture(stream.handle)[1])
            raise
        graph = self.call("cuStreamEndCapture", stream.handle)
        ready = self.call("cuGraphInstantiate", graph, 0)
        self.call("cuGraphDestroy", graph)
        self._undo.append(lambda: self.call("cuGraphExecDestroy", ready))
        return _Graph(self, ready)


def first_line(error: BaseException) -> str:
    """The start of an error's text, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
