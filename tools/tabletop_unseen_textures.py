# SPDX-License-Identifier: Apache-2.0
"""Textures of the unseen domain: kinds that `tabletop_textures` doesn't have."""

from __future__ import annotations

import cv2
import numpy as np
from tabletop_textures import directions, noise

Array = np.ndarray


def cube_texture(rng: np.random.Generator, size: int) -> Array:
    """Return a cube map (6 * size, size, 3): targets, sectors, cells, a gradient or print."""
    kinds = (_targets, _sectors, _cells, _gradient, _print)
    value = kinds[rng.integers(len(kinds))](directions(size), rng)
    return (np.clip(value, 0, 1) * 255).reshape(6 * size, size, 3).astype(np.uint8)


def _points(rng: np.random.Generator, count: int) -> Array:
    """Return random directions (count, 3)."""
    points = rng.normal(size=(count, 3)).astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _two_colours(weight: Array, rng: np.random.Generator) -> Array:
    dark, light = rng.uniform(0.05, 0.6, 3), rng.uniform(0.7, 1, 3)
    return np.where(weight[..., None], dark, light)


def _targets(d: Array, rng: np.random.Generator) -> Array:
    """Concentric rings about a few points."""
    nearest = np.arccos(np.clip((d @ _points(rng, 5).T).max(axis=-1), -1, 1))
    return _two_colours(np.sin(rng.uniform(14, 30) * nearest) > 0, rng)


def _sectors(d: Array, rng: np.random.Generator) -> Array:
    """The sectors of a beach ball, straight or as a spiral."""
    axis, side, other = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    angle = np.arctan2(d @ side, d @ other) + rng.uniform(-3, 3) * (d @ axis)
    return _two_colours(np.sin(int(rng.integers(2, 6)) * angle) > 0, rng)


def _cells(d: Array, rng: np.random.Generator) -> Array:
    """Voronoi cells, each of its own colour."""
    count = int(rng.integers(10, 40))
    return rng.uniform(0.15, 1, (count, 3))[(d @ _points(rng, count).T).argmax(axis=-1)]


def _gradient(d: Array, rng: np.random.Generator) -> Array:
    """A smooth change from one colour over a second to a third."""
    along = (d @ _points(rng, 1)[0] + 1) / 2
    colours = rng.uniform(0.1, 1, (3, 3))
    return np.stack([np.interp(along, (0.15, 0.5, 0.85), channel) for channel in colours.T], -1)


def _print(d: Array, rng: np.random.Generator) -> Array:
    """Lines of letters about the z axis."""
    across = np.arctan2(d[..., 1], d[..., 0]) / (2 * np.pi) + 0.5
    page = _letters(rng, lines=int(rng.integers(5, 9)), columns=int(rng.integers(40, 70)))
    rows, columns = page.shape
    row = np.minimum((d[..., 2] + 1) / 2 * rows, rows - 1).astype(int)
    return _two_colours(page[row, np.minimum(across * columns, columns - 1).astype(int)], rng)


def _letters(rng: np.random.Generator, lines: int, columns: int) -> Array:
    """Return lines of random strokes with gaps between words and lines, 5 rows a line, bool."""
    strokes = rng.random((lines, 5, columns)) < 0.6
    strokes[:, 3:] = False
    strokes &= np.repeat(rng.random((lines, 1, -(-columns // 5))) < 0.8, 5, axis=2)[..., :columns]
    return strokes.reshape(lines * 5, columns)


def flat_texture(rng: np.random.Generator, size: int) -> Array:
    """Return a square texture (size, size, 3): marble, terrazzo, hexagons or newspaper."""
    kinds = (_marble, _terrazzo, _hexagons, _newspaper)
    value = kinds[rng.integers(len(kinds))](rng, size)
    return (np.clip(value, 0, 1) * 255).astype(np.uint8)


def _marble(rng: np.random.Generator, size: int) -> Array:
    """Dark veins in a light stone."""
    rough = noise(rng, size, (5, 5)) + 0.5 * noise(rng, size, (11, 11))
    rough += 0.25 * noise(rng, size, (31, 31))
    vein = np.exp(-np.abs(rough - rough.mean()) * rng.uniform(12, 25))
    return 1 - vein[..., None] * rng.uniform(0.3, 0.75, 3)


def _terrazzo(rng: np.random.Generator, size: int) -> Array:
    """Chips of stone in cement."""
    picture = np.full((size, size, 3), rng.uniform(0.7, 0.95), np.float32)
    for _ in range(int(rng.integers(150, 350))):
        corners = rng.uniform(-1, 1, (5, 2)) * rng.uniform(3, 9) + rng.uniform(0, size, 2)
        hull = cv2.convexHull(corners.astype(np.int32))
        cv2.fillConvexPoly(picture, hull, rng.uniform(0.2, 1, 3).tolist())
    return picture


def _hexagons(rng: np.random.Generator, size: int) -> Array:
    """Tiles of six sides, each of its own brightness, with joints between them."""
    step = size / int(rng.choice([5, 7, 10]))
    rows, columns = (np.arange(n) for n in (int(size / step * 1.16) + 2, int(size / step) + 2))
    y, x = np.meshgrid(rows * step * 0.866, columns * step, indexing="ij")
    x = x + (rows % 2)[:, None] * step / 2
    centres = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    place = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(np.float32)
    apart = np.linalg.norm(place[:, :, None] - centres, axis=-1)
    order = np.argpartition(apart, 1, axis=-1)[..., :2]
    first, second = (np.take_along_axis(apart, order[..., [k]], -1)[..., 0] for k in (0, 1))
    tile = rng.uniform(0.6, 1, len(centres))[order[..., 0]]
    return np.where(second - first < 2, rng.uniform(0.2, 0.5), tile)[..., None] * np.ones(3)


def _newspaper(rng: np.random.Generator, size: int) -> Array:
    """Columns of letters, some of them pictures."""
    page = np.ones((size, size), np.float32)
    columns, lines = int(rng.integers(3, 6)), size // 5
    width = size // columns
    for k in range(columns):
        text = _letters(rng, lines, width - 6)
        page[: lines * 5, k * width + 3 : k * width + 3 + text.shape[1]] -= 0.7 * text
        top = int(rng.integers(0, size - width))
        page[top : top + width, k * width + 3 : (k + 1) * width - 3] = rng.uniform(0.2, 0.8)
    return page[..., None] * rng.uniform(0.85, 1, 3)
