# SPDX-License-Identifier: Apache-2.0
"""Pictures of a tabletop scene: where the camera stands, colours, labels and sensor noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from tabletop_mujoco import mujoco
from tabletop_scene import Scene

Array = np.ndarray
SUPERSAMPLING = 2


@dataclass
class Camera:
    """A camera that looks at a point.

    Attributes:
        target: The point in metres, z up, table at z = 0.
        distance: Metres from the point.
        azimuth: Degrees.
        elevation: Degrees above the table.
        roll: Degrees.
        fovy: Vertical field of view in degrees.
    """

    target: Array
    distance: float
    azimuth: float
    elevation: float
    roll: float = 0.0
    fovy: float = 45.0


@dataclass
class Picture:
    """A rendered picture and its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int32, 0 = no object, otherwise object number + 1.
        dark: Whether it was exposed to be dark.
    """

    image: Array
    labels: Array
    dark: bool = False


def random_camera(scene: Scene, rng: np.random.Generator) -> Camera:
    """Draw a camera that looks at the middle of the objects or near it."""
    count = len(scene.categories)
    where = np.stack([scene.data.body(f"object{k}").xpos for k in range(count)])
    centre = np.median(where, axis=0)
    near = where[np.linalg.norm(where[:, :2] - centre[:2], axis=1) < 0.5]
    spread = float(np.linalg.norm(near[:, :2] - centre[:2], axis=1).mean()) if len(near) else 0.1
    target = centre + rng.normal(0, 0.35, 3) * [spread, spread, 0.02]
    views = scene.domain.views
    fovy = rng.uniform(38, 58)
    # Mostly objects that fill the picture to half of its height, now and then far ones.
    far = rng.uniform(*views.far) if rng.random() < views.far_share else 1.0
    fit = far * (spread + 0.09) * rng.uniform(*views.fit) / math.tan(math.radians(fovy / 2))
    elevation = views.elevation(rng)
    # A wall, where there is one, stands beyond the objects.
    azimuth = rng.uniform(-75, 75) if scene.walled else rng.uniform(-180, 180)
    distance = float(np.clip(fit, *views.metres))
    return Camera(target, distance, azimuth, elevation, rng.normal(0, 3), fovy)


class Painter:
    """Renders scenes. One OpenGL context serves all scenes of a process.

    Args:
        size: (width, height) of the pictures.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        """Create the OpenGL context."""
        self.size = size
        self._width, self._height = SUPERSAMPLING * size[0], SUPERSAMPLING * size[1]
        self._gl = mujoco.GLContext(self._width, self._height)
        self._gl.make_current()
        self._option = mujoco.MjvOption()
        self._context: mujoco.MjrContext | None = None
        self._view: mujoco.MjvScene | None = None

    def load(self, scene: Scene) -> None:
        """Upload the meshes and textures of a scene."""
        self.close_scene()
        visual = scene.model.vis
        visual.global_.offwidth, visual.global_.offheight = self._width, self._height
        visual.quality.offsamples = 0
        self._context = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._view = mujoco.MjvScene(scene.model, maxgeom=200)
        self._view.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._view.flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0

    def close_scene(self) -> None:
        """Free what `load` uploaded."""
        if self._context is not None:
            self._context.free()
            self._context = None

    def close(self) -> None:
        """Free the OpenGL context."""
        self.close_scene()
        self._gl.free()

    def draw(self, scene: Scene, camera: Camera) -> Picture:
        """Render the loaded scene: colours without noise, and labels."""
        self._aim(scene, camera)
        colours = self._pixels(segmentation=False)
        codes = self._pixels(segmentation=True).astype(np.int32)
        codes = codes[..., 0] | codes[..., 1] << 8 | codes[..., 2] << 16
        small = cv2.resize(colours, self.size, interpolation=cv2.INTER_AREA)
        return Picture(small, halve_labels(self._objects_of(scene)[codes]))

    def _aim(self, scene: Scene, camera: Camera) -> None:
        free = mujoco.MjvCamera()
        free.lookat[:] = camera.target
        free.distance, free.azimuth = camera.distance, camera.azimuth
        free.elevation = -camera.elevation
        scene.model.vis.global_.fovy = camera.fovy
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            scene.model, scene.data, self._option, None, free, everything, self._view
        )
        for eye in self._view.camera:
            forward, up = np.array(eye.forward), np.array(eye.up)
            angle = math.radians(camera.roll)
            eye.up[:] = up * math.cos(angle) + np.cross(forward, up) * math.sin(angle)

    def _pixels(self, segmentation: bool) -> Array:
        self._view.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = segmentation
        self._view.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = segmentation
        viewport = mujoco.MjrRect(0, 0, self._width, self._height)
        mujoco.mjr_render(viewport, self._view, self._context)
        pixels = np.empty((self._height, self._width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def _objects_of(self, scene: Scene) -> Array:
        """Return for each segmentation code the object number + 1, or 0."""
        table = np.zeros(self._view.ngeom + 2, np.int32)
        for geom in self._view.geoms[: self._view.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = scene.body_object[scene.model.geom_bodyid[geom.objid]]
        return table


def halve_labels(labels: Array) -> Array:
    """Return the most frequent label of each 2 x 2 block.

    Ties go to the upper left or lower right pixel in turn, so that no side gains on average.
    """
    a, b, c, d = labels[::2, ::2], labels[::2, 1::2], labels[1::2, ::2], labels[1::2, 1::2]
    rows, columns = np.indices(a.shape)
    odd = (rows + columns) % 2 == 1
    first, last = np.where(odd, d, a), np.where(odd, a, d)
    held = (first == b) | (first == c) | (first == last)
    pair = np.where((b == c) | (b == last), b, np.where(c == last, c, first))
    return np.where(held, first, pair)


def photograph(picture: Picture, rng: np.random.Generator, dark: bool) -> Picture:
    """Turn a rendered picture into one of a camera: exposure, white balance, blur, noise."""
    image = (picture.image.astype(np.float32) / 255) ** 0.85
    goal = rng.uniform(0.06, 0.16) if dark else rng.uniform(0.36, 0.56)
    gain = np.clip(goal / max(float(image.mean()), 0.02), 0.1, 1.8)
    image *= (gain * (1 + rng.uniform(-0.07, 0.07, 3))).astype(np.float32)
    image = _blur(image, rng)
    read, shot = rng.uniform(0.002, 0.015), rng.uniform(0.0, 0.025)
    if dark:
        read *= 1.3
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += noise * (read + shot * np.sqrt(np.clip(image, 0, 1)))
    return Picture((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), picture.labels, dark)


def _blur(image: Array, rng: np.random.Generator) -> Array:
    choice = rng.random()
    if choice < 0.12:
        length, angle = int(rng.integers(3, 7)), rng.uniform(0, math.pi)
        kernel = np.zeros((7, 7), np.float32)
        for t in np.linspace(-length / 2, length / 2, 15):
            kernel[round(3 + t * math.sin(angle)), round(3 + t * math.cos(angle))] += 1
        return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    if choice < 0.35:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.9))
    return image
