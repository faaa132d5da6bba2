"""``edgeseg bench --ros`` hands over to the ROS package, or says what is missing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg import bench_ros as module

Cli = Callable[..., Any]


class Child:
    """Stands for the process that would run the benchmark."""

    interruption: KeyboardInterrupt | None = None
    children: list[Child] = []  # noqa: RUF012 (the test's own)

    def __init__(self, words: list[str]) -> None:
        self.words, self.terminated, self.waits = words, False, 0
        self.children.append(self)

    def wait(self) -> int:
        self.waits += 1
        if self.interruption is not None and self.waits == 1:
            raise self.interruption
        return 5

    def terminate(self) -> None:
        self.terminated = True


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The processes that were started, in an environment that has ROS."""
    monkeypatch.setattr(Child, "children", [])
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module.subprocess, "Popen", Child)
    monkeypatch.setattr(module.sys, "executable", "python")
    return Child.children


@pytest.mark.parametrize("lacking", module.MODULES)
def test_without_ros_it_says_how_to_get_it(
    edgeseg_cli: Cli, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == lacking else object())
    spoken = edgeseg_cli("bench", "--ros")
    assert spoken.code == 3
    assert spoken.err == (
        f"edgeseg bench: got no module '{lacking}'; wanted a sourced ROS 2 workspace with edgeseg; "
        "run: make ros-env; . .venv-ros/env.sh (on a robot: source ros2_ws/install/setup.bash)\n"
    )


def test_flags_are_handed_on(edgeseg_cli: Cli, children: list[Child], tmp_path: Path) -> None:
    assert edgeseg_cli("bench", "--ros").code == 5
    file = tmp_path / "ros.json"
    words = ("--engine", "fake", "--precision", "int8", "--quick", "--json", file)
    assert edgeseg_cli("bench", "mine", "--ros", *words).code == 5
    start = ["python", "-m", "edgeseg_ros.bench"]
    assert [child.words for child in children] == [
        [*start, "fastinst-nano", "--engine", "ort"],
        [*start, "mine", *map(str, words[:4]), "--quick", "--json", str(file)],
    ]


def test_the_network_runs_on_one_thread(edgeseg_cli: Cli, children: list[Child]) -> None:
    spoken = edgeseg_cli("bench", "--ros", "--threads", "2")
    assert (spoken.code, children) == (2, [])
    assert "got 2 threads; wanted 1 for --ros" in spoken.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_from_outside_ends_it_too(
    edgeseg_cli: Cli, children: list[Child], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Ctrl-C reaches the whole terminal; SIGTERM this process alone."""
    monkeypatch.setattr(Child, "interruption", KeyboardInterrupt(number))
    assert edgeseg_cli("bench", "--ros").code == 128 + number
    (child,) = children
    assert child.terminated == (number == signal.SIGTERM)
    assert child.waits == 2
