"""``edgeseg run``: what it refuses up front, and how it ends when it is told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg.errors import InputError
from edgeseg.signals import exit_code, orderly_end

Cli = Callable[..., Any]
SYNTHETIC = "synthetic:128x96@30"  # endless


@pytest.fixture
def folder(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: the video ``a.mp4``, a link to it, a pipe, and settings."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "a.mp4")
    Path("link.mp4").symlink_to("a.mp4")
    Path("c.yaml").write_text("score_threshold: 0.5\n")
    os.mkfifo("pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("a.mp4", "--video", "a.mp4"), "got output 'a.mp4', which is the source; wanted another"),
        (("a.mp4", "--out", "link.mp4"), "got output 'link.mp4', which is the source; wanted"),
        (("link.mp4", "--json", "a.mp4"), "got output 'a.mp4', which is the source; wanted"),
        (("files:a.mp4", "--out", "./a.mp4"), "got output './a.mp4', which is the source; wanted"),
        (("a.mp4", "--config", "c.yaml", "--out", "c.yaml"), "which is the file of settings; want"),
        (("a.mp4", "--out", "b.mp4", "--video", "b.mp4"), "'b.mp4', which is --out; wanted"),
        (("a.mp4", "--out", "b", "--json", "./b"), "got output 'b', which is --out; wanted"),
        (("a.mp4", "--out", "pipe"), "got a device or pipe named 'pipe'; wanted to write a file"),
        (("a.mp4", "--out", "/dev/null"), "got a device or pipe named '/dev/null'; wanted to"),
        (("a.mp4", "--json", "/dev/null"), "got a device or pipe named '/dev/null'; wanted to"),
        (("a.mp4", "--json", "/proc/x"), "for '/proc/x'; wanted to write it; choose a folder"),
        (("a.mp4", "--json", "x" * 300), "got 'File name too long' for"),
        (("a.mp4", "--out", ""), "got a folder named ''; wanted to write a file; choose another"),
        (("a.mp4", "--video", ""), "got a folder named ''; wanted to write a file; choose another"),
        (("a.mp4", "--out", "."), "got a folder named '.'; wanted to write a file; choose another"),
        (("a.mp4", "--out", "/"), "got a folder named '/'; wanted to write a file; choose another"),
        (("a.mp4", "--out", "~nosuch/x"), "for '~nosuch/x'; wanted to write it; choose a folder"),
        (("~nosuch/a.mp4",), "got no file '~nosuch/a.mp4'; wanted a video, a picture, a folder"),
        (("",), "got no SOURCE; wanted a video, a folder or a picture; name one"),
        ((), "got no SOURCE; wanted a video, a folder or a picture; name one"),
        (("--config", "c.yaml"), "got no SOURCE; wanted a video, a folder or a picture; name one"),
    ],
)
def test_a_bad_path_is_one_line_and_touches_nothing(
    edgeseg_cli: Cli, fake_bundle: Path, folder: Path, words: tuple[str, ...], text: str
) -> None:
    before = {path: path.lstat() for path in folder.iterdir()}
    spoken = edgeseg_cli("run", *words, "--model", fake_bundle, "--engine", "fake")
    assert spoken.code == 2
    assert text in spoken.err
    assert spoken.err.count("\n") == 1
    assert {path: path.lstat().st_ino for path in folder.iterdir()} == {
        path: stat.st_ino for path, stat in before.items()
    }
    assert Path("/dev/null").is_char_device()


def interrupted(
    number: int, bundle: Path, folder: Path, *words: object
) -> subprocess.CompletedProcess[str]:
    """``edgeseg run`` on an endless source in its own process, sent a signal while it works."""
    words = (SYNTHETIC, "--model", bundle, "--engine", "fake", *words)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeseg", "run", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in folder.glob(".*.jsonl.*.part")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_and_tells_what_it_has(
    fake_bundle: Path, tmp_path: Path, number: int, code: int
) -> None:
    lines, masks, numbers = (tmp_path / name for name in ("m.jsonl", "m.mp4", "m.json"))
    done = interrupted(
        number, fake_bundle, tmp_path, "--out", lines, "--video", masks, "--json", numbers
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert sorted(tmp_path.iterdir()) == [numbers, lines, masks], "a part stays, or a file is lost"
    report = json.loads(numbers.read_text())
    assert report["exit_code"] == code
    assert report["outputs"] == [str(lines), str(masks)]
    assert len(lines.read_text().splitlines()) == report["delivered"] > 0
    for text in ("p50 ms", "end to end", str(lines), str(masks)):
        assert text in done.stdout


def test_sigterm_is_an_orderly_end_of_every_verb() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught, orderly_end():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(caught.value) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_without_a_source_is_refused() -> None:
    from edgeseg.config import Settings
    from edgeseg.run import run

    with pytest.raises(InputError, match="got no SOURCE"):
        run(Settings())
