"""How much faster each precision of a bundle is: the bare networks, in turns in one process."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter_ns, process_time_ns
from typing import Any

from tqdm import tqdm

from edgeseg import registry
from edgeseg.bundle import find, read
from edgeseg.cameras import open_camera
from edgeseg.preprocess import Preprocessor

WARM_UP = 5


def precision_benchmark(
    model: str | Path, source: str | Path, *, engine: str, threads: int, rounds: int
) -> list[dict[str, Any]]:
    """Time the network of every precision on the same frame, one after the other, again and again.

    Args:
        model: bundle.
        source: video; its first frame is segmented.
        engine: name of the engine.
        threads: of the engine.
        rounds: runs of each.

    Returns:
        A row per precision, FP32 first: ``model input_size precision engine cpu_ms p50_ms p90_ms
        speedup``; ``speedup`` is FP32's median time over its own, ``cpu_speedup`` that of CPU time.
    """
    folder = find(model)
    spec = read(folder)
    names = sorted(spec.precisions, key=lambda name: name != "fp32")
    kind = registry.resolve("engine", engine)
    engines = {name: kind.load(folder, spec, name, threads) for name in names}
    with open_camera(source) as camera, next(camera) as frame:
        for one in engines.values():
            Preprocessor(spec)(frame, one.input)
    times: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    for _ in tqdm(
        range(rounds + WARM_UP), desc=f"{spec.name} precisions", disable=None, leave=False
    ):
        for name, one in engines.items():
            start = process_time_ns(), perf_counter_ns()
            one.run()
            times[name].append((process_time_ns() - start[0], perf_counter_ns() - start[1]))
    described = {name: one.describe() for name, one in engines.items()}
    for one in engines.values():
        one.close()
    rows = [_row(spec.name, name, times[name][WARM_UP:]) for name in names]
    return [
        {
            **row,
            "engine": described[row["precision"]],
            "input_size": f"{spec.input_hw[1]}x{spec.input_hw[0]}",
            "speedup": round(rows[0]["p50_ms"] / row["p50_ms"], 3),
            "cpu_speedup": round(rows[0]["cpu_ms"] / row["cpu_ms"], 3),
        }
        for row in rows
    ]


def _row(model: str, precision: str, times: list[tuple[int, int]]) -> dict[str, Any]:
    walls = sorted(wall for _, wall in times)
    return {
        "model": model,
        "precision": precision,
        "cpu_ms": round(median(cpu for cpu, _ in times) / 1e6, 3),
        "p50_ms": round(median(walls) / 1e6, 3),
        "p90_ms": round(walls[int(0.9 * len(walls))] / 1e6, 3),
    }
