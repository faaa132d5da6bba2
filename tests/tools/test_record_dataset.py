"""The record of the dataset: the splits of every size, joined from the folders that hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from record_dataset import main


def folder(path: Path, size: list[int], **splits: str) -> str:
    path.mkdir()
    made = {name: {"images": 1, "sha256": text} for name, text in splits.items()}
    manifest = {"seed": 0, "size": size, "splits": made, "files": {"a": "b"}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return str(path)


def test_folders_of_a_size_are_joined(tmp_path: Path) -> None:
    large = folder(tmp_path / "large", [640, 480], test="t", train="l")
    frozen = folder(tmp_path / "frozen", [320, 240], test="f")
    trained = folder(tmp_path / "trained", [320, 240], train="h")
    out = tmp_path / "dataset.json"
    main([large, frozen, trained, "--out", str(out)])
    record = json.loads(out.read_text())
    assert list(record) == ["320x240", "640x480"]
    assert list(record["320x240"]["splits"]) == ["train", "test"]
    assert record["320x240"]["splits"]["train"] == {"images": 1, "sha256": "h"}
    assert "files" not in record["640x480"]


def test_what_cant_be_recorded_is_refused(tmp_path: Path) -> None:
    one, other = (folder(tmp_path / name, [320, 240], test=name) for name in "ab")
    with pytest.raises(SystemExit, match="got two splits test of 320x240 that differ; wanted one"):
        main([one, other, "--out", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit, match=r"got no .*manifest.json; wanted what make_dataset.py"):
        main([str(tmp_path), "--out", str(tmp_path / "x.json")])
