"""The camera and the node as processes that write down what they do: the halves of a benchmark.

    python -m edgeseg_ros.recorded camera|node FILE --ros-args ...

runs what ``edgeseg_ros.camera`` or ``edgeseg_ros.node`` runs. At its end FILE gets, as JSON, a list
for each of `STEPS` with a row for each message: stamp of its header, start and end of the step on
CLOCK_MONOTONIC, CPU time of the step's own thread, CPU time of the process so far; all in ns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns, process_time_ns, thread_time_ns
from typing import Any

from edgeseg.segmenter import Segmenter
from edgeseg_ros import camera, convert, node
from edgeseg_ros.source import TopicCamera

Row = tuple[int, int, int, int, int]
STEPS: dict[str, tuple[tuple[str, type[Any], str], ...]] = {
    "camera": (("send", camera.CameraNode, "send"),),
    "node": (("receive", TopicCamera, "offer"), ("segment", Segmenter, "__call__")),
}
"""Program -> name of a step and the method that does it, whose first argument has the header."""


def record(kind: type[Any], method: str) -> list[Row]:
    """Let a method write down each of its calls that is about a message; the list that grows."""
    rows: list[Row] = []
    inner = getattr(kind, method)

    def call(self: Any, subject: Any, *more: Any) -> Any:
        start_ns, cpu_ns = monotonic_ns(), thread_time_ns()
        result = inner(self, subject, *more)
        end_ns, cpu_ns = monotonic_ns(), thread_time_ns() - cpu_ns
        header = getattr(subject, "header", None)
        if header is not None:
            stamp_ns = convert.stamp_ns(header.stamp)
            rows.append((stamp_ns, start_ns, end_ns, cpu_ns, process_time_ns()))
        return result

    setattr(kind, method, call)
    return rows


def main(words: Sequence[str]) -> int:
    """Run the camera or the node, as the module's description says; its exit code."""
    program, file, *rest = words
    rows = {step: record(kind, method) for step, kind, method in STEPS[program]}
    try:
        return {"camera": camera.main, "node": node.main}[program](rest)
    finally:
        Path(file).write_text(json.dumps(rows), "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
