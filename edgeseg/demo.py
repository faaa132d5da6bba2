"""The packaged clip, segmented: how fast each stage is, how well the masks agree with the truth."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from edgeseg.bundle import PACKAGED
from edgeseg.cameras import open_camera
from edgeseg.doctor import machine
from edgeseg.errors import BundleError, OutputError
from edgeseg.evaluate import category_ids, detections_of
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.metrics import coco_ap
from edgeseg.outputs import check, check_distinct
from edgeseg.pipeline import Pipeline, Report
from edgeseg.run import progress, speed_table
from edgeseg.segmenter import Segmenter, load
from edgeseg.sinks.jsonl import JsonlSink
from edgeseg.sinks.video import VideoSink
from edgeseg.timing import Ring

CLIP = PACKAGED / "clip"


def demo(
    out: str | Path,
    *,
    model: str | Path = "fastinst-nano",
    clip: str | Path = CLIP,
    engine: str = "auto",
    precision: str | None = None,
    threads: int = 0,
    score_threshold: float | None = None,
    json: Path | None = None,
) -> dict[str, Any]:
    """Segment a clip twice: once as a robot would, for speed; once for accuracy and to look at.

    Args:
        out: folder for ``masks.mp4`` and ``masks.jsonl``; made where it is missing.
        model: name of a packaged bundle, or a bundle folder.
        clip: folder with ``tabletop.mp4`` and its ground truth ``tabletop.json.gz``.
        engine: name of the engine.
        precision: one of the bundle's precisions; its first when left out.
        threads: CPU threads of the engine; 0 leaves the choice to it.
        score_threshold: least score of an instance; the bundle's own when left out.
        json: where the caller will write the report; not one of the files of this one.

    Returns:
        The pipeline's report of the first pass, and ``ran clip instances_per_frame
        frames_with_objects frames_with_masks accuracy video draw_ms machine``.

    Raises:
        EdgesegError: no such model or clip, or a folder that can't be written.
    """
    folder, clip = _made(out), Path(clip)
    _check_paths(folder, clip, json)
    truth = _truth(clip / "tabletop.json.gz")
    settings: dict[str, Any] = {"engine": engine, "precision": precision, "threads": threads}
    with load(model, score_threshold=score_threshold, **settings) as segmenter:
        threshold = segmenter.spec.score_threshold if score_threshold is None else score_threshold
        ran, (speed, counts) = segmenter.describe(), _speed(segmenter, clip / "tabletop.mp4")
    with load(model, score_threshold=0, **settings) as segmenter:
        looked = _look(segmenter, clip / "tabletop.mp4", truth, folder, threshold)
    objects = {row["image_id"] for row in truth["annotations"]}
    indices = [row["frame_index"] for row in truth["images"] if row["id"] in objects]
    timed = speed.as_dict()
    del timed["stages"]["sinks"]  # of this pass, which has none
    return {
        "ran": ran,
        **timed,
        **looked,
        "instances_per_frame": round(speed.instances / max(1, speed.delivered), 2),
        "frames_with_objects": len(indices),
        "frames_with_masks": sum(counts.get(index, 0) > 0 for index in indices),
        "score_threshold": threshold,
        "machine": machine(),
    }


def table(report: Mapping[str, Any]) -> str:
    """The report of `demo` as text for a person."""
    found = report["accuracy"]
    figures = ", ".join(f"{name} {found[name]:.3f}" for name in ("AP", "AP50", "AP75"))
    return "\n".join(
        [
            report["ran"],
            "",
            speed_table(report),
            f"{'frames with objects':22}{report['frames_with_objects']:>9}, with masks "
            f"{report['frames_with_masks']}",
            f"{'drawing and encoding':22}{report['draw_ms']['p50']:>9.2f} ms p50, only for the "
            "video below",
            f"{'mask AP':22}{figures} against the clip's {found['instances']} true objects",
            "",
            f"video: {report['video']}",
            f"masks: {report['masks']}",
        ]
    )


def _speed(segmenter: Segmenter, video: Path) -> tuple[Report, dict[int, int]]:
    """The pass for speed: nothing is drawn. Report, and sequence -> number of instances."""
    counts: dict[int, int] = {}
    camera = open_camera(video)
    with progress(camera.frame_count, "speed") as bar:

        def note(frame: Frame, instances: Instances) -> None:
            counts[frame.sequence] = len(instances)
            bar.update()

        report = Pipeline(camera, segmenter, policy="all", on_result=note).run()
    return report, counts


def _look(
    segmenter: Segmenter, video: Path, truth: Mapping[str, Any], folder: Path, threshold: float
) -> dict[str, Any]:
    """The pass for accuracy: every score counts for AP, those above the threshold are drawn."""
    categories = category_ids(segmenter.spec, truth)
    images = {row["frame_index"]: row["id"] for row in truth["images"]}
    found: list[dict[str, Any]] = []
    drawing, classes = Ring(), segmenter.spec.classes
    with ExitStack() as stack:
        camera = stack.enter_context(open_camera(video))
        bar = stack.enter_context(progress(camera.frame_count, "masks"))
        masks = JsonlSink(folder / "masks.jsonl", classes=classes)
        drawn = VideoSink(folder / "masks.mp4", fps=camera.fps, classes=classes)
        stack.enter_context(masks)
        stack.enter_context(drawn)
        for frame in camera:
            with frame:
                instances = segmenter(frame)
                found += detections_of(instances, images[frame.sequence], categories)
                kept = instances[instances.scores >= threshold]
                masks.write(frame, kept)
                start = perf_counter_ns()
                drawn.write(frame, kept)
                drawing.add(perf_counter_ns() - start)
            bar.update()
    return {
        "clip": f"{camera.width}x{camera.height}, {camera.fps:g} fps",
        "accuracy": coco_ap(truth, found),
        "video": str(drawn.path),
        "masks": str(masks.path),
        "draw_ms": {"p50": drawing.p50, "p99": drawing.p99},
    }


def _truth(path: Path) -> dict[str, Any]:
    """The ground truth of the clip.

    Raises:
        BundleError: it is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            truth: dict[str, Any] = json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise BundleError(
            f"got {error} for {path}; wanted the clip's ground truth; "
            "run: pip install --force-reinstall edgeseg"
        ) from None
    return truth


def _check_paths(folder: Path, clip: Path, json: Path | None) -> None:
    """Refuse outputs that can't be written, or that would replace the clip or each other."""
    outputs = {name: folder / name for name in ("masks.jsonl", "masks.mp4")}
    for path in outputs.values():
        check(path)
    if json is not None:
        outputs["--json"] = json
    check_distinct({"the clip": clip / "tabletop.mp4"}, outputs)


def _made(path: str | Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        OutputError: it can't be.
    """
    try:
        folder = Path(path).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:  # no such home, a NUL byte
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"got {reason} for {str(path)!r}; wanted a folder to write to; choose another"
        ) from None
    return folder
