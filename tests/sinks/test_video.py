"""What an annotated video shows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.cameras import open_camera
from edgeseg.frame import Frame
from edgeseg.instances import from_masks
from edgeseg.sinks.overlay import draw
from edgeseg.sinks.video import VideoSink


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack((x * 200 // width, y * 200 // height, np.full_like(x, 120)), axis=2)
    mask = np.zeros((1, height, width), bool)
    mask[0, height // 4 : height // 2, width // 4 : width // 2] = True
    return picture.astype(np.uint8), mask


@pytest.mark.parametrize("size_hw", [(240, 320), (241, 321), (1, 1), (1, 300), (3, 2)])
def test_the_video_shows_what_draw_draws(size_hw: tuple[int, int], tmp_path: Path) -> None:
    picture, mask = scene(*size_hw)
    instances = from_masks(mask, [0.9], [0])
    with VideoSink(tmp_path / "a.mp4", fps=25, classes=["mug"], crf=5) as sink:
        for number in range(3):
            sink.write(Frame(picture, "bgr8", sequence=number), instances)
    wanted = picture.copy()
    draw(wanted, instances, ["mug"])
    with open_camera(tmp_path / "a.mp4") as camera:
        assert camera.fps == 25 and camera.frame_count == 3
        frame = next(camera)
        assert frame.pixels.shape == (size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2, 3)
        shown = frame.pixels[: size_hw[0], : size_hw[1]].astype(int)
    assert np.abs(shown - wanted).mean() < 4
    assert np.quantile(np.abs(shown - wanted), 0.98) < 40  # thin lines lose their colour


FORMATS = {
    "bgr8": lambda bgr: bgr,
    "rgb8": lambda bgr: bgr[:, :, ::-1].copy(),
    "bgra8": lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA),
    "rgba8": lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA),
    "nv12": lambda bgr: _nv12(bgr),
    "yuyv": lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_YUY2),
    "uyvy": lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_UYVY),
    "mono8": lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY),
}


def _nv12(bgr: np.ndarray) -> np.ndarray:
    height, width = bgr.shape[:2]
    i420 = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    u, v = i420[height:].reshape(2, -1)
    uv = np.stack((u, v), axis=1).reshape(height // 2, width)
    return np.vstack((i420[:height], uv))


@pytest.mark.parametrize("name", FORMATS)
def test_frames_of_every_format(name: str, tmp_path: Path) -> None:
    picture, mask = scene(240, 320)
    frame = Frame(FORMATS[name](picture), name)
    with VideoSink(tmp_path / "a.mp4", crf=5) as sink:
        sink.write(frame, from_masks(mask[:0], [], []))
    with open_camera(tmp_path / "a.mp4") as camera:
        shown = next(camera).pixels.astype(int)
    wanted = (
        cv2.cvtColor(FORMATS[name](picture), cv2.COLOR_GRAY2BGR) if name == "mono8" else picture
    )
    assert np.abs(shown - wanted).mean() < 4


def test_a_lost_frame_is_a_gap_in_time(tmp_path: Path) -> None:
    import av

    picture, mask = scene(48, 64)
    with VideoSink(tmp_path / "a.mp4", fps=10) as sink:
        for sequence in (5, 6, 9):
            sink.write(Frame(picture, "bgr8", sequence=sequence), from_masks(mask, [0.9], [0]))
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [round(frame.time, 3) for frame in container.decode(video=0)]
    assert times == [0.0, 0.1, 0.4]
