# SPDX-License-Identifier: Apache-2.0
"""Domains: the ordinary one draws as it always did, nothing of the unseen one is in the others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("mujoco") is None:
    pytest.skip("needs mujoco, which isn't installed", allow_module_level=True)
if os.environ.get("MUJOCO_GL", "osmesa") == "osmesa" and find_library("OSMesa") is None:
    pytest.skip("needs osmesa: this machine has no libOSMesa", allow_module_level=True)

import make_dataset
import study_domain
import tabletop_clip
import tabletop_textures
import tabletop_unseen_textures
import tabletop_varied_textures
from tabletop_camera import random_camera
from tabletop_domain import (
    ORDINARY,
    UNSEEN,
    VARIED,
    Domain,
    Outside,
    any_elevation,
    extreme_elevation,
    usual_elevation,
)
from tabletop_mujoco import mujoco
from tabletop_scene import Scene, build_scene, random_layout, repaint
from tabletop_shapes import TABLETOP, ShapeBuilder

# Of scene 10 000 000, seed 0, as the generator drew it before there were domains.
CATEGORIES = [4, 8, 5, 7, 5, 5, 7, 7, 6, 7, 2, 6, 3, 7]
FIRST_LIGHT = [0.7005541324615479, 0.5888394713401794, 0.5709922313690186]
NEXT_NUMBER = 0.5422035573630817


def scene_of(domain: Domain, rng: np.random.Generator) -> Scene:
    scene = build_scene(rng, random_layout(rng, TABLETOP, domain), settle=0.1)
    repaint(scene, rng)
    random_camera(scene, rng)
    return scene


def test_the_ordinary_domain_draws_what_the_published_splits_were_drawn_with() -> None:
    """A draw more, less or elsewhere would change every picture."""
    rng = np.random.default_rng([0, 10_000_000])
    scene = scene_of(ORDINARY, rng)
    assert scene.categories == CATEGORIES
    assert scene.model.light_diffuse[0] == pytest.approx(FIRST_LIGHT)
    assert rng.random() == NEXT_NUMBER


@pytest.mark.parametrize("split", make_dataset.FIRST_SCENE)
def test_only_the_split_unseen_is_of_the_unseen_domain(split: str) -> None:
    job = make_dataset.Job(Path(), split, seed=0, number=0, count=1, size=(32, 24))
    assert job.domain is (UNSEEN if split == "unseen" else ORDINARY)


@pytest.mark.parametrize(
    ("picture", "domain"), [(5800, ORDINARY), (6000, VARIED), (19_800, VARIED)]
)
def test_training_sees_ordinary_scenes_first_then_varied_ones(picture: int, domain: Domain) -> None:
    number = picture // make_dataset.CHUNK
    job = make_dataset.Job(Path(), "train", seed=0, number=number, count=20_000, size=(32, 24))
    assert job.domain is domain
    assert replace(job, objects="parts").domain is ORDINARY


def test_the_varied_domain_shows_nothing_of_the_unseen_one() -> None:
    assert VARIED.dimensions is ORDINARY.dimensions
    assert VARIED.lights.tilt[1] < UNSEEN.lights.tilt[0]
    assert VARIED.views.far[1] < UNSEEN.views.far[0]
    assert VARIED.views.fit[0] > UNSEEN.views.fit[1]
    rng = np.random.default_rng(0)
    varied = np.array([any_elevation(rng) for _ in range(500)])
    unseen = np.array([extreme_elevation(rng) for _ in range(500)])
    low, high = unseen[unseen < 45].max(), unseen[unseen > 45].min()
    assert low < varied.min() and varied.max() < high


@pytest.mark.parametrize("pattern", tabletop_varied_textures.PATTERNS)
def test_patterns_serve_objects_and_tables(pattern: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for shape in ((6, 12, 12, 3), (64, 64, 2)):
        value = pattern(rng.uniform(-2, 2, shape).astype(np.float32), rng)
        assert value.shape == (*shape[:-1], 3)
        assert np.isfinite(value).all()


def test_dimensions_outside_are_a_little_outside() -> None:
    rng = Outside(np.random.default_rng(0))
    values = np.array([rng.uniform(2.0, 4.0) for _ in range(200)])
    beyond = np.maximum(2.0 - values, values - 4.0)
    assert beyond.min() >= 0.2 and beyond.max() <= 0.7
    assert 0.3 < (values < 2).mean() < 0.7
    assert sorted(rng.permutation(3)) == [0, 1, 2]


@pytest.mark.parametrize("category", range(1, 9))
def test_objects_of_unseen_proportions_are_whole(category: int) -> None:
    """Neither flat nor giant, and MuJoCo takes their sizes and masses."""
    spec = mujoco.MjSpec()
    rng = UNSEEN.dimensions(np.random.default_rng(category))
    for number in range(30):
        body = spec.worldbody.add_body(name=f"object{number}")
        body.add_freejoint()
        half = TABLETOP.add(ShapeBuilder(spec, body, f"object{number}"), category, rng)
        assert 0.005 < half < 0.15
    model = spec.compile()
    assert (model.body_mass[1:] > 0.001).all()


def test_cameras_of_the_unseen_domain_look_from_where_others_rarely_do() -> None:
    rng = np.random.default_rng(0)
    usual = np.array([usual_elevation(rng) for _ in range(500)])
    extreme = np.array([extreme_elevation(rng) for _ in range(500)])
    assert usual.min() > 18 > 16 >= extreme[extreme < 45].max()
    assert (usual > extreme[extreme > 45].min()).mean() < 0.03


@pytest.mark.parametrize(
    "module", [tabletop_textures, tabletop_unseen_textures, tabletop_varied_textures]
)
def test_textures_fill_what_they_are_for(module: object) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cube, flat = module.cube_texture(rng, 12), module.flat_texture(rng, 64)
        assert (cube.shape, flat.shape) == ((72, 12, 3), (64, 64, 3))
        assert cube.dtype == flat.dtype == np.uint8
        assert cube.std() > 0


def test_the_study_shows_scenes_of_its_own() -> None:
    after = max(make_dataset.FIRST_SCENE.values()) + make_dataset.MAX_SCENES
    assert after <= study_domain.FIRST_SCENE < tabletop_clip.SCENE - make_dataset.MAX_SCENES


def test_the_study_measures_each_part(tmp_path: Path) -> None:
    study_domain.main(["fastinst-nano", "--scenes", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "domain_fastinst-nano.json").read_text())["rows"]
    assert [row["changed"] for row in rows] == list(study_domain.VARIANTS)
    assert rows[0]["AP"] > 0.2
    assert all(row["instances"] > 0 for row in rows)


@pytest.mark.parametrize("domain", [VARIED, UNSEEN])
def test_a_scene_of_another_domain_can_be_rendered(domain: Domain) -> None:
    picture, categories = next(
        make_dataset.render_scene(0, 40_000_000, 1, (160, 120), domain=domain)
    )
    assert picture.image.std() > 1
    assert 4 <= len(categories) <= 14
