"""How fast the bare network is in each engine and precision: all in turns in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns, process_time_ns
from typing import Any

from tqdm import tqdm

from edgeseg import registry
from edgeseg.bundle import find, read
from edgeseg.cameras import open_camera
from edgeseg.engines import choice
from edgeseg.engines.base import Engine
from edgeseg.errors import EdgesegError, EngineError
from edgeseg.preprocess import Preprocessor

WARM_UP = 5
NO_CANDIDATES = ("fake", "eager")
"""Engines for tests and for comparison, which no robot should run."""


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
        A row per precision, FP32 first: ``model input_size engine_name engine precision p50_ms
        p90_ms cpu_ms speedup cpu_speedup``; the last two are the first row's time over its own.
    """
    folder = find(model)
    spec = read(folder)
    names = sorted(spec.precisions, key=lambda name: name != "fp32")
    kind = registry.resolve("engine", engine)
    engines = {(engine, name): kind.load(folder, spec, name, threads) for name in names}
    return in_turns(engines, source, rounds)


def choose(
    model: str | Path, source: str | Path, *, threads: int = 0, rounds: int = 40
) -> dict[str, Any]:
    """Measure every engine and precision that loads here, and remember the fastest for ``auto``.

    Args:
        model: bundle.
        source: video; its first frame is segmented.
        threads: of the engines; 0 as the robot would run them.
        rounds: runs of each.

    Returns:
        ``rows`` as of `precision_benchmark`, the fastest first; and ``refused``: why an engine
        doesn't run here, by name.

    Raises:
        EngineError: none of them runs here, or the cache isn't ours alone.
        OutputError: the cache can't be written.
    """
    folder = find(model)
    spec = read(folder)
    engines: dict[tuple[str, str], Engine] = {}
    refused: dict[str, str] = {}
    for name in registry.rows("engine"):
        for precision in [] if name in NO_CANDIDATES else spec.precisions:
            try:
                kind = registry.resolve("engine", name)
                engines[name, precision] = kind.load(folder, spec, precision, threads)
            except EdgesegError as error:
                refused[f"{name} {precision}"] = str(error)
    if not engines:
        raise EngineError(
            f"got no engine that runs {spec.name} here; wanted one; see 'edgeseg doctor'"
        )
    rows = sorted(in_turns(engines, source, rounds), key=lambda row: row["p50_ms"])
    choice.keep(spec, rows)
    return {"rows": rows, "refused": refused}


def choice_table(report: Mapping[str, Any]) -> str:
    """What `choose` found, for a person."""
    lines = [f"{'engine':12}{'precision':12}{'p50 ms':>9}{'p90 ms':>9}"]
    lines += [
        f"{row['engine_name']:12}{row['precision']:12}{row['p50_ms']:>9.2f}{row['p90_ms']:>9.2f}"
        for row in report["rows"]
    ]
    lines += [f"{name}: not here: {reason}" for name, reason in report["refused"].items()]
    best = report["rows"][0]
    lines.append(f"auto is {best['engine_name']} {best['precision']} from now on")
    return "\n".join(lines)


def in_turns(
    engines: Mapping[tuple[str, str], Engine], source: str | Path, rounds: int
) -> list[dict[str, Any]]:
    """A row for each engine, in their order; they are closed."""
    times: dict[tuple[str, str], list[tuple[int, int]]] = {key: [] for key in engines}
    with open_camera(source) as camera, next(camera) as frame:
        for engine in engines.values():
            Preprocessor(engine.spec)(frame, engine.input)
    turns = range(rounds + WARM_UP)
    for _ in tqdm(turns, desc="precisions", unit="turn", disable=None, leave=False):
        for key, engine in engines.items():
            start = process_time_ns(), perf_counter_ns()
            engine.run()
            times[key].append((process_time_ns() - start[0], perf_counter_ns() - start[1]))
    rows = [_row(engine, *key, times[key][WARM_UP:]) for key, engine in engines.items()]
    for row in rows:
        row["speedup"] = round(rows[0]["p50_ms"] / row["p50_ms"], 3)
        row["cpu_speedup"] = round(rows[0]["cpu_ms"] / row["cpu_ms"], 3)
    for engine in engines.values():
        engine.close()
    return rows


def _row(
    engine: Engine, name: str, precision: str, times: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    walls = sorted(wall for _, wall in times)
    height, width = engine.spec.input_hw
    return {
        "model": engine.spec.name,
        "input_size": f"{width}x{height}",
        "engine_name": name,
        "engine": engine.describe(),
        "precision": precision,
        "p50_ms": round(median(walls) / 1e6, 3),
        "p90_ms": round(walls[int(0.9 * len(walls))] / 1e6, 3),
        "cpu_ms": round(median(cpu for cpu, _ in times) / 1e6, 3),
    }
