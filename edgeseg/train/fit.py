"""Training pictures at the size at which the robot sees them."""

from __future__ import annotations

import os
from dataclasses import replace

import cv2
import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.preprocess import Preprocessor
from edgeseg.train.data import CocoDataset, Sample, decode_mask
from edgeseg.train.measure import read_frame

LEAST_MEMORY = 1 << 30


def memory_bytes() -> int:
    """What decoded pictures may take: a quarter of the memory that is free now."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(LEAST_MEMORY, free // 4)


class Fitted:
    """A dataset whose pictures are resized as by the robot's letterbox, without its padding.

    Augmentation then scales from what the robot sees, whatever the size of the pictures. What was
    read once is kept, until `memory_bytes` are full: small datasets are decoded only once.

    Args:
        data: pictures of any sizes.
        spec: of the network, see `edgeseg.train.measure.spec_of`.
    """

    def __init__(self, data: CocoDataset, spec: ModelSpec) -> None:
        self.data, self.classes = data, data.classes
        self._preprocess = Preprocessor(replace(spec, colour="rgb"))
        self._input = np.zeros((1, *spec.input_hw, 3), np.uint8)
        self._kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.int64], list[dict]]] = {}
        self._free = memory_bytes()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            picture, labels, masks = self._read(index)
            packed = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
            if self._free < picture.nbytes:
                return picture, labels, masks
            self._free -= picture.nbytes
            self._kept[index] = picture, labels, packed
        picture, labels, packed = self._kept[index]
        masks = np.zeros((len(packed), *picture.shape[:2]), np.uint8)
        for mask, rle in zip(masks, packed, strict=True):
            mask[:] = coco_mask.decode(rle)
        return picture, labels, masks

    def _read(self, index: int) -> Sample:
        image = self.data.images[index]
        annotations = self.data.objects(index)
        with read_frame(self.data.path(index)) as frame:
            height, width = self._preprocess(frame, self._input).scaled_hw
        picture = self._input[0, :height, :width].copy()  # the scratch is used again
        masks = np.zeros((len(annotations), height, width), np.uint8)
        for mask, annotation in zip(masks, annotations, strict=True):
            whole = decode_mask(annotation["segmentation"], image["height"], image["width"])
            small = cv2.resize(whole * 255, (width, height), interpolation=cv2.INTER_AREA)
            np.greater(small, 127, out=mask.view(bool))
        labels = np.array([self.data.label(one) for one in annotations], np.int64)
        return picture, labels, masks
