"""How much cheaper the overlay is than blending each instance over the whole picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import thread_time_ns
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.instances import Instances, from_masks
from edgeseg.sinks.overlay import Overlay, colours

HEIGHT, WIDTH, COUNT = 720, 1280, 15
WARM_UP = 5


def overlay_benchmark(rounds: int = 30, seed: int = 0) -> dict[str, Any]:
    """Compare `Overlay` with per-instance alpha blending, one thread, in turns in one process.

    The reference is what common visualisers do: for each instance, with ``mask`` a full-size bool
    array made beforehand, ``picture[mask] = 0.5 * picture[mask] + 0.5 * colour``; no outlines and
    no text. Ours starts from `Instances`, so it unpacks the masks as well; ``fill`` tints and
    outlines, ``draw`` adds names and scores. Objects are as large as those of the packaged clip,
    and their scores tremble from round to round.

    Args:
        rounds: runs of each case; the median counts.
        seed: of the scene.

    Returns:
        The scene, CPU ms ``reference_ms fill_ms draw_ms``, and ratios ``fill_ratio draw_ratio``.
    """
    random = np.random.default_rng(seed)
    picture, instances, masks = scene(random)
    palette, overlay = colours(instances), Overlay(["object"] * COUNT)
    cases: dict[str, Callable[[NDArray[np.uint8]], None]] = {
        "reference": lambda canvas: blend_each(canvas, masks, palette),
        "fill": lambda canvas: overlay.fill(canvas, instances, palette),
        "draw": lambda canvas: overlay.draw(canvas, instances),
    }
    times: dict[str, list[int]] = {name: [] for name in cases}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for turn in range(WARM_UP + rounds):
            scores = instances.scores + random.normal(0, 0.01, COUNT).astype(np.float32)
            instances = replace(instances, scores=scores.clip(0, 1))
            for name, case in cases.items():
                canvas = picture.copy()
                start = thread_time_ns()
                case(canvas)
                if turn >= WARM_UP:
                    times[name].append(thread_time_ns() - start)
    finally:
        cv2.setNumThreads(threads)
    ms = {name: median(each) / 1e6 for name, each in times.items()}
    return {
        "size": f"{WIDTH}x{HEIGHT}",
        "instances": COUNT,
        "covered": round(float(masks.any(0).mean()), 3),
        "rounds": rounds,
        **{f"{name}_ms": round(value, 3) for name, value in ms.items()},
        "fill_ratio": round(ms["reference"] / ms["fill"], 1),
        "draw_ratio": round(ms["reference"] / ms["draw"], 1),
    }


def scene(
    random: np.random.Generator,
) -> tuple[NDArray[np.uint8], Instances, NDArray[np.bool_]]:
    """A picture of noise, ellipses as instances, and the same as bool masks (N, H, W)."""
    picture = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    masks = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for mask in masks:
        centre = (int(random.integers(100, WIDTH - 100)), int(random.integers(100, HEIGHT - 100)))
        axes = (int(random.integers(25, 100)), int(random.integers(25, 100)))
        cv2.ellipse(mask, centre, axes, float(random.integers(180)), 0, 360, (1,), -1)
    scores = np.linspace(0.95, 0.5, COUNT, dtype=np.float32)
    full = masks.astype(np.bool_)
    return picture, from_masks(full, scores, np.arange(COUNT, dtype=np.int32)), full


def blend_each(
    picture: NDArray[np.uint8], masks: NDArray[np.bool_], palette: list[tuple[int, int, int]]
) -> None:
    """The reference: every instance blended over the whole picture, in place."""
    for mask, colour in zip(masks, palette, strict=True):
        picture[mask] = 0.5 * picture[mask] + 0.5 * np.array(colour)
