# SPDX-License-Identifier: Apache-2.0
"""Textures of the varied domain: patterns of many colours, for objects, tables and floors.

A pattern is a function of coordinates, three on an object and two on a table, so that each serves
both. None of them is of the unseen domain's kinds, which stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tabletop_textures import cube_texture as ordinary_cube
from tabletop_textures import directions
from tabletop_textures import flat_texture as ordinary_flat

Array = np.ndarray
ORDINARY_SHARE = 0.25


def cube_texture(rng: np.random.Generator, size: int) -> Array:
    """Return a cube map (6 * size, size, 3): a pattern, or one of the ordinary ones."""
    if rng.random() < ORDINARY_SHARE:
        return ordinary_cube(rng, size)
    return _painted(directions(size) * rng.uniform(1, 3), rng).reshape(6 * size, size, 3)


def flat_texture(rng: np.random.Generator, size: int) -> Array:
    """Return a square texture (size, size, 3): a pattern, or one of the ordinary ones."""
    if rng.random() < ORDINARY_SHARE:
        return ordinary_flat(rng, size)
    axis = np.linspace(-1, 1, size, dtype=np.float32) * rng.uniform(2, 8)
    return _painted(np.stack(np.meshgrid(axis, axis), axis=-1), rng)


def _painted(p: Array, rng: np.random.Generator) -> Array:
    """Return a pattern at coordinates (..., n), turned at random, as bytes (..., 3)."""
    turn = np.linalg.qr(rng.normal(size=(p.shape[-1],) * 2))[0].astype(np.float32)
    value = PATTERNS[rng.integers(len(PATTERNS))](p @ turn, rng)
    value = value * (1 - rng.uniform(0, 0.25) * rng.random(p.shape[:-1])[..., None])
    return (np.clip(value, 0, 1) * 255).astype(np.uint8)


def _palette(rng: np.random.Generator, count: int) -> Array:
    """Return colours (count, 3): any, or shades of one."""
    if rng.random() < 0.4:
        return rng.uniform(0.1, 1, 3) * rng.uniform(0.45, 1, (count, 1))
    return rng.uniform(0.05, 1, (count, 3))


def _waves(p: Array, rng: np.random.Generator, rate: float) -> Array:
    """Return smooth random values, about -1 to 1: waves of all directions, finer ones weaker."""
    value = np.zeros(p.shape[:-1], np.float32)
    for octave in range(3):
        ways = rng.normal(0, rate * 2**octave, (p.shape[-1], 4)).astype(np.float32)
        value += np.sin(p @ ways + rng.uniform(0, 6.3, 4)).sum(-1) / (2.5 * 2**octave)
    return value


def _bands(p: Array, rng: np.random.Generator) -> Array:
    """Bands of several widths, wavy or straight."""
    reach = float(np.abs(p).max())
    edges = np.sort(rng.uniform(-reach, reach, rng.integers(3, 14)))
    along = p[..., 0] + rng.choice([0, 0.15]) * _waves(p, rng, 2)
    return _palette(rng, len(edges) + 1)[np.digitize(along, edges)]


def _plaid(p: Array, rng: np.random.Generator) -> Array:
    """Bands over bands that cross them."""
    return (_bands(p, rng) + _bands(p[..., ::-1], rng)) / 2


def _camouflage(p: Array, rng: np.random.Generator) -> Array:
    """Blots of three to five colours."""
    count = int(rng.integers(3, 6))
    levels = np.linspace(-1, 1, count + 1)[1:-1]
    return _palette(rng, count)[np.digitize(_waves(p, rng, rng.uniform(1, 4)), levels)]


def _clouds(p: Array, rng: np.random.Generator) -> Array:
    """Colours that flow into each other."""
    low, high = _palette(rng, 2)
    share = [np.clip(0.5 + 0.5 * _waves(p, rng, rng.uniform(0.7, 3)), 0, 1) for _ in range(3)]
    return low + (high - low) * np.stack(share, -1)


def _zigzag(p: Array, rng: np.random.Generator) -> Array:
    """Stripes with corners."""
    bend = np.abs((p[..., 1] * rng.uniform(0.5, 3)) % 2 - 1)
    count = int(rng.integers(2, 5))
    stripe = np.floor(p[..., 0] * rng.uniform(1.5, 6) + bend).astype(int) % count
    return _palette(rng, count)[stripe]


def _mosaic(p: Array, rng: np.random.Generator) -> Array:
    """Square or oblong tiles, each of one of a few colours, with or without joints."""
    sides = rng.uniform(1, 5, p.shape[-1]).astype(np.float32)
    cells = np.floor(p * sides).astype(int)
    if rng.random() < 0.5:  # each row of a wall is shifted
        cells[..., 1] = np.floor(p[..., 1] * sides[1] + 0.5 * (cells[..., 0] % 2))
    colours = _palette(rng, int(rng.integers(2, 9)))
    odd = rng.integers(1, 1000, p.shape[-1])
    value = colours[(cells * odd).sum(-1) ** 2 % 997 % len(colours)]
    if rng.random() < 0.5:
        return value
    joint = (p[..., 0] * sides[0]) % 1 < 0.08
    return np.where(joint[..., None], rng.uniform(0, 1, 3), value)


def _stickers(p: Array, rng: np.random.Generator) -> Array:
    """Oblongs and discs stuck on one another."""
    value = np.broadcast_to(rng.uniform(0.1, 1, 3), (*p.shape[:-1], 3)).copy()
    reach = float(np.abs(p).max())
    for _ in range(int(rng.integers(4, 24))):
        away = np.abs(p - rng.uniform(-reach, reach, p.shape[-1])) / rng.uniform(
            0.15, 0.9, p.shape[-1]
        )
        size = away.max(-1) if rng.random() < 0.6 else np.linalg.norm(away, axis=-1)
        value[size < 1] = rng.uniform(0, 1, 3)
    return value


def _scratches(p: Array, rng: np.random.Generator) -> Array:
    """Thin lines in all directions on a plain or cloudy ground."""
    value = (
        _clouds(p, rng)
        if rng.random() < 0.5
        else rng.uniform(0.2, 1, 3) * np.ones((*p.shape[:-1], 1))
    )
    for _ in range(int(rng.integers(3, 20))):
        way = rng.normal(size=p.shape[-1])
        line = np.abs(p @ (way / np.linalg.norm(way)) - rng.uniform(-3, 3)) < rng.uniform(0.02, 0.1)
        value[line] = rng.uniform(0, 1, 3)
    return value


PATTERNS: tuple[Callable[[Array, np.random.Generator], Array], ...] = (
    _bands, _plaid, _camouflage, _clouds, _zigzag, _mosaic, _stickers, _scratches
)  # fmt: skip
