"""What decoding costs and how exact it is, against the official two-step resize.

The official post-processing of FastInst resizes the logits bilinearly to the padded input, crops
them to the picture, resizes them bilinearly to the frame, and takes sigmoid > 0.5. It is measured
here on the kept masks alone, which flatters it: the official code does it for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from time import process_time_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.decode.queries import QueryDecoder
from edgeseg.instances import Instances
from edgeseg.letterbox import Geometry, fit
from edgeseg.metrics import mask_iou

QUERIES, KEPT = 100, 12
INPUT_HW = (640, 640)
LOGIT_SIDES = (160, 80)
FRAMES_HW = ((480, 640), (720, 1280))
Official = Callable[[NDArray[np.float32], Geometry], NDArray[np.bool_]]


def decode_benchmark(rounds: int = 30, pictures: int = 4, seed: int = 0) -> dict[str, Any]:
    """Cost and fidelity of `QueryDecoder` for 12 kept masks of 100, JSON-ready.

    CPU time of the whole process, both sides in turn; run it with ``OMP_NUM_THREADS=1`` where the
    reference is numpy (torch is held to one thread here). The medians over ``rounds`` runs on
    each of ``pictures`` sets of logits are compared.

    Returns:
        ``reference`` (which official code ran) and ``rows``: per logit size and frame size
        ``official_ms ours_ms ratio mean_iou min_iou``.
    """
    name, official = _official()
    rows = [
        _measure(official, side, frame_hw, rounds, pictures, seed)
        for side in LOGIT_SIDES
        for frame_hw in FRAMES_HW
    ]
    return {"reference": name, "queries": QUERIES, "kept": KEPT, "seed": seed, "rows": rows}


def two_step_numpy(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.bool_]:
    """The official masks (N, H, W) of logits (N, h, w), in plain numpy."""
    height, width = geometry.scaled_hw
    picture = _resize(logits, geometry.input_hw)[:, :height, :width]
    return np.asarray(_sigmoid(_resize(picture, geometry.frame_hw)) > 0.5)


def blobs(side: int, geometry: Geometry, seed: int) -> dict[str, NDArray[Any]]:
    """Outputs like a network's: 100 smooth objects within the picture, 12 of them with a score.

    Boxes span about 1/12 to 2/3 of the picture's side, half of them above 1/5; outlines are wavy,
    logits run from about -8 to 8 with the slope of an upsampled network.
    """
    rng = np.random.default_rng(seed)
    picture_hw = np.array(geometry.scaled_hw) * side / np.array(geometry.input_hw)
    y, x = np.mgrid[:side, :side] + 0.5
    masks = np.empty((QUERIES, side, side), np.float32)
    for mask in masks:
        radii = 0.5 * picture_hw * np.clip(0.2 * np.exp(rng.normal(0, 0.5, 2)), 1 / 12, 2 / 3)
        cy, cx = rng.uniform(0.05, 0.95, 2) * picture_hw
        dy, dx = (y - cy) / radii[0], (x - cx) / radii[1]
        turn = np.arctan2(dy, dx)
        waves = sum(rng.normal(0, 0.08) * np.cos(k * turn + rng.uniform(0, 6)) for k in (2, 3, 5))
        mask[:] = np.clip((1 + waves - np.hypot(dy, dx)) * radii.min() * 2, -8, 8)
        mask += rng.normal(0, 0.05, mask.shape)
    scores = np.full(QUERIES, 0.1, np.float32)
    scores[rng.choice(QUERIES, KEPT, replace=False)] = np.linspace(0.95, 0.55, KEPT)
    return {"scores": scores, "labels": np.zeros(QUERIES, np.int32), "masks": masks}


def _measure(
    official: Official,
    side: int,
    frame_hw: tuple[int, int],
    rounds: int,
    pictures: int,
    seed: int,
) -> dict[str, Any]:
    """One row of the benchmark."""
    geometry = fit(frame_hw, INPUT_HW)
    decoder = QueryDecoder(_spec(side), score_threshold=0.5)
    sets = [blobs(side, geometry, seed + i) for i in range(pictures)]
    fidelity = [iou for outputs in sets for iou in _fidelity(official, decoder, outputs, geometry)]
    times: dict[str, list[int]] = {"official": [], "ours": []}
    for turn in range(rounds * pictures):
        outputs = sets[turn % pictures]
        kept = np.flatnonzero(outputs["scores"] >= 0.5)
        start = process_time_ns()
        official(outputs["masks"][kept], geometry)
        middle = process_time_ns()
        decoder(outputs, geometry)
        times["ours"].append(process_time_ns() - middle)
        times["official"].append(middle - start)
    official_ms, ours_ms = (median(times[who]) / 1e6 for who in ("official", "ours"))
    return {
        "logits_hw": [side, side],
        "frame_hw": list(frame_hw),
        "official_ms": round(official_ms, 3),
        "ours_ms": round(ours_ms, 3),
        "ratio": round(official_ms / ours_ms, 1),
        "mean_iou": round(float(np.mean(fidelity)), 6),
        "min_iou": round(float(np.min(fidelity)), 6),
    }


def _fidelity(
    official: Official,
    decoder: QueryDecoder,
    outputs: dict[str, NDArray[Any]],
    geometry: Geometry,
) -> list[float]:
    """Mask IoU of each kept mask with the official one; one that was dropped counts as 0."""
    order = np.argsort(-outputs["scores"], kind="stable")[:KEPT]
    wanted = official(outputs["masks"][order], geometry)
    found: Instances = decoder(outputs, geometry)
    ours = {round(float(score), 6): found.mask(i) for i, score in enumerate(found.scores)}
    nothing = np.zeros(geometry.frame_hw, np.bool_)
    scores = (round(float(score), 6) for score in outputs["scores"][order])
    return [
        mask_iou(mask, ours.get(score, nothing)) for mask, score in zip(wanted, scores, strict=True)
    ]


def _spec(side: int) -> ModelSpec:
    """A spec with masks of ``side`` x ``side`` logits."""
    return ModelSpec(
        name="benchmark",
        family="fastinst",
        task="instance",
        input_hw=INPUT_HW,
        colour="rgb",
        pad_value=(0, 0, 0),
        classes=("object",),
        max_instances=QUERIES,
        mask_stride=INPUT_HW[0] // side,
        precisions={"fp32": "model.onnx"},
    )


def _official() -> tuple[str, Official]:
    """The official code in torch, or in numpy where torch is not installed; and its name."""
    if find_spec("torch") is None:
        return f"numpy {np.__version__}", two_step_numpy
    torch = import_module("torch")  # only measured against: the run half never depends on it
    torch.set_num_threads(1)

    def two_step_torch(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.bool_]:
        def resize(masks: Any, size: tuple[int, int]) -> Any:
            return torch.nn.functional.interpolate(
                masks, size=size, mode="bilinear", align_corners=False
            )

        height, width = geometry.scaled_hw
        with torch.inference_mode():
            picture = resize(torch.from_numpy(logits)[None], geometry.input_hw)
            frame = resize(picture[:, :, :height, :width], geometry.frame_hw)
            return np.asarray((frame.sigmoid() > 0.5)[0].numpy())

    return f"torch {torch.__version__}", two_step_torch


def _resize(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear resize of (N, h, w), ``align_corners=False``."""
    for axis, size in zip((1, 2), size_hw, strict=True):
        source = logits.shape[axis]
        centre = np.maximum((np.arange(size) + 0.5) * (source / size) - 0.5, 0.0)
        low = np.minimum(centre.astype(np.int64), source - 1)
        high = np.minimum(low + 1, source - 1)
        part = (centre - low).astype(np.float32).reshape((-1, 1) if axis == 1 else (-1,))
        logits = logits.take(low, axis) * (1 - part) + logits.take(high, axis) * part
    return logits


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-logits)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)
