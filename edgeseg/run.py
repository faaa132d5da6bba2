"""Segment a source into files, and say how fast it went."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from edgeseg.bundle import INDEX, ModelSpec, find
from edgeseg.cameras import open_camera
from edgeseg.cameras.files import is_bag
from edgeseg.config import Settings
from edgeseg.disk import digest
from edgeseg.errors import EdgesegError, InputError
from edgeseg.outputs import check_distinct
from edgeseg.pipeline import Pipeline, Policy, Report
from edgeseg.registry import resolve
from edgeseg.segmenter import load
from edgeseg.signals import exit_code
from edgeseg.sinks.base import FileSink
from edgeseg.sinks.jsonl import JsonlSink
from edgeseg.sinks.video import VideoSink


def run(
    settings: Settings, *, config: Path | None = None, json: Path | None = None
) -> dict[str, Any]:
    """Segment every frame of a source, into the files that the settings name.

    Args:
        settings: what to run.
        config: the file that the settings came from; no output may replace it.
        json: where the caller will write the report; no other output may be there.

    Returns:
        The pipeline's report, and ``ran source outputs exit_code``: the files written; and 0, or
        130 after Ctrl-C and 143 after SIGTERM, which keep what has been written so far.

    Raises:
        InputError: no source, or an output that is an input or another output.
        EdgesegError: a part that isn't there or can't be used; no file stays.
    """
    _check_paths(settings, config, json)
    with ExitStack() as stack:
        segmenter = stack.enter_context(
            load(
                settings.model,
                settings.engine,
                precision=settings.precision,
                threads=settings.threads,
                **settings.choice,
            )
        )
        how = {"live": settings.camera.live, "topic": settings.camera.topic}
        given = {name: value for name, value in how.items() if value is not None}
        camera = stack.enter_context(open_camera(settings.camera.source, **given))
        sinks = _sinks(settings, segmenter.spec, camera.fps)
        bar = stack.enter_context(progress(camera.frame_count, "run"))
        pipeline = Pipeline(
            camera,
            segmenter,
            sinks,
            policy=cast("Policy | None", settings.policy),
            max_age_s=settings.max_age_s,
            on_result=lambda *_: _step(bar),
        )
        report, code = _until_the_end(pipeline)
        return {
            "ran": segmenter.describe(),
            "source": camera.name,
            "outputs": [str(sink.path) for sink in sinks if sink.path.exists()],
            "exit_code": code,
            **report.as_dict(),
        }


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


def _check_paths(settings: Settings, config: Path | None, json: Path | None) -> None:
    """Refuse a run without a source, and outputs that would replace an input or each other."""
    source = settings.camera.source
    if not source:
        raise InputError("got no SOURCE; wanted a video, a folder or a picture; name one")
    place = source.removeprefix("files:").removeprefix("bag:")
    inputs: dict[str, str | Path] = {"the source": place, **_inside(Path(place))}
    if config is not None:
        inputs["the file of settings"] = config
    files = settings.outputs
    outputs = {"--out": files.jsonl, "--video": files.video, "--mcap": files.mcap, "--json": json}
    check_distinct(inputs, {what: path for what, path in outputs.items() if path is not None})


def _inside(folder: Path) -> dict[str, Path]:
    """The files of a bag that is a folder, by what they are."""
    try:
        folder = folder.expanduser()
        if not (folder.is_dir() and is_bag(folder)):
            return {}
        return {f"the source's {path.name}": path for path in folder.iterdir()}
    except (OSError, RuntimeError, ValueError):  # opening it tells what is wrong with it
        return {}


def _until_the_end(pipeline: Pipeline) -> tuple[Report, int]:
    """The report of a whole run, or of one that was interrupted, and the exit code for it."""
    pipeline.start()
    try:
        return pipeline.wait(), 0
    except KeyboardInterrupt as interruption:
        report = pipeline.report()
        if not report.abandoned:
            report = pipeline.wait()  # tells of an error at the files' end
        return report, exit_code(interruption)


def _step(bar: tqdm[Any]) -> None:
    bar.update()


def _sinks(settings: Settings, spec: ModelSpec, fps: float) -> list[FileSink]:
    """The sinks asked for; all of them or, after an error, none."""
    outputs, threshold = settings.outputs, settings.score_threshold
    sinks: list[FileSink] = []
    try:
        if outputs.jsonl is not None:
            sinks.append(JsonlSink(outputs.jsonl, classes=spec.classes))
        if outputs.video is not None:
            sinks.append(VideoSink(outputs.video, fps=fps, classes=spec.classes))
        if outputs.mcap is not None:
            labels = {
                "classes": spec.classes,
                "model": spec.name,
                "model_sha256": digest(find(settings.model) / INDEX),
                "score_threshold": spec.score_threshold if threshold is None else threshold,
            }
            sinks.append(resolve("sink", "mcap")(outputs.mcap, **labels))
    except EdgesegError:
        for sink in sinks:
            sink.abort()
        raise
    return sinks
