"""The engine cache under several builders, kills and full disks.

Real processes, and none sleeps: each says what it does and waits for a word.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeseg.engines.cache import Key, fetch, recall, record
from edgeseg.errors import OutputError

KEY = Key("tensorrt", "10", "sm87", "ab")
OTHER = Key("tensorrt", "10", "sm87", "cd")
NEWER = Key("tensorrt", "11", "sm87", "ab")
SEAL = f"{KEY.name}.hmac"
KEPT = sorted(["key", KEY.name, SEAL])
HINT = "make room or set EDGESEG_CACHE to another folder"


def build(content: bytes = b"built") -> Callable[[], bytes]:
    return lambda: content


def never() -> bytes:
    raise AssertionError("built again")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def unkept(reason: str, name: str = KEY.name) -> str:
    return f"got {reason!r} from the engine cache; wanted to keep {name}; {HINT}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


CHILD = """
import logging, os, sys
from itertools import count
from pathlib import Path
from edgeseg.engines import cache

def say(words):
    print(words, flush=True)

def wait(words):
    say(words)
    sys.stdin.readline()

class Say(logging.Handler):
    def emit(self, record):
        say(record.getMessage())

def pause(call, number):
    real, calls = getattr(os, call), count(1)
    def paused(*args, **words):
        if next(calls) == number:
            wait("paused")
        return real(*args, **words)
    setattr(os, call, paused)

def build():
    wait("building")
    return content

logging.getLogger("edgeseg").addHandler(Say())
logging.getLogger("edgeseg").setLevel("INFO")
folder, content = Path(sys.argv[1]), sys.argv[2].encode()
"""
FETCH = f"say(cache.fetch(cache.{KEY}, build, folder=folder).decode())"


class Child:
    """A process that fetches `KEY`; its builder says so and waits for a word."""

    def __init__(self, folder: Path, content: str, before: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{CHILD}\n{before}\n{FETCH}", str(folder), content],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._limit = threading.Timer(60, self.process.kill)  # a test that waits for ever fails
        self._limit.start()

    def hear(self) -> str:
        """The next thing it says; "" at its end."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self._limit.cancel()
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()


@pytest.fixture
def child(folder: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(content: str, before: str = "") -> Child:
        children.append(Child(folder, content, before))
        return children[-1]

    yield start
    for one in children:
        one.end()


WAITS = f"waiting for the process that makes {KEY.name}"


def test_of_two_builders_one_builds_and_the_other_waits(child: Callable[..., Child]) -> None:
    first = child("one")
    assert first.hear() == "building"
    second = child("two")
    assert second.hear() == WAITS
    first.go()
    assert first.hear() == "one"
    assert second.hear() == "one"


def test_of_many_builders_one_builds(child: Callable[..., Child], folder: Path) -> None:
    """The folder and the key are made in the same race."""
    children = [child(str(number)) for number in range(6)]
    heard: list[list[str]] = []
    for one in children:
        one.go()  # in advance
    for one in children:
        heard.append([word for word in iter(one.hear, "") if word != WAITS])
    built = [words[1] for words in heard if words[0] == "building"]
    assert len(built) == 1
    assert [words[-1] for words in heard] == built * 6
    assert names(folder) == KEPT


def test_another_engine_does_not_wait(child: Callable[..., Child], folder: Path) -> None:
    first = child("one")
    assert first.hear() == "building"
    assert fetch(OTHER, build(), folder=folder) == b"built"
    record("speed", {"ms": 3}, folder=folder)
    first.go()
    assert first.hear() == "one"


def test_a_builder_that_dies_lets_the_next_one_build(
    child: Callable[..., Child], folder: Path
) -> None:
    first = child("one")
    assert first.hear() == "building"
    second = child("two")
    assert second.hear() == WAITS
    first.kill()
    assert second.hear() == "building"
    second.go()
    assert second.hear() == "two"
    second.process.wait()
    assert names(folder) == KEPT


def test_a_builder_that_fails_lets_the_next_one_build(child: Callable[..., Child]) -> None:
    first = child("one", "def build():\n    wait('building')\n    raise SystemExit")
    assert first.hear() == "building"
    second = child("two")
    assert second.hear() == WAITS
    first.go()
    assert second.hear() == "building"
    third = child("three")
    assert third.hear() == WAITS, "the second one's lock isn't the one that the first removed"
    second.go()
    assert second.hear() == third.hear() == "two"


def test_the_key_is_made_once(
    child: Callable[..., Child], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = child("one", "pause('rename', 1)")
    assert first.hear() == "building"
    first.go()
    assert first.hear() == "paused", "before the key gets its name"
    waits = threading.Event()
    caplog.set_level("INFO")
    caplog.handler.addFilter(lambda _: waits.set() or True)
    thread = threading.Thread(target=record, args=("speed", {"ms": 3}), kwargs={"folder": folder})
    thread.start()
    assert waits.wait(60)
    assert caplog.messages == ["waiting for the process that makes key"]
    first.go()
    assert first.hear() == "one"
    thread.join()
    assert fetch(KEY, never, folder=folder) == b"one"
    assert recall("speed", folder=folder) == {"ms": 3}


# Where the first `fetch` of a folder can be when it is killed, and whether its engine is then kept.
# It writes key, engine and seal, each synced and renamed; then it removes its lock, the 8th time.
MOMENTS = [("fsync", number, number == 5) for number in (1, 2, 3, 4, 5)]
MOMENTS += [("rename", number, False) for number in (1, 2, 3)]
MOMENTS += [("unlink", number, number > 5) for number in (3, 4, 5, 6, 8)]


@pytest.mark.parametrize(("call", "number", "kept"), MOMENTS)
def test_a_kill_at_any_moment(
    child: Callable[..., Child], folder: Path, call: str, number: int, kept: bool
) -> None:
    first = child("one", f"pause({call!r}, {number})")
    while (heard := first.hear()) == "building":
        first.go()
    assert heard == "paused"
    first.kill()
    assert any(name.endswith(".lock") for name in names(folder)), "killed in the middle"
    assert fetch(KEY, build(b"two"), folder=folder) == (b"one" if kept else b"two")
    fetch(OTHER, build(), folder=folder)
    assert names(folder) == sorted([*KEPT, OTHER.name, f"{OTHER.name}.hmac"])


def test_what_a_killed_builder_left_goes_with_the_next_build_of_any_engine(
    child: Callable[..., Child], folder: Path
) -> None:
    first = child("one", "pause('fsync', 4)")
    assert first.hear() == "building"
    first.go()
    assert first.hear() == "paused"
    left = [f".{KEY.name}.lock", f".{KEY.name}.part", f".{SEAL}.part", "key"]
    assert names(folder) == sorted(left)
    fetch(OTHER, build(), folder=folder)
    kept = ["key", OTHER.name, f"{OTHER.name}.hmac"]
    assert names(folder) == sorted([*left[:3], *kept]), "it lives: nothing of it is touched"
    first.kill()
    fetch(NEWER, build(), folder=folder)
    assert names(folder) == sorted([*kept, NEWER.name, f"{NEWER.name}.hmac"])


def test_threads_of_one_process_wait_for_each_other(folder: Path) -> None:
    builds: list[int] = []
    got: list[bytes] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        got.append(fetch(KEY, lambda: builds.append(number) or b"built", folder=folder))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert got == [b"built"] * 4


# Full disks.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "edgeseg", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs mount; the test of RLIMIT_FSIZE stands in")
    if mounted.returncode:
        pytest.skip(f"needs mount ({mounted.stderr.strip()}); the test of RLIMIT_FSIZE stands in")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small_disk / "engines"
    fetch(OTHER, build(b"small"), folder=folder)
    kept = names(folder)
    large = bytes(100_000)
    for _ in range(2):
        caplog.clear()
        assert fetch(KEY, build(large), folder=folder) == large
        assert caplog.messages == [unkept("No space left on device")]
        assert names(folder) == kept, "nothing half-written"
    assert fetch(OTHER, never, folder=folder) == b"small"
    assert fetch(KEY, build(b"fits"), folder=folder) == b"fits"
    assert fetch(KEY, never, folder=folder) == b"fits"


def test_a_damaged_engine_makes_room_for_its_successor(small_disk: Path) -> None:
    folder = small_disk / "engines"
    fetch(KEY, build(bytes(40_000)), folder=folder)
    os.truncate(folder / KEY.name, 39_999)
    fetch(KEY, build(bytes(40_000)), folder=folder)
    assert fetch(KEY, never, folder=folder) == bytes(40_000)


def test_a_disk_with_no_room_for_anything(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OSError, match="No space"), (small_disk / "video").open("wb", 0) as video:
        while True:
            video.write(bytes(4096))
    folder = small_disk / "engines"
    assert fetch(KEY, build(), folder=folder) == b"built"
    assert caplog.messages == [unkept("No space left on device")]
    with pytest.raises(OutputError, match="got 'No space left on device' from the engine cache"):
        record("speed", {}, folder=folder)
    assert recall("speed", folder=folder) is None
    assert names(folder) == []


def test_a_full_disk_keeps_the_older_record(small_disk: Path) -> None:
    folder = small_disk / "engines"
    record("speed", {"ms": 3}, folder=folder)
    with pytest.raises(OutputError):
        record("speed", {"ms": "4" * 100_000}, folder=folder)
    assert recall("speed", folder=folder) == {"ms": 3}


def test_a_limit_on_files_is_like_a_full_disk(child: Callable[..., Child], folder: Path) -> None:
    """RLIMIT_FSIZE: writing really fails, for everybody, also where nobody may mount."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 12},) * 2)"
    one = child("one" * 2000, limit)
    assert one.hear() == "building"
    one.go()
    assert one.hear().startswith("got 'File too large' from the engine cache; wanted to keep")
    assert one.hear() == "one" * 2000
    one.process.wait()
    assert names(folder) == ["key"]
