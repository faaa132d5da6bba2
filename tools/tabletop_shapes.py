# SPDX-License-Identifier: Apache-2.0
"""Shapes of the tabletop scenes: eight object classes and the unlabelled distractors.

Each shape is added to a MuJoCo body as what is seen (group 0, one geom) and what is touched
(group 3, hidden). Hollow things collide with a ring of boxes, so that objects can fall into them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tabletop_meshes import handle, lathe, prism
from tabletop_mujoco import mujoco

Array = np.ndarray
GEOM = mujoco.mjtGeom
HIDDEN_GROUP = 3

CLASS_NAMES = ("box", "ball", "can", "bottle", "mug", "bowl", "brick", "tube")


@dataclass
class ShapeBuilder:
    """Adds geoms to one body of a model specification.

    Attributes:
        spec: The model specification.
        body: The body that the shape belongs to.
        name: Unique name, used for the mesh.
    """

    spec: mujoco.MjSpec
    body: mujoco.MjsBody
    name: str

    def primitive(self, kind: GEOM, size: list[float]) -> None:
        """Add a primitive that is both seen and touched."""
        self.body.add_geom(type=kind, size=_size(size), group=0, **_contact(kind))

    def visual(self, vertices: Array, faces: Array) -> None:
        """Add a mesh that is seen but never touched."""
        self.spec.add_mesh(
            name=self.name, uservert=vertices.ravel().tolist(), userface=faces.ravel().tolist()
        )
        self.body.add_geom(
            type=GEOM.mjGEOM_MESH, meshname=self.name, group=0, contype=0, conaffinity=0, mass=0
        )

    def collider(
        self,
        kind: GEOM,
        size: list[float],
        pos: tuple[float, float, float] = (0.0, 0.0, 0.0),
        quat: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
    ) -> None:
        """Add a primitive that is touched but never seen."""
        self.body.add_geom(
            type=kind, size=_size(size), pos=pos, quat=quat, group=HIDDEN_GROUP, **_contact(kind)
        )

    def wall(self, low: tuple[float, float], high: tuple[float, float], count: int = 8) -> None:
        """Add a ring of boxes along the (radius, height) segment from low to high."""
        radius, z = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
        length = math.hypot(high[0] - low[0], high[1] - low[1])
        tilt = math.atan2(high[0] - low[0], high[1] - low[1])
        half = [0.002, radius * math.tan(math.pi / count), length / 2]
        for angle in np.arange(count) * (2 * math.pi / count):
            pos = (radius * math.cos(angle), radius * math.sin(angle), z)
            self.collider(GEOM.mjGEOM_BOX, half, pos, _yaw_pitch(float(angle), tilt))


def _size(size: list[float]) -> list[float]:
    return size + [0.0] * (3 - len(size))


def _contact(kind: GEOM) -> dict[str, object]:
    rolls = kind in (GEOM.mjGEOM_SPHERE, GEOM.mjGEOM_CYLINDER, GEOM.mjGEOM_CAPSULE)
    return {"density": 400, "condim": 6 if rolls else 3, "friction": [0.8, 0.01, 0.004]}


def _yaw_pitch(yaw: float, pitch: float) -> tuple[float, float, float, float]:
    cy, sy = math.cos(yaw / 2), math.sin(yaw / 2)
    cp, sp = math.cos(pitch / 2), math.sin(pitch / 2)
    return (cy * cp, -sy * sp, cy * sp, sy * cp)


def _box(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    short = rng.uniform(0.045, 0.075)
    sides = short * np.array([1.0, rng.uniform(1.0, 1.45), rng.uniform(1.0, 1.8)])
    half = (rng.permutation(sides) / 2).tolist()
    builder.primitive(GEOM.mjGEOM_BOX, half)
    return half[2]


def _ball(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    radius = rng.uniform(0.026, 0.048)
    builder.primitive(GEOM.mjGEOM_SPHERE, [radius])
    return radius


def _can(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    r = rng.uniform(0.029, 0.039)
    h = r * rng.uniform(2.1, 3.6)
    rim, lid = 0.9 * r, h / 2 - 0.003
    bevel = rng.uniform(0.03, 0.08) * h
    profile = [
        (0, -h / 2), (rim, -h / 2), (r, -h / 2 + bevel), (r, h / 2 - bevel),
        (rim, h / 2), (0.84 * r, h / 2), (0.82 * r, lid), (0, lid),
    ]  # fmt: skip
    builder.visual(*lathe(profile))
    builder.collider(GEOM.mjGEOM_CYLINDER, [r, h / 2])
    return h / 2


def _bottle(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    r = rng.uniform(0.027, 0.037)
    h = r * rng.uniform(5.2, 6.8)
    neck, shoulder, top = r * rng.uniform(0.3, 0.42), rng.uniform(0.52, 0.62), 0.76
    cap = neck * rng.uniform(1.15, 1.4)
    z = h * np.array([0, 0.02, shoulder, top, 0.91, 1.0]) - h / 2
    curve = [
        (neck + (r - neck) * (1 + math.cos(math.pi * u)) / 2, z[2] + (z[3] - z[2]) * u)
        for u in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    profile = [(0, z[0]), (0.92 * r, z[0]), (r, z[1]), *curve]
    profile += [(neck, z[4]), (cap, z[4]), (cap, z[5]), (0, z[5])]
    builder.visual(*lathe(profile))
    body_half = (z[2] - z[0] + 0.08 * h) / 2
    builder.collider(GEOM.mjGEOM_CYLINDER, [r, body_half], (0, 0, z[0] + body_half))
    builder.collider(GEOM.mjGEOM_CYLINDER, [cap, (z[5] - z[2]) / 2], (0, 0, (z[5] + z[2]) / 2))
    return h / 2


def _mug(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    r = rng.uniform(0.035, 0.045)
    h = r * rng.uniform(1.9, 2.5)
    wall, floor = 0.004, 0.006 - h / 2
    taper = rng.uniform(0.82, 1.0)
    low = (r * taper, -h / 2)
    outside = [(0, -h / 2), low, (r, h / 2)]
    inside = [(r - wall, h / 2), (r * taper - wall, floor), (0, floor)]
    vertices, faces = lathe(outside + inside)
    reach, thick = r * rng.uniform(0.6, 0.8), rng.uniform(0.0048, 0.0068)
    start = r * (1 + taper) / 2 - wall / 2
    grip, grip_faces = handle(start, reach, h * rng.uniform(0.28, 0.35), thick)
    builder.visual(
        np.concatenate([vertices, grip]), np.concatenate([faces, grip_faces + len(vertices)])
    )
    builder.wall((low[0] - 0.002, low[1]), (r - 0.002, h / 2))
    builder.collider(GEOM.mjGEOM_CYLINDER, [low[0], 0.003], (0, 0, floor - 0.003))
    builder.collider(GEOM.mjGEOM_BOX, [reach / 2, thick, h * 0.28], (r + reach / 2, 0, 0))
    return h / 2


def _bowl(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    r = rng.uniform(0.052, 0.082)
    h = r * rng.uniform(0.58, 0.85)
    wall, start = 0.004, 0.42
    base = h * math.cos(start)
    angle = np.linspace(start, math.pi / 2, 8)

    def arc(radius: float, depth: float, a: Array) -> list[tuple[float, float]]:
        return [(radius * math.sin(x), base - depth * math.cos(x) - base / 2) for x in a]

    outer = arc(r, h, angle)
    inner = arc(r - wall, min(h, base) - wall, np.linspace(math.pi / 2, 0, 8))
    inner[-1] = (0.0, inner[-1][1])
    builder.visual(*lathe([(0, -base / 2), *outer, *inner]))
    middle = outer[3]
    builder.wall(outer[0], middle, 7)
    builder.wall(middle, outer[-1], 7)
    builder.collider(GEOM.mjGEOM_CYLINDER, [outer[0][0], 0.003], (0, 0, 0.003 - base / 2))
    return base / 2


def _brick(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    length = rng.uniform(0.105, 0.165)
    half = [length / 2, length * rng.uniform(0.4, 0.55) / 2, length * rng.uniform(0.16, 0.24) / 2]
    builder.primitive(GEOM.mjGEOM_BOX, half)
    return half[2]


def _tube(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    r = rng.uniform(0.023, 0.037)
    h = r * rng.uniform(2.2, 4.6)
    inner = r - rng.uniform(0.003, 0.006)
    profile = [(r, -h / 2), (r, h / 2), (inner, h / 2), (inner, -h / 2)]
    builder.visual(*lathe(profile, closed=True))
    builder.wall((r - 0.002, -h / 2), (r - 0.002, h / 2), 10)
    return h / 2


@dataclass(frozen=True)
class Catalogue:
    """The object classes of a dataset.

    Attributes:
        name: Of the dataset.
        names: Of the classes; COCO category ids count from 1.
        makers: For each class what adds one, and gives half its height when it stands.
    """

    name: str
    names: tuple[str, ...]
    makers: tuple[Callable[[ShapeBuilder, np.random.Generator], float], ...]

    def add(self, builder: ShapeBuilder, category: int, rng: np.random.Generator) -> float:
        """Add an object of a class, and return half its height when it stands.

        Args:
            builder: Where to add it.
            category: COCO category id.
            rng: Source of its dimensions.
        """
        return self.makers[category - 1](builder, rng)


TABLETOP = Catalogue(
    "tabletop", CLASS_NAMES, (_box, _ball, _can, _bottle, _mug, _bowl, _brick, _tube)
)


def add_distractor(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    """Add an unlabelled thin sheet or rod and return half its height when it lies."""
    if rng.random() < 0.55:
        half = [rng.uniform(0.03, 0.11), rng.uniform(0.03, 0.08), rng.uniform(0.0008, 0.0016)]
        builder.primitive(GEOM.mjGEOM_BOX, half)
        return half[2]
    radius = rng.uniform(0.003, 0.0055)
    builder.body.add_geom(
        type=GEOM.mjGEOM_CAPSULE, size=[radius, rng.uniform(0.05, 0.11), 0], group=0,
        quat=[math.sqrt(0.5), 0, math.sqrt(0.5), 0], **_contact(GEOM.mjGEOM_CAPSULE),
    )  # fmt: skip
    return radius


def add_varied_distractor(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    """Add a sheet, a rod, a wedge or an angle iron and return half its height when it lies."""
    kind = rng.random()
    if kind < 0.5:
        return add_distractor(builder, rng)
    length, width, height = (
        rng.uniform(0.03, 0.07),
        rng.uniform(0.02, 0.04),
        rng.uniform(0.01, 0.03),
    )
    if kind < 0.75:
        corners = np.array(
            [[-length, -width], [length, -width], [rng.uniform(-1, 1) * length, width]]
        )
        builder.visual(*prism(corners - corners.mean(0), height))
        builder.collider(GEOM.mjGEOM_BOX, [length / 2, width / 2, height])
        return height
    thick = rng.uniform(0.003, 0.008)
    builder.primitive(GEOM.mjGEOM_BOX, [length, width, thick])
    builder.body.add_geom(
        type=GEOM.mjGEOM_BOX, size=[length, thick, height], pos=[0, width - thick, height], group=0,
        **_contact(GEOM.mjGEOM_BOX),
    )  # fmt: skip
    return thick
