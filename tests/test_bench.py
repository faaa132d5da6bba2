"""The benchmark runs, is JSON, and measures what it says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import bench as module
from edgeseg.bundle import read
from edgeseg.engines.fake import FakeEngine
from edgeseg.errors import InputError


class SlowEngine(FakeEngine):
    """Burns a known amount of CPU time beside the scripted outputs."""

    burn_ms = 8.0

    def _run(self) -> dict[str, np.ndarray[Any, Any]]:
        end = time.process_time() + self.burn_ms / 1e3
        while time.process_time() < end:
            pass
        return super()._run()


def test_end_to_end_knows_network_from_the_rest(fake_bundle: Path, video: Path) -> None:
    row, other = module.end_to_end(
        [SlowEngine(read(fake_bundle)), FakeEngine(read(fake_bundle))], video, 40
    )
    assert row["frames"] == 40
    assert row["input_size"] == "320x240"
    assert row["instances_per_frame"] == 2
    assert row["network"]["cpu_ms"] > SlowEngine.burn_ms
    assert row["end_to_end"]["cpu_ms"] > row["network"]["cpu_ms"] * 0.9
    assert 0.3 < row["efficiency"] <= 1.1
    assert list(row["stages"]) == ["capture", "preprocess", "network", "decode"]
    assert row["stages"]["network"]["count"] == other["stages"]["network"]["count"] == 40
    assert other["end_to_end"]["fps"] > row["end_to_end"]["fps"], "each has times of its own"


def test_memory_counts_frames_and_mebibytes(fake_bundle: Path, video: Path) -> None:
    used = module.memory(FakeEngine(read(fake_bundle)), video, 60)
    assert used["frames"] == 72, "whole videos of 24 frames"
    assert [count for count, _ in used["samples"]] == [24, 48, 72]
    assert 10 < used["start_mib"] < 4000
    assert abs(used["growth_mib"]) < 50


def test_it_needs_a_model_and_frames() -> None:
    with pytest.raises(InputError, match="got 0 models, 300 and 600 frames; wanted a model and at"):
        module.bench([])


@pytest.mark.slow
def test_bench_on_the_command_line(
    edgeseg_cli: Callable[..., Any], fake_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bench.json"
    spoken = edgeseg_cli("bench", fake_bundle, "--engine", "fake", "--quick", "--json", file)
    assert spoken.code == 0, spoken.err
    report = json.loads(file.read_text())
    assert len(report["decode"]["rows"]) == 4
    assert report["models"][0]["model"] == "fake"
    assert report["machine"]["cores"] >= 1
    for words in ("decode, CPU ms", "overlay with names", "end to end", "resident memory"):
        assert words in spoken.out
