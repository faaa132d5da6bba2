# SPDX-License-Identifier: Apache-2.0
"""Procedural textures and colours, independent of the class of what they cover."""

from __future__ import annotations

import colorsys
import functools

import cv2
import numpy as np

Array = np.ndarray


def random_colour(rng: np.random.Generator) -> Array:
    """Return a random RGB colour in [0, 1] for an object."""
    if rng.random() < 0.22:
        return np.full(3, rng.choice([0.08, 0.3, 0.6, 0.9])) + rng.uniform(-0.06, 0.08)
    hue, saturation, value = rng.random(), rng.beta(2.5, 1.6), rng.uniform(0.3, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def surface_colour(rng: np.random.Generator) -> Array:
    """Return a random RGB colour in [0, 1] for a table, floor or wall: mostly muted."""
    kind = rng.random()
    if kind < 0.35:
        hsv = (rng.uniform(0.05, 0.12), rng.uniform(0.2, 0.65), rng.uniform(0.3, 0.9))
    elif kind < 0.8:
        hsv = (rng.random(), rng.uniform(0.0, 0.18), rng.uniform(0.2, 1.0))
    else:
        hsv = (rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.9))
    return np.array(colorsys.hsv_to_rgb(*hsv))


@functools.cache
def directions(size: int) -> Array:
    """Return a unit vector for each texel of a cube map, in MuJoCo's order of faces."""
    u, v = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    one = np.ones_like(u)
    faces = [(one, -v, -u), (-one, -v, u), (u, one, v), (u, -one, -v), (u, -v, one), (-u, -v, -one)]
    cube = np.stack([np.stack(face, axis=-1) for face in faces]).astype(np.float32)
    return cube / np.linalg.norm(cube, axis=-1, keepdims=True)


def cube_texture(rng: np.random.Generator, size: int) -> Array:
    """Return a cube map (6 * size, size, 3) of stripes, checks, dots, blobs or label bands."""
    weight = _pattern(directions(size), rng)[..., None]
    low, high = rng.uniform(0.1, 1, 3), rng.uniform(0.75, 1, 3)
    texture = (low * (1 - weight) + high * weight) * 255
    return texture.reshape(6 * size, size, 3).astype(np.uint8)


def _pattern(d: Array, rng: np.random.Generator) -> Array:
    """Return a weight in [0, 1] for each of an array of directions."""
    kind = rng.integers(5)
    axis = rng.normal(size=3).astype(np.float32)
    axis /= np.linalg.norm(axis)
    if kind == 0:
        wave = np.sin(rng.uniform(5, 16) * (d @ axis) + rng.uniform(0, 6))
        weight = wave > rng.uniform(-0.6, 0.6)
    elif kind == 1:
        weight = np.prod(np.sin(rng.uniform(4, 10) * d + rng.uniform(0, 6, 3)), axis=-1) > 0
    elif kind == 2:
        spots = rng.normal(size=(14, 3)).astype(np.float32)
        spots /= np.linalg.norm(spots, axis=1, keepdims=True)
        weight = (d @ spots.T).max(axis=-1) > rng.uniform(0.94, 0.98)
    elif kind == 3:
        waves = rng.normal(0, 4, size=(5, 3)).astype(np.float32)
        weight = np.sin(d @ waves.T + rng.uniform(0, 6, 5)).sum(axis=-1) * 0.3 + 0.5
    else:
        weight = np.abs(d[..., rng.integers(3)] - rng.uniform(-0.3, 0.3)) < rng.uniform(0.15, 0.4)
    return np.clip(weight.astype(np.float32), 0, 1)


def sky_texture(rng: np.random.Generator, size: int) -> Array:
    """Return a cube map (6 * size, size, 3) for what lies behind everything."""
    low, high = surface_colour(rng) * 255, surface_colour(rng) * 255
    ramp = np.linspace(0, 1, 6 * size)[:, None, None]
    return np.broadcast_to(low * (1 - ramp) + high * ramp, (6 * size, size, 3)).astype(np.uint8)


def noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Array:
    """Return smooth noise (size, size), about 0 to 1, of so many cells across and down."""
    coarse = rng.random(cells[::-1]).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def flat_texture(rng: np.random.Generator, size: int) -> Array:
    """Return a square texture (size, size, 3): plain, wood, stone, checks, weave or stripes."""
    kind = rng.integers(6)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    fine = rng.random((size, size)).astype(np.float32)
    if kind == 0:
        value = 0.93 + 0.07 * fine
    elif kind == 1:
        grain = 0.6 * noise(rng, size, (4, 64)) + 0.4 * noise(rng, size, (8, 128))
        planks = ((y // (size // 4)) * 37 % 11) / 11.0
        value = 0.62 + 0.3 * grain + 0.1 * planks
    elif kind == 2:
        value = 0.55 + 0.3 * noise(rng, size, (8, 8)) + 0.2 * noise(rng, size, (48, 48))
    elif kind == 3:
        cell = size // int(rng.choice([4, 8, 16]))
        value = 1.0 - rng.uniform(0.1, 0.5) * ((x // cell + y // cell) % 2)
    elif kind == 4:
        step = int(rng.choice([4, 8]))
        value = 0.75 + 0.12 * np.sin(x * 6.283 / step) * np.sin(y * 6.283 / step) + 0.1 * fine
    else:
        cell = size // int(rng.choice([4, 8]))
        value = 1.0 - rng.uniform(0.1, 0.4) * ((x // cell) % 2) - 0.05 * fine
    tint = rng.uniform(0.9, 1.0, 3)
    return (np.clip(value, 0, 1)[..., None] * tint * 255).astype(np.uint8)
