# SPDX-License-Identifier: Apache-2.0
"""Four more object classes, which `fastinst-nano` doesn't know: ring, star, cross, hammer.

They are the example of docs/own-classes.md: flat parts, told apart by their outline. Each is one
visible mesh, and touched as a few boxes.
"""

from __future__ import annotations

import math

import numpy as np
from tabletop_meshes import lathe, prism
from tabletop_mujoco import mujoco
from tabletop_shapes import Catalogue, ShapeBuilder

BOX = mujoco.mjtGeom.mjGEOM_BOX


def _ring(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    """A torus."""
    thick = rng.uniform(0.008, 0.015)
    r = rng.uniform(0.034, 0.055)
    angles = np.arange(10) * (2 * math.pi / 10)
    profile = [(r + thick * math.cos(a), thick * math.sin(a)) for a in angles.tolist()]
    builder.visual(*lathe(profile, closed=True))
    for angle in np.arange(10) * (2 * math.pi / 10):
        pos = (r * math.cos(angle), r * math.sin(angle), 0.0)
        _bar(builder, pos, angle, (thick * 0.9, r * math.tan(math.pi / 10), thick * 0.9))
    return thick


def _star(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    """A flat star of five points."""
    reach, half = rng.uniform(0.05, 0.072), rng.uniform(0.009, 0.016)
    waist = reach * rng.uniform(0.4, 0.5)
    turn = np.arange(10) * (math.pi / 5)
    radius = np.where(np.arange(10) % 2 == 0, reach, waist)
    builder.visual(*prism(np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1), half))
    for angle in turn[::2]:
        middle = reach * 0.45
        pos = (middle * math.cos(angle), middle * math.sin(angle), 0.0)
        _bar(builder, pos, angle, (middle, waist * 0.35, half))
    return half


def _cross(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    """A flat plus sign, one arm perhaps longer than the other."""
    half, arm = rng.uniform(0.009, 0.016), rng.uniform(0.011, 0.017)
    long = rng.uniform(0.046, 0.07)
    short = long * rng.uniform(0.7, 1.0)
    corner = [(arm, arm), (arm, short), (-arm, short), (-arm, arm)]
    quarter = [(-long, arm), (-long, -arm), (-arm, -arm), (-arm, -short)]
    rest = [(arm, -short), (arm, -arm), (long, -arm), (long, arm)]
    builder.visual(*prism(np.array(corner + quarter + rest), half))
    builder.collider(BOX, [long, arm, half])
    builder.collider(BOX, [arm, short, half])
    return half


def _hammer(builder: ShapeBuilder, rng: np.random.Generator) -> float:
    """A head across the end of a handle."""
    length = rng.uniform(0.06, 0.08)  # half of the handle's
    grip = rng.uniform(0.007, 0.011)
    head = np.array([rng.uniform(0.012, 0.018), length * rng.uniform(0.4, 0.55)])
    half = float(head[0])
    vertices, faces = prism(_rectangle(length, grip), grip)
    top, top_faces = prism(_rectangle(*head.tolist()), half)
    top = top + np.array([length, 0, 0])
    builder.visual(
        np.concatenate([vertices, top]), np.concatenate([faces, top_faces + len(vertices)])
    )
    builder.collider(BOX, [length, grip, grip])
    builder.collider(BOX, [*head.tolist(), half], (length, 0, 0))
    return half


def _rectangle(x: float, y: float) -> np.ndarray:
    return np.array([(x, y), (-x, y), (-x, -y), (x, -y)])


def _bar(
    builder: ShapeBuilder,
    pos: tuple[float, float, float],
    yaw: float,
    half: tuple[float, float, float],
) -> None:
    """Add a box that is touched, turned about the z axis."""
    builder.collider(BOX, list(half), pos, (math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)))


PARTS = Catalogue("parts", ("ring", "star", "cross", "hammer"), (_ring, _star, _cross, _hammer))
