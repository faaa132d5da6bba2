"""OpenVINO on the CPU: often faster than ONNX Runtime on x86; the extra ``openvino``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.engines.base import IMAGE, Engine, Row, check_layout, empty_outputs, network_file
from edgeseg.errors import EngineError

TELEMETRY = "openvino_telemetry"


def _library() -> Any:
    """The module ``openvino``, imported without its telemetry.

    That would, unasked and on import, write an id into ``~/intel`` and send it to Google Analytics.
    OpenVINO does without where it isn't installed, so for the import it isn't.
    """
    hidden = TELEMETRY not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    finally:
        if hidden:
            del sys.modules[TELEMETRY]


openvino = _library()


@cache
def _core() -> Any:
    """OpenVINO's one core, for good.

    Each core gives the thread that makes it another stack for signals and takes it away again when
    it is freed, perhaps on another thread or after a later core: then the next Ctrl-C is a crash.
    """
    return openvino.Core()


class OvEngine(Engine):
    """A compiled network that reads `input` and writes its outputs in place.

    Args:
        path: the ONNX file; of an INT8 network the signed one, as for TensorRT.
        spec: what the bundle says of it; names, dtypes and shapes must agree.
        precision: for `describe`.
        threads: CPU threads; 0 leaves the choice to OpenVINO (one per core).
        floats: what it may calculate with where the network has float32: ``f32``; or ``bf16``,
            OpenVINO's own choice on CPUs that have it, faster and less exact.

    Raises:
        EngineError: not an ONNX network, or another one than ``spec`` says.
    """

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        precision: str = "fp32",
        threads: int = 0,
        floats: str = "f32",
    ) -> None:
        super().__init__(spec)
        self._precision = precision
        with _translated(f"OpenVINO to load {path}"):
            network = _read(path)
            layout = _layout(network, {IMAGE, *spec.outputs.values()})
        check_layout(layout, spec, path)
        with _translated(f"OpenVINO to compile {path}"):
            compiled = _core().compile_model(network, "CPU", _options(threads, floats))
            self._ran = _precisions(compiled)
            self._request = compiled.create_infer_request()
        self._outputs = empty_outputs(spec)
        self._bind(IMAGE, self.input)
        for meaning, array in self._outputs.items():
            self._bind(spec.outputs[meaning], array)

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> OvEngine:
        """See `Engine.load`."""
        return cls(network_file(folder, spec, precision), spec, precision, threads)

    def _bind(self, name: str, array: NDArray[np.generic]) -> None:
        """Let OpenVINO read or write ``array`` in place."""
        self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    def _run(self) -> dict[str, NDArray[np.generic]]:
        with _translated("OpenVINO to run the network"):
            self._request.infer(share_outputs=True)  # else it copies them
        return self._outputs

    def describe(self) -> str:
        """See `Engine.describe`; with the precisions that really run, which OpenVINO chooses."""
        version = openvino.__version__.partition("-")[0]
        return f"openvino {version} cpu {self._precision} ({self._ran})"

    def close(self) -> None:
        """See `Engine.close`."""
        super().close()
        self._request = None


def _options(threads: int, floats: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": floats,
        # Pinned, the engines of two processes share one core while others idle. Measured on 2
        # cores, fastinst-nano in INT8, two processes of 1 thread: 30 ms each, without pins 15.
        "ENABLE_CPU_PINNING": False,
    }
    return options | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


def _read(path: Path) -> Any:
    """The network in an ONNX file; other formats aren't tried on it."""
    onnx = openvino.frontend.FrontEndManager().load_by_framework("onnx")
    return onnx.convert(onnx.load(str(path)))


def _layout(network: Any, wanted: Set[str]) -> dict[str, Row]:
    """Shape and dtype of every input and output, by that of its names which is wanted."""
    return {
        next(iter(wanted & port.names), port.any_name): (
            str(port.partial_shape) if port.partial_shape.is_dynamic else tuple(port.shape),
            port.element_type.to_dtype().type,
        )
        for port in [*network.inputs, *network.outputs]
    }


def _precisions(compiled: Any) -> str:
    """How many convolutions run in which precision, and in which all that isn't quantised."""
    nodes = (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
    kinds = [(_text(row, "layerType"), _text(row, "runtimePrecision")) for row in nodes]
    counts = Counter(precision for kind, precision in kinds if kind == "Convolution")
    words = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    floats = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return f"convolutions: {words}; else {floats}" if words else floats


def _text(row: Any, key: str) -> str:
    return str(row[key].astype(str)) if key in row else ""


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn OpenVINO's exceptions, many lines of which the last says what happened, into ours."""
    try:
        yield
    except Exception as error:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise EngineError(
            f"got {last!r}; wanted {what}; verify the bundle or export it again"
        ) from error
