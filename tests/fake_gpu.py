"""A GPU and a TensorRT that are simulated, for what lies around them: memory, order, errors.

Device memory is the host's. Work in a stream is done when somebody waits for it and no sooner, so
that a missing wait shows as a wrong result.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgeseg.bundle import ModelSpec
from edgeseg.engines.base import output_layout
from edgeseg.engines.cuda import Device, HostMemory
from edgeseg.engines.fake import FakeEngine
from edgeseg.errors import EngineError

Work = Callable[[], object]


class FakeStream:
    """A queue of work; `capture` collects what would be queued."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None

    def put(self, work: Work) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def synchronize(self, marker: Work | None = None) -> None:
        while self.queue:
            work = self.queue.pop(0)
            work()
            if work is marker:
                return


class FakeEvent:
    def __init__(self) -> None:
        self.stream: FakeStream | None = None

    def record(self, stream: FakeStream) -> None:
        self.stream, self.marker = stream, lambda: None
        stream.put(self.marker)

    def synchronize(self) -> None:
        if self.stream is not None and self.marker in self.stream.queue:
            self.stream.synchronize(self.marker)


class FakeGraph:
    def __init__(self, device: FakeDevice, works: list[Work]) -> None:
        self.device, self.works = device, works

    def launch(self, stream: FakeStream) -> None:
        self.device.launches += 1
        stream.queue += self.works


class FakeDevice(Device):
    """See `Device`; ``graphs``: whether work can be captured."""

    binding = "fake"
    name = "Fake GPU"
    capability = (8, 9)

    def __init__(self, *, integrated: bool = False, graphs: bool = True) -> None:
        super().__init__()
        self.integrated, self.graphs = integrated, graphs
        self.depth = self.launches = self.copies = 0
        self.memory: dict[int, np.ndarray] = {}
        self.streams: dict[int, FakeStream] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        self.depth += 1
        yield
        self.depth -= 1

    def _here(self) -> None:
        assert self.depth, "used without its context"

    def allocate(self, nbytes: int) -> int:
        self._here()
        block = np.full(nbytes, 0xCD, np.uint8)
        pointer = int(block.ctypes.data)
        self.memory[pointer] = block
        self._undo.append(lambda: self.memory.pop(pointer))
        return pointer

    def host(self, nbytes: int, *, mapped: bool = False) -> HostMemory:
        self._here()
        array = np.zeros(nbytes, np.uint8)
        return HostMemory(array, int(array.ctypes.data) if mapped else 0)

    def stream(self) -> FakeStream:
        self._here()
        stream = FakeStream(1 + len(self.streams))
        self.streams[stream.handle] = stream
        self._undo.append(lambda: self.streams.pop(stream.handle))
        return stream

    def event(self) -> FakeEvent:
        self._here()
        return FakeEvent()

    def _copy(self, target: int, source: int, nbytes: int, stream: FakeStream) -> None:
        self._here()
        self.copies += 1
        stream.put(lambda: ctypes.memmove(target, source, nbytes))

    def upload(self, target: int, source: HostMemory, stream: Any) -> None:
        assert target in self.memory
        self._copy(target, source.array.ctypes.data, source.array.nbytes, stream)

    def download(self, target: HostMemory, source: int, stream: Any) -> None:
        assert source in self.memory
        self._copy(target.array.ctypes.data, source, target.array.nbytes, stream)

    def capture(self, stream: Any, work: Work) -> FakeGraph | None:
        self._here()
        if not self.graphs:
            raise EngineError("got a capture; wanted none; run without")
        stream.captured = []
        work()
        works, stream.captured = stream.captured, None
        return FakeGraph(self, works)


class FakeTimings:
    """A timing cache: words of a version and of networks."""

    def __init__(self, content: bytes) -> None:
        self.words = content.decode().split()

    def serialize(self) -> bytes:
        return " ".join(self.words).encode()


class FakeBuilder:
    """See `FakeTensorrt.Builder`; also its own builder config."""

    def __init__(self, library: FakeTensorrt) -> None:
        self.library = library
        self.num_DLA_cores = library.dla_cores
        self.default_device_type, self.DLA_core = "GPU", -1
        self.flags: list[str] = []
        self.set_flag = self.flags.append
        self.timings: FakeTimings | None = None

    def create_network(self, flags: int) -> Any:
        assert flags == 2, "strongly typed"
        return SimpleNamespace(content=b"")

    def create_builder_config(self) -> Any:
        return self

    def create_timing_cache(self, content: bytes) -> FakeTimings:
        return FakeTimings(content)

    def set_timing_cache(self, timings: FakeTimings, ignore_mismatch: bool) -> bool:
        """Refuses one of another version, as TensorRT does."""
        assert not ignore_mismatch
        version = self.library.__version__
        if timings.words[:1] not in ([], [version]):
            return False
        timings.words = timings.words or [version]
        self.timings = timings
        return True

    def build_serialized_network(self, network: Any, config: FakeBuilder) -> bytes:
        assert config.timings is not None
        layer = network.content.decode()
        if layer not in config.timings.words:
            self.library.measured.append(layer)
            config.timings.words.append(layer)
        device = f"{self.default_device_type} {self.DLA_core} {self.flags}"
        self.library.built.append(device)
        return b"engine of " + network.content


class FakeTensorrt:
    """What `edgeseg.engines.trt` uses of the module ``tensorrt``, for one network.

    Attributes:
        rows: name -> (shape, dtype) of the engine's inputs and outputs; change them to be wrong.
        broken: what fails: ``load``, ``context`` or ``run``.
        measured: networks that builds had to measure.
        built: device, DLA core and flags of each build.
        dla_cores: how many there are.
        runtime: the last one.
        loaded_on: its DLA core when it loaded an engine.
    """

    __name__ = "tensorrt"
    __version__ = "10.3.0"

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2

    class IProgressMonitor:
        pass

    BuilderFlag = SimpleNamespace(GPU_FALLBACK="GPU_FALLBACK")
    DeviceType = SimpleNamespace(DLA="DLA")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

    def __init__(self, spec: ModelSpec, device: FakeDevice, broken: str = "") -> None:
        self.spec, self.device, self.broken = spec, device, broken
        layout = {spec.outputs[name]: row for name, row in output_layout(spec).items()}
        self.rows: dict[str, Any] = {"image": ((1, *spec.input_hw, 3), np.uint8), **layout}
        self.network = FakeEngine(spec)
        self.measured: list[str] = []
        self.built: list[str] = []
        self.dla_cores = 0
        self.runtime: Any = None
        self.loaded_on: int | None = None

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        """Builds what `OnnxParser` read, and adds to ``measured`` what it hadn't known."""
        return FakeBuilder(self)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        def parse(path: str) -> bool:
            network.content = Path(path).read_bytes()
            return True

        return SimpleNamespace(parse_from_file=parse)

    def nptype(self, kind: Any) -> Any:
        return kind

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        def deserialize(content: bytes) -> Any:
            logger.log(self.ILogger.WARNING, "nothing of note")
            if self.broken == "load":
                logger.log(self.ILogger.ERROR, "Version tag\n does not match")
                return None
            self.loaded_on = getattr(self.runtime, "DLA_core", None)
            names = list(self.rows)
            return SimpleNamespace(
                num_io_tensors=len(names),
                get_tensor_name=names.__getitem__,
                get_tensor_shape=lambda name: list(self.rows[name][0]),
                get_tensor_dtype=lambda name: self.rows[name][1],
                create_execution_context=lambda: (
                    None if self.broken == "context" else self._context()
                ),
            )

        self.runtime = SimpleNamespace(deserialize_cuda_engine=deserialize)
        return self.runtime

    def _context(self) -> Any:
        if self.broken == "context":
            return None
        addresses: dict[str, int] = {}

        def execute(handle: int) -> bool:
            now = dict(addresses)
            self.device.streams[handle].put(lambda: self._run(now))
            return self.broken != "run"

        return SimpleNamespace(set_tensor_address=addresses.__setitem__, execute_async_v3=execute)

    def _run(self, addresses: dict[str, int]) -> None:
        """The network: bright regions are objects."""
        image = self.network.input
        ctypes.memmove(image.ctypes.data, addresses["image"], image.nbytes)
        for meaning, array in self.network.run().items():
            ctypes.memmove(addresses[self.spec.outputs[meaning]], array.ctypes.data, array.nbytes)
