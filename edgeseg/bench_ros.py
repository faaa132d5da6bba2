"""``edgeseg bench --ros``: the benchmark of the ROS node, in a process that may use ROS."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from edgeseg.errors import InputError, MissingPartError
from edgeseg.signals import exit_code

MODULES = ("rclpy", "edgeseg_msgs", "edgeseg_ros")


def bench_ros(
    model: str,
    *,
    engine: str = "ort",
    precision: str | None = None,
    threads: int = 1,
    quick: bool = False,
    json: Path | None = None,
) -> int:
    """Run ``edgeseg_ros.bench`` with this Python; it prints its table and writes its JSON itself.

    Args:
        model: packaged bundle or bundle folder.
        engine: that runs it.
        precision: one of the bundle's; all of them when left out.
        threads: 1; with more, the network's CPU time can't be told from the node's.
        quick: a few seconds, to see that it runs.
        json: file for the numbers.

    Returns:
        The exit code.

    Raises:
        MissingPartError: no ROS 2 workspace is sourced.
        InputError: another number of threads.
    """
    lacking = [name for name in MODULES if find_spec(name) is None]
    if lacking:
        raise MissingPartError(
            f"got no module {lacking[0]!r}; wanted a sourced ROS 2 workspace with edgeseg; run: "
            "make ros-env; . .venv-ros/env.sh (on a robot: source ros2_ws/install/setup.bash)"
        )
    if threads != 1:
        raise InputError(
            f"got {threads} threads; wanted 1 for --ros, where the CPU time of the network is told "
            "from that of the node; leave --threads out"
        )
    words = [model, "--engine", engine]
    words += ["--precision", precision] if precision else []
    words += ["--quick"] if quick else []
    words += ["--json", str(json)] if json else []
    child = subprocess.Popen([sys.executable, "-m", "edgeseg_ros.bench", *words])
    try:
        return child.wait()
    except KeyboardInterrupt as interruption:
        if exit_code(interruption) != 130:  # Ctrl-C has reached it too
            child.terminate()
        child.wait()
        raise
