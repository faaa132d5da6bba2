"""The contract of the pipeline: each line of DESIGN 3 is a test."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgeseg.cameras import Camera, open_camera
from edgeseg.cameras.synthetic import SyntheticCamera
from edgeseg.engines.fake import FakeEngine, fake_spec
from edgeseg.errors import CameraError, InputError, OutputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances, from_masks
from edgeseg.pipeline import Pipeline, Report
from edgeseg.segmenter import Segmenter
from edgeseg.sinks.base import FileSink, Sink
from edgeseg.sinks.jsonl import JsonlSink
from edgeseg.sinks.video import VideoSink

PIXELS = np.zeros((8, 8, 3), np.uint8)
LONG_S = 10.0


def picture(sequence: int, age_s: float = 0.0) -> Callable[[Camera], Frame]:
    """A step of a `Script`: a frame taken ``age_s`` ago."""
    return lambda camera: Frame(PIXELS, "bgr8", time.monotonic_ns() - round(age_s * 1e9), sequence)


class Script(Camera):
    """A camera that does what it is told, and remembers which frames came back."""

    def __init__(self, *steps: Callable[[Camera], Frame | None], live: bool = True) -> None:
        super().__init__("script", live=live)
        self.width = self.height = 8
        self._steps = iter(steps)
        self.lent: set[int] = set()
        self.read = 0
        self.closed = 0

    def _read(self) -> Frame | None:
        for step in self._steps:
            frame = step(self)
            if frame is not None:
                self.read += 1
                self.lent.add(frame.sequence)
                frame.on_release = partial(self.lent.discard, frame.sequence)
                return frame
        return None

    def _release(self) -> None:
        self.closed += 1


class Results(Sink):
    """Remembers what it got, and does ``then`` with each frame."""

    def __init__(self, then: Callable[[Frame], Any] = lambda frame: None) -> None:
        self.sequences: list[int] = []
        self.stamps: list[int] = []
        self.ends: list[str] = []
        self._then = then

    def write(self, frame: Frame, instances: Instances) -> None:
        self.sequences.append(frame.sequence)
        self.stamps.append(frame.stamp_ns)
        self._then(frame)

    def close(self) -> None:
        self.ends.append("closed")

    def abort(self) -> None:
        self.ends.append("aborted")


def nothing(frame: Frame) -> Instances:
    """A segmenter that sees nothing."""
    none = np.zeros((0, frame.height, frame.width), bool)
    return from_masks(none, [], [], stamp_ns=frame.stamp_ns, sequence=frame.sequence)


def fake(input_hw: tuple[int, int] = (240, 320)) -> Segmenter:
    return Segmenter(FakeEngine(fake_spec(input_hw)))


def fail(error: BaseException) -> Callable[[Any], None]:
    def step(_: Any) -> None:
        raise error

    return step


def wait_for(event: threading.Event) -> Callable[[Any], None]:
    return lambda _: event.wait(LONG_S) and None


def until(condition: Callable[[], bool], limit_s: float = 3.0) -> float:
    """Seconds until the condition held."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit_s, "it never came true"
        time.sleep(0.002)
    return time.monotonic() - start


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("edgeseg")]


def check_counts(report: Report) -> None:
    assert set(report.dropped) == {"driver", "stale", "superseded", "corrupt"}
    total = report.delivered + sum(report.dropped.values()) + report.waiting
    assert report.received == total


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    until(lambda: not threads())


def test_newest_frame_wins() -> None:
    busy, all_given = threading.Event(), threading.Event()
    camera = Script(
        picture(0),
        wait_for(busy),
        *(picture(n) for n in range(1, 10)),
        lambda _: all_given.set(),
    )

    def first_is_slow(frame: Frame) -> None:
        busy.set()
        assert all_given.wait(LONG_S)

    results = Results(first_is_slow)
    report = Pipeline(camera, nothing, [results], policy="latest").run()
    assert results.sequences == [0, 9]
    assert report.dropped == {"driver": 0, "corrupt": 0, "stale": 0, "superseded": 8}
    assert report.received == 10 and not camera.lent
    check_counts(report)


def test_sequence_never_goes_back() -> None:
    camera = Script(*(picture(n) for n in (0, 3, 1, 3, 4, 2, 9)), live=False)
    results = Results()
    report = Pipeline(camera, nothing, [results], policy="all").run()
    assert results.sequences == [0, 3, 4, 9]
    assert report.dropped["stale"] == 3 and report.received == 7 and not camera.lent
    check_counts(report)


def test_time_never_goes_back() -> None:
    camera = Script(picture(0, 0.1), picture(1, 0.2), picture(2, 0.0), live=False)
    results = Results()
    report = Pipeline(camera, nothing, [results], policy="all").run()
    assert results.sequences == [0, 2] and results.stamps == sorted(results.stamps)
    assert report.dropped["stale"] == 1


def test_a_stamp_ahead_of_time_is_now() -> None:
    camera = Script(picture(0, -5.0), picture(1), live=False)
    results = Results(lambda frame: time.sleep(0.01))
    Pipeline(camera, nothing, [results], policy="all").run()
    assert results.sequences == [0, 1] and results.stamps[0] < time.monotonic_ns()


def test_frames_older_than_max_age_are_never_delivered() -> None:
    paused = [lambda _: time.sleep(0.02)]
    steps = [picture(0, 0.4), *paused, picture(1, 0.2), *paused, picture(2), *paused]
    results = Results()
    report = Pipeline(Script(*steps), nothing, [results], max_age_s=0.1).run()
    assert results.sequences == [2] and report.dropped["stale"] >= 1
    check_counts(report)


def test_a_frame_that_grew_old_in_the_mailbox_is_not_delivered() -> None:
    given = threading.Event()
    camera = Script(
        picture(0), lambda _: time.sleep(0.05), picture(1), lambda _: given.set(),
        lambda _: time.sleep(0.4), picture(2),
    )  # fmt: skip

    def first_takes_long(frame: Frame) -> None:
        if frame.sequence == 0:
            assert given.wait(LONG_S)
            time.sleep(0.25)

    results = Results(first_takes_long)
    report = Pipeline(camera, nothing, [results], max_age_s=0.2).run()
    assert results.sequences == [0, 2] and report.dropped["stale"] == 1


def test_policy_all_loses_nothing_and_holds_the_camera_back() -> None:
    ahead = []
    camera = Script(*map(picture, range(30)), live=False)
    results = Results(lambda frame: ahead.append(camera.read - frame.sequence))
    slow = lambda frame: (time.sleep(0.002), nothing(frame))[1]  # noqa: E731
    report = Pipeline(camera, slow, [results]).run()
    assert report.policy == "all" and results.sequences == list(range(30))
    assert report.delivered == report.received == 30
    assert max(ahead) <= 3, "one in work, one in the mailbox, one in the camera's hand"


def test_policy_follows_the_camera() -> None:
    for live, policy in ((True, "latest"), (False, "all")):
        assert Pipeline(Script(live=live), nothing).run().policy == policy


def test_losses_of_the_camera_are_counted() -> None:
    def lose(camera: Camera) -> None:
        camera.dropped["driver"] += 5
        camera.dropped["corrupt"] += 2

    camera = Script(picture(0), lose, picture(6), live=False)
    report = Pipeline(camera, nothing).run()
    assert (report.received, report.delivered) == (9, 2)
    assert report.dropped == {"driver": 5, "corrupt": 2, "stale": 0, "superseded": 0}
    check_counts(report)


def test_counts_agree_at_every_moment() -> None:
    camera = open_camera("synthetic:64x48@400?seconds=0.6")
    with Pipeline(camera, nothing, [Results(lambda frame: time.sleep(0.004))]) as pipeline:
        pipeline.start()
        while pipeline.state != "STOPPED":
            report = pipeline.report()
            assert report.received == report.delivered + sum(report.dropped.values()) + (
                report.waiting
            )
            time.sleep(0.001)  # asking without a pause starves the pipeline's own threads
    report = pipeline.report()
    assert report.received == 240 and report.delivered > 3
    check_counts(report)


def test_no_frame_sized_memory_per_frame(video: Path) -> None:
    del video
    memory: dict[int, tuple[int, int]] = {}

    def look(frame: Frame, instances: Instances) -> None:
        if frame.sequence in (30, 89):
            memory[frame.sequence] = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
        assert len(instances) > 0

    camera = SyntheticCamera(640, 480, seconds=3, live=False)
    tracemalloc.start()
    try:
        with fake() as segmenter:
            Pipeline(camera, segmenter, on_result=look).run()
    finally:
        tracemalloc.stop()
    (start, _), (end, peak) = memory[30], memory[89]
    assert peak - start < 640 * 480 / 4, "a buffer of a frame's size was made"
    assert end - start < 20_000, "memory grows"


def test_a_video_costs_no_frame_sized_memory_of_python(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with SyntheticCamera(640, 480, seconds=2, live=False) as camera, VideoSink(path) as sink:
        for frame in camera:
            with frame:
                sink.write(frame, nothing(frame))
    memory: dict[int, tuple[int, int]] = {}

    def look(frame: Frame, _: Instances) -> None:
        if frame.sequence in (20, 59):
            memory[frame.sequence] = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        with fake() as segmenter:
            report = Pipeline(open_camera(path), segmenter, on_result=look).run()
    finally:
        tracemalloc.stop()
    assert memory[59][1] - memory[20][0] < 640 * 480 / 4
    assert report.copies_per_frame == 0


def test_copies_are_counted_per_frame_that_the_source_gave() -> None:
    def copied(camera: Camera) -> Frame:
        camera.copies += 1
        camera.dropped["driver"] += 3
        return picture(4 * camera.copies)(camera)

    report = Pipeline(Script(copied, copied, live=False), nothing).run()
    assert (report.received, report.delivered, report.copies_per_frame) == (8, 2, 1.0)


def test_threads_descriptors_and_leases_stay_constant(video: Path, tmp_path: Path) -> None:
    process = psutil.Process()

    def run() -> tuple[int, int]:
        with fake() as segmenter:
            sinks = [JsonlSink(tmp_path / "a.jsonl"), VideoSink(tmp_path / "a.mp4")]
            Pipeline(open_camera(video), segmenter, sinks).run()
        gc.collect()
        return process.num_fds(), threading.active_count()

    first = run()
    assert {run() for _ in range(4)} == {first}


def test_state_is_stalled_within_a_second_of_the_last_frame() -> None:
    go, last = threading.Event(), []
    camera = Script(
        picture(0), picture(1), lambda _: last.append(time.monotonic()), wait_for(go), picture(2),
        lambda camera: camera._interrupted.wait(LONG_S) and None,
    )  # fmt: skip
    results = Results()
    pipeline = Pipeline(camera, nothing, [results])
    assert pipeline.state == "STOPPED"
    pipeline.start()
    until(lambda: bool(last))
    assert pipeline.state == "RUNNING" and pipeline.report().state == "RUNNING"
    until(lambda: pipeline.state == "STALLED")
    assert 0.5 < time.monotonic() - last[0] <= 1.0
    go.set()
    until(lambda: pipeline.state == "RUNNING" and 2 in results.sequences)
    assert pipeline.stop().state == "STOPPED"


def test_a_slow_worker_is_no_stall() -> None:
    camera = Script(*map(picture, range(3)), live=False)
    states = []
    pipeline = Pipeline(camera, nothing, stall_after_s=0.05, on_result=lambda *_: slow())

    def slow() -> None:
        time.sleep(0.1)
        states.append(pipeline.state)

    pipeline.run()
    assert states == ["RUNNING"] * 3


STUCK = threading.Event()


def stuck(_: Any = None) -> None:
    STUCK.wait(LONG_S)


@pytest.fixture
def unstick() -> Iterator[None]:
    STUCK.clear()
    yield
    STUCK.set()


def in_state(name: str) -> tuple[Pipeline, Results, Callable[[], bool]]:
    """A pipeline that gets into a state, and whether it is there."""
    results, camera = Results(), open_camera("synthetic:64x48@200")
    if name == "never started":
        return Pipeline(camera, nothing, [results]), results, lambda: True
    if name == "camera blocked":
        camera = Script(picture(0), stuck, picture(1))
        return Pipeline(camera, nothing, [results]), results, lambda: camera.read == 1
    if name == "camera waiting":
        camera = open_camera("synthetic:64x48@0.01")
    if name == "slow sink":
        results = Results(stuck)
    if name == "ended":
        camera = open_camera("synthetic:64x48@200?seconds=0.05&live=0")
    segmenter = nothing
    if name == "stuck network":
        segmenter = lambda frame: (results.sequences.append(0), stuck(), nothing(frame))[2]  # noqa: E731
    if name == "held back":
        results = Results(stuck)
        camera = Script(*map(picture, range(9)), live=False)
        return Pipeline(camera, nothing, [results]), results, lambda: camera.read == 3
    if name == "failed":
        camera = Script(picture(0), fail(CameraError("gone")))
    pipeline = Pipeline(camera, segmenter, [results])
    if name in ("ended", "failed"):
        return pipeline, results, lambda: pipeline.state == "STOPPED"
    return pipeline, results, lambda: bool(results.sequences)


STATES = {
    "never started": (),
    "running": (),
    "camera waiting": (),
    "camera blocked": ("edgeseg-capture",),
    "slow sink": ("edgeseg-worker",),
    "stuck network": ("edgeseg-worker",),
    "held back": ("edgeseg-worker",),
    "ended": (),
    "failed": (),
}


@pytest.mark.usefixtures("unstick")
@pytest.mark.parametrize("name", STATES)
def test_stop_takes_less_than_two_seconds(name: str) -> None:
    pipeline, _, there = in_state(name)
    if name != "never started":
        pipeline.start()
    until(there)
    start = time.monotonic()
    report = pipeline.stop(*([] if name in ("running", "slow sink") else [0.5]))
    assert time.monotonic() - start < (2.0 if name in ("running", "slow sink") else 1.0)
    assert report.state == pipeline.state == "STOPPED"
    assert report.abandoned == STATES[name]
    check_counts(report)
    start = time.monotonic()
    pipeline.stop(timeout_s=0.1)
    assert time.monotonic() - start < 0.5, "the second stop"
    STUCK.set()
    until(lambda: not threads())
    assert not pipeline.stop().abandoned
    check_counts(pipeline.report())


@pytest.mark.usefixtures("unstick")
def test_a_blocked_camera_is_closed_when_its_read_returns() -> None:
    camera = Script(picture(0), stuck, picture(1))
    pipeline = Pipeline(camera, nothing)
    pipeline.start()
    until(lambda: camera.read == 1)
    pipeline.stop(timeout_s=0.2)
    assert not camera.closed
    STUCK.set()
    until(lambda: camera.closed == 1)
    assert not camera.lent


def test_stop_from_inside_a_result() -> None:
    seen: list[int] = []

    def stop_at_three(frame: Frame, _: Instances) -> None:
        seen.append(frame.sequence)
        if len(seen) == 3:
            pipeline.stop()

    pipeline = Pipeline(open_camera("synthetic:64x48@200"), nothing, on_result=stop_at_three)
    assert pipeline.run().delivered == 3


def test_stop_keeps_what_the_sinks_have(tmp_path: Path) -> None:
    lines = JsonlSink(tmp_path / "a.jsonl")
    pipeline = Pipeline(open_camera("synthetic:64x48@100"), nothing, [lines])
    pipeline.start()
    until(lambda: pipeline.report().delivered > 5)
    delivered = pipeline.stop().delivered
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == delivered
    assert list(tmp_path.iterdir()) == [tmp_path / "a.jsonl"]


def test_leaving_the_with_block_stops(tmp_path: Path) -> None:
    with Pipeline(open_camera("synthetic:64x48@100"), nothing) as pipeline:
        pipeline.start()
        until(lambda: pipeline.report().delivered > 2)
    assert pipeline.state == "STOPPED" and not threads()


class Broken(Results):
    """A sink whose end fails."""

    def close(self) -> None:
        raise OutputError("no space at the end")


ERRORS: dict[str, tuple[type[Exception], str]] = {
    "camera": (CameraError, "unplugged"),
    "segmenter": (ZeroDivisionError, "network"),
    "sink": (OutputError, "no space"),
    "sink's end": (OutputError, "no space at the end"),
    "on_result": (KeyError, "caller"),
}


@pytest.mark.parametrize("policy", ["latest", "all"])
@pytest.mark.parametrize("where", ERRORS)
def test_an_error_ends_the_run_and_leaves_nothing(where: str, policy: Any, tmp_path: Path) -> None:
    kind, text = ERRORS[where]
    error = kind(text)
    tick: Callable[[Camera], None] = lambda _: time.sleep(0.01)  # noqa: E731
    steps: list[Any] = [step for n in range(5) for step in (picture(n), tick)]
    steps += [fail(error)] if where == "camera" else [picture(5), tick]
    camera = Script(*steps)
    file, before = JsonlSink(tmp_path / "a.jsonl"), Results()
    sinks: list[Sink] = [before, file]
    if where == "sink":
        sinks.append(Results(fail(error)))
    if where == "sink's end":
        sinks.insert(1, Broken())
    pipeline = Pipeline(
        camera,
        (lambda frame: fail(error)(frame) or nothing(frame)) if where == "segmenter" else nothing,
        sinks,
        policy=policy,
        on_result=(lambda frame, _: fail(error)(frame)) if where == "on_result" else None,
    )
    with pytest.raises(kind, match=text) as caught:
        pipeline.run()
    assert caught.value is error or where == "sink's end"
    assert not list(tmp_path.iterdir()), "a half-written file stays"
    assert not threads() and not camera.lent and camera.closed == 1
    assert before.ends == (["closed"] if where == "sink's end" else ["aborted"])
    check_counts(pipeline.report())


def test_the_first_error_is_the_one_that_is_raised(tmp_path: Path) -> None:
    class BadLoser(Results):
        def abort(self) -> None:
            raise OutputError("can't even give up")

    file = JsonlSink(tmp_path / "a.jsonl")
    with pytest.raises(ZeroDivisionError):
        Pipeline(Script(picture(0)), fail(ZeroDivisionError()), [BadLoser(), file]).run()
    assert not list(tmp_path.iterdir()), "the sinks behind the bad one are forgotten"


@pytest.mark.usefixtures("unstick")
def test_an_error_ends_the_run_though_the_camera_is_blocked() -> None:
    camera = Script(picture(0), stuck)
    start = time.monotonic()
    with pytest.raises(OutputError, match="no space"):
        Pipeline(camera, nothing, [Results(fail(OutputError("no space")))]).run()
    assert time.monotonic() - start < 2.0


def test_ctrl_c_stops_and_keeps_the_results(tmp_path: Path) -> None:
    lines = JsonlSink(tmp_path / "a.jsonl")
    results = 0

    def interrupt_after_some(*_: object) -> None:
        nonlocal results
        results += 1
        if results == 8:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        camera = open_camera("synthetic:64x48@100")
        with pytest.raises(KeyboardInterrupt):
            Pipeline(camera, nothing, [lines], on_result=interrupt_after_some).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) > 5


def test_a_second_start_is_told() -> None:
    pipeline = Pipeline(Script(picture(0)), nothing)
    pipeline.run()
    with pytest.raises(InputError) as caught:
        pipeline.start()
    assert str(caught.value) == (
        "got a second start of a pipeline; wanted one, as its camera and sinks are used up; make "
        "a new one"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"policy": "newest"},
            "got policy 'newest'; wanted 'latest' (newest frame wins) or 'all' (nothing lost); "
            "leave it out to follow the camera",
        ),
        (
            {"policy": "all", "max_age_s": 0.5},
            "got max_age_s 0.5 with policy 'all', which drops nothing; wanted it with 'latest' "
            "only; leave one of them out",
        ),
        (
            {"max_age_s": 0},
            "got max_age_s 0; wanted more than 0 seconds, at most 1e9; leave it out for the "
            "default",
        ),
        (
            {"max_age_s": float("inf"), "policy": "latest"},
            "got max_age_s inf; wanted more than 0 seconds, at most 1e9; leave it out for the "
            "default",
        ),
        (
            {"stall_after_s": -1},
            "got stall_after_s -1; wanted more than 0 seconds, at most 1e9; leave it out for the "
            "default",
        ),
    ],
)
def test_bad_settings_are_told(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        Pipeline(Script(), nothing, **settings)
    assert str(caught.value) == text


def test_a_run_logs_nothing(
    video: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    with fake() as segmenter:
        Pipeline(open_camera(video), segmenter).run()
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_a_video_end_to_end(video: Path, tmp_path: Path) -> None:
    sinks: list[FileSink] = [
        JsonlSink(tmp_path / "a.jsonl", classes=["red", "green", "blue"]),
        VideoSink(tmp_path / "a.mp4", classes=["red", "green", "blue"]),
    ]
    with fake((96, 128)) as segmenter:
        report = Pipeline(open_camera(video), segmenter, sinks).run()
    assert (report.received, report.delivered, report.policy) == (24, 24, "all")
    assert list(report.stages) == ["capture", "preprocess", "network", "decode", "sinks"]
    assert report.stages["network"]["count"] == 24 and report.stages["capture"]["count"] == 25
    assert report.instances == 48 and report.fps > 5 and report.copies_per_frame == 0
    assert 0 < report.age_ms["p50"] <= report.age_ms["p99"]
    assert report.as_dict()["dropped"] == report.dropped
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 24
    with open_camera(tmp_path / "a.mp4") as camera:
        assert (camera.width, camera.height, camera.frame_count) == (128, 96, 24)


def test_a_live_camera_end_to_end() -> None:
    camera = SyntheticCamera(320, 240, fps=60, seconds=1.0)
    agree: list[float] = []

    def compare(frame: Frame, instances: Instances) -> None:
        truth = camera.truth(frame.sequence) > 0
        agree.append(float(((instances.label_map() > 0) == truth).mean()))
        assert instances.sequence == frame.sequence and instances.stamp_ns == frame.stamp_ns

    with fake() as segmenter:
        report = Pipeline(camera, segmenter, on_result=compare).run()
    assert report.policy == "latest" and report.delivered > 10
    assert min(agree) > 0.97
    check_counts(report)
    assert camera._pool.lent == 0
