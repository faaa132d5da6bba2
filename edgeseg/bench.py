"""Speed on this machine, as JSON: decoding, drawing, every stage, end to end, memory.

A ratio is only taken between sides that ran in turn in one process, in CPU time, so that another
job on the machine slows both alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter_ns, process_time_ns
from typing import Any

from tqdm import tqdm

from edgeseg import registry
from edgeseg.bench_decode import decode_benchmark
from edgeseg.bench_overlay import overlay_benchmark
from edgeseg.bench_precision import precision_benchmark
from edgeseg.bundle import PACKAGED, find, read
from edgeseg.cameras import open_camera
from edgeseg.doctor import machine
from edgeseg.engines.base import Engine
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.pipeline import Pipeline
from edgeseg.segmenter import Segmenter
from edgeseg.timing import Ring

CLIP = PACKAGED / "clip" / "tabletop.mp4"
TURN = 10  # frames of one side before the other one's turn
WARM_UP = 20


def bench(
    models: Sequence[str | Path],
    *,
    source: str | Path = CLIP,
    engine: str = "ort",
    precision: str | None = None,
    threads: int = 1,
    frames: int = 300,
    memory_frames: int = 600,
    rounds: int = 30,
) -> dict[str, Any]:
    """Measure everything that edgeseg claims about speed and memory.

    Args:
        models: bundles, each measured end to end and bare, in turns.
        source: video that is read over and over.
        engine: name of the engine.
        precision: which of the bundles' precisions; their first when left out.
        threads: CPU threads of the engine; 0 leaves the choice to it.
        frames: frames per model, end to end.
        memory_frames: frames of the memory test, with the first model.
        rounds: runs of each case of the decode and overlay benchmarks.

    Returns:
        ``machine threads decode overlay precisions models memory``; times in ms,
        ratios of CPU times.

    Raises:
        InputError: no model, or fewer than one turn of frames.
    """
    if not models or frames < TURN or memory_frames < 1:
        raise InputError(
            f"got {len(models)} models, {frames} and {memory_frames} frames; wanted a model and at "
            f"least {TURN} frames; ask for more"
        )
    settings = (engine, precision, threads)
    return {
        "machine": machine(),
        "threads": threads,
        "decode": decode_benchmark(rounds=rounds),
        "overlay": overlay_benchmark(rounds=rounds),
        "precisions": [
            row
            for model in models
            for row in precision_benchmark(
                model, source, engine=engine, threads=threads, rounds=2 * rounds
            )
        ],
        "models": end_to_end([_engine(model, *settings) for model in models], source, frames),
        "memory": memory(_engine(models[0], *settings), source, memory_frames),
    }


def end_to_end(engines: Sequence[Engine], source: str | Path, frames: int) -> list[dict[str, Any]]:
    """Video to Instances against the bare network, in turns of a few frames, of every engine.

    End to end is: decode the video, preprocess, run, decode masks and scores. No drawing. The
    engines take turns too, so that their frames per second can be compared.

    Returns:
        A row per engine. Per frame: ``end_to_end`` and ``network`` with ``cpu_ms`` and ``fps``
        (wall), their ``efficiency`` (bare CPU time over end-to-end CPU time), p50/p99 of each
        stage.
    """
    with ExitStack() as stack:
        runners = [_Runner(one, stack.enter_context(Segmenter(one)), source) for one in engines]
        for _ in tqdm(
            range(frames // TURN), desc="end to end", unit="turn", disable=None, leave=False
        ):
            for runner in runners:
                runner.turn()
        return [runner.row() for runner in runners]


class _Runner:
    """A segmenter and a video of its own, and how long both took so far."""

    def __init__(self, engine: Engine, segmenter: Segmenter, source: str | Path) -> None:
        self._engine, self._segmenter, self._source = engine, segmenter, Path(source)
        self._pictures, self._capture = _frames(source), Ring()
        self._times: dict[str, list[tuple[int, int]]] = {"end_to_end": [], "network": []}
        self._found = 0
        for _ in range(WARM_UP):
            _segment(self._pictures, segmenter, self._capture)
        self._capture.clear()
        segmenter.timings.clear()

    def turn(self) -> None:
        """A few frames end to end, then as many runs of the bare network."""
        start = _clocks()
        for _ in range(TURN):
            self._found += _segment(self._pictures, self._segmenter, self._capture)
        middle = _clocks()
        for _ in range(TURN):
            self._engine.run()
        self._times["end_to_end"].append(_passed(start, middle))
        self._times["network"].append(_passed(middle, _clocks()))

    def row(self) -> dict[str, Any]:
        """What `end_to_end` says of it."""
        spec, frames = self._engine.spec, TURN * len(self._times["network"])
        sides = {name: _per_frame(rows) for name, rows in self._times.items()}
        return {
            "model": spec.name,
            "engine": self._engine.describe(),
            "input_size": f"{spec.input_hw[1]}x{spec.input_hw[0]}",
            "source": self._source.name,
            "frames": frames,
            "instances_per_frame": round(self._found / frames, 2),
            **sides,
            "efficiency": round(sides["network"]["cpu_ms"] / sides["end_to_end"]["cpu_ms"], 3),
            "stages": {"capture": _summary(self._capture), **self._segmenter.timings.summary()},
        }


def memory(engine: Engine, source: str | Path, frames: int) -> dict[str, Any]:
    """Resident memory while a pipeline runs over the video again and again.

    Returns:
        ``frames``, the most in the first and the second half after a warm-up of a tenth
        (``start_mib end_mib``), ``growth_mib``, and ``samples``: pairs of frames and MiB.
    """
    samples: list[tuple[int, float]] = []
    done = 0
    with (
        Segmenter(engine) as segmenter,
        tqdm(total=frames, desc="memory", unit="frame", disable=None, leave=False) as bar,
    ):
        while done < frames:
            with open_camera(source) as camera:
                done += Pipeline(camera, segmenter, policy="all").run().delivered
            samples.append((done, round(_resident_mib(), 2)))
            bar.update(done - bar.n)
    steady = [mib for count, mib in samples if count >= frames / 10]
    half = len(steady) // 2
    start, end = max(steady[: half + 1]), max(steady[half:])
    return {
        "frames": done,
        "start_mib": start,
        "end_mib": end,
        "growth_mib": round(end - start, 2),
        "samples": samples,
    }


def table(report: Mapping[str, Any]) -> str:
    """The report of `bench` as text for a person."""
    card = report["machine"]
    lines = [f"{card['cpu']}, {card['cores']} cores; {report['threads']} thread(s) a network", ""]
    lines.append(f"{'decode, CPU ms':28}{'official':>10}{'edgeseg':>10}{'ratio':>8}{'min IoU':>9}")
    for row in report["decode"]["rows"]:
        (h, w), (rows, columns) = row["frame_hw"], row["logits_hw"]
        lines.append(
            f"{f'{columns}x{rows} to {w}x{h}':28}{row['official_ms']:>10.2f}"
            f"{row['ours_ms']:>10.2f}{row['ratio']:>7.1f}x{row['min_iou']:>9.4f}"
        )
    overlay = report["overlay"]
    for name, what in (("fill", "overlay"), ("draw", "overlay with names")):
        lines.append(
            f"{f'{what}, ' + overlay['size']:28}{overlay['reference_ms']:>10.2f}"
            f"{overlay[f'{name}_ms']:>10.2f}{overlay[f'{name}_ratio']:>7.1f}x"
        )
    lines += ["", f"{'bare network':28}{'p50 ms':>10}{'CPU ms':>10}{'speed-up':>10}"]
    for row in report["precisions"]:
        name = f"{row['model']} {row['precision']}, {row['input_size']}"
        lines.append(
            f"{name:28}{row['p50_ms']:>10.2f}{row['cpu_ms']:>10.2f}{row['speedup']:>9.2f}x"
        )
    for one in report["models"]:
        lines += ["", f"{one['model']} at {one['input_size']}, {one['engine']}"]
        lines += [
            f"  {name:26}{row['p50_ms']:>10.2f} ms p50{row['p99_ms']:>10.2f} ms p99"
            for name, row in one["stages"].items()
        ]
        lines.append(
            f"  {'end to end':26}{one['end_to_end']['fps']:>10.1f} fps, bare network "
            f"{one['network']['fps']:.1f} fps; ratio of CPU times {one['efficiency']:.2f}"
        )
    used = report["memory"]
    lines += ["", f"resident memory, {used['frames']} frames: {used['growth_mib']:+.1f} MiB"]
    return "\n".join(lines)


def _engine(model: str | Path, name: str, precision: str | None, threads: int) -> Engine:
    """An engine with the model loaded, without anything round it."""
    folder = find(model)
    spec = read(folder)
    kind = registry.resolve("engine", name)
    engine: Engine = kind.load(folder, spec, precision or next(iter(spec.precisions)), threads)
    return engine


def _segment(pictures: Iterator[Frame], segmenter: Segmenter, capture: Ring) -> int:
    """One frame, from the video to Instances; how many of them."""
    start = perf_counter_ns()
    frame = next(pictures)
    capture.add(perf_counter_ns() - start)
    with frame:
        return len(segmenter(frame))


def _frames(source: str | Path) -> Iterator[Frame]:
    """The frames of a video, over and over."""
    while True:
        with open_camera(source) as camera:
            yield from camera


def _clocks() -> tuple[int, int]:
    """CPU time of the process and wall time, ns."""
    return process_time_ns(), perf_counter_ns()


def _passed(start: tuple[int, int], end: tuple[int, int]) -> tuple[int, int]:
    return end[0] - start[0], end[1] - start[1]


def _per_frame(turns: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Median CPU time of a frame, and frames per second of the wall clock."""
    cpu_ms = median(cpu for cpu, _ in turns) / TURN / 1e6
    fps = 1e9 * TURN / median(wall for _, wall in turns)
    return {"cpu_ms": round(cpu_ms, 3), "fps": round(fps, 2)}


def _summary(ring: Ring) -> dict[str, float]:
    return {"count": ring.count, "p50_ms": ring.p50, "p90_ms": ring.p90, "p99_ms": ring.p99}


def _resident_mib() -> float:
    """Memory of this process that is in RAM, MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
