"""What engine ``auto`` means on this machine: the fastest that `edgeseg bench --choose` measured.

INT8 is sometimes slower than FP16, and a GPU sometimes slower than a CPU; so nothing is assumed.
Without a measurement, or after one of the libraries has changed, it is ONNX Runtime and the
bundle's first precision.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgeseg.bundle import ModelSpec
from edgeseg.engines import cache
from edgeseg.errors import EdgesegError

DEFAULT = "ort"
LIBRARIES = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda")


def chosen_here(spec: ModelSpec, precision: str | None = None) -> tuple[str, str]:
    """Engine and precision for a bundle on this machine.

    Args:
        spec: of the bundle.
        precision: only this one; the fastest when left out.
    """
    wanted = precision or next(iter(spec.precisions))
    try:
        kept = cache.recall(_name(spec))
    except EdgesegError:  # a cache that isn't ours alone: whatever needs it will say so
        kept = None
    if kept is None or kept.get("here") != here():
        return DEFAULT, wanted
    rows = [row for row in kept["rows"] if precision in (None, row["precision"])]
    best = min(rows, key=lambda row: row["p50_ms"], default=None)
    return (best["engine_name"], best["precision"]) if best else (DEFAULT, wanted)


def keep(spec: ModelSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    """Remember measured rows: ``engine_name precision p50_ms`` and whatever else.

    Raises:
        EngineError: the cache isn't ours alone.
        OutputError: it can't be written.
    """
    cache.record(_name(spec), {"here": here(), "rows": [dict(row) for row in rows]})


def here() -> dict[str, Any]:
    """What a measurement holds for: machine and libraries."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "libraries": {name: _installed(name) for name in LIBRARIES},
    }


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _name(spec: ModelSpec) -> str:
    files = sha256("".join(sorted(spec.files.values())).encode()).hexdigest()
    return f"choice-{spec.name}-{files[:16]}"
