#!/usr/bin/env python3
"""Write the table of docs/support.md from the recorded test runs in docs/results/support/*.json.

    python tools/make_support.py           rewrite it
    python tools/make_support.py --check   exit 1 if that would change anything

A run is recorded with EDGESEG_RECORD, see tests/recording.py. What no record shows was not run.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from make_readme import RESULTS, ROOT, Tables, render, table

PAGE = ROOT / "docs" / "support.md"
RECORDS = RESULTS / "support"
X86, ARM = r"x86_64", r"aarch64"
JETSON, DESKTOP = r"Orin|Thor", r"^(?!.*(Orin|Thor)).+"
NOT_RUN = "**not run on a device**"


@dataclass(frozen=True)
class Row:
    """A line of the table: a part on a kind of machine.

    Attributes:
        what: for people.
        where: for people.
        part: one of `recording.PARTS`.
        system: what the record's system must hold.
        gpu: what its GPU must hold; "" for machines without one, too.
        library: what must be installed, ``NAME==VERSION``.
    """

    what: str
    where: str
    part: str
    system: str = ""
    gpu: str = ""
    library: str = ""

    def fits(self, record: dict[str, Any]) -> bool:
        """Whether a record is of this line, and tells of the part."""
        installed = " ".join(f"{name}=={version}" for name, version in record["libraries"].items())
        return (
            set(record["parts"].get(self.part, {})) - {"skipped"} != set()
            and re.search(self.system, record["machine"]["system"]) is not None
            and re.search(self.gpu, record["gpu"]) is not None
            and re.search(self.library, installed) is not None
        )


ROWS = (
    Row("engine `ort` (the default)", "x86-64 CPU", "engine ort", X86),
    Row("engine `ort` (the default)", "ARM CPU: Jetson, Raspberry Pi", "engine ort", ARM),
    Row("engine `openvino`", "x86-64 CPU", "engine openvino", X86),
    Row(
        "TensorRT for RTX builds engines for other GPUs",
        "x86-64 CPU, no GPU",
        "TensorRT builds",
        X86,
        library="rtx",
    ),
    Row("engine `trt`, TensorRT for RTX", "desktop GPU", "engine trt", X86, DESKTOP, "rtx"),
    Row("engine `trt`, TensorRT 10 or 11", "desktop GPU", "engine trt", X86, DESKTOP, "tensorrt=="),
    Row("engine `trt`, TensorRT 10.3", "Jetson Orin, JetPack 6", "engine trt", ARM, "Orin"),
    Row("engine `trt`, TensorRT 10.13", "Jetson Thor, JetPack 7", "engine trt", ARM, "Thor"),
    Row("engine `trt-dla`, FP16", "Jetson Orin", "engine trt-dla", ARM, "Orin"),
    Row("masks for one frame size, `trt`", "desktop GPU", "masks on the GPU", X86, DESKTOP),
    Row("masks for one frame size, `trt`", "Jetson", "masks on the GPU", ARM, JETSON),
    Row("device memory, cuda-bindings", "desktop or server GPU", "cuda-bindings", "", DESKTOP),
    Row("device memory, PyCUDA", "desktop or server GPU", "pycuda", "", DESKTOP),
    Row("device memory, cuda-bindings", "Jetson", "cuda-bindings", ARM, JETSON),
    Row("device memory, PyCUDA", "Jetson", "pycuda", ARM, JETSON),
    Row("ROS 2 node", "ROS 2 Kilted from PyPI", "ROS 2 node", library="ros-rclpy==9"),
    Row("`ros2 launch`", "ROS 2 Kilted from PyPI", "ros2 launch", library="ros-rclpy==9"),
    Row(
        "ROS 2 node", "Humble, Jazzy or Kilted from apt", "ROS 2 node", library=r"(?<!ros-)rclpy=="
    ),
)


def state(row: Row, records: Sequence[dict[str, Any]]) -> list[str]:
    """What the newest record says of a line: outcome, date, machine, commit."""
    found = [record for record in records if row.fits(record)]
    if not found:
        return [NOT_RUN, "", "", ""]
    newest = max(found, key=lambda record: str(record["date"]))
    counts = newest["parts"][row.part]
    words = ", ".join(f"{counts[name]} {name}" for name in ("failed", "passed") if name in counts)
    device = newest["gpu"] if row.gpu else newest["machine"]["cpu"]
    return [words, newest["date"], device, newest["commit"]]


def support(results: dict[str, Any]) -> str:
    """The table."""
    head = ["part", "on", "tests", "date", "device", "commit"]
    rows = [[row.what, row.where, *state(row, results["records"])] for row in ROWS]
    versions = {item for record in results["records"] for item in record["libraries"].items()}
    words = ", ".join(f"{name} {version}" for name, version in sorted(versions)) or "none"
    return f"{table(head, rows)}\n\nVersions in these runs: {words}."


TABLES: Tables = {"support": (("records",), support)}


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    before = PAGE.read_text("utf-8")
    after = render(before, {"records": records}, TABLES, PAGE.name)
    if "--check" not in arguments:
        PAGE.write_text(after, "utf-8")
    return int(before != after and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
