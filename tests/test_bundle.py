"""Bundles: what is written is read back, what was damaged is refused in one clear line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg import bundle
from edgeseg.bundle import check_target, find, packaged, read, write
from edgeseg.engines.fake import fake_spec
from edgeseg.errors import BundleError, OutputError

NETWORK = b"not really a network" * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "fake"
    write(path, fake_spec(), {"model.onnx": NETWORK})
    return path


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden things too."""
    return sorted(path.name for path in folder.iterdir())


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of ``bundle.json``; None removes one."""
    index = folder / "bundle.json"
    table = json.loads(index.read_text())
    table.update(changes)
    index.write_text(json.dumps({k: v for k, v in table.items() if v is not None}))


def swapped(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    make(path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"\0" * (3 << 20))
    spec = replace(fake_spec(), weights="weights.bin", network={"depth": 18}, source="here")
    written = write(tmp_path / "b", spec, {"model.onnx": NETWORK, "weights.bin": weights})
    assert read(tmp_path / "b") == written
    assert written.files["model.onnx"] == hashlib.sha256(NETWORK).hexdigest()
    assert written.files["weights.bin"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert replace(written, files={}) == spec
    assert names(tmp_path) == ["b", "w.bin"]


def test_the_index_is_readable_by_people_and_says_its_version(folder: Path) -> None:
    table = json.loads((folder / "bundle.json").read_text())
    assert table["format_version"] == 1
    assert table["classes"] == ["red", "green", "blue"]
    assert table["input_hw"] == [240, 320]


def test_a_frame_size_is_kept_and_else_not_mentioned(folder: Path, tmp_path: Path) -> None:
    """Older versions of edgeseg refuse keys that they don't know."""
    assert "frame_hw" not in json.loads((folder / "bundle.json").read_text())
    write(tmp_path / "b", replace(fake_spec(), frame_hw=(480, 640)), {"model.onnx": NETWORK})
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["frame_hw"] == [480, 640]
    assert read(tmp_path / "b").frame_hw == (480, 640)


def test_a_spec_knows_the_size_of_its_masks() -> None:
    assert fake_spec((480, 640), mask_stride=8).mask_hw == (60, 80)


# ------------------------------------------------------------------------------------- finding
def test_packaged_names_are_folders_with_an_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "clip").mkdir()
    monkeypatch.setattr(bundle, "PACKAGED", folder.parent)
    assert packaged() == ["fake"]
    assert find("fake") == folder


def test_a_packaged_name_wins_and_a_path_is_a_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "PACKAGED", folder.parent)
    monkeypatch.chdir(tmp_path)
    assert find("fake") == folder
    assert find("./fake") == Path("fake")
    assert find(Path("fake")) == Path("fake")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "fakey",
            "got bundle 'fakey'; wanted a folder with bundle.json, or one of fake; "
            "did you mean 'fake'?",
        ),
        (
            "runs/one",
            "got bundle 'runs/one'; wanted a folder with bundle.json, or one of fake; "
            "check the path",
        ),
    ],
)
def test_no_such_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setattr(bundle, "PACKAGED", folder.parent)
    with pytest.raises(BundleError) as caught:
        find(name)
    assert str(caught.value) == text


def test_a_checkpoint_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    with pytest.raises(BundleError) as caught:
        find(path)
    assert str(caught.value) == (
        f"got no checkpoint '{path}'; wanted a file that is there, or a bundle; check the path"
    )
    path.write_bytes(b"weights")
    with pytest.raises(BundleError, match=r"got checkpoint '.*'; wanted a bundle; make one with"):
        find(path)


# ------------------------------------------------------------------------------------- reading
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (
        lambda f: (f / "bundle.json").unlink(),
        "got no bundle.json in '{f}'; wanted a bundle folder; pass the folder that",
    ),
    "invalid JSON": (
        lambda f: (f / "bundle.json").write_text('{"name": '),
        "got invalid JSON in {f}/bundle.json (Expecting value: line 1 column 10 (char 9)); "
        "wanted a bundle's description; get the bundle again",
    ),
    "not text": (
        lambda f: (f / "bundle.json").write_bytes(b"\xff\xfe\xfd"),
        "got invalid JSON in {f}/bundle.json (",
    ),
    "bottomless JSON": (
        lambda f: (f / "bundle.json").write_text("[" * 200_000),
        "got invalid JSON in {f}/bundle.json (",
    ),
    "a list": (
        lambda f: (f / "bundle.json").write_text("[]"),
        "got format_version None in {f}/bundle.json; wanted 1; update edgeseg, or write",
    ),
    "a later version": (
        lambda f: edit(f, format_version=2),
        "got format_version 2 in {f}/bundle.json; wanted 1; update edgeseg, or write",
    ),
    "a missing key": (
        lambda f: edit(f, classes=None),
        "got no 'classes' in {f}/bundle.json; wanted it; get the bundle again",
    ),
    "an unknown key": (
        lambda f: edit(f, score_treshold=0.5),
        "got unknown key 'score_treshold' in {f}/bundle.json; wanted a known one; "
        "did you mean 'score_threshold'?",
    ),
    "an unknown family": (
        lambda f: edit(f, family="yolo"),
        "got model family 'yolo' in {f}/bundle.json; wanted one of fastinst, knet; update edgeseg",
    ),
    "a missing file": (
        lambda f: (f / "model.onnx").unlink(),
        "got no readable file {f}/model.onnx (No such file or directory); wanted it as "
        "bundle.json says; get the bundle again",
    ),
    "one changed byte": (
        lambda f: (f / "model.onnx").write_bytes(NETWORK[:-1] + b"!"),
        "got {f}/model.onnx with sha256 ",
    ),
    "a truncated file": (
        lambda f: (f / "model.onnx").write_bytes(NETWORK[:100]),
        "got {f}/model.onnx with sha256 ",
    ),
    "a file without hash": (
        lambda f: edit(f, files={}),
        "got no sha256 of 'model.onnx' in {f}/bundle.json; wanted one for every file",
    ),
    "a file elsewhere": (
        lambda f: edit(f, files={"../../etc/passwd": "00"}),
        "got files {'../../etc/passwd': '00'}; wanted file name without '/' -> sha256; "
        "correct that field of {f}/bundle.json",
    ),
    "a network elsewhere": (
        lambda f: edit(f, precisions={"fp32": "/tmp/model.onnx"}),
        "got precisions {'fp32': '/tmp/model.onnx'}; wanted precision -> file name without '/'",
    ),
    "a pipe": (
        lambda f: swapped(f / "model.onnx", os.mkfifo),
        "got no readable file {f}/model.onnx (no regular file); wanted it as bundle.json says; ",
    ),
    "a link": (
        lambda f: swapped(f / "model.onnx", lambda p: p.symlink_to("/dev/zero")),
        "got no readable file {f}/model.onnx (no regular file); wanted it as bundle.json says; ",
    ),
    "a pipe as index": (
        lambda f: swapped(f / "bundle.json", os.mkfifo),
        "got no regular file at {f}/bundle.json; wanted to read it; check it and its permissions",
    ),
    "a stranger": (
        lambda f: (f / "model.onnx.data").write_bytes(b"weights"),
        "got {f}/model.onnx.data which bundle.json doesn't list; wanted nothing unchecked in a "
        "bundle; move it elsewhere, or write the bundle again with it",
    ),
    "too few classes": (
        lambda f: edit(f, network={"num_classes": 8}),
        "got number of classes 3; wanted 8 as its network's num_classes says; correct that field "
        "of {f}/bundle.json",
    ),
    "weights above": (
        lambda f: edit(f, weights=".."),
        "got weights '..'; wanted a file name without '/', or ''",
    ),
}


def test_hidden_names_are_no_strangers(folder: Path) -> None:
    (folder / ".gitattributes").write_text("*.onnx filter=lfs")
    assert read(folder).name == "fake"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_is_refused(folder: Path, damage: str) -> None:
    do, text = DAMAGE[damage]
    do(folder)
    with pytest.raises(BundleError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(text.replace("{f}", str(folder)))
    assert message.count(";") >= 2
    assert "\n" not in message


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("name", "", "a name without '/'"),
        ("name", "a/b", "a name without '/'"),
        ("family", 7, "the name of a model family"),
        ("task", "detection", "one of instance"),
        ("input_hw", (240,), "height and width, 1..8192 pixels each"),
        ("input_hw", (0, 320), "height and width, 1..8192 pixels each"),
        ("input_hw", (240.0, 320.0), "height and width, 1..8192 pixels each"),
        ("input_hw", (1 << 20, 1 << 20), "height and width, 1..8192 pixels each"),
        ("input_hw", (242, 320), "multiples of mask_stride 4"),
        ("colour", "yuv", "'rgb' or 'bgr'"),
        ("pad_value", (0, 0, 256), "three values 0..255"),
        ("classes", (), "one or more different names"),
        ("classes", ("a", "a"), "one or more different names"),
        ("classes", ("a", 1), "one or more different names"),
        ("classes", "ab", "one or more different names"),
        ("max_instances", 0, "1..1000"),
        ("max_instances", True, "1..1000"),
        ("mask_stride", 0, "1..64"),
        ("precisions", {}, "precision -> file name without '/'"),
        ("precisions", ["model.onnx"], "precision -> file name without '/'"),
        ("outputs", {"scores": "s"}, "a name for each of ('scores', 'labels', 'masks')"),
        ("score_threshold", 1.5, "0..1"),
        ("score_threshold", float("nan"), "0..1"),
        ("frame_hw", (480, 0), "height and width, 1..8192 each"),
        ("frame_hw", "640x480", "height and width, 1..8192 each"),
        ("network", [], "a table of settings"),
        ("source", None, "a text"),
    ],
)
def test_a_spec_refuses_what_no_network_can_have(field: str, value: object, wanted: str) -> None:
    with pytest.raises(BundleError) as caught:
        replace(fake_spec(), **{field: value})
    assert str(caught.value) == f"got {field} {value!r}; wanted {wanted}; correct that field"


# ------------------------------------------------------------------------------------- writing
def test_an_existing_bundle_is_kept_unless_told(folder: Path) -> None:
    before = (folder / "bundle.json").read_bytes()
    with pytest.raises(OutputError, match="which is there already; wanted a new folder; choose"):
        write(folder, fake_spec((120, 160)), {"model.onnx": b"x"})
    assert (folder / "bundle.json").read_bytes() == before
    write(folder, fake_spec((120, 160)), {"model.onnx": b"x"}, overwrite=True)
    assert read(folder).input_hw == (120, 160)
    assert names(folder.parent) == ["fake"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="which is there and is no bundle"):
        write(tmp_path / "home", fake_spec(), {"model.onnx": b"x"}, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_parents_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c", fake_spec(), {"model.onnx": b"x"})
    assert read(tmp_path / "a" / "b" / "c").name == "fake"


def test_a_file_that_the_spec_names_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"got no file 'model\.onnx'; wanted it as the spec says"):
        write(tmp_path / "b", fake_spec(), {})
    assert names(tmp_path) == []


def test_nothing_stays_when_a_source_vanishes(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="which can't be written"):
        write(tmp_path / "b", fake_spec(), {"model.onnx": tmp_path / "gone"})
    assert names(tmp_path) == []


def test_the_older_bundle_survives_a_failed_overwrite(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write(folder, fake_spec(), {"model.onnx": tmp_path / "gone"}, overwrite=True)
    assert read(folder).name == "fake"
    assert names(folder.parent) == ["fake"]


@pytest.mark.parametrize("place", ["file/bundle", "/proc/bundle", "/dev/null/bundle"])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / place, fake_spec(), {"model.onnx": b"x"})
    message = str(caught.value)
    assert message.startswith(f"got output '{tmp_path / place}' which can't be ")
    assert "; wanted a new folder; choose another place" in message
    assert names(tmp_path) == ["file"]


def test_a_target_is_refused_before_the_work(folder: Path) -> None:
    check_target(folder.parent / "new")
    check_target(folder, overwrite=True)
    with pytest.raises(OutputError, match="which is there already"):
        check_target(folder)
