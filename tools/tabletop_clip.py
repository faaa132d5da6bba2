# SPDX-License-Identifier: Apache-2.0
"""The demonstration clip: a camera circles a cluttered table while two objects fall onto it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from tabletop_camera import Camera, Painter, Picture
from tabletop_coco import annotate, coco, write_whole
from tabletop_mujoco import mujoco
from tabletop_scene import Layout, Scene, build_scene, repaint

SIZE = (640, 480)
RATE = 30
FRAMES = 300
# Beyond the scenes of every split of the dataset.
SCENE = 90_000_004
CATEGORIES = [1, 2, 3, 4, 5, 6, 7, 8, 3, 5, 1, 2]
# Object number -> frame in which it is let go.
DROPS = {10: 75, 11: 150}
DROP_HEIGHT = 0.45
MIN_AREA = 200
QUALITY = 17


def make_clip(folder: Path) -> tuple[Path, Path]:
    """Render `tabletop.mp4` and its ground truth `tabletop.json.gz` (COCO, gzip)."""
    images, annotations, frames = [], [], []
    scene, pictures = _shoot()
    for index, picture in enumerate(pictures):
        frames.append(picture.image)
        images.append({
            "id": index, "file_name": "tabletop.mp4", "frame_index": index,
            "width": SIZE[0], "height": SIZE[1],
        })  # fmt: skip
        for one in annotate(picture.labels, scene.categories, index, MIN_AREA):
            annotations.append({**one, "track_id": one["id"] % 100})
    truth = json.dumps(coco(images, annotations, "edgeseg tabletop, clip"), separators=(",", ":"))
    video_path, truth_path = folder / "tabletop.mp4", folder / "tabletop.json.gz"
    encode_video(video_path, frames)
    write_whole(truth_path, gzip.compress(truth.encode(), compresslevel=9, mtime=0))
    return video_path, truth_path


def _shoot() -> tuple[Scene, Iterator[Picture]]:
    rng = np.random.default_rng(SCENE)
    scene = build_scene(rng, Layout(CATEGORIES, distractors=3, pile=False, lights=2))
    repaint(scene, rng)
    return scene, _film(scene, rng)


def _film(scene: Scene, rng: np.random.Generator) -> Iterator[Picture]:
    painter = Painter(SIZE)
    painter.load(scene)
    gain = 0.0
    for index in range(FRAMES):
        _advance(scene, index)
        picture = painter.draw(scene, _path(index / (FRAMES - 1)))
        image = (picture.image.astype(np.float32) / 255) ** 0.85
        # The exposure of the first frame holds for all: a flickering gain would look wrong.
        gain = gain or min(0.5 / float(image.mean()), 1.6)
        noise = 0.004 * rng.standard_normal(image.shape, dtype=np.float32)
        image = np.clip(image * gain + noise, 0, 1) * 255 + 0.5
        yield Picture(image.astype(np.uint8), picture.labels)
    painter.close()


def _path(t: float) -> Camera:
    """Return the camera at time t in [0, 1]: most of a turn, closing in halfway."""
    near = 0.5 - 0.5 * math.cos(2 * math.pi * t)
    return Camera(
        target=np.array([0.0, 0.0, 0.04]),
        distance=1.0 - 0.32 * near,
        azimuth=-130 + 250 * t,
        elevation=30 + 22 * near,
        fovy=42.0,
    )


def _advance(scene: Scene, index: int) -> None:
    """Let a frame's time pass; objects that wait for their fall hang out of sight."""
    model, data = scene.model, scene.data
    for number, frame in DROPS.items():
        if index <= frame:
            body = model.body(f"object{number}")
            height = DROP_HEIGHT if index == frame else 20.0 + number
            place, speed = model.jnt_qposadr[body.jntadr[0]], body.dofadr[0]
            side = -0.07 if number % 2 else 0.07
            data.qpos[place : place + 3] = [side, side / 2, height]
            data.qvel[speed : speed + 6] = 0
    done, due = (round(k / RATE / model.opt.timestep) for k in (index, index + 1))
    mujoco.mj_step(model, data, nstep=due - done)


def encode_video(path: Path, frames: list[np.ndarray]) -> None:
    """Write RGB frames as an H.264 MP4: the same bytes for the same frames and encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.flags |= av.container.Flags.bitexact.value
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact.value
        stream.options = {"crf": str(QUALITY), "preset": "slow", "g": "60"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    partial.replace(path)
