"""Outputs that are inputs, or each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg.errors import InputError, OutputError
from edgeseg.outputs import OutputFile, check, check_distinct


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``a.mp4`` in the working folder, with a symbolic and a hard link beside it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.mp4"
    path.write_text("frames")
    Path("soft.mp4").symlink_to(path)
    os.link(path, "hard.mp4")
    return path


@pytest.mark.parametrize("source", ["a.mp4", "soft.mp4", "{}"])
@pytest.mark.parametrize("output", ["a.mp4", "soft.mp4", "hard.mp4", "./a.mp4", "{}"])
def test_an_output_is_not_an_input(video: Path, source: str, output: str) -> None:
    output = output.format(video)
    with pytest.raises(InputError) as caught:
        check_distinct({"the source": source.format(video)}, {"--out": output})
    assert str(caught.value) == (
        f"got output {output!r}, which is the source; wanted another file; choose another name"
    )


@pytest.mark.parametrize(
    ("one", "two"), [("new", "./new"), ("new", "dangling"), ("a.mp4", "hard.mp4")]
)
def test_two_outputs_are_two_files(video: Path, one: str, two: str) -> None:
    Path("dangling").symlink_to("new")
    with pytest.raises(InputError) as caught:
        check_distinct({}, {"--out": one, "--video": two})
    assert str(caught.value).startswith(f"got output {two!r}, which is --out; wanted another file;")


@pytest.mark.parametrize("source", ["synthetic", "no.mp4", "~no such user/a", "a\0b", "x" * 300])
def test_a_source_that_is_no_file_is_passed_over(video: Path, source: str) -> None:
    check_distinct({"the source": source}, {"--out": "new", "--video": "other"})


@pytest.mark.parametrize("name", ["", ".", "/", "~no such user/a", "a\0b", "x" * 300, "/dev/null"])
def test_a_name_that_no_file_can_have(video: Path, name: str) -> None:
    for refuse in (lambda: check(name), lambda: check_distinct({}, {"--out": name})):
        with pytest.raises(OutputError, match=r"^got .*; wanted to write .*; choose a"):
            refuse()


def test_a_link_that_leads_to_itself(video: Path) -> None:
    Path("loop").symlink_to("loop")
    with pytest.raises(OutputError, match=r"got 'Too many levels of symbolic links' for 'loop'"):
        check("loop")


def test_the_longest_name_works_and_keeps_the_usual_permissions(video: Path) -> None:
    name, usual = "x" * 255, Path("usual")
    usual.touch()
    file = OutputFile(name)
    file.keep()
    file.discard()
    assert Path(name).stat().st_mode == usual.stat().st_mode
