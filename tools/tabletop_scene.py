# SPDX-License-Identifier: Apache-2.0
"""One random tabletop scene: objects dropped by physics on a table.

A scene is a function of its random numbers alone. The classes and their shapes are in
`tabletop_shapes`, the textures in `tabletop_textures`, cameras in `tabletop_camera`, and what
differs between kinds of pictures in `tabletop_domain`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from tabletop_domain import ORDINARY, Domain, Lights
from tabletop_mujoco import mujoco
from tabletop_shapes import HIDDEN_GROUP, TABLETOP, Catalogue, ShapeBuilder
from tabletop_textures import random_colour, sky_texture, surface_colour

Array = np.ndarray
GEOM = mujoco.mjtGeom
TEXTURES = 4
PLAIN = 4
CUBE_SIZE = 48
FLAT_SIZE = 256


@dataclass
class Layout:
    """What a scene consists of.

    Attributes:
        categories: COCO category ids of the objects.
        distractors: How many unlabelled objects.
        pile: Whether the objects are dropped on one heap.
        lights: Number of lights.
        catalogue: What the category ids mean.
        domain: What it looks like.
    """

    categories: list[int]
    distractors: int
    pile: bool
    lights: int
    catalogue: Catalogue = TABLETOP
    domain: Domain = ORDINARY


def random_layout(
    rng: np.random.Generator, catalogue: Catalogue = TABLETOP, domain: Domain = ORDINARY
) -> Layout:
    """Draw the contents of a scene."""
    count = int(rng.integers(4, 15))
    categories = [int(c) for c in rng.integers(1, len(catalogue.names) + 1, size=count)]
    pile = bool(rng.random() < 0.25)
    distractors, lights = int(rng.integers(0, 5)), int(rng.integers(1, 4))
    return Layout(categories, distractors, pile, lights, catalogue, domain)


@dataclass
class Scene:
    """A simulated scene.

    Attributes:
        model: The MuJoCo model.
        data: Its state, with the objects at rest.
        categories: COCO category id of each object.
        body_object: For each body its object number + 1, or 0.
        paintable: Geoms that are given a random colour and material for each view.
        walled: Whether a wall stands on the +x side.
        domain: What it looks like.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    categories: list[int]
    body_object: Array
    paintable: list[int] = field(default_factory=list)
    walled: bool = False
    domain: Domain = ORDINARY


def build_scene(rng: np.random.Generator, layout: Layout, settle: float = 1.1) -> Scene:
    """Build a scene and let its objects fall for `settle` seconds."""
    spec = mujoco.MjSpec()
    _set_options(spec)
    _add_materials(spec)
    _add_surroundings(spec, rng)
    _add_lights(spec, rng, layout.lights, layout.domain.lights)
    heights = _add_objects(spec, rng, layout)
    model = spec.compile()
    _paint_textures(model, rng, layout.domain)
    data = mujoco.MjData(model)
    _place(model, data, rng, layout, heights)
    mujoco.mj_step(model, data, nstep=int(settle / model.opt.timestep))
    body_object = np.zeros(model.nbody, np.int32)
    for k in range(len(layout.categories)):
        body_object[model.body(f"object{k}").id] = k + 1
    movable = model.body_dofnum[model.geom_bodyid] > 0
    paintable = np.flatnonzero(movable & (model.geom_group != HIDDEN_GROUP)).tolist()
    walled = any(geom.name == "wall" for geom in spec.geoms)
    return Scene(model, data, layout.categories, body_object, paintable, walled, layout.domain)


def _set_options(spec: mujoco.MjSpec) -> None:
    spec.option.timestep = 0.004
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations = 20
    spec.stat.extent = 1.0
    spec.stat.center = [0, 0, 0]
    spec.visual.map.znear = 0.02
    spec.visual.map.zfar = 20
    spec.visual.map.shadowclip = 0.9
    spec.visual.quality.shadowsize = 1024
    spec.visual.quality.numquads = 8
    spec.visual.headlight.active = 1


def _add_materials(spec: mujoco.MjSpec) -> None:
    cube, flat = mujoco.mjtTexture.mjTEXTURE_CUBE, mujoco.mjtTexture.mjTEXTURE_2D
    textures = [(f"cube{k}", cube, CUBE_SIZE) for k in range(TEXTURES)]
    textures += [("table", flat, FLAT_SIZE), ("floor", flat, FLAT_SIZE // 2)]
    textures += [("sky", mujoco.mjtTexture.mjTEXTURE_SKYBOX, CUBE_SIZE)]
    for name, kind, size in textures:
        height = size if kind == flat else 6 * size
        spec.add_texture(
            name=name, type=kind, width=size, height=height, nchannel=3,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        )  # fmt: skip
    for name, kind, _ in textures[:-1]:
        material = spec.add_material(name=name, texuniform=kind == flat)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    for k in range(PLAIN):
        spec.add_material(name=f"plain{k}")


def _add_surroundings(spec: mujoco.MjSpec, rng: np.random.Generator) -> None:
    world = spec.worldbody
    half = [rng.uniform(0.45, 0.9), rng.uniform(0.45, 0.9), 0.02]
    hidden = {"contype": 0, "conaffinity": 0}
    # The table is touched as a plane, which is faster than a box, and seen as a box.
    world.add_geom(
        type=GEOM.mjGEOM_PLANE, size=[2, 2, 1], group=HIDDEN_GROUP, friction=[1, 0.01, 0.004]
    )
    table, floor = spec.material("table"), spec.material("floor")
    table.texrepeat = [rng.uniform(1, 4)] * 2
    floor.texrepeat = [rng.uniform(0.5, 2)] * 2
    table.specular, table.shininess = rng.uniform(0, 0.5), rng.uniform(0.1, 0.8)
    world.add_geom(
        name="table", type=GEOM.mjGEOM_BOX, size=half, pos=[0, 0, -half[2]], material="table",
        rgba=[*surface_colour(rng), 1], **hidden,
    )  # fmt: skip
    world.add_geom(
        name="floor", type=GEOM.mjGEOM_PLANE, size=[4, 4, 1], pos=[0, 0, -rng.uniform(0.3, 0.8)],
        material="floor", rgba=[*surface_colour(rng), 1], **hidden,
    )  # fmt: skip
    if rng.random() < 0.4:
        world.add_geom(
            name="wall", type=GEOM.mjGEOM_BOX, size=[0.02, 4, 2], pos=[half[0] + 0.05, 0, 1],
            rgba=[*surface_colour(rng), 1], **hidden,
        )  # fmt: skip


def _add_lights(spec: mujoco.MjSpec, rng: np.random.Generator, count: int, lights: Lights) -> None:
    for k in range(count):
        azimuth, tilt = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(*lights.tilt))
        toward = np.array([
            math.sin(tilt) * math.cos(azimuth), math.sin(tilt) * math.sin(azimuth), math.cos(tilt)
        ])  # fmt: skip
        spot = rng.random() < 0.35
        kind = mujoco.mjtLightType.mjLIGHT_SPOT if spot else mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        power = rng.uniform(*lights.power) if k == 0 else rng.uniform(*lights.fill)
        tint = 1 + rng.uniform(-lights.tint, lights.tint, 3)
        spec.worldbody.add_light(
            name=f"light{k}", type=kind, pos=toward * rng.uniform(1.2, 2.0), dir=-toward,
            castshadow=bool(k == 0 and rng.random() < lights.shadows), cutoff=rng.uniform(35, 60),
            exponent=rng.uniform(1, 8), diffuse=np.clip(power * tint, 0, 1),
            specular=[rng.uniform(0.1, 0.6)] * 3, ambient=[0, 0, 0],
        )  # fmt: skip
    spec.visual.headlight.ambient = [rng.uniform(*lights.ambient)] * 3
    spec.visual.headlight.diffuse = [rng.uniform(*lights.head)] * 3
    spec.visual.headlight.specular = [0.05] * 3


def _add_objects(spec: mujoco.MjSpec, rng: np.random.Generator, layout: Layout) -> list[float]:
    heights = []
    dimensions = layout.domain.dimensions(rng)
    total = len(layout.categories) + layout.distractors
    for k in range(total):
        name = f"object{k}"
        body = spec.worldbody.add_body(name=name)
        body.add_freejoint()
        builder = ShapeBuilder(spec, body, name)
        if k < len(layout.categories):
            heights.append(layout.catalogue.add(builder, layout.categories[k], dimensions))
        else:
            heights.append(layout.domain.distractor(builder, rng))
    return heights


def _paint_textures(model: mujoco.MjModel, rng: np.random.Generator, domain: Domain) -> None:
    for k in range(model.ntex):
        name, size = model.texture(k).name, int(model.tex_width[k])
        if name.startswith("cube"):
            pixels = domain.cube(rng, size)
        elif name == "sky":
            pixels = sky_texture(rng, size)
        else:
            pixels = domain.flat(rng, size)
        start = int(model.tex_adr[k])
        model.tex_data[start : start + pixels.size] = pixels.ravel()


def _random_turn(rng: np.random.Generator, upright: float) -> Array:
    """Return a quaternion: upright with the given probability, else any."""
    if rng.random() < upright:
        yaw = rng.uniform(0, 2 * math.pi)
        return np.array([math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)])
    quat = rng.normal(size=4)
    return quat / np.linalg.norm(quat)


def _place(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    rng: np.random.Generator,
    layout: Layout,
    heights: list[float],
) -> None:
    """Put the objects above the table, none inside another one."""
    reach = rng.uniform(0.05, 0.11) if layout.pile else rng.uniform(0.16, 0.34)
    placed: list[tuple[Array, float]] = []
    first = len(layout.categories)
    # Distractors go first, so that they lie under the objects as often as on them.
    order = [*range(first, len(heights)), *range(first)]
    if rng.random() < 0.5:
        order = rng.permutation(len(heights)).tolist()
    for k in order:
        radius = _reach_of(model, model.body(f"object{k}").id)
        turn = _random_turn(rng, 1.0 if k >= first else (0.35 if layout.pile else 0.62))
        level = heights[k] if turn[1] == 0 and turn[2] == 0 else radius
        spot = _free_spot(rng, reach, radius, level, placed)
        placed.append((spot, radius))
        start = model.jnt_qposadr[model.body(f"object{k}").jntadr[0]]
        data.qpos[start : start + 3] = spot
        data.qpos[start + 3 : start + 7] = turn


def _reach_of(model: mujoco.MjModel, body: int) -> float:
    """Return the radius of a sphere about a body that holds most of it."""
    geoms = np.flatnonzero((model.geom_bodyid == body) & (model.geom_contype > 0))
    return float(
        max(np.linalg.norm(model.geom_pos[g]) + min(model.geom_rbound[g], 0.12) for g in geoms)
    )


def _free_spot(
    rng: np.random.Generator,
    reach: float,
    radius: float,
    level: float,
    placed: list[tuple[Array, float]],
) -> Array:
    """Return the lowest of six random spots where a sphere touches nothing placed so far."""
    spots = []
    for _ in range(6):
        angle, r = rng.uniform(0, 2 * math.pi), reach * math.sqrt(rng.random())
        x, y, z = r * math.cos(angle), r * math.sin(angle), level + 0.003
        for other, other_radius in sorted(placed, key=lambda item: item[0][2]):
            flat = math.hypot(x - other[0], y - other[1])
            gap = radius + other_radius
            if flat < gap:
                rise = math.sqrt(gap * gap - flat * flat)
                if abs(z - other[2]) < rise:
                    z = float(other[2]) + rise
        spots.append(np.array([x, y, z]))
    return min(spots, key=lambda spot: spot[2])


def repaint(scene: Scene, rng: np.random.Generator) -> None:
    """Give the objects, the surroundings and the lights new colours."""
    model = scene.model
    for k in range(model.nmat):
        model.mat_specular[k] = rng.uniform(0.0, 0.9) if rng.random() < 0.6 else 0.1
        model.mat_shininess[k] = rng.uniform(0.1, 0.9)
    plain = [model.material(f"plain{k}").id for k in range(PLAIN)]
    textured = [model.material(f"cube{k}").id for k in range(TEXTURES)]
    for g in scene.paintable:
        pool = textured if rng.random() < scene.domain.textured else plain
        model.geom_matid[g] = pool[rng.integers(len(pool))]
        model.geom_rgba[g, :3] = np.clip(random_colour(rng), 0.02, 1)
    for name in ("table", "floor"):
        model.geom_rgba[model.geom(name).id, :3] = surface_colour(rng)
    model.light_diffuse[:] = np.clip(
        model.light_diffuse * rng.uniform(0.8, 1.2, (model.nlight, 1)), 0, 1
    )
