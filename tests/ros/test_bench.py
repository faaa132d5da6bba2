"""The benchmark of the node: figures from rows, and a short run over real DDS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeseg_ros.figures import figures, table

LIMIT_S = 180.0
MS = 1_000_000
START = 10_000 * MS


def recorded(number: int, at_ms: float, took_ms: float, cpu_ms: float, total_ms: float) -> Any:
    """A row as `edgeseg_ros.recorded` writes it."""
    start = START + round(at_ms * MS)
    rest = (start + round(took_ms * MS), round(cpu_ms * MS), round(total_ms * MS))
    return [number, start, *rest]


@pytest.fixture
def run() -> tuple[Any, Any, dict[int, int]]:
    """Four images, 100 ms apart: one before the window, two that arrive, one that doesn't."""
    camera = {"send": [recorded(n, 100 * n, 1, 0.5, 10 + 4 * n) for n in range(4)]}
    node = {
        "receive": [recorded(n, 100 * n + 2, 0, 0, 0) for n in (0, 1, 2)],
        "segment": [recorded(n, 100 * n + 3, 20 + n, 15, 50 + 18 * n) for n in (0, 1, 2)],
    }
    seen = {n: START + round((100 * n + 24.5 + n) * MS) for n in (0, 1, 2)}
    return camera, node, seen


WINDOW = range(START + 50 * MS, START + 1000 * MS)


def test_figures(run: tuple[Any, Any, dict[int, int]]) -> None:
    camera, node, seen = run
    found = figures(camera, node, seen, WINDOW)
    counts = [found[name] for name in ("sent", "received", "segmented", "delivered")]
    assert counts == [3, 2, 2, 2]
    assert (found["lost"], found["superseded"]) == (1, 0)
    assert found["delivered_fraction"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["latency_ms"]["p50"] == 26.0
    assert found["segmenter_ms"]["p50"] == 21.5
    assert found["overhead_ms"] == {"p50": 4.5, "p90": 4.5, "p99": 4.5}
    stages = {name: row["p50"] for name, row in found["stages_ms"].items()}
    assert stages == {
        "image": 2.0,
        "hand-over": 1.0,
        "segmenter": 21.5,
        "instances": 1.5,
    }
    assert (found["node_cpu_ms"], found["node_cpu_beyond_ms"]) == (18.0, 3.0)
    assert found["camera_cpu_ms"] == 4.0


def test_figures_where_nothing_arrives(run: tuple[Any, Any, dict[int, int]]) -> None:
    camera, node, _ = run
    found = figures(camera, {step: [] for step in node}, {}, WINDOW)
    assert (found["sent"], found["delivered"], found["delivered_fraction"]) == (3, 0, 0.0)
    assert found["latency_ms"] is found["overhead_ms"] is found["node_cpu_ms"] is None
    assert figures({"send": []}, node, {}, WINDOW)["delivered_fraction"] is None


def test_table_of_what_did_not_arrive(run: tuple[Any, Any, dict[int, int]]) -> None:
    camera, node, _ = run
    about = {"network": "net", "precision": "int8", "width": 640, "height": 480}
    about |= {"rate_hz": 30.0, "profile": False, "others_cpu": 0.25}
    case = about | figures(camera, {step: [] for step in node}, {}, WINDOW)
    card = {"cpu": "CPU", "cores": 2, "ros": {"rclpy": "9"}}
    text = table({"machine": card, "seconds": 10.0, "cases": [case]})
    words = text.splitlines()[-1].split()
    assert words == ["net", "int8", "640x480", "30", "no", "0.0%", "3", "0", *"------", "25%"]


@pytest.mark.ros
def test_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user calls it; two seconds of each case."""
    from ros.harness import DOMAIN

    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    file = tmp_path / "ros.json"
    words = ("-m", "edgeseg", "bench", "--ros", "--quick", "--json", str(file))
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert set(report["machine"]["ros"]) == {"rclpy", "rmw_fastrtps_cpp"}
    cases = report["cases"]
    assert [(c["network"], c["rate_hz"], c["profile"]) for c in cases] == [
        ("fake", 30.0, True),
        ("fake", 30.0, False),
        ("fastinst-nano", 15.0, True),
        ("fastinst-nano", 15.0, False),
    ]
    for case in cases:
        check(case, report["seconds"])
    for case in cases[::2]:
        assert case["delivered"] > 0
        assert "100.0%" in done.stdout or case["delivered_fraction"] < 1


def check(case: dict[str, Any], seconds: float) -> None:
    """Whether the figures of a case can be true together."""
    assert (case["width"], case["height"]) == (640, 480)
    assert 0.5 < case["sent"] / (case["rate_hz"] * seconds) < 1.1
    assert case["sent"] >= case["received"] >= case["segmented"] >= case["delivered"]
    assert 0 <= case["others_cpu"] <= 1
    assert case["camera_cpu_ms"] > 0
    if case["delivered"]:
        latency, overhead = case["latency_ms"], case["overhead_ms"]
        assert 0 < overhead["p50"] < latency["p50"] <= latency["p90"] <= latency["p99"] < 2000
        stages = case["stages_ms"]
        assert stages["segmenter"] == case["segmenter_ms"]
        assert all(row["p50"] > 0 for row in stages.values())
    if case["segmented"] > 1:
        assert 0 < case["node_cpu_beyond_ms"] < case["node_cpu_ms"]


@pytest.mark.ros
def test_a_node_that_does_not_start_is_said(
    fake_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rclpy
    from ros.harness import DOMAIN

    from edgeseg.errors import EdgesegError
    from edgeseg_ros import trial

    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    monkeypatch.setattr(trial, "START_S", 12.0)
    case = trial.Case("fake", str(tmp_path / "no"), "fake", "fp32", 64, 48, 30.0, True)
    rclpy.init(args=[])
    try:
        with pytest.raises(EdgesegError, match=r"got a node that doesn't run \(.*got bundle '"):
            trial.measure(case, tmp_path, 0.1, 0.1)
    finally:
        rclpy.shutdown()


def test_a_network_that_can_not_be_loaded_is_said_at_once(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ros: make ros-env")
    from edgeseg_ros import bench

    assert bench.main([str(tmp_path / "no"), "--json", str(tmp_path / "ros.json")]) == 2
    assert bench.main(["--engine", "ortt"]) == 2
