"""Goals of the packaged models: judged from the records, and not at all where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from model_goals import verdicts


def evaluated(name: str, fp32: float, int8: float) -> dict[str, Any]:
    rows = [{"precision": "fp32", "AP": fp32}, {"precision": "int8", "AP": int8}]
    return {"model": name, "split": "test", "results": rows}


def records(knet: float = 0.6, fps: float = 50.0, size: int = 15_900_000) -> dict[str, Any]:
    rates = {"fastinst-nano": 60.0, "knet-nano": fps}
    return {
        "model_fastinst-nano": {"bytes": {"a": 15_000_000}},
        "model_knet-nano": {"bytes": {"a": size}},
        "eval_fastinst-nano": evaluated("fastinst-nano", 0.628, 0.62),
        "eval_knet-nano": evaluated("knet-nano", 0.6, knet),
        "bench": {"models": [{"model": n, "end_to_end": {"fps": f}} for n, f in rates.items()]},
    }


def missed(results: dict[str, Any]) -> list[str]:
    return [
        f"{one.model}: {one.goal}: {one.measured}" for one in verdicts(results) if not one.holds
    ]


def test_a_goal_above_the_floor_is_told_apart() -> None:
    assert missed(records()) == [
        "fastinst-nano: AP goal 0.64, FP32: 0.6280",
        "fastinst-nano: AP goal 0.64, INT8: 0.6200",
    ]
    held = {one.goal: one.measured for one in verdicts(records()) if one.model == "fastinst-nano"}
    assert held["AP floor 0.58, INT8"] == "0.6200"
    assert held["INT8 at most 1.0 AP points below FP32"] == "0.8"


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"knet": 0.589}, "INT8 at most 1.0 AP points below FP32: 1.1"),
        ({"knet": 0.589}, "at most 3 AP points below `fastinst-nano`: 3.1"),
        ({"fps": 47.0}, "at least 0.8 of the fps of `fastinst-nano`: 0.78"),
        ({"size": 16_100_000}, "bundle of at most 16 MB: 16.1"),
    ],
)
def test_what_is_missed_is_said(changed: dict[str, Any], wanted: str) -> None:
    assert f"knet-nano: {wanted}" in missed(records(**changed))


def test_what_was_not_measured_is_not_judged() -> None:
    results = {"model_knet-nano": {"bytes": {"a": 1}}}
    assert [one.goal for one in verdicts(results)] == ["bundle of at most 16 MB"]
