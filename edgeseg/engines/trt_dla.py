"""TensorRT on a DLA, which Jetson Orin has beside its GPU: convolutions there, the rest not.

A DLA takes FP16 from a file that says its types. INT8 with explicit Q/DQ, which is what edgeseg's
is, it doesn't take in TensorRT 10.3; and of a network in FP32 it would take nothing, silently. So
FP16 it is. What it can't run, e.g. attention, runs on the GPU, with a copy at each change.

Never run on a device, see docs/decisions/015-dla.md.
"""

from __future__ import annotations

from pathlib import Path

from edgeseg.bundle import ModelSpec
from edgeseg.engines.trt import TrtEngine
from edgeseg.errors import InputError

PRECISION = "fp16"


class TrtDlaEngine(TrtEngine):
    """`TrtEngine` on DLA core 0."""

    dla = 0

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> TrtEngine:
        """See `TrtEngine.load`; FP16 alone."""
        check_precision(precision)
        return super().load(folder, spec, precision, threads)

    def describe(self) -> str:
        """See `Engine.describe`."""
        return f"{super().describe()} DLA {self.dla}"


class TrtDla1Engine(TrtDlaEngine):
    """`TrtEngine` on DLA core 1."""

    dla = 1


def check_precision(precision: str) -> None:
    """Refuse what a DLA doesn't take.

    Raises:
        InputError: another precision than FP16.
    """
    if precision != PRECISION:
        raise InputError(
            f"got precision {precision!r} for a DLA; wanted {PRECISION!r}, the one that it takes; "
            f"write it with 'edgeseg build MODEL --dla 0 --out BUNDLE' and pass --precision "
            f"{PRECISION}"
        )
