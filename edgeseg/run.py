"""Segment a source into files, and say how fast it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

from tqdm import tqdm

from edgeseg.cameras import open_camera
from edgeseg.config import OutputSettings, Settings
from edgeseg.errors import EdgesegError
from edgeseg.pipeline import Pipeline, Policy
from edgeseg.segmenter import load
from edgeseg.sinks.base import Sink
from edgeseg.sinks.jsonl import JsonlSink
from edgeseg.sinks.video import VideoSink


def run(settings: Settings) -> dict[str, Any]:
    """Segment every frame of a source, into the files that the settings name.

    Returns:
        The pipeline's report, and ``ran source``.

    Raises:
        EdgesegError: a part that isn't there or can't be used; no file stays. Ctrl-C keeps what
            has been written so far, as whole files.
    """
    with ExitStack() as stack:
        segmenter = stack.enter_context(
            load(
                settings.model,
                settings.engine,
                precision=settings.precision,
                threads=settings.threads,
                score_threshold=settings.score_threshold,
                classes=settings.classes or None,
            )
        )
        how = {} if settings.camera.live is None else {"live": settings.camera.live}
        camera = stack.enter_context(open_camera(settings.camera.source, **how))
        sinks = _sinks(settings.outputs, segmenter.spec.classes, camera.fps)
        bar = stack.enter_context(progress(camera.frame_count, "run"))
        pipeline = Pipeline(
            camera,
            segmenter,
            sinks,
            policy=cast("Policy | None", settings.policy),
            max_age_s=settings.max_age_s,
            on_result=lambda *_: _step(bar),
        )
        report = pipeline.run()
        return {"ran": segmenter.describe(), "source": camera.name, **report.as_dict()}


def speed_table(report: Mapping[str, Any]) -> str:
    """Stages, frames per second, drops and copies of a pipeline's report, for a person."""
    lines = [f"{'stage':22}{'p50 ms':>9}{'p99 ms':>9}"]
    lines += [
        f"{name:22}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        for name, row in report["stages"].items()
    ]
    age = report["age_ms"]
    if report["delivered"]:
        lines.append(f"{'age of results':22}{age['p50']:>9.2f}{age['p99']:>9.2f}")
    drops = ", ".join(f"{cause} {count}" for cause, count in report["dropped"].items())
    each = report["instances"] / max(1, report["delivered"])
    lines += [
        f"{'end to end':22}{report['fps']:>9.1f} fps",
        f"{'frames':22}{report['delivered']:>9} of {report['received']}",
        f"{'instances per frame':22}{each:>9.2f}",
        f"{'drops':22}{sum(report['dropped'].values()):>9} ({drops})",
        f"{'copies per frame':22}{report['copies_per_frame']:>9.2f}",
    ]
    return "\n".join(lines)


def progress(total: int | None, name: str) -> tqdm[Any]:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(total=total, desc=name, unit="frame", disable=None, leave=False)


def _step(bar: tqdm[Any]) -> None:
    bar.update()


def _sinks(outputs: OutputSettings, classes: Sequence[str], fps: float) -> list[Sink]:
    """The sinks asked for; all of them or, after an error, none."""
    sinks: list[Sink] = []
    try:
        if outputs.jsonl:
            sinks.append(JsonlSink(outputs.jsonl, classes=classes))
        if outputs.video:
            sinks.append(VideoSink(outputs.video, fps=fps, classes=classes))
    except EdgesegError:
        for sink in sinks:
            sink.abort()
        raise
    return sinks
