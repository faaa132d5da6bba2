"""What a training leaves on disk, and which call may go on from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeseg.errors import BundleError
from edgeseg.train.initial import Start
from edgeseg.train.source import Source

KEYS = {"model", "raw", "optimiser", "network", "classes", "position", "curve"}


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a file of torch under a temporary name, then rename it."""
    partial = path.with_name(path.name + ".part")
    torch.save(state, partial)
    partial.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Content of ``last.pt``.

    Raises:
        BundleError: damaged, or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises whatever its readers meet in a file
        state = None
    if not isinstance(state, dict) or not state.keys() >= KEYS:
        raise BundleError(
            f"got {path} which is damaged, or not of 'edgeseg train'; wanted the state of a "
            f"training; name another --out, or delete {path.parent} to begin anew"
        )
    return state


def device_name(device: torch.device) -> str:
    """Name of the GPU or CPU for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")


def fingerprint(source: Source, size_hw: Sequence[int], start: Start | None) -> dict[str, Any]:
    """What a training hangs on: its checked tables, its input size, the weights it began with."""
    data = hashlib.sha256()
    for table in (source.train.table, source.val.table):
        for kind in ("categories", "images", "annotations"):
            for row in table[kind]:  # one by one: as one text they may be too much for the memory
                data.update(json.dumps(row, sort_keys=True).encode())
            data.update(kind.encode())
    return {
        "data": data.hexdigest(),
        "size_hw": list(size_hw),
        "start": [start.name, _weights_hash(start)] if start else ["random weights", ""],
    }


def _weights_hash(start: Start) -> str:
    """Two checkpoints called best.pt are told apart."""
    whole = hashlib.sha256()
    for key in sorted(start.state):
        whole.update(key.encode() + start.state[key].cpu().double().numpy().tobytes())
    return whole.hexdigest()


def refuse_other(path: Path, state: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse the state of a training that this one can't go on from.

    Args:
        path: of the state, for people.
        state: as `read` gives it; older ones have no ``fingerprint``.
        wanted: ``name network classes fingerprint`` of this training.

    Raises:
        BundleError: it is of another network, of other classes, sizes or first weights.
    """
    mark = wanted["fingerprint"]
    old = state.get("fingerprint", mark)
    pairs = [
        ("another network", wanted["name"], state["network"], wanted["network"]),
        (_classes(state), _classes(wanted), state["classes"], wanted["classes"]),
        (_size(old), _size(mark), old["size_hw"], mark["size_hw"]),
        (_start(old), f"{_start(mark)} as it is now", old["start"], mark["start"]),
    ]
    for got, want, one, other in pairs:
        if one != other:
            raise BundleError(
                f"got {path} of {got}; wanted {want}; name another --out folder, or delete "
                f"{path.parent} to begin anew"
            )


def _classes(state: Mapping[str, Any]) -> str:
    return f"the classes {', '.join(state['classes'])}"


def _size(mark: Mapping[str, Any]) -> str:
    height, width = mark["size_hw"]
    return f"input size {width}x{height}"


def _start(mark: Mapping[str, Any]) -> str:
    return f"a training that began with {mark['start'][0]}"
