# SPDX-License-Identifier: Apache-2.0
"""Domains of the tabletop pictures: ordinary, varied, and one that training never shows.

A domain says what differs: textures, lights, where the camera stands, and the proportions of the
objects. The classes, the physics and the camera's sensor are the same in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tabletop_textures as ordinary
import tabletop_unseen_textures as unseen
import tabletop_varied_textures as varied
from tabletop_shapes import ShapeBuilder, add_distractor, add_varied_distractor

Array = np.ndarray
Range = tuple[float, float]
Texture = Callable[[np.random.Generator, int], Array]


@dataclass(frozen=True)
class Lights:
    """How a scene is lit; each pair is a range to draw from.

    Attributes:
        tilt: Degrees from the zenith.
        power: Of the first light.
        fill: Of the others.
        tint: How far each colour may be from white.
        shadows: How often the first light casts shadows.
        ambient: Light from everywhere.
        head: Light from the camera.
    """

    tilt: Range = (5, 55)
    power: Range = (0.45, 0.8)
    fill: Range = (0.1, 0.4)
    tint: float = 0.12
    shadows: float = 0.85
    ambient: Range = (0.18, 0.4)
    head: Range = (0.0, 0.25)


def usual_elevation(rng: np.random.Generator) -> float:
    """Return degrees above the table: mostly about 45."""
    return 18 + 67 * rng.beta(1.6, 1.9)


def any_elevation(rng: np.random.Generator) -> float:
    """Return degrees above the table: as usual, but the ends as often as the middle."""
    return rng.uniform(17, 79)


def extreme_elevation(rng: np.random.Generator) -> float:
    """Return degrees above the table: along it, or from overhead."""
    return rng.uniform(6, 16) if rng.random() < 0.5 else rng.uniform(80, 89)


@dataclass(frozen=True)
class Views:
    """Where the camera stands.

    Attributes:
        elevation: Draws degrees above the table.
        fit: Distance, in units of the one at which the objects fill half of the picture's height.
        far_share: How often it is multiplied.
        far: By what.
        metres: Limits of the distance.
    """

    elevation: Callable[[np.random.Generator], float] = usual_elevation
    fit: Range = (0.78, 1.55)
    far_share: float = 0.2
    far: Range = (1.25, 1.9)
    metres: Range = (0.28, 1.5)


class Outside:
    """A source of dimensions that lie outside of every range that is asked for.

    Args:
        rng: Where the randomness comes from.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Keep the source."""
        self._rng = rng

    def uniform(self, low: float, high: float) -> float:
        """Return a number below or above the range, by 10 to 35 % of its width."""
        beyond = (high - low) * self._rng.uniform(0.10, 0.35)
        return low - beyond if self._rng.random() < 0.5 else high + beyond

    def __getattr__(self, name: str) -> Any:
        """Everything but `uniform` is the source's own."""
        return getattr(self._rng, name)


def same(rng: np.random.Generator) -> np.random.Generator:
    """Return the source of dimensions itself."""
    return rng


@dataclass(frozen=True)
class Domain:
    """What one kind of tabletop pictures looks like.

    Attributes:
        name: For people.
        cube: Texture of objects.
        flat: Texture of table and floor.
        textured: How often an object has one.
        lights: How scenes are lit.
        views: Where cameras stand.
        dimensions: From the scene's random numbers to those of the labelled objects' dimensions.
        distractor: Adds an unlabelled object, and gives half its height when it lies.
    """

    name: str
    cube: Texture = ordinary.cube_texture
    flat: Texture = ordinary.flat_texture
    textured: float = 0.4
    lights: Lights = field(default_factory=Lights)
    views: Views = field(default_factory=Views)
    dimensions: Callable[[np.random.Generator], Any] = same
    distractor: Callable[[ShapeBuilder, np.random.Generator], float] = add_distractor


ORDINARY = Domain("ordinary")
VARIED = Domain(
    "varied",
    cube=varied.cube_texture,
    flat=varied.flat_texture,
    textured=0.6,
    lights=Lights(
        tilt=(0, 56), power=(0.3, 1.0), fill=(0.05, 0.6), tint=0.3, shadows=0.9,
        ambient=(0.08, 0.5), head=(0.0, 0.4),
    ),
    views=Views(any_elevation, fit=(0.78, 1.7), far_share=0.3, far=(1.25, 2.4), metres=(0.28, 1.9)),
    distractor=add_varied_distractor,
)  # fmt: skip
UNSEEN = Domain(
    "unseen",
    cube=unseen.cube_texture,
    flat=unseen.flat_texture,
    textured=0.75,
    lights=Lights(
        tilt=(58, 76), power=(0.8, 1.0), fill=(0.05, 0.2), tint=0.4, shadows=1.0,
        ambient=(0.1, 0.18), head=(0.0, 0.12),
    ),
    views=Views(
        extreme_elevation, fit=(0.58, 0.76), far_share=0.5, far=(2.6, 3.4), metres=(0.36, 1.9)
    ),
    dimensions=Outside,
)  # fmt: skip
