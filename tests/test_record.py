"""Records: whole files, or a clear line and nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg import record
from edgeseg.errors import OutputError


def test_a_record_replaces_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    record.write(path, {"AP": 0.5})
    assert json.loads(path.read_text()) == {"AP": 0.5}
    assert path.read_text().endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]


def test_what_cant_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"got No such file or directory for .*; wanted to write"):
        record.write(tmp_path / "no" / "a.json", {})
    with pytest.raises(OutputError, match="got Is a directory for"):
        record.write(tmp_path, {})
    assert not list(tmp_path.parent.glob("*.part"))


@pytest.mark.parametrize("name", ["no/a.json", "."])
def test_it_is_known_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        OutputError, match="wanted a file in a folder that can be written; make the"
    ):
        record.check_target(tmp_path / name)
