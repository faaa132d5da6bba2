"""TensorRT on an NVIDIA GPU: the modules ``tensorrt`` and ``tensorrt_rtx``, which share an API.

The first load of a network builds its engine for this GPU, which takes seconds to minutes; it is
kept in the engine cache (`edgeseg.engines.cache`) and found there from then on.
"""

from __future__ import annotations

import logging
import platform
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.engines import cache
from edgeseg.engines.base import IMAGE, Engine, Row, check_layout, network_file, output_layout
from edgeseg.engines.cuda import Device, DeviceArray, Event, Graph, HostMemory, open_device
from edgeseg.engines.trt_build import build, make_logger, version_of
from edgeseg.errors import EngineError, MissingPartError

MODULES = ("tensorrt", "tensorrt_rtx")
SUFFIX = ".trt.onnx"
"""``model.int8.trt.onnx`` is ``model.int8.onnx`` with the rest in float16, for TensorRT."""
CLOSED = "got a run of a closed engine; wanted an open one; load it again"
QUIET_SECONDS, REPEAT_SECONDS = 5.0, 10.0
_LOG = logging.getLogger(__name__)


def library(name: str = "") -> Any:
    """The TensorRT module: the first of `MODULES` that is installed, or the one of ``name``.

    Raises:
        MissingPartError: none is, or it doesn't load.
    """
    here = [one for one in ([name] if name else MODULES) if find_spec(one) is not None]
    if not here:
        raise MissingPartError(
            f"got no module {name or ' or '.join(MODULES)}; wanted TensorRT; "
            "run: pip install 'edgeseg[rtx]' (on a Jetson use the one of JetPack)"
        )
    try:
        return import_module(here[0])
    except (ImportError, OSError) as error:  # there, but without its own libraries
        raise MissingPartError(
            f"got {error}; wanted module {here[0]!r} to load; reinstall that library"
        ) from error


def engine_file(folder: Path, spec: ModelSpec, precision: str) -> Path:
    """The network file of ``precision`` as TensorRT likes it best.

    Raises:
        InputError: the bundle has no such precision.
    """
    path = network_file(folder, spec, precision)
    better = path.with_suffix(SUFFIX)
    return better if better.name in spec.files else path


def key_of(
    trt: Any,
    spec: ModelSpec,
    path: Path,
    precision: str,
    device: Device,
    dla: int | None = None,
) -> cache.Key:
    """What an engine of a bundle's network file depends on; ``dla``: the core it is for, if any."""
    weights = [spec.files[name] for name in sorted(spec.files) if _is_weights(name)]
    model = sha256(" ".join([spec.files[path.name], *weights]).encode()).hexdigest()
    options = {"device": device.name, "machine": platform.machine(), "precision": precision}
    if dla is not None:
        options["dla"] = str(dla)
    return cache.Key(trt.__name__, trt.__version__, device.target, model, tuple(options.items()))


def _is_weights(name: str) -> bool:
    return not name.endswith((".onnx", ".json"))


@dataclass
class _Slot:
    """One set of results on the host.

    Attributes:
        host: the memory of each output, by name in the network.
        outputs: the same as arrays, by meaning.
        done: passed when they are written.
        graph: all that a frame needs behind the upload; None where it can't be captured.
    """

    host: dict[str, HostMemory]
    outputs: dict[str, NDArray[np.generic]]
    done: Event
    graph: Graph | None = None


class TrtEngine(Engine):
    """A TensorRT engine on one GPU: pinned memory and one copy each way, or mapped and none.

    Beside the contract of `Engine` there are, for programs that want more:

    - `start` and `finish`, the two halves of `run`: between them the host is free, and up to two
      frames may be under way, so that the GPU works on one while the other is decoded;
    - `memory` and `enqueue`: the network alone, on arrays of the device, in a stream of yours.

    Args:
        content: engine bytes, from our own cache: loading them runs what is in them.
        spec: what the bundle says of the network; names, types and shapes must agree.
        precision: for `describe`.
        trt: the TensorRT module.
        device: the GPU; the engine closes it.

    Attributes:
        memory: name -> device memory of ``image`` and of the outputs by meaning; the engine's own.
        stream: where it works.

    Raises:
        EngineError: TensorRT refused the engine, or it is of another network.
    """

    dla: int | None = None
    """Core of a DLA that it runs on as far as it can; None: on the GPU."""

    def __init__(
        self, content: bytes, spec: ModelSpec, precision: str, *, trt: Any, device: Device
    ) -> None:
        super().__init__(spec)
        self._trt, self._device, self._precision = trt, device, precision
        self._logger = make_logger(trt)
        with device.current():
            self._runtime = trt.Runtime(self._logger)
            if self.dla is not None:
                self._runtime.DLA_core = self.dla  # before it loads an engine: else it is core 0
            self._engine = self._runtime.deserialize_cuda_engine(content)
            if self._engine is None:
                raise self._failed("to load the engine", "choose another engine, e.g. 'ort'")
            check_layout(_layout(trt, self._engine), spec, Path("the engine"))
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise self._failed("memory for the network", "free memory of the GPU")
            self._bind()

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> TrtEngine:
        """See `Engine.load`; builds the engine where the cache has none. ``threads`` is unused."""
        path = engine_file(folder, spec, precision)
        trt = library()
        device = open_device()

        def made() -> bytes:
            what = f"{spec.name} {precision} for {device.name} with {version_of(trt)}"
            known, told = cache.timings(key), _Telling(what)
            with device.current():
                built = build(
                    trt,
                    path,
                    target=device.target,
                    dla=cls.dla,
                    timings=known,
                    progress=told,
                )
            cache.keep_timings(key, built.timings)
            return built.content

        try:
            key = key_of(trt, spec, path, precision, device, cls.dla)
            content = cache.fetch(key, made)
            return cls(content, spec, precision, trt=trt, device=device)
        except BaseException:
            device.close()
            raise

    def _bind(self) -> None:
        """Take the memory, and capture a frame's work."""
        device, mapped = self._device, self._device.integrated
        self.stream = device.stream()
        self._copied = device.event()
        picture = device.host(self.input.nbytes, mapped=mapped)
        self._picture = picture
        self.input = picture.view(self.input.shape, np.uint8)
        self._slots = [self._slot(), self._slot()]
        layout = {IMAGE: (self.input.shape, np.uint8), **output_layout(self.spec)}
        addresses = {name: one.address for name, one in self._slots[0].host.items()}
        self.memory: Mapping[str, DeviceArray] = {
            name: DeviceArray(addresses.get(name, picture.address), shape, kind)
            if mapped
            else device.array(shape, kind)
            for name, (shape, kind) in layout.items()
        }
        self._under_way: deque[_Slot] = deque()
        self._turn = 0
        for slot in self._slots:
            self._work(slot)  # once before it is captured: TensorRT takes what it needs
            self.stream.synchronize()
            slot.graph = self._captured(slot)

    def _slot(self) -> _Slot:
        """Host memory for one set of results."""
        mapped = self._device.integrated
        layout = output_layout(self.spec)
        host = {
            name: self._device.host(DeviceArray(0, shape, kind).nbytes, mapped=mapped)
            for name, (shape, kind) in layout.items()
        }
        outputs = {name: host[name].view(shape, kind) for name, (shape, kind) in layout.items()}
        return _Slot(host, outputs, self._device.event())

    def _captured(self, slot: _Slot) -> Graph | None:
        try:
            return self._device.capture(self.stream, lambda: self._work(slot))
        except EngineError:  # the network does what can't be captured: it runs step by step
            return None

    def _work(self, slot: _Slot) -> None:
        """Put into the stream: the network, and where memory isn't shared its results' copies."""
        mapped = self._device.integrated
        addresses = {name: one.pointer for name, one in self.memory.items()}
        if mapped:
            addresses |= {name: one.address for name, one in slot.host.items()}
        self._execute(addresses, self.stream.handle)
        if not mapped:
            for name, host in slot.host.items():
                self._device.download(host, self.memory[name].pointer, self.stream)

    def _execute(self, addresses: Mapping[str, int], stream: int) -> None:
        for name, address in addresses.items():
            self._context.set_tensor_address(self.spec.outputs.get(name, name), address)
        if not self._context.execute_async_v3(stream):
            raise self._failed("to run the network", "load it again")

    def start(self) -> None:
        """Begin with the picture in `input`; at most two frames may be under way.

        On a discrete GPU `input` may be written again at once; on an integrated one, which reads it
        in place, after the frame's `finish`.

        Raises:
            EngineError: two frames are under way, or the engine is closed.
        """
        if not self._slots:
            raise EngineError(CLOSED)
        if len(self._under_way) == len(self._slots):
            raise EngineError("got a third frame; wanted two under way at most; call finish first")
        slot = self._slots[self._turn]
        self._turn = 1 - self._turn
        with self._device.current():
            self._launch(slot)
            if not self._device.integrated:
                self._copied.synchronize()
        self._under_way.append(slot)

    def finish(self) -> dict[str, NDArray[np.generic]]:
        """Wait for the frame that was started first.

        Returns:
            As `run`; the arrays are written again by the second `start` from now.

        Raises:
            EngineError: no frame is under way.
        """
        if not self._under_way:
            raise EngineError("got no frame under way; wanted one; call start first")
        slot = self._under_way.popleft()
        with self._device.current():
            slot.done.synchronize()
        return slot.outputs

    def _run(self) -> dict[str, NDArray[np.generic]]:
        if self._under_way:
            raise EngineError("got run between start and finish; wanted no frame; call finish")
        slot = self._slots[0]
        with self._device.current():
            self._launch(slot)
            slot.done.synchronize()
        return slot.outputs

    def _launch(self, slot: _Slot) -> None:
        """Put a whole frame into the stream."""
        if not self._device.integrated:
            self._device.upload(self.memory[IMAGE].pointer, self._picture, self.stream)
            self._copied.record(self.stream)
        if slot.graph is None:
            self._work(slot)
        else:
            slot.graph.launch(self.stream)
        slot.done.record(self.stream)

    def enqueue(self, stream: int = 0) -> None:
        """The network alone, from `memory` to `memory`: no copy, no waiting.

        Args:
            stream: handle of the CUstream that it joins; 0 is the default stream.
        """
        if not self._slots:
            raise EngineError(CLOSED)
        with self._device.current():
            self._execute({name: one.pointer for name, one in self.memory.items()}, stream)

    def describe(self) -> str:
        """See `Engine.describe`."""
        return f"{version_of(self._trt)} {self._device.name} {self._precision}"

    def close(self) -> None:
        """See `Engine.close`; host arrays that somebody holds stay readable."""
        super().close()
        if not self._slots:
            return
        with self._device.current():
            self.stream.synchronize()
            self._slots = []
            self._under_way.clear()
            self._context = self._engine = self._runtime = None
        self.memory = {}
        self._device.close()

    def _failed(self, wanted: str, hint: str) -> EngineError:
        reason = " ".join((self._logger.errors or ["no reason"])[-1].split())
        return EngineError(f"got {reason!r} from {version_of(self._trt)}; wanted {wanted}; {hint}")


class _Telling:
    """Says from time to time that a build is going on; quick ones pass unmentioned."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = QUIET_SECONDS

    def __call__(self, seconds: float, phase: str) -> None:
        if seconds >= self._next:
            self._next = seconds + REPEAT_SECONDS
            _LOG.warning("building %s: %.0f s, %s; once", self._what, seconds, phase)


def _layout(trt: Any, engine: Any) -> dict[str, Row]:
    """Shape and dtype of an engine's input and outputs, by name."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return {
        name: (tuple(engine.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
        for name in names
    }
