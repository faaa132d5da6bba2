"""One suite for every sink that writes a file: whole or not at all."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from mcap.reader import make_reader

from edgeseg.errors import InputError, OutputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances, from_masks
from edgeseg.sinks.base import FileSink
from edgeseg.sinks.jsonl import JsonlSink
from edgeseg.sinks.mcap import McapSink
from edgeseg.sinks.video import VideoSink


def frames_in_jsonl(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def frames_in_video(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def frames_in_mcap(path: Path) -> int:
    with path.open("rb") as file:
        messages = make_reader(file).iter_messages(topics=["/edgeseg/instances"])
        return sum(1 for _ in messages)


@dataclass(frozen=True)
class Case:
    name: str
    open: Callable[[Path], FileSink]
    count: Callable[[Path], int]


CASES = {
    "jsonl": Case("out.jsonl", JsonlSink, frames_in_jsonl),
    "mcap": Case("out.mcap", McapSink, frames_in_mcap),
    "video mp4": Case("out.mp4", VideoSink, frames_in_video),
    "video mkv": Case("out.MKV", VideoSink, frames_in_video),
    "video mov": Case("out.mov", VideoSink, frames_in_video),
}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def result(number: int = 0, height: int = 48, width: int = 64) -> tuple[Frame, Instances]:
    pixels = np.full((height, width, 3), 40, np.uint8)
    masks = np.zeros((2, height, width), bool)
    masks[0, 4:20, 4 + number % 30 : 24 + number % 30] = True
    masks[1, 10:40, 30:50] = True
    instances = from_masks(masks, [0.9, 0.8], [0, 1], stamp_ns=number, sequence=number)
    return Frame(pixels, "bgr8", stamp_ns=number, sequence=number), instances


def test_the_file_appears_when_closed(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.name
    with case.open(path) as sink:
        for number in range(5):
            sink.write(*result(number))
        assert not path.exists() and sink.part.exists()
    assert list(tmp_path.iterdir()) == [path]
    assert case.count(path) == 5
    sink.close()
    sink.abort()
    assert case.count(path) == 5


def test_an_error_leaves_nothing(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), case.open(tmp_path / case.name) as sink:
        sink.write(*result())
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_an_older_file_survives_an_abort(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.name
    path.write_text("older")
    sink = case.open(path)
    sink.write(*result())
    sink.abort()
    sink.abort()
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_a_forgotten_sink_leaves_nothing(case: Case, tmp_path: Path) -> None:
    sink = case.open(tmp_path / case.name)
    sink.write(*result())
    del sink
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_an_ended_program_leaves_nothing(case: Case, tmp_path: Path) -> None:
    kind, path = case.open, tmp_path / case.name
    code = f"from {kind.__module__} import {kind.__name__}; s = {kind.__name__}({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.iterdir())


def test_no_frame(case: Case, tmp_path: Path) -> None:
    with case.open(tmp_path / case.name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == (
        [case.name] if "jsonl" in case.name else []
    )


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("missing/{}", "No such file or directory"),
        ("file/{}", "Not a directory"),
        ("a" * 300 + "{}", "File name too long"),
        ("nul\0{}", "embedded null byte"),
    ],
)
def test_a_bad_place_is_told_at_once(case: Case, where: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / where.format(case.name)
    with pytest.raises(OutputError) as caught:
        case.open(path)
    assert str(caught.value) == (
        f"got {reason!r} for {str(path)!r}; wanted to write it; choose a folder that exists, with "
        "permission and space"
    )
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("kind", ["folder", "device or pipe"])
def test_what_is_no_file_is_never_replaced(case: Case, kind: str, tmp_path: Path) -> None:
    path, link = tmp_path / case.name, tmp_path / f"link-{case.name}"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OutputError) as caught:
            case.open(name)
        assert str(caught.value) == (
            f"got a {kind} named {str(name)!r}; wanted to write a file; choose another name"
        )
    assert not path.is_file() and link.is_symlink() and not list(tmp_path.glob(".*"))


def test_a_link_stays_and_its_file_is_written(case: Case, tmp_path: Path) -> None:
    path, link = tmp_path / "folder" / case.name, tmp_path / case.name
    path.parent.mkdir()
    for older in (False, True):
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        with case.open(link) as sink:
            sink.write(*result())
        assert link.is_symlink() and case.count(path) == 1, f"older: {older}"
    assert list(path.parent.iterdir()) == [path]


def test_a_part_takes_no_name_that_is_in_use(case: Case, tmp_path: Path) -> None:
    path, other = tmp_path / case.name, tmp_path / f"{case.name}.part"
    other.write_text("somebody's")
    with case.open(path) as one, case.open(path) as two:
        one.write(*result())
        two.write(*result())
        two.write(*result(1))
        assert one.part != two.part
        one.close()
        assert case.count(path) == 1
    assert case.count(path) == 2 and other.read_text() == "somebody's"
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path[:0] = {path!r}
from edgeseg.errors import OutputError
from contract.test_sinks import CASES, result
case, folder = CASES[{name!r}], Path({folder!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    with case.open(folder / case.name) as sink:
        for number in range(400):
            sink.write(*result(number))
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", CASES)
def test_a_full_disk_is_told_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    code = FULL_DISK.format(path=[tests, *sys.path], name=name, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    path = tmp_path / CASES[name].name
    assert done.stdout == (
        f"got 'File too large' for {str(path)!r}; wanted to write it; choose a folder that exists, "
        "with permission and space\n"
    )
    assert done.returncode == 0 and not done.stderr
    assert not list(tmp_path.iterdir())


def test_a_closed_sink_is_told(case: Case, tmp_path: Path) -> None:
    sink = case.open(tmp_path / case.name)
    sink.write(*result())
    sink.close()
    with pytest.raises(OutputError, match=r"which is closed; wanted an open sink; make a new one"):
        sink.write(*result())


def test_descriptors_stay_constant(case: Case, tmp_path: Path) -> None:
    process = psutil.Process()

    def write() -> int:
        with case.open(tmp_path / case.name) as sink:
            sink.write(*result())
        return process.num_fds()

    first = write()
    assert {write() for _ in range(10)} == {first}


def test_frames_of_another_size_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, VideoSink(tmp_path / "a.mp4") as sink:
        sink.write(*result())
        sink.write(*result(1, 60, 80))
    assert str(caught.value) == (
        "got a frame of 80x60 after 64x48; wanted one size per video; write a video for each size"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("a.webm",), "got a video named 'a.webm'; wanted a name that ends in .mp4, .mov, .mkv; "),
        (("a",), "got a video named 'a'; wanted a name that ends in .mp4, .mov, .mkv; rename it"),
        (("a.mp4", 0.0), "got 0 fps and crf 23; wanted 0.001 to 1000 fps and 0 to 51; "),
        (("a.mp4", 30.0, 60), "got 30 fps and crf 60; wanted 0.001 to 1000 fps and 0 to 51; "),
    ],
)
def test_bad_settings_of_a_video(settings: tuple, text: str) -> None:
    name, fps, crf = (*settings, 30.0, 23)[0], (*settings[1:], 30.0)[0], (*settings[2:], 23)[0]
    with pytest.raises(InputError) as caught:
        VideoSink(name, fps=fps, crf=crf)
    assert str(caught.value).startswith(text)
