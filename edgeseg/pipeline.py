"""Pipeline: camera -> mailbox of one -> segmenter -> sinks. Owns the only threads of edgeseg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from threading import Condition, Event, Lock, Thread, current_thread
from time import monotonic, monotonic_ns
from types import TracebackType
from typing import Any, Literal

from edgeseg.cameras.base import Camera
from edgeseg.config import MAX_SECONDS
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.sinks.base import Sink
from edgeseg.timing import Ring, Stages

Policy = Literal["latest", "all"]
State = Literal["RUNNING", "STALLED", "STOPPED"]
MAX_AGE_S = 0.5
STALL_S = 0.9  # so that the state says it within a second
STOP_S = 1.8  # so that stop() is back within two


@dataclass(frozen=True, slots=True)
class Report:
    """What a pipeline has done so far; ``received == delivered + sum(dropped) + waiting``.

    Attributes:
        state: ``RUNNING``, ``STALLED`` (the camera gives nothing) or ``STOPPED``.
        policy: ``latest`` or ``all``.
        received: pictures that the source had, the lost ones included.
        delivered: those that were segmented.
        dropped: the others, by cause: ``driver`` lost at the source, ``stale`` too old or back in
            time or left over at the end, ``superseded`` replaced by a newer one, ``corrupt``.
        waiting: 1 while a frame is in the mailbox.
        instances: found in all delivered frames.
        seconds: from the start to the last result.
        fps: delivered frames per second of those.
        copies_per_frame: whole-picture copies beside the one pass of preprocessing, per frame
            that the source really gave.
        age_ms: of the frames when their results were out, ``p50 p90 p99``.
        stages: stage -> ``count p50_ms p90_ms p99_ms``; ``capture`` includes the wait for the
            camera.
        abandoned: threads that were stuck in somebody's code when the pipeline was stopped; they
            end by themselves when that code returns.
    """

    state: State
    policy: Policy
    received: int
    delivered: int
    dropped: dict[str, int]
    waiting: int
    instances: int
    seconds: float
    fps: float
    copies_per_frame: float
    age_ms: dict[str, float]
    stages: dict[str, dict[str, float]]
    abandoned: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


class Pipeline:
    """Runs frames of a camera through a segmenter into sinks, once.

    Takes over the camera and the sinks: they are closed at the end, and after an error the sinks
    are aborted, so that no half-written file stays. The segmenter stays the caller's.

    Args:
        camera: source of frames.
        segmenter: frame in, instances out; a `Segmenter`.
        sinks: where each result goes, in this order.
        policy: ``latest``: a newer frame replaces an older one that waits; ``all``: the camera
            waits, nothing is lost. Left out: ``latest`` for a live camera, else ``all``.
        max_age_s: frames older than this are not delivered, seconds; only for ``latest``, 0.5 when
            left out.
        stall_after_s: the state is ``STALLED`` once the camera has been silent for so long.
        on_result: called with each frame and its instances, after the sinks, in the worker's
            thread; the frame's pixels are valid during the call.

    Raises:
        InputError: an unknown policy, or an age that isn't above 0.

    >>> import numpy as np
    >>> from edgeseg.cameras import open_camera
    >>> from edgeseg.instances import from_masks
    >>> def bright(frame):
    ...     return from_masks(frame.pixels[None, :, :, 2] > 128, scores=[0.9], labels=[0])
    >>> report = Pipeline(open_camera("synthetic:64x48@30?seconds=1&live=0"), bright).run()
    >>> report.received, report.delivered, sum(report.dropped.values())
    (30, 30, 0)
    """

    def __init__(
        self,
        camera: Camera,
        segmenter: Callable[[Frame], Instances],
        sinks: Sequence[Sink] = (),
        *,
        policy: Policy | None = None,
        max_age_s: float | None = None,
        stall_after_s: float = STALL_S,
        on_result: Callable[[Frame, Instances], None] | None = None,
    ) -> None:
        self._camera, self._segmenter, self._sinks = camera, segmenter, tuple(sinks)
        self._on_result = on_result
        self._policy: Policy = policy or ("latest" if camera.live else "all")
        _check(self._policy, max_age_s, stall_after_s)
        max_age_ns = round((max_age_s or MAX_AGE_S) * 1e9) if self._policy == "latest" else None
        self._mailbox = _Mailbox(max_age_ns)
        self._stall_ns = round(stall_after_s * 1e9)
        self._stages = Stages("capture", "sinks")
        self._age = Ring()
        self._instances = 0
        self._start_ns = self._last_ns = 0
        self._reading_since_ns: int | None = None
        self._error: BaseException | None = None
        self._once = Lock()
        self._worked = Event()
        self._threads = (
            Thread(target=self._capture, name="edgeseg-capture", daemon=True),
            Thread(target=self._work, name="edgeseg-worker", daemon=True),
        )

    def run(self) -> Report:
        """Run until the camera ends, an error, `stop` from elsewhere, or Ctrl-C.

        Raises:
            Exception: whatever the camera, the segmenter, a sink or ``on_result`` raised.
        """
        self.start()
        return self.wait()

    def start(self) -> None:
        """Start in the background.

        Raises:
            InputError: it has been started or stopped before.
        """
        if not self._once.acquire(blocking=False):
            raise InputError(
                "got a second start of a pipeline; wanted one, as its camera and sinks are used "
                "up; make a new one"
            )
        self._start_ns = self._last_ns = monotonic_ns()
        for thread in self._threads:
            thread.start()

    def wait(self) -> Report:
        """Wait for the end of what `start` began; see `run`."""
        try:
            while not self._worked.wait(0.5):  # a wait without end may sleep through Ctrl-C
                pass
        finally:
            report = self.stop()
        if self._error is not None:
            raise self._error
        return report

    def stop(self, timeout_s: float = STOP_S) -> Report:
        """End early, and keep what the sinks have so far. Harmless in every state, and twice.

        Returns within ``timeout_s`` also where a camera, the network or a sink is stuck; what was
        stuck is named in the report. Raises nothing: an error is raised by `wait` and `run`.
        """
        deadline = monotonic() + timeout_s
        self._mailbox.stop()
        self._camera.interrupt()
        if self._once.acquire(blocking=False):  # never started
            self._camera.close()
            self._end_sinks(good=False)
            self._worked.set()
        for thread in reversed(self._threads):
            if thread.ident is not None and thread is not current_thread():
                thread.join(max(0.0, deadline - monotonic()))
        return self.report()

    @property
    def state(self) -> State:
        """``RUNNING``; ``STALLED`` while the camera gives nothing; ``STOPPED`` before and after."""
        if self._start_ns == 0 or self._worked.is_set() or self._mailbox.stopped:
            return "STOPPED"
        since_ns = self._reading_since_ns
        silent = since_ns is not None and monotonic_ns() - since_ns > self._stall_ns
        return "STALLED" if silent else "RUNNING"

    def report(self) -> Report:
        """What has been done so far; may be asked at any time, from any thread."""
        lost = dict(self._camera.dropped)
        received, delivered, dropped, waiting = self._mailbox.counts()
        given, received = received, received + sum(lost.values())
        seconds = (self._last_ns - self._start_ns) / 1e9
        timings = getattr(self._segmenter, "timings", None)
        own = self._stages.summary()
        inner = timings.summary() if isinstance(timings, Stages) else {}
        stages = {name: own[name] for name in ("capture",) if name in own} | inner | own
        stuck = [t.name for t in self._threads if t.is_alive() and self._mailbox.stopped]
        return Report(
            state=self.state,
            policy=self._policy,
            received=received,
            delivered=delivered,
            dropped={**lost, **dropped},
            waiting=waiting,
            instances=self._instances,
            seconds=seconds,
            fps=delivered / seconds if seconds > 0 else 0.0,
            copies_per_frame=self._camera.copies / max(1, given),
            age_ms={"p50": self._age.p50, "p90": self._age.p90, "p99": self._age.p99},
            stages=stages,
            abandoned=tuple(stuck),
        )

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _capture(self) -> None:
        """The first thread: camera into mailbox."""
        try:
            while True:
                self._reading_since_ns = monotonic_ns()
                with self._stages("capture"):
                    frame = next(self._camera, None)
                self._reading_since_ns = None
                if frame is None or not self._mailbox.put(frame):
                    break
            self._mailbox.finish()
        except BaseException as error:
            self._fail(error)
        finally:
            self._reading_since_ns = None
            self._camera.close()

    def _work(self) -> None:
        """The second thread: mailbox through segmenter into sinks."""
        try:
            while (frame := self._mailbox.take()) is not None:
                with frame:
                    self._process(frame)
        except BaseException as error:
            self._fail(error)
        finally:
            self._end_sinks(good=self._error is None)
            self._worked.set()

    def _process(self, frame: Frame) -> None:
        instances = self._segmenter(frame)
        with self._stages("sinks"):
            for sink in self._sinks:
                sink.write(frame, instances)
            if self._on_result is not None:
                self._on_result(frame, instances)
        self._instances += len(instances)
        self._last_ns = monotonic_ns()
        self._age.add(self._last_ns - frame.stamp_ns)

    def _fail(self, error: BaseException) -> None:
        """Remember the first error, and end both threads."""
        self._error = self._error or error
        self._mailbox.stop()
        self._camera.interrupt()

    def _end_sinks(self, *, good: bool) -> None:
        for sink in self._sinks:
            try:
                if good:
                    sink.close()
                else:
                    sink.abort()
            except BaseException as error:
                good = False
                self._fail(error)


class _Mailbox:
    """Room for one frame between two threads; counts what comes, goes and is dropped.

    Args:
        max_age_ns: age above which a frame isn't given out. None keeps every frame: `put` waits
            until the one before has been taken.
    """

    def __init__(self, max_age_ns: int | None) -> None:
        self._max_age_ns = max_age_ns
        self._changed = Condition()
        self._frame: Frame | None = None
        self._newest = (-1, -1)
        self._finished = False
        self.stopped = False
        self._received = self._delivered = 0
        self._dropped = {"stale": 0, "superseded": 0}

    def put(self, frame: Frame) -> bool:
        """Offer a frame; its lease passes to the mailbox. False once stopped."""
        frame.stamp_ns = min(frame.stamp_ns, monotonic_ns())  # some drivers stamp ahead of time
        with self._changed:
            if self._max_age_ns is None:
                self._changed.wait_for(lambda: self._frame is None or self.stopped)
            self._received += 1
            goes_back = frame.sequence <= self._newest[0] or frame.stamp_ns < self._newest[1]
            if goes_back or self.stopped:
                self._drop(frame, "stale")
                return not self.stopped
            if self._frame is not None:
                self._drop(self._frame, "superseded")
            self._frame, self._newest = frame, (frame.sequence, frame.stamp_ns)
            self._changed.notify_all()
            return True

    def take(self) -> Frame | None:
        """The newest frame, with its lease; waits for one. None at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._frame or self._finished or self.stopped)
                frame, self._frame = self._frame, None
                self._changed.notify_all()
                if frame is None:
                    return None
                age_ns = monotonic_ns() - frame.stamp_ns
                if self._max_age_ns is None or age_ns <= self._max_age_ns:
                    self._delivered += 1
                    return frame
                self._drop(frame, "stale")

    def finish(self) -> None:
        """No more frames will come; the one that waits is still given out."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting, and drop the frame that waits."""
        with self._changed:
            self.stopped = True
            if self._frame is not None:
                self._drop(self._frame, "stale")
                self._frame = None
            self._changed.notify_all()

    def counts(self) -> tuple[int, int, dict[str, int], int]:
        """Received, delivered, dropped by cause, and waiting, at one moment."""
        with self._changed:
            waiting = int(self._frame is not None)
            return self._received, self._delivered, dict(self._dropped), waiting

    def _drop(self, frame: Frame, cause: str) -> None:
        self._dropped[cause] += 1
        frame.release()


def _check(policy: str, max_age_s: float | None, stall_after_s: float) -> None:
    if policy not in ("latest", "all"):
        raise InputError(
            f"got policy {policy!r}; wanted 'latest' (newest frame wins) or 'all' (nothing lost); "
            "leave it out to follow the camera"
        )
    if policy == "all" and max_age_s is not None:
        raise InputError(
            f"got max_age_s {max_age_s:g} with policy 'all', which drops nothing; wanted it with "
            "'latest' only; leave one of them out"
        )
    for name, seconds in (("max_age_s", max_age_s), ("stall_after_s", stall_after_s)):
        if seconds is not None and not 0 < seconds <= MAX_SECONDS:
            raise InputError(
                f"got {name} {seconds:g}; wanted more than 0 seconds, at most 1e9; "
                "leave it out for the default"
            )
