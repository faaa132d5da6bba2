"""No fixture is overlooked: each json has a family, and families that come later say so."""

import json
import shutil

import pytest
from parity.fixture import HERE, NOTE, UNKNOWN, classify, collect

LATER = ("maskformer", "dynamask")


@pytest.mark.parametrize("fixture", collect(), ids=str)
def test_family(fixture):
    if fixture.family == UNKNOWN:
        pytest.fail(f"{fixture.path.name} is of no known family; its fields: {[*fixture.facts]}")
    if fixture.family != NOTE:
        assert fixture.npz.exists(), f"{fixture.path.name} has no arrays beside it"
    if fixture.family in LATER:
        pytest.xfail(fixture.family)


@pytest.mark.parametrize(
    ("facts", "has_arrays", "expected"),
    [
        ({"kind": "fastinst"}, True, ("fastinst", "model")),
        ({"kind": "fastinst-train"}, True, ("fastinst", "train")),
        ({"kind": "maskformer"}, True, ("maskformer", "model")),
        ({"kind": "yolo"}, True, (UNKNOWN, "")),
        ({"name": "fastinst_r50_d1"}, True, (UNKNOWN, "")),
        ({"name": "fastinst_r50_d1"}, False, (UNKNOWN, "")),
        ({"no positional embedding": [6.1, 2.9]}, False, (NOTE, "")),
        ({"no positional embedding": [6.1, 2.9]}, True, (UNKNOWN, "")),
        ({}, False, (UNKNOWN, "")),
        ([], False, (UNKNOWN, "")),
        ({"weights": "of knet_x", "train_cfg": {}, "losses": {}}, True, ("knet", "train")),
        ({"weights": "of solo_x", "train_cfg": {}, "losses": {}}, True, (UNKNOWN, "train")),
    ],
)
def test_families_are_told_by_content(facts, has_arrays, expected):
    assert classify(facts, has_arrays) == expected


def test_a_name_tells_nothing(tmp_path):
    fastinst = next(f for f in collect(HERE) if f.family == "fastinst")
    folder = tmp_path / "maskformer"
    folder.mkdir()
    shutil.copy(fastinst.path, folder / "knet.json")
    (folder / "fastinst.json").write_text(json.dumps({"kind": "new"}))
    found = {f.path.stem: f.family for f in collect(tmp_path)}
    assert found == {"knet": "fastinst", "fastinst": UNKNOWN}


def test_an_empty_folder_fails(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no \*/\*\.json in .*; set EDGESEG_PARITY"):
        collect(tmp_path)
