#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Render the tabletop dataset: pictures with instance masks in COCO format.

    python tools/make_dataset.py --out ~/tabletop --splits val,train --train 20000 --workers 2
    python tools/make_dataset.py --objects parts --out parts --splits train,val,test --train 360
    python tools/make_dataset.py --out ~/tabletop --splits unseen

Each split gets `images/000123.png` and `annotations.json`. Work is done in chunks, whose own
annotations are in `chunks/00012.json` (COCO too), so that training can start early and an
interrupted run goes on where it stopped. The first 6000 pictures of `train` are ordinary, as those
of `val` and `test` are; the others are varied. The split `unseen` shows the same classes with
textures, lights, proportions and cameras that no other split has (see `tabletop_domain`). Needs
mujoco, opencv and faster-coco-eval.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabletop_camera import Painter, Picture, photograph, random_camera
from tabletop_coco import GENERATOR_VERSION, annotate, coco, encode_png, write_whole
from tabletop_domain import ORDINARY, UNSEEN, VARIED, Domain
from tabletop_parts import PARTS
from tabletop_scene import build_scene, random_layout, repaint
from tabletop_shapes import TABLETOP, Catalogue
from tqdm import tqdm

CHUNK = 200
VIEWS = 2
# At 320x240. Other sizes keep the same share of the picture.
MIN_AREA = 50
DARK_SHARE = 0.1
# Scenes of a split are numbered from here: no two splits share a scene.
MAX_SCENES = 10_000_000
FIRST_SCENE = {
    "train": 0, "val": 10_000_000, "calib": 20_000_000, "test": 30_000_000, "unseen": 40_000_000,
}  # fmt: skip
# Training sees ordinary scenes first, then varied ones.
ORDINARY_SCENES = 3000
# What the pixels depend on, beside Mesa.
LIBRARIES = ("mujoco", "numpy", "opencv-python-headless")
CATALOGUES = {one.name: one for one in (TABLETOP, PARTS)}
DEFAULT_COUNTS = {"train": 20_000, "val": 600, "calib": 200, "test": 1000, "unseen": 1000}


@dataclass(frozen=True)
class Job:
    """A chunk of a split to render.

    Attributes:
        folder: Folder of the split.
        split: Its name.
        seed: Seed of the dataset.
        number: Number of the chunk.
        count: Number of pictures of the split.
        size: (width, height) of the pictures.
        objects: Name of the catalogue of its classes.
    """

    folder: Path
    split: str
    seed: int
    number: int
    count: int
    size: tuple[int, int]
    objects: str = TABLETOP.name

    @property
    def domain(self) -> Domain:
        """What the pictures of the chunk look like."""
        if self.split == "train" and self.objects == TABLETOP.name:
            first = scene_number(self.split, self.indices.start)
            return ORDINARY if first < ORDINARY_SCENES else VARIED
        return UNSEEN if self.split == "unseen" else ORDINARY

    @property
    def indices(self) -> range:
        """Indices of the pictures of the chunk."""
        return range(self.number * CHUNK, min(self.count, (self.number + 1) * CHUNK))

    @property
    def result(self) -> Path:
        """Annotations of the chunk, written last."""
        return self.folder / "chunks" / f"{self.number:05d}.json"

    @property
    def finished(self) -> bool:
        """Whether all pictures of the chunk have been rendered."""
        if not self.result.exists():
            return False
        return len(json.loads(self.result.read_text())["images"]) == len(self.indices)


def scene_number(split: str, index: int) -> int:
    """Return the number of the scene that a picture of a split shows."""
    return FIRST_SCENE[split] + index // VIEWS


@functools.cache
def _painter(size: tuple[int, int]) -> Painter:
    """Return this process's painter for a picture size."""
    painter = Painter(size)
    atexit.register(painter.close)
    return painter


def render_scene(
    seed: int,
    number: int,
    views: int,
    size: tuple[int, int],
    catalogue: Catalogue = TABLETOP,
    *,
    domain: Domain = ORDINARY,
) -> Iterator[tuple[Picture, list[int]]]:
    """Render the first views of a scene, each with the category ids of the scene's objects."""
    rng = np.random.default_rng([seed, number])
    scene = build_scene(rng, random_layout(rng, catalogue, domain))
    painter = _painter(size)
    painter.load(scene)
    lights = scene.model.light_diffuse.copy()
    for view in range(views):
        rng = np.random.default_rng([seed, number, view + 1])
        scene.model.light_diffuse[:] = lights
        repaint(scene, rng)
        dark = bool(rng.random() < DARK_SHARE)
        camera = random_camera(scene, rng)
        yield photograph(painter.draw(scene, camera), rng, dark), scene.categories
    painter.close_scene()


def render_chunk(job: Job) -> int:
    """Render a chunk, write its files and return its number of pictures."""
    cv2.setNumThreads(1)
    images, annotations = [], []
    min_area = max(1, MIN_AREA * job.size[0] * job.size[1] // (320 * 240))
    for first in range(job.indices.start, job.indices.stop, VIEWS):
        number = scene_number(job.split, first)
        views = min(VIEWS, job.indices.stop - first)
        catalogue = CATALOGUES[job.objects]
        rendered = render_scene(job.seed, number, views, job.size, catalogue, domain=job.domain)
        for index, (picture, categories) in enumerate(rendered, start=first):
            name = f"{index:06d}.png"
            write_whole(job.folder / "images" / name, encode_png(picture.image))
            images.append({
                "id": index, "file_name": name, "width": job.size[0], "height": job.size[1],
                "scene": number, "dark": picture.dark,
            })  # fmt: skip
            annotations += annotate(picture.labels, categories, index, min_area)
    write_coco(job.result, images, annotations, job)
    return len(images)


def write_coco(path: Path, images: list[dict], annotations: list[dict], job: Job) -> None:
    """Write a COCO file."""
    description = f"edgeseg {job.objects}, {job.split}"
    content = coco(images, annotations, description, CATALOGUES[job.objects])
    write_whole(path, json.dumps(content).encode())


def make_split(jobs: list[Job], workers: int) -> None:
    """Render the chunks of a split that are not finished yet, then join all."""
    todo = [job for job in jobs if not job.finished]
    total, missing = jobs[0].count, sum(len(job.indices) for job in todo)
    with tqdm(total=total, initial=total - missing, desc=jobs[0].split, unit="img") as bar:
        if workers == 1:
            for job in todo:
                bar.update(render_chunk(job))
        elif todo:
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                for count in pool.imap(render_chunk, todo):
                    bar.update(count)
    merge(jobs)


def merge(jobs: list[Job]) -> None:
    """Join the annotations of all chunks of a split."""
    parts = [json.loads(job.result.read_text()) for job in jobs]
    images = [image for part in parts for image in part["images"]]
    annotations = [one for part in parts for one in part["annotations"]]
    write_coco(jobs[0].folder / "annotations.json", images, annotations, jobs[0])


def recipe(args: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the content of a dataset folder."""
    return {
        "generator": f"edgeseg {args.objects}",
        "generator_version": GENERATOR_VERSION,
        "seed": args.seed,
        "size": list(args.size),
        "views_per_scene": VIEWS,
    }


def claim(out: Path, wanted: dict[str, Any]) -> None:
    """Write the recipe of a folder, or stop if the folder was made by another one."""
    path = out / "recipe.json"
    if path.exists() and json.loads(path.read_text()) != wanted:
        raise SystemExit(
            f"{out} holds a dataset of other objects, or with another seed, size or version: "
            f"see {path}"
        )
    write_whole(path, json.dumps(wanted, indent=1).encode())


def _files_of(folder: Path) -> list[Path]:
    """Return the annotations of a split and the pictures that they name."""
    images = json.loads((folder / "annotations.json").read_text())["images"]
    return [folder / "annotations.json", *(folder / "images" / i["file_name"] for i in images)]


def write_manifest(out: Path, made: dict[str, Any]) -> None:
    """Write what the folder holds, with the SHA-256 of each file and one of each split."""
    splits = [split for split in FIRST_SCENE if (out / split / "annotations.json").exists()]
    files = {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in tqdm(
            [p for split in splits for p in _files_of(out / split)], desc="sha256", unit="file"
        )
    }
    manifest = {
        **made,
        "libraries": {name: version(name) for name in LIBRARIES},
        "splits": {split: _summary(split, files) for split in splits},
        "files": files,
    }
    write_whole(out / "manifest.json", json.dumps(manifest, indent=1).encode())


def _summary(split: str, files: dict[str, str]) -> dict[str, Any]:
    """Pictures, first scene and one SHA-256 over the names and hashes of a split's files."""
    lines = [f"{files[name]}  {name}\n" for name in sorted(files) if name.startswith(f"{split}/")]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {"images": len(lines) - 1, "first_scene": FIRST_SCENE[split], "sha256": digest}


def parse_size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT."""
    width, height = (int(part) for part in text.lower().split("x"))
    return width, height


def parse_splits(text: str) -> list[str]:
    """Parse a comma-separated list of splits."""
    splits = text.split(",")
    unknown = [split for split in splits if split not in FIRST_SCENE]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown split {unknown[0]}: use {','.join(FIRST_SCENE)}")
    return splits


def default_folder() -> Path:
    """Return $EDGESEG_DATA or ~/.cache/edgeseg/tabletop."""
    return Path(os.environ.get("EDGESEG_DATA") or Path.home() / ".cache" / "edgeseg" / "tabletop")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Render the edgeseg tabletop dataset (COCO format). An interrupted run goes "
        "on where it stopped. MUJOCO_GL=egl renders on a GPU, the default osmesa on the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=default_folder(), help="folder of the dataset")
    add("--objects", choices=CATALOGUES, default=TABLETOP.name, help="which classes to show")
    add("--splits", type=parse_splits, default="train,val,calib,test,unseen", help="in this order")
    for split, count in DEFAULT_COUNTS.items():
        add(f"--{split}", type=int, default=count, metavar="N", help=f"pictures in {split}")
    add("--workers", type=int, default=2, metavar="N", help="processes")
    add("--size", type=parse_size, default="320x240", metavar="WxH", help="of the pictures")
    add("--seed", type=int, default=0, help="of the whole dataset")
    add(
        "--clip", type=Path, metavar="DIR",
        help="instead of the dataset, render DIR/tabletop.mp4 and its truth tabletop.json.gz",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    args = parse_arguments(arguments)
    if args.clip:
        from tabletop_clip import make_clip  # only the clip needs PyAV

        for path in make_clip(args.clip):
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
        return 0
    claim(args.out, recipe(args))
    for split in args.splits:
        count = getattr(args, split)
        jobs = [
            Job(args.out / split, split, args.seed, number, count, args.size, args.objects)
            for number in range(-(-count // CHUNK))
        ]
        if jobs:
            make_split(jobs, args.workers)
    write_manifest(args.out, recipe(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
