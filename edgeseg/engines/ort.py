"""ONNX Runtime on the CPU: the engine of the base install.

From version 1.29 on, ONNX Runtime keeps an id and a database in the user's home and reports to
Microsoft, on a thread of its own, unless it is told not to before it is imported. A robot doesn't:
import `onnxruntime` from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.engines.base import Engine, Row, check_layout, empty_outputs, network_file
from edgeseg.errors import EngineError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as onnxruntime

ONNX_TYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}
FATAL = 4
SLOWER_FUSIONS = ["SkipLayerNormFusion"]
"""Measured: the fused kernel costs 3.5 ms for 4800 x 128 values, an addition and the norm 0.4."""
CPU_SUFFIX = ".u8.onnx"
"""``model.int8.u8.onnx`` holds the integers of ``model.int8.onnx`` as x86 kernels like them."""


class OrtEngine(Engine):
    """A session whose input and outputs are bound once to numpy arrays and reused.

    Args:
        path: the ONNX file.
        spec: what the bundle says of it; names, dtypes and shapes must agree.
        precision: for `describe`.
        threads: CPU threads; 0 leaves the choice to ONNX Runtime (one per core).
        spinning: let idle threads of ONNX Runtime burn CPU while they wait for the next frame.

    Raises:
        EngineError: not an ONNX network, or another one than ``spec`` says.
    """

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        precision: str = "fp32",
        threads: int = 0,
        spinning: bool = False,
    ) -> None:
        super().__init__(spec)
        self._precision = precision
        with _translated(f"ONNX Runtime to load {path}"):
            self._session = onnxruntime.InferenceSession(
                str(path),
                _options(threads, spinning),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=SLOWER_FUSIONS,
            )
        check_layout(_layout(self._session), spec, path)
        self._outputs = empty_outputs(spec)
        self._binding = self._session.io_binding()
        name = self._session.get_inputs()[0].name
        _bind(self._binding.bind_input, name, self.input)
        for meaning, array in self._outputs.items():
            _bind(self._binding.bind_output, spec.outputs[meaning], array)

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> OrtEngine:
        """See `Engine.load`; takes the form for CPUs of an INT8 network, where there is one."""
        path = network_file(folder, spec, precision)
        for_cpu = path.with_suffix(CPU_SUFFIX)
        return cls(for_cpu if for_cpu.name in spec.files else path, spec, precision, threads)

    def _run(self) -> dict[str, NDArray[np.generic]]:
        with _translated("ONNX Runtime to run the network"):
            self._session.run_with_iobinding(self._binding)
        return self._outputs

    def describe(self) -> str:
        """See `Engine.describe`."""
        return f"onnxruntime {onnxruntime.__version__} cpu {self._precision}"

    def close(self) -> None:
        """See `Engine.close`."""
        super().close()
        self._binding = self._session = None


def _options(threads: int, spinning: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL  # what matters arrives as an exception
    # A robot's CPU is not ours alone. Measured on 2 busy cores, 2 threads, fastinst-nano with 10 ms
    # between frames: spinning took 72 ms of CPU and 138 ms of time per frame, without it 39 and 77.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return options


def _bind(bind: Callable[..., None], name: str, array: NDArray[np.generic]) -> None:
    """Let ONNX Runtime read or write ``array`` in place."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _layout(session: onnxruntime.InferenceSession) -> dict[str, Row]:
    """Shape and dtype of every input and output, by name."""
    return {
        node.name: (tuple(node.shape), ONNX_TYPES.get(node.type, node.type))
        for node in [*session.get_inputs(), *session.get_outputs()]
    }


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn ONNX Runtime's exceptions, which share no base of their own, into one EngineError."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(
            f"got {first!r}; wanted {what}; verify the bundle or export it again"
        ) from error
