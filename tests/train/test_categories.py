"""Category lists as labelling tools write them, and what is made of them."""

import pytest

from edgeseg.errors import InputError
from edgeseg.train.categories import renumber, tidy


def table(categories, labelled):
    """Rows (id, name, supercategory), and an annotation of each of some categories."""
    return {
        "images": [],
        "categories": [{"id": k, "name": n, "supercategory": s} for k, n, s in categories],
        "annotations": [{"category_id": key} for key in labelled],
    }


FRUIT = [(0, "fruit", "none"), (1, "apple", "fruit"), (2, "pear", "fruit")]
CASES = {
    "roboflow's root": (FRUIT, [1], [1, 2]),
    "a root that is labelled": (FRUIT, [0, 1], [0, 1, 2]),
    "its own supercategory": ([(1, "person", "person"), (2, "dog", "animal")], [], [1, 2]),
    "an unused double before": ([(0, "apple", "x"), (1, "apple", "y")], [1], [1]),
    "an unused double behind": ([(0, "apple", "x"), (1, "apple", "y")], [0], [0]),
    "doubles of which none is used": ([(0, "apple", "x"), (1, "apple", "y")], [], [0]),
    "doubles that are used": ([(0, "apple", "x"), (1, "apple", "y")], [0, 1], [0, 1]),
    "a root with a class's name": ([(0, "apple", "none"), (1, "apple", "apple")], [1], [1]),
}


@pytest.mark.parametrize("name", CASES)
def test_only_classes_are_kept(name):
    categories, labelled, kept = CASES[name]
    lines = []
    (tidied,) = tidy([table(categories, labelled)], lines.append)
    assert [row["id"] for row in tidied["categories"]] == kept
    assert len(lines) == (len(kept) < len(categories))
    text = "categories that nothing is labelled with, left out as no classes: "
    assert all(line.startswith(text) for line in lines)


def test_a_root_that_another_split_is_labelled_with_is_a_class():
    for one in tidy([table(FRUIT, [1]), table(FRUIT, [0])], print):
        assert len(one["categories"]) == 3


def test_rows_that_the_check_refuses_are_left_to_it():
    odd = {"images": [], "categories": [3, {"id": "x"}, {"name": 1, "id": 1}], "annotations": [5]}
    assert tidy([odd], print) == [odd]


def test_val_takes_the_numbers_of_train_by_name():
    train = table([(1, "apple", ""), (2, "pear", ""), (9, "plum", "")], [1])
    val = table([(1, "pear", ""), (2, "nut", ""), (3, "apple", "")], [1, 3, 9])
    val["annotations"].append("no row")
    made = renumber(val, train)
    assert made["categories"] == train["categories"]
    keys = [one["category_id"] for one in made["annotations"][:3]]
    assert keys == [2, 1, "9"], "9 is none of val's: it must not become a plum"


def test_objects_of_a_class_that_train_lacks_are_refused():
    val = table([(1, "apple", ""), (2, "nut", "")], [1, 2])
    text = "got objects of nut in val, which train doesn't know; wanted only its classes, apple; ex"
    with pytest.raises(InputError, match=text):
        renumber(val, table([(1, "apple", "")], [1]))
