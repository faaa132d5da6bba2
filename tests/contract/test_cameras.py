"""One suite for every camera: a new camera is one line in `CASES`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from ros_bags import at_30_hz, compressed, image, write_bag

from edgeseg.cameras import Camera, open_camera
from edgeseg.cameras.synthetic import SyntheticCamera
from edgeseg.frame import Frame

HEIGHT, WIDTH, COUNT, FPS = 96, 128, 24, 30.0


def square(number: int) -> np.ndarray:
    """Picture ``number`` of a bright square that walks to the right over a dark ground."""
    picture = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
    picture[32:64, 4 + 3 * number : 36 + 3 * number] = (60, 200, 240)
    return picture


@dataclass(frozen=True)
class Files:
    video: Path
    turned: Path
    folder: Path
    picture: Path
    mcap: Path
    sqlite: Path
    png: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    import av

    root = tmp_path_factory.mktemp("camera")
    pictures = [square(number) for number in range(COUNT)]
    raw = at_30_hz(image(picture) for picture in pictures)
    made = Files(
        root / "v.mp4",
        root / "turned.mp4",
        root / "folder",
        root / "one.png",
        mcap=write_bag(root / "mcap", raw),
        sqlite=write_bag(root / "sqlite", raw, storage="sqlite3").parent,
        png=write_bag(root / "png", at_30_hz(map(compressed, pictures))),
    )
    for path, degrees in ((made.video, 0), (made.turned, 90)):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            if degrees:
                stream.set_display_rotation(degrees)
            for number in range(COUNT):
                picture = np.ascontiguousarray(np.rot90(square(number), 2 if degrees else 0))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
            container.mux(stream.encode())
    made.folder.mkdir()
    for number in range(COUNT):
        cv2.imwrite(str(made.folder / f"{number:03d}.png"), square(number))
    cv2.imwrite(str(made.picture), square(0))
    return made


def synthetic(number: int) -> np.ndarray:
    """What `SyntheticCamera` must show, from its own truth: shapes bright, ground dark."""
    with SyntheticCamera(WIDTH, HEIGHT) as camera:
        return np.where(camera.truth(number)[:, :, None] > 0, 255, 0).astype(np.uint8)


@dataclass(frozen=True)
class Case:
    """A camera: how to open it, and what its picture ``number`` is roughly."""

    open: Callable[[Files], Camera]
    count: int
    picture: Callable[[int], np.ndarray]
    live: bool = False


CASES = {
    "video": Case(lambda files: open_camera(files.video), COUNT, square),
    "turned video": Case(
        lambda files: open_camera(files.turned), COUNT, lambda n: np.rot90(square(n), 2 + 1)
    ),
    "live video": Case(lambda files: open_camera(files.video, live=True), COUNT, square, live=True),
    "folder": Case(lambda files: open_camera(files.folder), COUNT, square),
    "picture": Case(lambda files: open_camera(files.picture), 1, square),
    "bag": Case(lambda files: open_camera(files.mcap), COUNT, square),
    "bag folder": Case(lambda files: open_camera(files.sqlite), COUNT, square),
    "bag of compressed pictures": Case(lambda files: open_camera(files.png), COUNT, square),
    "live bag": Case(lambda files: open_camera(files.mcap, live=True), COUNT, square, live=True),
    "synthetic": Case(
        lambda files: open_camera(f"synthetic:{WIDTH}x{HEIGHT}@30?seconds=0.8", live=False),
        COUNT,
        synthetic,
    ),
    "live synthetic": Case(
        lambda files: open_camera(f"synthetic:{WIDTH}x{HEIGHT}@30?seconds=0.5"),
        15,
        synthetic,
        live=True,
    ),
}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def camera(case: Case, files: Files) -> Iterator[Camera]:
    with case.open(files) as camera:
        yield camera


def bright(picture: np.ndarray) -> np.ndarray:
    return picture.max(axis=2) >= 80


def test_frames_are_valid_and_as_announced(camera: Camera, case: Case) -> None:
    assert camera.live is case.live
    assert camera.name and str(camera.width) in repr(camera)
    for frame in camera:
        with frame:
            assert isinstance(frame, Frame)
            assert frame.format == "bgr8"
            assert (frame.width, frame.height) == (camera.width, camera.height)


def test_pictures_are_the_ones_of_their_sequence(camera: Camera, case: Case) -> None:
    assert camera.fps == FPS
    for frame in camera:
        with frame:
            seen, wanted = bright(frame.pixels), bright(case.picture(frame.sequence))
            assert (seen == wanted).mean() > 0.97, f"picture {frame.sequence}"


def test_every_picture_is_counted_once(camera: Camera, case: Case) -> None:
    delivered = 0
    for frame in camera:
        frame.release()
        delivered += 1
    assert set(camera.dropped) == {"driver", "corrupt"}
    assert delivered + sum(camera.dropped.values()) == case.count == camera.frame_count


def test_sequence_and_time_never_go_back(camera: Camera) -> None:
    opened_ns, last = time.monotonic_ns() - 10**9, (-1, 0)
    for frame in camera:
        with frame:
            assert frame.sequence > last[0] and frame.stamp_ns >= last[1]
            assert opened_ns <= frame.stamp_ns <= time.monotonic_ns()
            last = frame.sequence, frame.stamp_ns


def test_held_frames_keep_their_pixels(camera: Camera) -> None:
    held = []
    for frame in camera:
        held.append((frame, frame.pixels.copy()))
        if len(held) == 8:
            break
    for number, (frame, pixels) in enumerate(held):
        np.testing.assert_array_equal(frame.pixels, pixels)
        for other, _ in held[number + 1 :]:
            assert not np.shares_memory(frame.pixels, other.pixels)
    for frame, _ in held:
        frame.release()
        frame.release()


def test_pixels_outlive_the_camera_while_leased(case: Case, files: Files) -> None:
    with case.open(files) as camera:
        frame = next(camera)
        pixels = frame.pixels.copy()
    np.testing.assert_array_equal(frame.pixels, pixels)


def test_the_end_stays_the_end(camera: Camera) -> None:
    for frame in camera:
        frame.release()
    assert next(camera, None) is None


def test_close_ends_and_may_be_repeated(camera: Camera) -> None:
    next(camera).release()
    camera.close()
    camera.close()
    assert next(camera, None) is None


def test_two_readings_agree(case: Case, files: Files) -> None:
    def read() -> dict[int, np.ndarray]:
        with case.open(files) as camera:
            return {frame.sequence: frame.pixels.copy() for frame in camera}

    first, second = read(), read()
    both = first.keys() & second.keys()
    assert both
    for sequence in both:
        np.testing.assert_array_equal(first[sequence], second[sequence])


def test_opening_and_closing_leaves_nothing(case: Case, files: Files) -> None:
    process = psutil.Process()
    with case.open(files) as camera:
        next(camera).release()
    before = process.num_fds(), threading.active_count()
    for _ in range(30):
        with case.open(files) as camera:
            next(camera).release()
    assert (process.num_fds(), threading.active_count()) == before


def test_interrupt_ends_a_waiting_read() -> None:
    with open_camera(f"synthetic:{WIDTH}x{HEIGHT}@0.01") as camera:
        next(camera).release()
        timer = threading.Timer(0.2, camera.interrupt)
        timer.start()
        start = time.monotonic()
        assert next(camera, None) is None
        assert time.monotonic() - start < 1.5
        timer.join()


def test_close_from_another_thread_does_not_wait_for_a_stuck_read() -> None:
    class Stuck(Camera):
        def __init__(self) -> None:
            super().__init__("stuck", live=True)
            self.entered, self.go, self.freed = threading.Event(), threading.Event(), []

        def _read(self) -> None:
            self.entered.set()
            self.go.wait()

        def _release(self) -> None:
            self.freed.append(threading.current_thread())

    camera = Stuck()
    reader = threading.Thread(target=lambda: next(camera, None))
    reader.start()
    camera.entered.wait()
    start = time.monotonic()
    camera.close()
    assert time.monotonic() - start < 1 and not camera.freed
    camera.go.set()
    reader.join()
    assert camera.freed == [reader], "the reader frees the source once its read returns"


def test_late_reader_of_a_live_camera_loses_pictures_at_the_source() -> None:
    with open_camera(f"synthetic:{WIDTH}x{HEIGHT}@100?seconds=0.5") as camera:
        sequences = []
        for frame in camera:
            with frame:
                sequences.append(frame.sequence)
            time.sleep(0.05)
    gaps = sum(b - a - 1 for a, b in pairwise(sequences))
    assert camera.dropped["driver"] >= gaps > 10
    assert len(sequences) + camera.dropped["driver"] == 50


def test_live_camera_keeps_its_pace() -> None:
    with open_camera(f"synthetic:{WIDTH}x{HEIGHT}@50?seconds=0.5") as camera:
        stamps = [frame.stamp_ns for frame in camera]
    assert 0.45e9 <= stamps[-1] - stamps[0] <= 0.6e9
