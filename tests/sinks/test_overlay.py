"""What is drawn, and what isn't."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.bench_overlay import blend_each, overlay_benchmark, scene
from edgeseg.errors import InputError
from edgeseg.instances import Instances, from_masks
from edgeseg.sinks.overlay import Overlay, colours, draw

HEIGHT, WIDTH = 120, 160
RANDOM = np.random.default_rng(0)


def discs(count: int) -> tuple[Instances, np.ndarray]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    centres = RANDOM.integers(20, 100, (count, 2))
    full = np.stack([(x - cx) ** 2 + (y - cy) ** 2 < 300 for cx, cy in centres])
    return from_masks(full, np.linspace(0.9, 0.5, count), np.arange(count) % 3), full


def fill(picture: np.ndarray, instances: Instances) -> np.ndarray:
    canvas = picture.copy()
    Overlay().fill(canvas, instances, colours(instances))
    return canvas


def inner(mask: np.ndarray) -> np.ndarray:
    """The mask without its border of one pixel."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def test_inside_is_half_picture_half_colour() -> None:
    picture = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    instances, full = discs(1)
    canvas = fill(picture, instances)
    reference = picture.copy()
    blend_each(reference, full, colours(instances))
    inside = inner(full[0])
    assert np.abs(canvas[inside].astype(int) - reference[inside]).max() <= 1
    np.testing.assert_array_equal(canvas[~full[0]], picture[~full[0]])
    assert (canvas[full[0] & ~inside] == 255).all(), "the outline"


@pytest.mark.parametrize("count", [0, 2, 12, 300])
def test_each_pixel_is_tinted_once_for_the_best(count: int) -> None:
    picture = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    if count:
        instances, _ = discs(count)
    else:
        instances = from_masks(np.zeros((0, HEIGHT, WIDTH), bool), [], [])
    canvas, label_map = fill(picture, instances), instances.label_map().astype(int)
    palette = np.array([(0, 0, 0), *colours(instances)])
    wanted = np.where(label_map[:, :, None] > 0, picture // 2 + palette[label_map] // 2, picture)
    differs = (canvas != wanted).any(axis=2)
    assert (canvas[differs] == 255).all(), "only outlines may differ"
    assert not differs[label_map == 0].any()
    if count == 12:
        for number in range(1, count + 1):
            own = label_map == number
            assert not differs[inner(own)].any(), "an outline inside a mask"


def test_touching_instances_are_told_apart() -> None:
    full = np.zeros((2, HEIGHT, WIDTH), bool)
    full[0, 20:80, 20:60] = True
    full[1, 20:80, 60:100] = True
    canvas = fill(np.zeros((HEIGHT, WIDTH, 3), np.uint8), from_masks(full, [0.9, 0.8], [0, 0]))
    seam = (canvas[30:70, 58:62] == 255).all(axis=2)
    assert seam.any(axis=1).all()


def test_scratch_is_reused_and_sizes_may_change() -> None:
    overlay, instances = Overlay(), discs(5)[0]
    picture = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    once = fill(picture, instances)
    for _ in range(2):
        canvas = picture.copy()
        overlay.fill(canvas, instances, colours(instances))
        np.testing.assert_array_equal(canvas, once)
        small = from_masks(np.ones((1, 10, 20), bool), [0.9], [0])
        overlay.fill(np.zeros((10, 20, 3), np.uint8), small, colours(small))


def test_colours_are_distinct_and_stable() -> None:
    instances = discs(12)[0]
    first = colours(instances)
    assert len(set(first)) == 12
    order = RANDOM.permutation(12)
    assert colours(instances[order]) == [first[i] for i in order], "the order of scores matters"
    classes = from_masks(np.ones((8, 4, 4), bool), np.full(8, 0.5), np.arange(8))
    spread = np.array(colours(classes), int)
    distance = np.abs(spread[:, None] - spread[None]).sum(axis=2) + 1000 * np.eye(8)
    assert distance.min() > 80


def test_names_and_scores_are_written() -> None:
    instances = discs(1)[0]
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    named, numbered, filled = black.copy(), black.copy(), fill(black, instances)
    draw(named, instances, ["mug"])
    draw(numbered, instances)
    assert (named != filled).any(axis=2).sum() > 100
    assert (named != numbered).any()


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 400), (400, 1), (5, 9)])
def test_tiny_pictures(size_hw: tuple[int, int]) -> None:
    instances = from_masks(np.ones((3, *size_hw), bool), [0.9, 0.8, 0.7], [0, 1, 2])
    draw(np.zeros((*size_hw, 3), np.uint8), instances, ["a long name"])


def test_crowded_signs_stay_apart() -> None:
    full = np.zeros((3, HEIGHT, WIDTH), bool)
    full[:, 30:100, 40:100] = True
    full[1, 30], full[2, 30:32] = False, False
    instances = from_masks(full, [0.9, 0.8, 0.7], [0, 1, 2])
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw(canvas, instances, ["a", "b", "c"])
    for colour in colours(instances):
        assert (canvas == colour).all(axis=2).sum() > 50, "a sign is hidden"


def test_a_padded_picture_may_be_drawn_on() -> None:
    instances = discs(4)[0]
    picture = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    wide = np.zeros((HEIGHT, WIDTH + 3, 3), np.uint8)
    wide[:, :WIDTH] = picture
    draw(wide[:, :WIDTH], instances)
    draw(picture, instances)
    np.testing.assert_array_equal(wide[:, :WIDTH], picture)
    assert not wide[:, WIDTH:].any()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8),
        np.zeros((WIDTH, HEIGHT, 3), np.uint8).transpose(1, 0, 2),
    ],
)
def test_another_picture_is_told(picture: np.ndarray) -> None:
    with pytest.raises(InputError) as caught:
        draw(picture, discs(1)[0])
    assert str(caught.value) == (
        f"got a picture {picture.dtype} {picture.shape} to draw on; wanted uint8 "
        f"({HEIGHT}, {WIDTH}, 3) with whole rows in memory; give the picture that the instances "
        "were seen in"
    )


def test_the_benchmark_compares_the_same_work() -> None:
    figures = overlay_benchmark(rounds=3)
    assert figures["instances"] == 15 and figures["size"] == "1280x720"
    assert figures["fill_ratio"] > 10 and figures["draw_ratio"] > 10
    picture, instances, full = scene(np.random.default_rng(0))
    np.testing.assert_array_equal(np.stack([instances.mask(i) for i in range(15)]), full)
    assert picture.shape == (720, 1280, 3)
