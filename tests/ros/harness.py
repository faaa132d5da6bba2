"""What the tests of the node share: processes with a limit, a peer on the topics, spun nodes."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ros: make ros-env")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter, parameter_value_to_python  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402


def own_domain() -> tuple[int, Any]:
    """A ROS domain that no other test process of this machine has, and what keeps it so."""
    folder = Path(tempfile.gettempdir(), "edgeseg-ros-domains")
    folder.mkdir(exist_ok=True)
    for number in range(100):
        domain = 1 + (os.getpid() + number) % 100
        lock = (folder / str(domain)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return domain, lock
    raise RuntimeError("got no ROS domain of 1 to 100; wanted a free one; end other test runs")


DOMAIN, _LOCK = own_domain()
PROFILE = Path(__file__).parents[2] / "ros2_ws/src/edgeseg/config/fastdds.xml"
NODE = (sys.executable, "-m", "edgeseg_ros.node", "--ros-args")
CAMERA = (sys.executable, "-m", "edgeseg_ros.camera", "--ros-args")
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Value = TypeVar("Value")


def until(
    condition: Callable[[], Value], what: object = "", limit_s: float = 15.0, every_s: float = 0.005
) -> Value:
    """The first true value of a condition; fails when there is none in time."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(
                f"after {limit_s:g} s still not: {what() if callable(what) else what}"
            )
        time.sleep(every_s)
    return value


def picture(number: int = 0, height: int = 96, width: int = 128) -> np.ndarray[Any, Any]:
    """Two bright blobs on a dark ground, bgr8: two instances for the fake engine."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    x = 8 + number % 40
    pixels[10:34, x : x + 24] = (60, 60, 240)
    pixels[50:74, width - 28 - x : width - 4 - x] = (60, 240, 60)
    return pixels


def image(
    pixels: np.ndarray[Any, Any],
    encoding: str = "bgr8",
    stamp: tuple[int, int] = (1, 2),
    **fields: Any,
) -> Image:
    """A message of some pixels; ``fields`` says what is wrong with it."""
    message = Image()
    message.height, message.width, message.encoding = *pixels.shape[:2], encoding
    message.step = pixels.strides[0]
    message.data = array("B", pixels.tobytes())
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    message.header.frame_id = "optical"
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def stamp_of(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


class Spun:
    """A node that a thread of this process spins, as ``rclpy.spin`` would.

    Attributes:
        error: what came out of the spinning, which would have ended the process.
    """

    def __init__(self, make: Callable[[Context], Node]) -> None:
        self.context = Context()
        self.context.init(args=[], domain_id=DOMAIN)
        try:
            self.node = make(self.context)
        except BaseException:
            self.context.try_shutdown()
            raise
        self.error: BaseException | None = None
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as error:
            if self.context.ok():  # else it is rcl's, as the context ended in the midst of a wait
                self.error = error

    @property
    def lives(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """As a process ends: the context first, which ends the spinning."""
        self.context.try_shutdown()
        self._thread.join(5.0)
        if hasattr(self.node, "free"):
            self.node.free()
        self._executor.shutdown()
        self.node.destroy_node()
        # A lifecycle node refers to itself: until it is collected, its participant answers others.
        del self.node, self._executor
        gc.collect()


class Peer(Spun):
    """Another participant: publishes, collects and calls the services of the node.

    Attributes:
        logs: texts that nodes of the domain have logged, oldest first.
        statuses: newest ``/diagnostics`` status by name.
    """

    def __init__(self, name: str = "peer") -> None:
        super().__init__(lambda context: Node(name, context=context, enable_rosout=False))
        self.logs: list[str] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self._clients: dict[str, Any] = {}
        self._on(Log, "/rosout", lambda message: self.logs.append(message.msg), 1000)
        self._on(DiagnosticArray, "/diagnostics", self._keep, 10)

    def _on(self, kind: type[Any], topic: str, take: Callable[[Any], Any], qos: Any) -> Any:
        return self.node.create_subscription(kind, topic, take, qos)

    def _keep(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name: status for status in message.status})

    def collect(self, kind: type[Any], topic: str, qos: Any = 100) -> list[Any]:
        """A list that grows with each message, once the publisher is known."""
        found: list[Any] = []
        self._on(kind, topic, found.append, qos)
        return found

    def publisher(self, topic: str = "/image", kind: type[Any] = Image, qos: Any = 1) -> Any:
        return self.node.create_publisher(kind, topic, qos)

    def said(self, pattern: str) -> list[str]:
        """Logged texts in which a pattern is found."""
        return [text for text in list(self.logs) if re.search(pattern, text)]

    def hears(self, pattern: str) -> list[str]:
        """Wait until a pattern is found in a logged text; those in which it is."""
        return until(lambda: self.said(pattern), lambda: f"{pattern!r} in {self.logs}")

    def health(self, part: str = "input", node: str = "segment") -> tuple[int, str, dict[str, str]]:
        """Level, text and values of the newest status; (-1, "", {}) before the first."""
        status = self.statuses.get(f"{node}: {part}")
        if status is None:
            return -1, "", {}
        return status.level[0], status.message, {pair.key: pair.value for pair in status.values}

    def call(self, kind: type[Any], service: str, limit_s: float = 30.0, **fields: Any) -> Any:
        """The answer of a service."""
        client = self._clients.get(service) or self._client(kind, service, limit_s)
        answer = _answer(client, kind.Request(**fields), limit_s)
        assert answer is not None, f"no answer of {service} in {limit_s:g} s"
        return answer

    def _client(self, kind: type[Any], service: str, limit_s: float) -> Any:
        """A client that the service knows: DDS drops the answer to one that it doesn't know yet."""
        client = self._clients[service] = self.node.create_client(kind, service)
        assert client.wait_for_service(limit_s), f"no service {service}"
        harmless = {"transition": Transition(label="none")} if kind is ChangeState else {}
        until(
            lambda: _answer(client, kind.Request(**harmless), 1.0),
            lambda: f"the first answer of {service}",
            limit_s,
        )
        return client

    def change(self, transition: str, node: str = "/segment") -> bool:
        """Ask for a transition; whether it was made."""
        asked = Transition(label=transition)
        return bool(self.call(ChangeState, f"{node}/change_state", transition=asked).success)

    def state(self, node: str = "/segment") -> str:
        return str(self.call(GetState, f"{node}/get_state").current_state.label)

    def set(self, node: str = "/segment", **values: Any) -> str:
        """Set parameters (``__`` stands for a dot); why that was refused, or ""."""
        given = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg()
            for name, value in values.items()
        ]
        answer = self.call(SetParameters, f"{node}/set_parameters", parameters=given)
        return " ".join(row.reason or "refused" for row in answer.results if not row.successful)

    def get(self, name: str, node: str = "/segment") -> Any:
        answer = self.call(GetParameters, f"{node}/get_parameters", names=[name])
        return parameter_value_to_python(answer.values[0])


def _answer(client: Any, request: Any, limit_s: float) -> Any:
    """The answer to a request; None where none comes in time."""
    done = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: done.set())
    return future.result() if done.wait(limit_s) else None


def ask(peer: Peer, publisher: Any, message: Image, *answers: list[Any]) -> list[Any]:
    """Send an image until all topics have an answer to it; the answers."""
    stamp = stamp_of(message)

    def answered() -> list[Any] | None:
        publisher.publish(message)
        found = [[one for one in answer if stamp_of(one) == stamp] for answer in answers]
        return [one[0] for one in found] if all(found) else None

    return until(answered, lambda: f"answers to {stamp}: {peer.logs}", every_s=0.05)


class Process:
    """A process of its own group, with its output in a file."""

    def __init__(self, words: Sequence[object], log: Path, **environment: str) -> None:
        own = {
            "ROS_DOMAIN_ID": str(DOMAIN),
            "PYTHONUNBUFFERED": "1",
            "RCUTILS_COLORIZED_OUTPUT": "0",
        }
        self._log = log
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                [str(word) for word in words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own, **environment},
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self._log.read_text("utf-8", "replace")

    def says(self, pattern: str, limit_s: float = 30.0) -> str:
        """Wait until its output matches; the match."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.text)
            assert match or self.popen.poll() is None, f"ended without {pattern!r}:\n{self.text}"
            return match

        return until(found, lambda: f"{pattern!r} in\n{self.text}", limit_s, 0.02).group()

    def send(self, number: int) -> None:
        os.killpg(self.popen.pid, number)

    def wait(self, limit_s: float = 30.0) -> int:
        """Its exit code."""
        try:
            return self.popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {limit_s:g} s:\n{self.text}") from None

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.send(signal.SIGKILL)
        self.popen.wait(10)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Fails the test that runs in here for longer, wherever it waits."""

    def late(number: int, frame: Any) -> None:
        raise AssertionError(f"the test took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def footprint(process: psutil.Process | None = None) -> dict[str, float]:
    """Memory, threads and open descriptors of a process; of this one when left out.

    Returns:
        ``anon``: MiB that are its own; ``shared``: MiB of the shared memory of DDS, which it has
        touched so far, at most as much as the segments have; ``threads``, ``files``.
    """
    process = process or psutil.Process()
    status = Path(f"/proc/{process.pid}/status").read_text()
    kib = {key: int(value) for key, value in re.findall(r"(Rss\w+):\s+(\d+)", status)}
    memory = {"anon": kib["RssAnon"] / 1024, "shared": kib["RssShmem"] / 1024}
    return memory | {"threads": process.num_threads(), "files": process.num_fds()}
