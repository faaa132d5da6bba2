"""Training pictures: COCO-format folders, augmentation, batches made ahead of the network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.errors import InputError

Sample = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]
"""RGB picture (H, W, 3), labels (n,), masks (n, H, W) of 0 and 1."""


TABLES = ("annotations.json", "_annotations.coco.json")
"""In the folder of a split; the second is Roboflow's."""


def read_tables(folder: Path) -> dict[str, Any]:
    """One COCO table: a file, that of a split (`TABLES`), or its finished ``chunks/*.json``."""
    places = [folder] if folder.is_file() else [folder / name for name in TABLES]
    whole = [place for place in places if place.is_file()]
    parts = whole[:1] or sorted((folder / "chunks").glob("*.json"))
    if not parts:
        raise InputError(
            f"got no annotations in {folder}; wanted annotations.json or chunks/*.json; "
            "render the data with tools/make_dataset.py or name a COCO folder"
        )
    tables = [_read_table(part) for part in parts]
    return {
        "categories": tables[0]["categories"],
        "images": [image for table in tables for image in table["images"]],
        "annotations": [a for table in tables for a in table["annotations"]],
    }


def _read_table(path: Path) -> dict[str, Any]:
    """A COCO file, whose three lists are there."""
    try:
        table: dict[str, Any] = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"got {path} which can't be read as JSON ({error}); wanted a COCO file; export it again"
        ) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(table, dict) or not isinstance(table.get(key), list):
            raise InputError(
                f"got no list {key!r} in {path}; wanted a COCO file with images, annotations and "
                "categories; export the labels as COCO instance segmentation"
            )
    return table


def decode_mask(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """COCO polygons or RLE (compressed or not) to a mask (H, W) of 0 and 1."""
    rle = segmentation
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    return np.ascontiguousarray(coco_mask.decode(rle))


def picture_path(place: Path, name: str) -> Path:
    """Where the picture that a table calls ``name`` is: in ``images/``, or beside the table.

    Of ``annotations/instances_SUBSET.json``, as COCO and CVAT write it, also in ``images/``,
    ``images/SUBSET/`` or ``SUBSET/`` beside that folder.

    Args:
        place: file of the table, or the folder it is in.
        name: with folders or without, which needn't be there.
    """
    is_file = place.suffix.lower() == ".json"
    folder = place.parent if is_file else place
    name = name.replace("\\", "/")
    base = Path(name).name
    places = [folder / "images" / name, folder / name, folder / "images" / base, folder / base]
    if is_file and folder.absolute().name == "annotations":
        beside, subset = folder.absolute().parent, place.stem.removeprefix("instances_")
        folders = (beside / "images", beside / "images" / subset, beside / subset)
        places += [each / name for each in folders]
    return next((place for place in places if place.is_file()), places[0])


class CocoDataset:
    """A split on disk: pictures and a COCO table; crowd annotations are left out of the samples.

    Args:
        place: where the pictures are, see `picture_path`.
        table: their COCO table; the one there when left out.
    """

    def __init__(self, place: Path, table: dict[str, Any] | None = None) -> None:
        self.place = place
        self.table = read_tables(place) if table is None else table
        self.images = sorted(self.table["images"], key=lambda image: image["id"])
        categories = sorted(self.table["categories"], key=lambda category: category["id"])
        self.classes = tuple(category["name"] for category in categories)
        self.category_ids = tuple(category["id"] for category in categories)
        self._label = {number: label for label, number in enumerate(self.category_ids)}
        self._annotations: dict[int, list[dict[str, Any]]] = {}
        for annotation in self.table["annotations"]:
            if not annotation.get("iscrowd"):
                self._annotations.setdefault(annotation["image_id"], []).append(annotation)

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path:
        """The file of a picture."""
        return picture_path(self.place, self.images[index]["file_name"])

    def picture(self, index: int) -> NDArray[np.uint8]:
        """RGB picture (H, W, 3)."""
        path = self.path(index)
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise InputError(f"got no picture from {path}; wanted a PNG or JPEG; render it again")
        return np.asarray(pixels, np.uint8)

    def objects(self, index: int) -> list[dict[str, Any]]:
        """Annotations of a picture, without crowds."""
        return self._annotations.get(self.images[index]["id"], [])

    def label(self, annotation: Mapping[str, Any]) -> int:
        """Place of an annotation's class in `classes`."""
        return self._label[annotation["category_id"]]

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        annotations = self.objects(index)
        height, width = image["height"], image["width"]
        labels = np.array([self.label(one) for one in annotations], np.int64)
        masks = np.zeros((len(annotations), height, width), np.uint8)
        for mask, annotation in zip(masks, annotations, strict=True):
            mask[:] = decode_mask(annotation["segmentation"], height, width)
        return self.picture(index), labels, masks


@dataclass(frozen=True)
class Augmentation:
    """How a training picture is varied.

    Attributes:
        size_hw: of the result, pixels.
        scale: range of enlargement.
        focus: share of pictures centred near a random object instead of anywhere.
        min_area: objects that keep fewer pixels than this are dropped.
        colour: strength of brightness, contrast, saturation and colour-cast changes.
        stretch: spread of the ratio of width to height, as its logarithm.
        turn: spread of the rotation, degrees.
        repaint: share of pictures in which each object and the background change on their own.
    """

    size_hw: tuple[int, int]
    scale: tuple[float, float]
    focus: float = 0.5
    min_area: int = 20
    colour: float = 0.25
    stretch: float = 0.07
    turn: float = 4.0
    repaint: float = 0.0


def augment(sample: Sample, how: Augmentation, rng: np.random.Generator) -> Sample:
    """Place a sample in the result with one warp, then vary matter, light and camera."""
    picture, labels, masks = sample
    matrix = _placement(picture.shape[:2], masks, how, rng)
    height, width = how.size_hw
    fill = tuple(int(value) for value in rng.integers(0, 256, 3))
    picture = cv2.warpAffine(picture, matrix, (width, height), borderValue=fill)  # type: ignore[assignment]
    moved = np.zeros((len(masks), height, width), np.uint8)
    for source, target in zip(masks, moved, strict=True):
        soft = cv2.warpAffine(source * 255, matrix, (width, height))
        np.greater(soft, 127, out=target.view(bool))
    if rng.random() < how.repaint:
        picture = repaint(picture, moved, rng)
    picture = photograph(recolour(picture, how.colour, rng), rng)
    keep = moved.sum((1, 2)) >= how.min_area
    return picture, labels[keep], moved[keep]


def _placement(
    size_hw: tuple[int, ...],
    masks: NDArray[np.uint8],
    how: Augmentation,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Affine (2, 3) from the picture to the result: random scale, stretch, turn, flip, centre."""
    scale = float(np.exp(rng.uniform(*np.log(how.scale))))
    aspect = float(np.exp(0.5 * how.stretch * rng.normal()))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    extent = np.array([how.size_hw[1] / aspect, how.size_hw[0] * aspect]) / scale
    size = np.array([size_hw[1], size_hw[0]], float)
    seen = np.flatnonzero(masks.any((1, 2)))  # objects may be less than a pixel at this size
    if len(seen) and rng.random() < how.focus:
        rows, cols = np.nonzero(masks[rng.choice(seen)])
        centre = np.array([cols.mean(), rows.mean()]) + rng.uniform(-0.35, 0.35, 2) * extent
    else:
        centre = rng.uniform(0, size)
    low, high = np.minimum(extent / 2, size - extent / 2), np.maximum(extent / 2, size - extent / 2)
    centre = np.clip(centre, low, high)
    angle = np.radians(how.turn * rng.normal())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.zeros((2, 3))
    matrix[:, :2] = turn @ np.diag([flip * scale * aspect, scale / aspect])
    # Pixel centres, not corners.
    matrix[:, 2] = np.array([how.size_hw[1], how.size_hw[0]]) / 2 - matrix[:, :2] @ centre
    matrix[:, 2] += 0.5 * matrix[:, :2].sum(1) - 0.5
    return matrix


def repaint(
    picture: NDArray[np.uint8], masks: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Give each object and the background a colour of its own, and some of them a pattern.

    For classes that differ in shape, not in colour: the network sees them in colours and patterns
    that the pictures don't show.
    """
    height, width = picture.shape[:2]
    regions = np.zeros((height, width), np.int32)
    for number, mask in enumerate(masks, start=1):
        regions[mask > 0] = number
    tint = np.exp(
        rng.normal(0, 0.35, (len(masks) + 1, 3)) * (rng.random((len(masks) + 1, 1)) < 0.6)
    )
    strength = rng.uniform(0.3, 1.2, len(masks) + 1) * (rng.random(len(masks) + 1) < 0.35)
    cells = rng.integers(3, 25, 2)
    pattern = rng.uniform(-0.7, 0.7, (cells[0], cells[1], 3)).astype(np.float32)
    how = cv2.INTER_NEAREST if rng.random() < 0.4 else cv2.INTER_LINEAR
    pattern = cv2.resize(pattern, (width, height), interpolation=how)  # type: ignore[assignment]
    gain = tint.astype(np.float32)[regions]
    gain *= 1 + pattern * strength.astype(np.float32)[regions][..., None]
    return cv2.multiply(picture, gain, dtype=cv2.CV_8U)  # type: ignore[return-value]


def recolour(
    picture: NDArray[np.uint8], strength: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Contrast, brightness and a colour cast as one 3x3 matrix and an offset per channel."""
    gain = np.diag(np.exp(rng.normal(0, strength * 0.4, 3) + rng.normal(0, strength)))
    saturation = np.clip(1 + rng.normal(0, strength * 1.5), 0, 2)
    mix = saturation * np.eye(3) + (1 - saturation) / 3
    offset = rng.normal(0, 40 * strength, (3, 1))
    return np.asarray(cv2.transform(picture, np.hstack([mix @ gain, offset])), np.uint8)


def photograph(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Now and then a shadow across the picture, blur, noise."""
    if rng.random() < 0.25:
        picture = _shadow(picture, rng)
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.3))  # type: ignore[assignment]
    if rng.random() < 0.2:
        noise = np.empty(picture.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(noise, 0, rng.uniform(2, 14))  # type: ignore[call-overload]
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)  # type: ignore[assignment]
    return picture


def _shadow(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Darken one side of a line, with a soft or a hard edge."""
    height, width = picture.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    x = (np.arange(width, dtype=np.float32) / width - rng.random()) * np.cos(angle)
    y = (np.arange(height, dtype=np.float32) / height - rng.random()) * np.sin(angle)
    inside = np.clip((x + y[:, None]) / rng.uniform(0.005, 0.2) + 0.5, 0, 1).astype(np.float32)
    gain = 1 - inside[..., None] * rng.uniform(0.2, 0.7, 3).astype(np.float32) * rng.uniform(0.5, 1)
    return cv2.multiply(picture, gain.astype(np.float32), dtype=cv2.CV_8U)  # type: ignore[return-value]


Batch = tuple[Tensor, list[dict[str, Tensor]]]
"""Images uint8 (B, 3, H, W) RGB and targets ``{"labels": (n,), "masks": (n, H, W)}``."""


def collate(samples: list[Sample]) -> Batch:
    """Join samples of one size."""
    images = torch.from_numpy(np.stack([picture for picture, _, _ in samples])).permute(0, 3, 1, 2)
    targets = [
        {"labels": torch.from_numpy(labels), "masks": torch.from_numpy(masks)}
        for _, labels, masks in samples
    ]
    return images.contiguous(memory_format=torch.channels_last), targets


class Samples(Protocol):
    """What a `Loader` draws from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Loader:
    """Endless shuffled batches, made by one thread ahead of the training step.

    Set `augmentation` at any time: batches asked for afterwards use it.
    """

    def __init__(self, dataset: Samples, augmentation: Augmentation, batch: int, seed: int) -> None:
        self.dataset, self.augmentation, self.batch = dataset, augmentation, batch
        self._rng = np.random.default_rng(seed)
        self._order = self._shuffled()
        self._thread = ThreadPoolExecutor(1)
        self._ahead: list[Future[Batch]] = [self._thread.submit(self._make) for _ in range(2)]

    def _shuffled(self) -> Iterator[int]:
        while True:
            yield from (int(i) for i in self._rng.permutation(len(self.dataset)))

    def _make(self) -> Batch:
        how = self.augmentation
        indices = [next(self._order) for _ in range(self.batch)]
        return collate([augment(self.dataset[i], how, self._rng) for i in indices])

    def __next__(self) -> Batch:
        self._ahead.append(self._thread.submit(self._make))
        return self._ahead.pop(0).result()

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(cancel_futures=True)
