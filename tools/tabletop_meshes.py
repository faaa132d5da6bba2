# SPDX-License-Identifier: Apache-2.0
"""Closed triangle meshes: solids of revolution and handles, all faces turned outwards."""

from __future__ import annotations

import itertools
import math

import numpy as np

Array = np.ndarray
SEGMENTS = 28


def lathe(profile: list[tuple[float, float]], closed: bool = False) -> tuple[Array, Array]:
    """Revolve a (radius, height) polyline about the z axis.

    The outside lies to the right of the direction of travel: a solid goes from the bottom centre
    out, up and back to the axis. Every stretch has rings of its own, except where it bends by less
    than 35 degrees, so that edges stay sharp and curves smooth.

    Args:
        profile: The polyline.
        closed: Whether the last point is joined to the first (a ring without an axis).

    Returns:
        Vertices (N, 3) and triangles (M, 3).
    """
    points = [*profile, profile[0]] if closed else profile
    angles = np.arange(SEGMENTS) * (2 * math.pi / SEGMENTS)
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(SEGMENTS)], axis=1)
    vertices: list[Array] = []
    faces: list[Array] = []
    previous = None
    for (r0, z0), (r1, z1) in itertools.pairwise(points):
        heading = math.atan2(z1 - z0, r1 - r0)
        if previous is None or abs(math.remainder(heading - previous, 2 * math.pi)) > 0.6:
            vertices.append(circle * r0 + [0, 0, z0])
        vertices.append(circle * r1 + [0, 0, z1])
        strip = _strip((len(vertices) - 2) * SEGMENTS, (len(vertices) - 1) * SEGMENTS, SEGMENTS)
        # On the axis one of the two triangles of each quadrangle is empty.
        faces.append(strip if r0 > 0 and r1 > 0 else np.split(strip, 2)[r0 <= 0])
        previous = heading
    return np.concatenate(vertices), np.concatenate(faces)


def handle(radius: float, reach: float, half_height: float, thick: float) -> tuple[Array, Array]:
    """Return a bent rod in the xz plane whose two ends lie at x = radius."""
    bends, sides = 11, 8
    t = np.linspace(0, math.pi, bends)
    centre = np.stack([radius + reach * np.sin(t) ** 0.7, 0 * t, half_height * np.cos(t)], axis=1)
    normal = np.stack([np.sin(t), 0 * t, np.cos(t)], axis=1)
    phi = (np.arange(sides) * (2 * math.pi / sides))[None, :, None]
    offset = normal[:, None] * np.cos(phi) + np.array([0, 1.0, 0]) * np.sin(phi)
    vertices = (centre[:, None] + thick * offset).reshape(-1, 3)
    ring = np.arange(sides)
    faces = [_fan(ring, reverse=True)]
    faces += [_strip(k * sides, (k + 1) * sides, sides) for k in range(bends - 1)]
    faces.append(_fan(ring + (bends - 1) * sides, reverse=False))
    result = np.concatenate(faces)
    return vertices, result if signed_volume(vertices, result) > 0 else result[:, ::-1]


def prism(outline: Array, half_height: float) -> tuple[Array, Array]:
    """Extrude an outline to both sides of the xy plane.

    Args:
        outline: (N, 2) corners, counterclockwise; all of them are seen from the origin.
        half_height: Of the prism.

    Returns:
        Vertices and triangles. Each side has corners of its own, so that edges stay sharp.
    """
    count = len(outline)
    vertices: list[Array] = []
    faces: list[Array] = []
    for z, reverse in ((-half_height, True), (half_height, False)):
        start = sum(map(len, vertices))
        ring = start + 1 + np.arange(count)
        vertices += [np.array([[0, 0, z]]), np.column_stack([outline, np.full(count, z)])]
        fan = np.stack([np.full(count, start), ring, np.roll(ring, -1)], axis=1)
        faces.append(fan[:, ::-1] if reverse else fan)
    for corner, following in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        start = sum(map(len, vertices))
        edge = np.array([corner, following, following, corner])
        height = half_height * np.array([[-1], [-1], [1], [1]])
        vertices.append(np.hstack([edge, height]))
        faces.append(start + np.array([[0, 1, 2], [0, 2, 3]]))
    return np.concatenate(vertices), np.concatenate(faces)


def _strip(low: int, high: int, count: int) -> Array:
    """Return triangles between two rings of vertices that start at low and high."""
    ring = np.arange(count)
    turn = np.roll(ring, -1)
    first = np.stack([low + ring, low + turn, high + turn], axis=1)
    second = np.stack([low + ring, high + turn, high + ring], axis=1)
    return np.concatenate([first, second])


def _fan(ring: Array, reverse: bool) -> Array:
    tris = np.stack([np.full(len(ring) - 2, ring[0]), ring[1:-1], ring[2:]], axis=1)
    return tris[:, ::-1] if reverse else tris


def signed_volume(vertices: Array, faces: Array) -> float:
    """Return the volume that the triangles enclose, positive if they face outwards."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)
