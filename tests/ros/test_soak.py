"""Endurance: the clip at 30 Hz through camera process and node, with the real network.

20 seconds in every run. ``EDGESEG_SOAK_S=600`` makes it ten minutes; ``EDGESEG_SOAK_JSON`` names a
file for the record, e.g. docs/results/ros_soak.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from ros.harness import CAMERA, NODE, PROFILE, Image, Peer, footprint, until

from edgeseg import record
from edgeseg.doctor import machine

pytestmark = pytest.mark.ros
SECONDS = float(os.environ.get("EDGESEG_SOAK_S", "20"))
LIMIT_S = SECONDS + 120
WARM_UP_S = 5.0
MAX_GROWTH_MIB = 4.0
SEGMENT_MIB = 16.0  # of the profile: so much more shared memory than at first may be touched
Rows = list[dict[str, float]]


def test_memory_threads_and_descriptors_stay(start: Callable[..., Any], peer: Peer) -> None:
    """Of camera and node, between the first quarter after the warm-up and the last one."""
    from edgeseg_msgs.msg import InstanceArray

    profile = {"FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE)}
    words = ("-r", "image:=image_raw", "-p", "autostart:=true", "-p", "model:=fastinst-nano")
    processes = {"node": start(*NODE, *words, **profile), "camera": start(*CAMERA, **profile)}
    counts = {"instances": 0, "label_map": 0}
    listen(peer, InstanceArray, "instances", counts)
    listen(peer, Image, "label_map", counts)
    until(lambda: counts["instances"] > 5, lambda: processes["node"].text, 30)
    time.sleep(WARM_UP_S)
    received = int(peer.health()[2]["received"])
    before = counts["instances"]
    samples = {name: [] for name in processes}
    begin = time.monotonic()
    while time.monotonic() - begin < SECONDS:
        for name, process in processes.items():
            samples[name].append(footprint(psutil.Process(process.popen.pid)))
        time.sleep(min(1.0, SECONDS / 40))
    received = int(peer.health()[2]["received"]) - received
    rows = {name: summary(found) for name, found in samples.items()}
    save(rows, received, counts["instances"] - before)
    for name, row in rows.items():
        assert row["anon_mib"]["growth"] < MAX_GROWTH_MIB, (name, row)
        assert row["shared_mib"]["growth"] < SEGMENT_MIB, (name, row)
        assert row["threads"]["growth"] <= 0, (name, row)
        assert row["files"]["growth"] <= 0, (name, row)
    assert received / SECONDS > 15, "images keep coming"
    assert counts["instances"] - before > SECONDS, "results keep coming"
    assert counts["label_map"] > SECONDS
    assert peer.health("segmentation")[2]["callback errors"] == "0"
    assert "rror" not in processes["node"].text


def listen(peer: Peer, kind: type[Any], name: str, counts: dict[str, int]) -> None:
    def count(message: Any) -> None:
        counts[name] += 1

    peer.node.create_subscription(kind, f"/segment/{name}", count, 5)


def summary(rows: Rows) -> dict[str, dict[str, float]]:
    """First and last quarter, and the most, of each column."""
    quarter = max(1, len(rows) // 4)
    units = {"anon": "_mib", "shared": "_mib"}
    return {
        name + units.get(name, ""): _growth([row[name] for row in rows], quarter)
        for name in rows[0]
    }


def _growth(values: Sequence[float], quarter: int) -> dict[str, float]:
    first, last = median(values[:quarter]), median(values[-quarter:])
    numbers = {"first": first, "last": last, "most": max(values), "growth": last - first}
    return {name: round(number, 2) for name, number in numbers.items()}


def save(rows: dict[str, Any], received: int, delivered: int) -> None:
    """Write the record, where one is asked for."""
    path = os.environ.get("EDGESEG_SOAK_JSON")
    if path:
        own = {"seconds": SECONDS, "rate_hz": 30, "size": "640x480", "model": "fastinst-nano"}
        figures = {"received": received, "delivered": delivered}
        record.write(Path(path), {"machine": machine(), **own, **figures, **rows})
