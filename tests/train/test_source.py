"""A dataset as users have it: a folder of splits, or one COCO file."""

import json

import pytest

from edgeseg.errors import InputError

pytest.importorskip("torch")

from edgeseg.train.source import HELD_OUT, open_source


def one_file(data):
    """The split train as one file beside its pictures."""
    path = data / "train" / "images" / "coco.json"
    (data / "train" / "annotations.json").rename(path)
    return path


def rewrite(path, change):
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def test_splits_are_told_in_turn(data):
    lines = []
    source = open_source(data, lines.append)
    assert (len(source.train), len(source.val)) == (6, 2)
    assert [line.split(":")[0] for line in lines] == ["train", "val"]


def test_of_one_file_the_same_part_is_held_out_in_every_run(data):
    path, lines = one_file(data), []
    source = open_source(path, lines.append)
    names = [{row["file_name"] for row in part.images} for part in (source.train, source.val)]
    assert len(names[1]) == round(HELD_OUT * 6) == 1 and len(names[0]) == 5
    assert not names[0] & names[1]
    assert "1 of 6 pictures are held out for validation, chosen by the hash" in lines[1]
    rewrite(path, lambda table: table["images"].reverse())
    assert {row["file_name"] for row in open_source(path).val.images} == names[1]
    assert source.train[0][2].shape == (2, 144, 192)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda t: t.update(annotations=[]),
            r"got no usable object in train \(6 empty, 2 absent\)",
        ),
        (lambda t: t.update(images=[]), "got no usable picture in train .*wanted those of its"),
        (
            lambda t: [one.update(file_name="gone.png") for one in t["images"]],
            r"got no usable picture in train \(1 twice, 1 missing.*check file_name there",
        ),
        (
            lambda t: [one.pop("segmentation") for one in t["annotations"]],
            r"got no usable object in train \(12 no mask.*as COCO instance segmentation",
        ),
        (
            lambda t: t["categories"][0].update(name="cube"),
            "got the classes cube, disc in train and square, disc in val; wanted the same",
        ),
        (
            lambda t: t.pop("categories"),
            r"got no list 'categories' in .*annotations.json",
        ),
    ],
)
def test_a_dataset_that_cant_be_used_ends_with_one_sentence(data, change, text):
    rewrite(data / "train" / "annotations.json", change)
    with pytest.raises(InputError, match=text):
        open_source(data)


def test_what_is_no_dataset_is_said(data, tmp_path):
    with pytest.raises(InputError, match=r"wanted a folder with the splits train and val, or one"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"got no file .*coco.json'; wanted a COCO file; check"):
        open_source(tmp_path / "coco.json")
    path = one_file(data)
    with pytest.raises(InputError, match=rf"such as my/coco.json; try --data {path}$"):
        open_source(path.parent)
    path.write_text("{")
    with pytest.raises(InputError, match=r"coco.json which can't be read as JSON .*export it"):
        open_source(path)


def test_both_sides_of_a_divided_file_need_objects(data):
    path = one_file(data)
    rewrite(path, lambda table: table.update(annotations=table["annotations"][:2]))
    with pytest.raises(InputError, match=r"got no object for .*wanted some on both sides"):
        open_source(path)
