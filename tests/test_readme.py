"""Every command and every example of the README, run as a reader would run them.

What takes hours or leaves the machine is made short here, in sight: see `SHORTER` and `SPECIAL`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeseg.bundle import packaged

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TEXT = (ROOT / "README.md").read_text("utf-8")

SHORTER = {
    r"--(train|val|test) \d+": r"--\1 4",
    r"--hours [\d.]+": "--hours 0.003",
    r"--minutes [\d.]+": "--minutes 0.1",
    r"python tools/": f"python {ROOT}/tools/",
}


def blocks(language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
INLINE = re.findall(r"`((?:edgeseg|make|pip|python) [^`\n]+)`", TEXT)
COMMANDS += sorted(set(INLINE) - set(COMMANDS))


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{BIN}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )


def make_demo(command: str, folder: Path) -> None:
    """``make demo``, in the tree itself: it makes an environment with the base package alone."""
    done = shell(command, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "out" / "demo" / "masks.mp4").exists()
    held = shell(".venv-demo/bin/python -m pip list", ROOT).stdout
    assert "onnxruntime" in held
    assert not re.search(r"^(torch|onnx|scipy|mujoco) ", held, re.MULTILINE), "base install only"


def make_test(command: str, folder: Path) -> None:
    """``make test`` is what runs this; here: that it would run the tests."""
    done = shell(f"{command} -n", ROOT)
    assert done.returncode == 0, done.stderr
    assert "-m pytest" in done.stdout


def make_ros(command: str, folder: Path) -> None:
    """``make ros`` takes minutes and is what CI runs next; here: that make knows how."""
    done = shell(f"{command} -n", ROOT)
    assert done.returncode == 0, done.stderr
    assert "pytest tests/ros" in done.stdout


def make_bench(command: str, folder: Path) -> None:
    """``make bench`` runs for an hour; here: its commands, with a few frames and one round."""
    done = shell(f"{command} -n", ROOT)
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in done.stdout.splitlines() if "edgeseg bench" in one]
    assert f"edgeseg bench {' '.join(packaged())} --" in line
    short = re.sub(r"--frames \d+", "--quick", line.replace(".venv/bin/", ""))
    done = shell(short.replace("docs/results/", ""), folder)
    assert done.returncode == 0, f"{short}\n{done.stderr}"


def pip_install(command: str, folder: Path) -> None:
    """What would be installed is installed: the extras are those of ``setup.py``."""
    (named,) = re.findall(r"pip install '?\.(?:\[([\w,]+)\])?'?$", command)
    known = (ROOT / "setup.py").read_text("utf-8")
    for extra in filter(None, named.split(",")):
        assert f'"{extra}": ' in known, extra


def convert(command: str, folder: Path) -> None:
    """A checkpoint in the official layout, with random weights, stands for the downloaded one."""
    torch = pytest.importorskip("torch")
    from edgeseg.zoo import build
    from edgeseg.zoo.fastinst import VARIANTS

    (name, variant) = re.findall(r"convert (\S+) .*--variant (\S+)", command)[0]
    torch.manual_seed(0)
    network = build("fastinst", **VARIANTS[variant].to_dict())
    torch.save({"model": network.state_dict()}, folder / name)
    done = shell(command, folder)
    assert done.returncode == 0, done.stderr


def make_bench_ros(command: str, folder: Path) -> None:
    """``make bench-ros`` needs ROS and an idle machine; here: that it would measure."""
    done = shell(f"{command} -n", ROOT)
    assert done.returncode == 0, done.stderr
    assert "edgeseg bench --ros --json" in done.stdout


SPECIAL: dict[str, Callable[[str, Path], None]] = {
    "make bench-ros": make_bench_ros,
    "make demo": make_demo,
    "make test": make_test,
    "make ros": make_ros,
    "make bench": make_bench,
    "pip install": pip_install,
    "edgeseg convert": convert,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader works: the packaged clip's first second, ``video.mp4`` and ``bag.mcap``."""
    import av
    from ros_bags import TOPIC, at_30_hz, image, write_bag

    place = tmp_path_factory.mktemp("reader")
    clip = ROOT / "edgeseg" / "bundles" / "clip" / "tabletop.mp4"
    with av.open(str(clip)) as source, av.open(str(place / "video.mp4"), "w") as target:
        pictures = [frame.to_ndarray(format="bgr24") for frame in source.decode(video=0)][:30]
        stream = target.add_stream("libx264", rate=30)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        target.mux(stream.encode())
    write_bag(place / "recording", at_30_hz(map(image, pictures), TOPIC)).rename(place / "bag.mcap")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, folder: Path) -> None:
    """In the README's order: later commands use what earlier ones wrote."""
    for start, run in SPECIAL.items():
        if command.startswith(start):
            run(command, folder)
            return
    for pattern, instead in SHORTER.items():
        command = re.sub(pattern, instead, command)
    done = shell(command, folder)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("example", blocks("python"))
def test_example(example: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Instances(") == 30


def test_the_readme_opens_with_two_commands_and_a_five_line_example() -> None:
    assert blocks("bash")[0].splitlines() == ["make demo", "make test"]
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) == 5
    order = ["make demo", "load(", "## Your own video", "## Your own checkpoint"]
    places = [TEXT.index(words) for words in order]
    assert places == sorted(places)


def test_no_command_hides_from_these_tests() -> None:
    """Shell commands stand in bash blocks only."""
    assert set(re.findall(r"^```(\w*)$", TEXT, re.MULTILINE)) <= {"bash", "python", ""}
    assert len(COMMANDS) >= 10
