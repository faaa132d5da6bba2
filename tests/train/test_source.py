"""A dataset as users have it: a folder of splits, or one COCO file."""

import json

import pytest

from edgeseg.errors import InputError

pytest.importorskip("torch")

from edgeseg.train.source import HELD_OUT, hold_out, open_source


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
    assert lines[2] == "train: 5 pictures, 10 objects (square 5, disc 5)"
    assert lines[3] == "val: 1 pictures, 2 objects (square 1, disc 1)"
    rewrite(path, lambda table: table["images"].reverse())
    assert {row["file_name"] for row in open_source(path).val.images} == names[1]
    assert source.train[0][2].shape == (2, 144, 192)


def test_a_class_without_an_object_on_one_side_is_told(data):
    path, lines = one_file(data), []
    held = open_source(path).val.images[0]["id"]

    def change(table):
        rows = table["annotations"]
        rows[:] = [one for one in rows if one["category_id"] == 3 or one["image_id"] == held]

    rewrite(path, change)
    open_source(path, lines.append)
    assert "(square 5, disc 0)\n  1 classes without an object: kept, but nothing can" in lines[2]


def test_a_division_is_the_same_in_every_process():
    """Names that differ by folder alone have one hash; Python's order of sets differs by run."""
    names = [f"{folder}/a.png" for folder in "hdgcfabjei"]
    rows = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    for order in (rows, rows[::-1]):
        _, val = hold_out({"images": order, "annotations": []})
        assert sorted(row["file_name"] for row in val["images"]) == ["a/a.png", "b/a.png"]


def test_copies_of_one_picture_stay_on_one_side():
    """Roboflow adds turned and coloured copies to the picture itself."""
    names = [f"{scene}_jpg.rf.{copy}.jpg" for scene in range(20) for copy in "abc"]
    rows = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    parts = hold_out({"images": rows, "annotations": []})
    train, val = ({row["file_name"].split("_")[0] for row in part["images"]} for part in parts)
    assert (len(train), len(val)) == (16, 4) and not train & val


def test_a_folder_as_roboflow_exports_it(data):
    """``valid``, another name of the table, pictures beside it, a root that is no class, a BOM."""
    (data / "val").rename(data / "valid")
    for split in ("train", "valid"):
        path = data / split / "annotations.json"
        table = json.loads(path.read_text())
        table["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        for row in table["categories"][1:]:
            row["supercategory"] = "things"
        path.unlink()
        for picture in (data / split / "images").iterdir():
            picture.rename(data / split / picture.name)
        text = json.dumps(table)
        (data / split / "_annotations.coco.json").write_text(text, encoding="utf-8-sig")
    source = open_source(data)
    assert source.train.classes == source.val.classes == ("square", "disc")
    assert (len(source.train), len(source.val)) == (6, 2)
    assert source.val[0][0].shape == (144, 192, 3)


def test_a_folder_as_cvat_exports_it(data):
    folder = data / "train"
    (folder / "annotations").mkdir()
    path = (folder / "annotations.json").rename(folder / "annotations" / "instances_default.json")
    with pytest.raises(InputError, match=rf"try --data {path}$"):
        open_source(folder)
    source = open_source(path)
    assert len(source.train) == 5 and source.train[0][0].shape == (144, 192, 3)


def test_splits_may_number_their_classes_differently(data):
    def change(table):
        table["categories"] = [{"id": 7, "name": "square"}, {"id": 3, "name": "disc"}]
        for one in table["annotations"]:
            one["category_id"] = 10 - one["category_id"]

    before = open_source(data).val[0][1].tolist()
    rewrite(data / "val" / "annotations.json", change)
    source = open_source(data)
    assert source.val.classes == ("square", "disc") and source.val[0][1].tolist() == before


def test_small_objects_are_told_for_the_size_of_the_networks_input(data):
    lines = []
    open_source(data, lines.append, (16, 32))
    assert "12 objects of fewer than 20 pixels at the network's input: too small" in lines[0]


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
            "got objects of square in val, which train doesn't know; wanted only its classes, cube",
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
    path.rename(path.parent / "images.json")
    with pytest.raises(InputError, match=r"try --data .*/images/images.json$"):
        open_source(data / "train")
    path.write_text("{")
    with pytest.raises(InputError, match=r"coco.json which can't be read as JSON .*export it"):
        open_source(path)


def test_both_sides_of_a_divided_file_need_objects(data):
    path = one_file(data)
    rewrite(path, lambda table: table.update(annotations=table["annotations"][:2]))
    with pytest.raises(InputError, match=r"got no object for .*wanted some on both sides"):
        open_source(path)
