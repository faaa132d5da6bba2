"""A camera without hardware: bright shapes that move over a dark ground, with known masks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin
from time import monotonic_ns
from typing import Any
from urllib.parse import parse_qsl

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.cameras.base import BufferPool, Camera, Pace, check_size
from edgeseg.errors import InputError
from edgeseg.frame import Frame

CLASSES = ("disc", "box", "triangle")
TRUE = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class _Shape:
    """One moving shape; lengths are parts of the picture's shorter side or of its width, height."""

    label: int
    colour: tuple[int, int, int]
    radius: float
    centre: tuple[float, float]
    swing: tuple[float, float]
    speed: tuple[float, float]

    def corners(self, seconds: float, width: int, height: int) -> NDArray[np.int32]:
        """The outline at a time, as int32 (K, 2) pixels."""
        x = (self.centre[0] + self.swing[0] * sin(self.speed[0] * seconds)) * width
        y = (self.centre[1] + self.swing[1] * cos(self.speed[1] * seconds)) * height
        radius = max(1.0, self.radius * min(width, height))
        count = (32, 4, 3)[self.label]
        angles = np.arange(count) * (2 * pi / count) + self.speed[0] * seconds
        outline = np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), axis=1)
        corners: NDArray[np.int32] = outline.round().astype(np.int32)
        return corners


class SyntheticCamera(Camera):
    """Moving shapes; picture k is the same for the same settings on every machine.

    Pixels are ``bgr8`` in reused buffers, with a lease; at most four are lent at a time, and a
    reader that keeps more gets fresh memory.

    Args:
        width, height: pixels.
        fps: pictures per second.
        seconds: length; None never ends.
        shapes: how many, up to 254.
        seed: of their colours, sizes and ways.
        live: keep the pace of ``fps`` and lose the pictures that nobody takes in time, as a real
            camera does; False gives every picture as fast as it is taken.

    Attributes:
        classes: names of the shapes' classes.
        labels: int32 (shapes,), class of each shape.

    Raises:
        InputError: a number out of its range.

    >>> camera = SyntheticCamera(64, 48, seconds=1, live=False)
    >>> camera.frame_count, camera.truth(0).shape
    (30, (48, 64))
    """

    classes = CLASSES

    def __init__(
        self,
        width: int = 640,
        height: int = 480,
        *,
        fps: float = 30.0,
        seconds: float | None = None,
        shapes: int = 5,
        seed: int = 0,
        live: bool = True,
    ) -> None:
        _check_number("width", width, 1, 2**31)
        _check_number("height", height, 1, 2**31)
        _check_number("fps", fps, 1e-3, 1e5)
        _check_number("seconds", 1.0 if seconds is None else seconds, 1e-3, 1e9)
        _check_number("shapes", shapes, 0, 254)
        _check_number("seed", seed, 0, 2**63)
        check_size("a synthetic picture", width, height)
        super().__init__(f"synthetic:{width}x{height}@{fps:g}", live=live)
        self.width, self.height, self.fps = width, height, fps
        self.frame_count = None if seconds is None else max(1, round(seconds * fps))
        self._shapes = _make_shapes(shapes, np.random.default_rng(seed))
        self.labels = np.array([shape.label for shape in self._shapes], np.int32)
        self._ground = _make_ground(width, height)
        self._pool = BufferPool()
        self._pace = Pace(fps, self._interrupted)
        self._next = 0

    @classmethod
    def open(cls, address: str, **settings: Any) -> SyntheticCamera:
        """The camera for e.g. ``640x480@30?seconds=5&live=0``; every part may be left out."""
        return cls(**{**_parse(address), **settings})

    def truth(self, sequence: int) -> NDArray[np.uint8]:
        """The masks of picture ``sequence``: label map (H, W), 0 = ground, k + 1 = shape k."""
        label_map = np.zeros((self.height, self.width), np.uint8)
        for number, corners in enumerate(self._outlines(sequence), start=1):
            cv2.fillPoly(label_map, [corners], (number,))
        return label_map

    def _outlines(self, sequence: int) -> list[NDArray[np.int32]]:
        seconds = sequence / self.fps
        return [shape.corners(seconds, self.width, self.height) for shape in self._shapes]

    def _read(self) -> Frame | None:
        number = max(self._next, self._pace.newest()) if self.live else self._next
        if self.frame_count is not None:
            number = min(number, self.frame_count)
        self.dropped["driver"] += number - self._next
        self._next = number + 1
        if number == self.frame_count:
            self._next = number
            return None
        stamp_ns = self._pace.wait(number) if self.live else monotonic_ns()
        pixels, give_back = self._pool.lend((self.height, self.width, 3))
        np.copyto(pixels, self._ground)
        for shape, corners in zip(self._shapes, self._outlines(number), strict=True):
            cv2.fillPoly(pixels, [corners], shape.colour)
        return Frame(pixels, "bgr8", stamp_ns, number, on_release=give_back)


def _make_shapes(count: int, random: np.random.Generator) -> list[_Shape]:
    def pair(low: float, high: float) -> tuple[float, float]:
        return float(random.uniform(low, high)), float(random.uniform(low, high))

    def colour() -> tuple[int, int, int]:
        blue, green, red = random.permutation(np.array([90, 200, random.integers(220, 256)]))
        return int(blue), int(green), int(red)

    return [
        _Shape(
            label=number % len(CLASSES),
            colour=colour(),
            radius=float(random.uniform(0.08, 0.18)),
            centre=pair(0.25, 0.75),
            swing=pair(0.1, 0.3),
            speed=pair(0.5, 2.0),
        )
        for number in range(count)
    ]


def _make_ground(width: int, height: int) -> NDArray[np.uint8]:
    """A dark slope with faint lines, so that nothing is quite uniform."""
    y, x = np.mgrid[0:height, 0:width]
    grey = 20 + 24 * x / width + 16 * y / height + 6 * ((x // 16 + y // 16) % 2)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number in the range; a whole one where ``low`` is an int."""
    kinds = (int, np.integer) if isinstance(low, int) else (int, float, np.number)
    if not isinstance(value, kinds) or not low <= value <= high:
        wanted = "a whole number" if isinstance(low, int) else "a number"
        raise InputError(
            f"got {name} {value!r} for a synthetic camera; wanted {wanted}, {low:g} to {high:g}; "
            "leave it out for the default"
        )


def _parse(address: str) -> dict[str, Any]:
    """The settings that an address like ``640x480@30?seconds=5`` stands for."""
    match = re.fullmatch(r"(?:(\d+)x(\d+))?(?:@([\d.]+))?(?:\?(.*))?", address)
    kinds: dict[str, Callable[[str], Any]] = {
        "seconds": float,
        "shapes": int,
        "seed": int,
        "live": lambda text: TRUE[text.lower()],
    }
    try:
        if match is None:
            raise ValueError
        width, height, fps, rest = match.groups()
        settings: dict[str, Any] = {"width": int(width), "height": int(height)} if width else {}
        settings |= {"fps": float(fps)} if fps else {}
        pairs = parse_qsl(rest or "", keep_blank_values=True, strict_parsing=bool(rest))
        return settings | {name: kinds[name](text) for name, text in pairs}
    except (ValueError, KeyError):
        raise InputError(
            f"got synthetic camera {address!r}; wanted WIDTHxHEIGHT@FPS?seconds=5&live=0, with "
            f"settings of {', '.join(kinds)}; e.g. 640x480@30?seconds=5"
        ) from None
