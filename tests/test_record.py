"""Records: whole files, or a clear line and nothing."""

from __future__ import annotations

import json
import os
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
    with pytest.raises(OutputError, match=r"got 'No such file or directory' for .*; wanted to wr"):
        record.write(tmp_path / "no" / "a.json", {})
    with pytest.raises(OutputError, match="got a folder named"):
        record.write(tmp_path, {})
    assert not list(tmp_path.parent.glob(".*.part"))


def test_a_pipe_and_a_part_of_somebody_else_stay(tmp_path: Path) -> None:
    pipe, other = tmp_path / "pipe", tmp_path / "a.json.part"
    os.mkfifo(pipe)
    other.write_text("somebody's")
    with pytest.raises(OutputError, match="got a device or pipe named"):
        record.write(pipe, {})
    record.write(tmp_path / "a.json", {})
    assert pipe.is_fifo() and other.read_text() == "somebody's"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no/a.json", "got 'No such file or directory' for '{}'; wanted to write it; choose a fol"),
        (".", "got a folder named '{}'; wanted to write a file; choose another name"),
        ("/dev/null", "got a device or pipe named '{}'; wanted to write a file; choose another"),
        ("/proc/x", "for '{}'; wanted to write it; choose a folder that exists, with permission"),
        ("a" * 300, "got 'File name too long' for '{}'; wanted to write it"),
        ("~no such user/a.json", "for '{}'; wanted to write it"),
    ],
)
def test_it_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError) as caught:
        record.check_target(Path(name))
    assert text.format(name) in str(caught.value)
    assert not list(tmp_path.iterdir())
