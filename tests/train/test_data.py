import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import InputError

torch = pytest.importorskip("torch")

from edgeseg.train.data import (  # noqa: E402
    Augmentation,
    CocoDataset,
    Loader,
    augment,
    decode_mask,
    photograph,
    picture_path,
    read_tables,
    repaint,
)


def test_sample_has_labels_in_category_order_and_true_masks(data):
    dataset = CocoDataset(data / "train")
    picture, labels, masks = dataset[0]
    assert dataset.classes == ("square", "disc")
    assert labels.tolist() == [0, 1]
    assert picture.shape == (144, 192, 3)
    assert masks[0].sum() == 1600
    assert (picture[masks[0] > 0] == (240, 220, 200)).all()  # RGB, written as BGR


@pytest.mark.parametrize(
    "segmentation",
    [
        [[2, 1, 6, 1, 6, 5, 2, 5]],
        {"size": [8, 10], "counts": [17, 4, 4, 4, 4, 4, 4, 4, 35]},
    ],
    ids=["polygon", "counts"],
)
def test_every_coco_form_of_a_mask_is_read(segmentation):
    mask = decode_mask(segmentation, 8, 10)
    expected = np.zeros((8, 10), np.uint8)
    expected[1:5, 2:6] = 1
    assert mask.shape == (8, 10)
    assert (mask == expected).mean() > 0.9


def test_crowds_are_left_out(data):
    path = data / "train" / "annotations.json"
    table = json.loads(path.read_text())
    table["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(table))
    assert CocoDataset(data / "train")[0][1].tolist() == [1]


def test_finished_chunks_stand_in_for_the_whole_table(data):
    folder = data / "train"
    (folder / "chunks").mkdir()
    (folder / "annotations.json").rename(folder / "chunks" / "00000.json")
    assert len(CocoDataset(folder)) == 6


def test_missing_data_is_said(tmp_path):
    with pytest.raises(InputError, match=r"got no annotations in .*wanted annotations\.json"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    ("place", "name", "file"),
    [
        ("my", "a/1.png", "my/images/a/1.png"),
        ("my", "a/1.png", "my/a/1.png"),
        ("my", "a/1.png", "my/images/1.png"),
        ("my", "a/1.png", "my/1.png"),
        ("my", r"a\1.png", "my/images/a/1.png"),
        ("my/coco.json", r"C:\labels\1.png", "my/1.png"),
        ("my/annotations/instances_default.json", "1.png", "my/images/1.png"),
        ("my/annotations/instances_default.json", "1.png", "my/images/default/1.png"),
        ("my/annotations/instances_val2017.json", "1.png", "my/val2017/1.png"),
        ("my/annotations/train.json", "1.png", "my/images/train/1.png"),
    ],
)
def test_a_picture_is_found_where_tools_put_it(tmp_path, monkeypatch, place, name, file):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert picture_path(tmp_path / place, name) == tmp_path / file
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir((tmp_path / place).parent)
    assert picture_path(Path((tmp_path / place).name), name).is_file(), "by a relative path too"


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_moves_masks_with_their_pixels(data, seed, monkeypatch):
    monkeypatch.setattr("edgeseg.train.data.photograph", lambda picture, rng: picture)
    sample = CocoDataset(data / "train")[0]
    how = Augmentation((96, 128), (0.5, 1.5), colour=0.0, min_area=50)
    picture, labels, masks = augment(sample, how, np.random.default_rng(seed))
    assert picture.shape == (96, 128, 3)
    assert len(labels) == len(masks)
    for label, mask in zip(labels, masks, strict=True):
        inside = picture[mask > 0].astype(int)
        colour = [(240, 220, 200), (130, 250, 120)][label]
        close = (np.abs(inside - colour) < 60).all(1)
        assert close.mean() > 0.93


@pytest.mark.parametrize("seen", [[], [1]])
def test_objects_that_vanish_at_this_size_are_no_place_to_look_at(data, seen):
    """The mean place of no pixel is no number, and the picture would be flat."""
    picture, labels, masks = CocoDataset(data / "train")[0]
    for row in {0, 1} - set(seen):
        masks[row] = 0
    for seed in range(5):
        how = Augmentation((96, 128), (1.0, 1.0), focus=1.0)
        shown, left, _ = augment((picture, labels, masks), how, np.random.default_rng(seed))
        assert shown.std() > 5
        assert left.tolist() == seen


def test_repainting_changes_each_region_alone():
    grey = np.full((60, 80, 3), 100, np.uint8)
    masks = np.zeros((2, 60, 80), np.uint8)
    masks[0, :30, :40], masks[1, 30:, 40:] = 1, 1
    regions = masks[0] + 2 * masks[1]
    seen = set()
    for seed in range(60):
        painted = repaint(grey, masks, np.random.default_rng(seed))
        assert painted.shape == grey.shape and painted.dtype == np.uint8
        changed = [bool((painted[regions == k] != 100).any()) for k in range(3)]
        seen.add(tuple(changed))
    assert len(seen) == 8  # each region with and without each other


def test_photographs_are_sometimes_darker_blurred_or_noisy_and_repeatable():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 80, 3), np.uint8)
    shots = [photograph(picture, np.random.default_rng(seed)) for seed in range(60)]
    again = [photograph(picture, np.random.default_rng(seed)) for seed in range(60)]
    assert all(np.array_equal(one, other) for one, other in zip(shots, again, strict=True))
    untouched = sum(np.array_equal(shot, picture) for shot in shots)
    assert 10 < untouched < 50


def test_small_leftovers_are_dropped(data):
    sample = CocoDataset(data / "train")[0]
    how = Augmentation((96, 128), (0.5, 0.5), min_area=10_000)
    assert len(augment(sample, how, np.random.default_rng(0))[1]) == 0


def test_batches_are_the_same_for_the_same_seed(data):
    def first():
        loader = Loader(CocoDataset(data / "train"), Augmentation((96, 128), (0.8, 1.2)), 3, seed=5)
        images, targets = next(loader)
        loader.close()
        return images, targets

    one, other = first(), first()
    assert one[0].shape == (3, 3, 96, 128)
    assert torch.equal(one[0], other[0])
    assert all(torch.equal(a["masks"], b["masks"]) for a, b in zip(one[1], other[1], strict=True))
