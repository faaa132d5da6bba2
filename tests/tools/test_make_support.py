"""docs/support.md: what no record shows was not run; the newest record counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_support
import pytest
from recording import PARTS

ROOT = Path(__file__).parents[2]


def recorded(part: str, system: str = "Linux-x86_64", gpu: str = "", **more: Any) -> dict[str, Any]:
    """A record in which ten tests of a part passed."""
    card = {"cpu": "A CPU", "system": system}
    usual = {
        "date": "2026-01-02",
        "commit": "abc",
        "libraries": {},
        "parts": {part: {"passed": 10}},
    }
    return {"machine": card, "gpu": gpu, **usual, **more}


def lines(*records: dict[str, Any]) -> list[str]:
    """The lines of the table that tell of a run."""
    text = make_support.support({"records": list(records)})
    return [
        line for line in text.splitlines()[2:] if line.startswith("|") and "not run" not in line
    ]


def test_without_a_record_nothing_was_run() -> None:
    text = make_support.support({"records": []})
    assert text.count(make_support.NOT_RUN) == len(make_support.ROWS)


def test_every_line_is_of_a_part_that_is_counted() -> None:
    assert {row.part for row in make_support.ROWS} == set(PARTS)


def test_a_record_tells_of_its_own_machine_only() -> None:
    assert lines(recorded("engine ort")) == [
        "| engine `ort` (the default) | x86-64 CPU | 10 passed | 2026-01-02 | A CPU | abc |"
    ]
    (line,) = lines(recorded("engine ort", "Linux-tegra-aarch64"))
    assert "| ARM CPU: Jetson, Raspberry Pi | 10 passed |" in line


@pytest.mark.parametrize(
    ("system", "gpu", "library", "where"),
    [
        ("x86_64", "NVIDIA GeForce RTX 4060", "tensorrt_rtx", "desktop GPU"),
        ("x86_64", "NVIDIA GeForce RTX 4060", "tensorrt", "desktop GPU"),
        ("aarch64", "Orin", "tensorrt", "Jetson Orin, JetPack 6"),
        ("aarch64", "NVIDIA Thor", "tensorrt", "Jetson Thor, JetPack 7"),
    ],
)
def test_the_gpu_decides(system: str, gpu: str, library: str, where: str) -> None:
    (line,) = lines(recorded("engine trt", system, gpu, libraries={library: "10.3"}))
    assert f"| {where} | 10 passed | 2026-01-02 | {gpu} | abc |" in line


def test_what_was_only_skipped_was_not_run() -> None:
    assert not lines(
        recorded("engine trt", gpu="NVIDIA H200", parts={"engine trt": {"skipped": 9}})
    )


def test_failures_are_told_and_the_newest_counts() -> None:
    bad = recorded(
        "engine ort", date="2026-02-01", parts={"engine ort": {"passed": 9, "failed": 1}}
    )
    assert "| 1 failed, 9 passed | 2026-02-01 |" in lines(recorded("engine ort"), bad)[0]
    assert "| 10 passed | 2026-03-01 |" in lines(bad, recorded("engine ort", date="2026-03-01"))[0]


def test_the_page_is_up_to_date() -> None:
    assert make_support.main(["--check"]) == 0


def test_a_run_of_the_tests_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    words = ["tests/contract/test_engines.py", "-q", "-k", "describe"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env={**os.environ, "EDGESEG_RECORD": str(file), "EDGESEG_REQUIRE": ""},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    found = json.loads(file.read_text())
    assert found["parts"]["engine ort"] == {"passed": 1}
    assert sum(found["parts"]["engine trt"].values()) == 1
    assert found["libraries"]["onnxruntime"] and found["machine"]["cpu"] and found["commit"]
