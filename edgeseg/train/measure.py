"""Validation as the robot runs: its reading of pictures, its letterbox, its decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeseg.bundle import ModelSpec
from edgeseg.cameras.images import ImageCamera
from edgeseg.engines.base import Engine, empty_outputs
from edgeseg.frame import Frame
from edgeseg.metrics import coco_ap
from edgeseg.segmenter import Segmenter
from edgeseg.train.data import CocoDataset


def spec_of(network: Any, classes: tuple[str, ...], size_hw: Any) -> ModelSpec:
    """The description of a network in training, enough to feed and decode it."""
    config = network.config
    mean = tuple(round(value) for value in config.pixel_mean)
    return ModelSpec(
        name="training",
        family=network.family,
        task="instance",
        input_hw=tuple(size_hw),
        colour="rgb",
        pad_value=mean,
        classes=classes,
        max_instances=config.num_queries,
        mask_stride=config.mask_stride,
        precisions={"fp32": "none"},
    )


class TrainingEngine(Engine):
    """A deployed torch network where it lies, CPU or GPU."""

    def __init__(self, deploy: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        super().__init__(spec)
        self._deploy: Callable[..., Any] = deploy
        self._device = device
        self._outputs = empty_outputs(spec)

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> Engine:
        """There is no file to load: see `edgeseg.export.eager` for a bundle's network."""
        raise NotImplementedError

    @torch.no_grad()
    def _run(self) -> dict[str, NDArray[np.generic]]:
        results = self._deploy(torch.from_numpy(self.input).to(self._device))
        for array, result in zip(self._outputs.values(), results, strict=True):
            array[...] = result.float().cpu().numpy()
        return self._outputs

    def describe(self) -> str:
        """See `Engine.describe`."""
        return f"torch {torch.__version__} {self._device}"


def read_frame(path: Path) -> Frame:
    """A picture as the robot's camera for files gives it, in fresh memory."""
    with ImageCamera(path) as camera:
        return next(iter(camera))


def mask_ap(segmenter: Segmenter, data: CocoDataset, count: int = 0) -> dict[str, Any]:
    """COCO mask AP of a segmenter that keeps every score.

    Args:
        segmenter: loaded with ``score_threshold=0``; labels in the order of the dataset's classes.
        data: checked pictures with their truth.
        count: only the first pictures; 0 takes all.
    """
    images = data.images[: count or None]
    found: list[dict[str, Any]] = []
    for index, image in enumerate(images):
        with read_frame(data.path(index)) as frame:
            instances = segmenter(frame)
        found += [
            {
                "image_id": image["id"],
                "category_id": data.category_ids[instances.labels[row]],
                "segmentation": instances.rle(row),
                "score": float(instances.scores[row]),
            }
            for row in range(len(instances))
        ]
    kept = {image["id"] for image in images}
    truth = [one for one in data.table["annotations"] if one["image_id"] in kept]
    return coco_ap(data.table | {"images": images, "annotations": truth}, found)


@torch.no_grad()
def validate(network: Any, data: CocoDataset, count: int, size_hw: Any) -> dict[str, Any]:
    """COCO mask AP of the deployed form on the first ``count`` pictures, seen as by the robot."""
    was_training = network.training
    network.eval()
    deploy = network.deployed(network.config.num_queries)
    device = next(network.parameters()).device
    engine = TrainingEngine(deploy, spec_of(network, data.classes, size_hw), device)
    result = mask_ap(Segmenter(engine, score_threshold=0), data, count)
    network.train(was_training)
    return result
