"""One run of three processes: a camera, the node, and this one, which takes the results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from time import monotonic, monotonic_ns, process_time, sleep
from typing import Any

from ament_index_python.packages import get_package_share_directory
from edgeseg_msgs.msg import InstanceArray, LabelInfo
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from edgeseg.errors import EdgesegError
from edgeseg_ros import convert
from edgeseg_ros.figures import figures
from edgeseg_ros.outputs import LATCHED

START_S, END_S, LAST_S = 60.0, 10.0, 0.5
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Case:
    """What one run is made of.

    Attributes:
        network: name, for people.
        model, engine, precision: how the node is to load it, on one thread.
        width, height: of the images, pixels.
        rate_hz: at which they are sent.
        profile: whether camera and node have the packaged Fast DDS profile.
    """

    network: str
    model: str
    engine: str
    precision: str
    width: int
    height: int
    rate_hz: float
    profile: bool

    def words(self, namespace: str) -> dict[str, list[str]]:
        """Arguments of the camera and of the node."""
        camera = {"width": self.width, "height": self.height, "rate": self.rate_hz}
        node = {"model": self.model, "engine": self.engine, "precision": self.precision}
        node |= {"threads": "1", "autostart": "true"}
        return {
            name: ["--ros-args", "-r", f"__ns:={namespace}", "-r", "image:=image_raw"]
            + [word for key, value in values.items() for word in ("-p", f"{key}:={value}")]
            for name, values in (("camera", camera), ("node", node))
        }


class Observer:
    """Subscribes to what the node publishes, in a thread of its own.

    Attributes:
        ready: the node is active.
        seen: stamp of each result -> time at which it came, CLOCK_MONOTONIC ns.
    """

    def __init__(self, namespace: str) -> None:
        self.ready = False
        self.seen: dict[int, int] = {}
        # Nothing but the two subscriptions: what else it had to look after would delay results.
        self._node = Node(
            "observer", namespace=namespace, start_parameter_services=False, enable_rosout=False
        )
        self._node.create_subscription(LabelInfo, "segment/label_info", self._on_active, LATCHED)
        self._node.create_subscription(InstanceArray, "segment/instances", self._on_result, 100)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    @property
    def has_camera(self) -> bool:
        """Whether somebody publishes the images."""
        return bool(self._node.count_publishers("image_raw"))

    def close(self) -> None:
        """Leave."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()

    def _on_active(self, message: LabelInfo) -> None:
        self.ready = True

    def _on_result(self, message: InstanceArray) -> None:
        now_ns = monotonic_ns()
        self.seen[convert.stamp_ns(message.header.stamp)] = now_ns


def measure(case: Case, folder: Path, seconds: float, warm_up_s: float) -> dict[str, Any]:
    """Run one case.

    Args:
        case: what is run.
        folder: for what the processes write.
        seconds: that count.
        warm_up_s: seconds before those, after the first images.

    Returns:
        The case, what `edgeseg_ros.figures.figures` says of it, and ``others_cpu``: the part of
        the machine's CPU time that was spent outside the three processes.

    Raises:
        EdgesegError: camera or node didn't start; the text has their last line.
    """
    namespace = f"/edgeseg_bench_{os.getpid()}"
    words = case.words(namespace)
    observer = Observer(namespace)
    with ExitStack() as stack:
        stack.callback(observer.close)
        both = {
            name: stack.enter_context(_process(name, words[name], folder, profile=case.profile))
            for name in ("node", "camera")
        }
        _await(observer, both, folder)
        sleep(warm_up_s)
        start_ns, before = monotonic_ns(), _cpu_s(both)
        sleep(seconds)
        window, after = range(start_ns, monotonic_ns()), _cpu_s(both)
        sleep(LAST_S)
    rows = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in both}
    machine_s, ours_s = (b - a for a, b in zip(before, after, strict=True))
    others = (machine_s - ours_s) * 1e9 / len(window) / (os.cpu_count() or 1)
    found = figures(rows["camera"], rows["node"], observer.seen, window)
    about = {name: value for name, value in asdict(case).items() if name != "model"}
    return {**about, "others_cpu": round(max(others, 0.0), 3), **found}


@contextmanager
def _process(
    name: str, words: list[str], folder: Path, *, profile: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """`edgeseg_ros.recorded` as a process; at the end it is asked to leave, and made to."""
    environment = {key: value for key, value in os.environ.items() if key not in PROFILES}
    if profile:
        file = Path(get_package_share_directory("edgeseg")) / "config" / "fastdds.xml"
        environment |= dict.fromkeys(PROFILES, str(file))
    command = [sys.executable, "-m", "edgeseg_ros.recorded", name, str(folder / f"{name}.json")]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command + words,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(observer: Observer, both: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait until the node is active and the camera publishes."""

    def ended() -> list[str]:
        return [name for name, process in both.items() if process.poll() is not None]

    end = monotonic() + START_S
    while not (observer.ready and observer.has_camera) and not ended() and monotonic() < end:
        sleep(0.05)
    if ended() or not (observer.ready and observer.has_camera):
        name = (ended() or ["camera" if observer.ready else "node"])[0]
        lines = (folder / f"{name}.log").read_text("utf-8", "replace").splitlines() or ["nothing"]
        raise EdgesegError(
            f"got a {name} that doesn't run ({lines[-1]}); wanted it started within {START_S:g} s; "
            f"try python -m edgeseg_ros.{name}"
        )


def _cpu_s(both: dict[str, subprocess.Popen[bytes]]) -> tuple[float, float]:
    """CPU time so far, seconds: of the whole machine, and of the three processes."""
    busy = Path("/proc/stat").read_text("ascii").split(maxsplit=9)[1:9]
    idle = int(busy[3]) + int(busy[4])
    ticks = 0
    for process in both.values():
        words = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return (sum(map(int, busy)) - idle) * TICK_S, ticks * TICK_S + process_time()
