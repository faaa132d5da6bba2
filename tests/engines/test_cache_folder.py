"""The folder of the engine cache: whose it may be, where it lies, and where it can't be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeseg.engines import cache
from edgeseg.engines.cache import Key, fetch, read, recall, record
from edgeseg.errors import EngineError

KEY = Key("tensorrt", "10", "sm87", "ab")
KEPT = sorted(["key", KEY.name, f"{KEY.name}.hmac"])
ELSEWHERE = "set EDGESEG_CACHE to another folder"
ROOT = os.geteuid() == 0
PERSON = 65534 if ROOT else os.geteuid()
"""Who isn't root, for what root may always do."""


def build(content: bytes = b"built") -> Callable[[], bytes]:
    return lambda: content


def never() -> bytes:
    raise AssertionError("built again")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# Whose it is.


def other_users(folder: Path) -> Path:
    if not ROOT:
        return Path("/")
    os.chown(folder, PERSON, -1)
    return folder


def opened(mode: int) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        folder.chmod(mode)
        return folder

    return change


def linked(folder: Path) -> Path:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))
    return folder


def linked_to_nothing(folder: Path) -> Path:
    path = folder.with_name("nothing")
    path.symlink_to(folder.with_name("nowhere"))
    return path


def file(folder: Path) -> Path:
    path = folder.with_name("file")
    path.touch(0o600)
    return path


WANTED = f"wanted an engine cache for user {os.geteuid()} alone"
FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "writable by all": (
        opened(0o777),
        f"got a folder that is open to others (mode 0777) at {{path!r}}; {WANTED}; "
        "run: chmod 700 {path}",
    ),
    "writable by the group": (opened(0o770), "got a folder that is open to others (mode 0770) at"),
    "readable by all": (opened(0o755), "got a folder that is open to others (mode 0755) at"),
    "sticky": (opened(0o1777), "got a folder that is open to others (mode 1777) at"),
    "a link": (linked, f"got a link at {{path!r}}; {WANTED}; remove it, or {ELSEWHERE}"),
    "a link to nothing": (
        linked_to_nothing,
        f"got a link at {{path!r}}; {WANTED}; remove it, or {ELSEWHERE}",
    ),
    "a file": (file, f"got a file at {{path!r}}; {WANTED}; {ELSEWHERE}"),
    "somebody else's": (
        other_users,
        f"got a folder of user {PERSON if ROOT else 0} at {{path!r}}",
    ),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_that_is_not_ours_alone(folder: Path, fault: str) -> None:
    fetch(KEY, build(), folder=folder)
    change, text = FOLDERS[fault]
    path = change(folder)
    before = path.lstat()
    for use in (
        lambda: fetch(KEY, never, folder=path),
        lambda: read(path / KEY.name, folder=path),
        lambda: record("speed", {}, folder=path),
        lambda: recall("speed", folder=path),
    ):
        with pytest.raises(EngineError) as caught:
            use()
        assert str(caught.value).startswith(text.format(path=str(path)))
    assert path.lstat() == before, "left as it was"


# Where it is.


def test_links_above_the_folder_are_usual(folder: Path, tmp_path: Path) -> None:
    fetch(KEY, build(), folder=folder / "engines")
    (tmp_path / "home").symlink_to(folder)
    assert fetch(KEY, never, folder=tmp_path / "home" / "engines") == b"built"


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGESEG_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/robot")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == Path("/home/robot/.cache/edgeseg/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache.folder() == Path("/home/robot/.cache/edgeseg/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/robot")
    assert cache.folder() == Path("/var/cache/robot/edgeseg/engines")
    monkeypatch.setenv("EDGESEG_CACHE", "")
    assert cache.folder() == Path("/var/cache/robot/edgeseg/engines")
    monkeypatch.setenv("EDGESEG_CACHE", "here/engines")
    assert cache.folder() == tmp_path / "here" / "engines"


def test_relative_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESEG_CACHE", "here/engines")
    fetch(KEY, build())
    assert names(tmp_path / "here" / "engines") == KEPT
    assert fetch(KEY, never, folder=Path("here", "..", "here", "engines")) == b"built"
    assert read(f"here/engines/{KEY.name}") == (KEY, b"built")


def test_letters_of_all_the_world(tmp_path: Path) -> None:
    folder = tmp_path / "Größe 漢字\udc80"
    key = Key("テンソル/../x", "..", "é" * 300, "ab", (("größe", "\udcff\n"),))
    assert fetch(key, build(), folder=folder) == b"built"
    assert fetch(key, never, folder=folder) == b"built"
    assert read(folder / key.name, folder=folder) == (key, b"built")
    record("nano/漢字\udc80" * 99, {"é": "漢"}, folder=folder)
    assert recall("nano/漢字\udc80" * 99, folder=folder) == {"é": "漢"}
    assert all(name.isascii() and not name.startswith(".") for name in names(folder))


# Who isn't root.


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of `PERSON`, where that may get to."""
    place = Path(tempfile.mkdtemp(prefix="edgeseg-"))
    os.chown(place, PERSON, -1)
    yield place
    subprocess.run(["chmod", "-R", "u+rwX", str(place)], check=True)
    shutil.rmtree(place)


def as_person(code: str, user: int = PERSON, **environment: str) -> tuple[str, str]:
    """Output and errors of Python code that another than root runs, if we are root."""
    become = f"os.setgroups([]); os.setresgid({user}, {user}, {user})\n"
    become += f"os.setresuid({user}, {user}, {user})\n"
    code = (
        "import os\nfrom pathlib import Path\n"
        "from edgeseg.engines.cache import Key, fetch, recall, record\n"
        f"{become if ROOT else ''}key = {KEY}\n{code}"
    )
    cleared = {k: v for k, v in os.environ.items() if k not in ("HOME", "EDGESEG_CACHE")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**cleared, "XDG_CACHE_HOME": "", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def unkept(reason: str) -> str:
    text = f"got {reason!r} from the engine cache; wanted to keep {KEY.name}; make room or"
    return 2 * f"{text} {ELSEWHERE}\n"


TWICE = "print(fetch(key, lambda: b'one'), fetch(key, lambda: b'two'), recall('speed'))"


def test_a_home_that_is_not_writable(home: Path) -> None:
    home.chmod(0o500)
    out, said = as_person(TWICE, HOME=str(home))
    assert out == "b'one' b'two' None\n"
    assert said == unkept("Permission denied")
    assert not list(home.iterdir())


def test_a_home_that_is_none() -> None:
    out, said = as_person(TWICE, HOME="/dev/null")
    assert out == "b'one' b'two' None\n"
    assert said == unkept("Not a directory")


def test_nobody_knows_a_home() -> None:
    if not ROOT:
        pytest.skip("needs root: only it can become a user without a home")
    out, said = as_person(TWICE, user=54321)
    assert out == "b'one' b'two' None\n"
    assert said == unkept("no home folder")


def test_a_record_that_can_not_be_kept_is_an_error(home: Path) -> None:
    home.chmod(0o500)
    code = "try: record('speed', {})\nexcept Exception as e: print(type(e).__name__, e)"
    out, _ = as_person(code, HOME=str(home))
    assert out.startswith("OutputError got 'Permission denied' from the engine cache; wanted to")
    assert out.endswith(f".json; make room or {ELSEWHERE}\n")


def test_a_cache_that_may_only_be_read_is_read(home: Path) -> None:
    folder = home / "engines"
    code = f"print(fetch(key, lambda: b'one', folder=Path({str(folder)!r})))"
    assert as_person(code) == ("b'one'\n", "")
    folder.chmod(0o500)
    assert as_person(code.replace("one", "two")) == ("b'one'\n", "")
    (folder / next(name for name in names(folder) if name.endswith("hmac"))).unlink()
    out, said = as_person(code.replace("one", "two"))
    assert out == "b'two'\n"
    assert said.startswith("got 'Permission denied' from the engine cache")


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077, 0o177, 0o277, 0o377])
def test_no_umask_opens_or_locks_the_cache(home: Path, umask: int) -> None:
    out, said = as_person(f"os.umask({umask})\nos.chdir('/')\n{TWICE}", HOME=str(home))
    assert (out, said) == ("b'one' b'one' None\n", "")
    for path in home.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_no_umask_keeps_others_from_waiting(home: Path) -> None:
    build = "next(str(os.open(p, os.O_RDWR) > 0) for p in folder.glob('.*.lock')).encode()"
    code = f"os.umask(0o377)\nfolder = Path({str(home / 'engines')!r})\n"
    assert as_person(f"{code}print(fetch(key, lambda: {build}, folder=folder))") == (
        "b'True'\n",
        "",
    )


def test_a_umask_that_locks_us_out_builds_each_time(home: Path) -> None:
    out, said = as_person(f"os.umask(0o777)\n{TWICE}", HOME=str(home))
    assert out == "b'one' b'two' None\n"
    assert said == unkept("Permission denied")
