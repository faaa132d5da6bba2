"""Fixtures of the node's tests; what they start is ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TEST_LIMIT_S = 90.0


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test of the node hangs; ``endurance`` tests set their own limit."""
    if request.node.get_closest_marker("ros") is None:
        yield
        return
    from ros.harness import limit

    with limit(getattr(request.module, "LIMIT_S", TEST_LIMIT_S)):
        yield


@pytest.fixture
def peer() -> Iterator[Any]:
    """Another participant on the topics."""
    from ros.harness import Peer

    one = Peer()
    yield one
    one.close()
    assert one.error is None


@pytest.fixture
def spun(fake_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes a node in this process, with the fake engine; parameters by name, ``__`` for a dot."""
    from rclpy.parameter import Parameter
    from ros.harness import Spun

    from edgeseg_ros import node

    monkeypatch.setattr(node, "TICK_S", 0.1)
    nodes: list[Spun] = []

    def make(*words: str, **values: Any) -> Spun:
        given = {"model": str(fake_bundle), "engine": "fake"} | values
        overrides = [Parameter(k.replace("__", "."), value=v) for k, v in given.items()]
        arguments = ["--ros-args", *words] if words else []
        nodes.append(
            Spun(
                lambda context: node.SegmentNode(
                    context=context, parameter_overrides=overrides, cli_args=arguments
                )
            )
        )
        return nodes[-1]

    yield make
    for one in nodes:
        one.close()
    assert [one.error for one in nodes] == [None] * len(nodes)


@pytest.fixture
def active(spun: Callable[..., Any], peer: Any) -> Callable[..., Any]:
    """Makes a node in this process and brings it to ``active`` through its services."""

    def make(*words: str, **values: Any) -> Any:
        node = spun(*words, **values)
        assert peer.change("configure"), peer.logs
        assert peer.change("activate"), peer.logs
        return node

    return make


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts processes; they are killed at the end."""
    from ros.harness import Process

    processes: list[Process] = []

    def run(*words: object, **environment: str) -> Process:
        processes.append(Process(words, tmp_path / f"{len(processes)}.log", **environment))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()


@pytest.fixture
def node_words(fake_bundle: Path) -> tuple[str, ...]:
    """Words that start the node as a process with the fake engine, active at once."""
    from ros.harness import NODE

    given = {"model": fake_bundle, "engine": "fake", "autostart": "true"}
    return (*NODE, *(word for k, v in given.items() for word in ("-p", f"{k}:={v}")))
