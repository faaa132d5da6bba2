"""The build call of TensorRT: a network file in, engine bytes out, for every version of it.

One path serves TensorRT 10.3 to 11 and TensorRT for RTX: strongly typed, no precision flags (the
file says the types), static shapes. TensorRT builds for the GPU that it runs on; TensorRT for RTX
for any that it knows, without a GPU. The module comes as an argument, see `edgeseg.engines.trt`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgeseg.errors import EngineError, InputError

Progress = Callable[[float, str], None]
"""Called about once a second with the seconds so far and what is being done."""
TICK_SECONDS = 1.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Built:
    """An engine, and how it was made.

    Attributes:
        content: the engine as TensorRT stores it.
        seconds: that building took.
        log: one line per layer of the engine, where it was asked for.
        timings: what TensorRT measured, for its next builds here; b"" of TensorRT for RTX, whose
            builds measure nothing.
    """

    content: bytes
    seconds: float
    log: tuple[str, ...] = ()
    timings: bytes = b""


def build(
    trt: Any,
    path: Path,
    *,
    target: str,
    workspace_bytes: int = 0,
    dla: int | None = None,
    detailed: bool = False,
    timings: bytes = b"",
    progress: Progress = lambda seconds, phase: None,
) -> Built:
    """Build an engine; Ctrl-C ends it within seconds.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        path: ONNX file; its weights lie beside it.
        target: compute capability, e.g. ``sm89``; TensorRT itself must run on such a GPU.
        workspace_bytes: most device memory for one layer's scratch; 0 leaves it to TensorRT.
        dla: core of a DLA for the layers that it takes, see `edgeseg.engines.trt_dla`.
        detailed: keep the log of layers.
        timings: of earlier builds, see `Built`; what isn't of this TensorRT and GPU is left out.
        progress: told how far it is.

    Raises:
        EngineError: TensorRT refused the network, or has no such DLA core.
        InputError: a target that TensorRT for RTX doesn't know.
    """
    started = time.monotonic()
    if hasattr(trt, "ComputeCapability"):
        check_target(trt, target)
    monitor, logger = make_monitor(trt), make_logger(trt, layers=detailed)

    def work() -> tuple[bytes, bytes]:
        builder = trt.Builder(logger)
        config = builder.create_builder_config()
        if dla is not None:
            _use_dla(trt, builder, config, dla)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(path)):
            raise _refused(trt, path, _parser_errors(parser))
        config.progress_monitor = monitor
        if workspace_bytes:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        if detailed:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hasattr(trt, "ComputeCapability"):
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
            timed = None
        else:
            timed = _use(timings, config)
            logger.errors.clear()  # timings that didn't fit are no fault
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _refused(trt, path, logger.errors)
        return bytes(plan), b"" if timed is None else bytes(timed.serialize())

    content, measured = _watched(work, monitor, progress)
    return Built(content, time.monotonic() - started, tuple(logger.layers), measured)


def _use(timings: bytes, config: Any) -> Any:
    """The timing cache that a build reads and adds to: an empty one where ``timings`` don't fit."""
    for content in (timings, b""):
        timed = config.create_timing_cache(content)
        if timed is not None and config.set_timing_cache(timed, ignore_mismatch=False):
            return timed
    return None


def _use_dla(trt: Any, builder: Any, config: Any, core: int) -> None:
    """Build for a DLA core what it takes, and the rest for the GPU; refuse one that isn't here."""
    if not 0 <= core < builder.num_DLA_cores:
        raise EngineError(
            f"got DLA core {core}; wanted one of the {builder.num_DLA_cores} that "
            f"{version_of(trt)} finds here (Jetson Orin has them, with TensorRT up to 10.7 or from "
            "11.4.1 on); use engine 'trt', which is the GPU"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def make_logger(trt: Any, *, layers: bool = False) -> Any:
    """A logger that prints nothing: it keeps ``errors`` and, on wish, lines about ``layers``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)
            elif layers and "LayerType: " in msg:
                self.layers += [line for line in msg.splitlines() if "LayerType: " in line]

    return _kept(Log())


_KEPT: list[Any] = []


def _kept(used: Any) -> Any:
    """Keep for good what TensorRT was given: it calls a logger even while it is being freed."""
    _KEPT.append(used)
    return used


def make_monitor(trt: Any) -> Any:
    """Knows the phase of a build, and ends it when told."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phase = "reading the network"
            self.cancelled = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phase = phase_name

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            pass

    return _kept(Monitor())


def _watched(work: Callable[[], Result], monitor: Any, progress: Progress) -> Result:
    """Do ``work`` on a thread, so that this one can tell of it and be interrupted.

    An exception in one of TensorRT's callbacks would end the process: Ctrl-C must not reach them.
    """
    results: list[Result] = []
    failures: list[Exception] = []
    done = threading.Event()  # an interrupted join() may take the thread for finished

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            # Its frames hold a builder. Left to the garbage collector, that would be freed at any
            # time, also within a call of a logger, while TensorRT holds the lock it then wants.
            failures.append(error.with_traceback(None))
        finally:
            done.set()

    thread = threading.Thread(target=run, name="tensorrt-build", daemon=True)
    started = time.monotonic()
    thread.start()
    try:
        while not done.wait(TICK_SECONDS):
            progress(time.monotonic() - started, monitor.phase)
    finally:
        monitor.cancelled = True
        done.wait()
        thread.join()
    if failures:
        raise failures[0]
    return results[0]


def check_target(trt: Any, target: str) -> None:
    """Refuse a target that TensorRT for RTX doesn't know; TensorRT itself builds for its own GPU.

    Raises:
        InputError: the text lists those that it builds for.
    """
    if not hasattr(trt, "ComputeCapability"):
        return
    known = [name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    if target.lower() not in known:
        words = ", ".join(sorted(known, key=lambda name: int(name[2:])))
        raise InputError(
            f"got target {target!r}; wanted one that {version_of(trt)} builds for: {words}; "
            "choose one of them, or use TensorRT itself on that GPU"
        )


def _parser_errors(parser: Any) -> list[str]:
    faults = [parser.get_error(i) for i in range(parser.num_errors)]
    return [
        f"{fault.desc()} at node {fault.node_name()!r} ({fault.node_operator()})"
        for fault in faults
    ]


def _refused(trt: Any, path: Path, errors: list[str]) -> EngineError:
    first = " ".join((errors or ["no reason"])[0].split())
    return EngineError(
        f"got {first!r} from {version_of(trt)}; wanted it to build an engine of {path}; "
        "write a bundle as TensorRT takes it with 'edgeseg build MODEL --out BUNDLE'"
    )


def version_of(trt: Any) -> str:
    """Module and version, e.g. ``tensorrt_rtx 1.7.1.116``."""
    return f"{trt.__name__} {trt.__version__}"
