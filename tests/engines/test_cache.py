"""The engine cache: whatever isn't as it was stored is built again, and never tried."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.engines import cache
from edgeseg.engines.cache import Key, fetch, keep_timings, read, recall, record, timings
from edgeseg.errors import BundleError, EngineError

KEY = Key("tensorrt", "10.3.0", "sm87", "ab" * 32, (("precision", "int8"), ("workspace", "1 GiB")))
OTHER = Key("tensorrt", "10.3.0", "sm87", "cd" * 32, KEY.options)
NEWER = Key("tensorrt", "10.13.3", "sm87", "ab" * 32, KEY.options)
SEAL = KEY.name + ".hmac"
KEPT = sorted(["key", KEY.name, SEAL])
ROOT = os.geteuid() == 0
SOMEBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def build(content: bytes = b"built") -> Callable[[], bytes]:
    return lambda: content


def never() -> bytes:
    raise AssertionError("built again")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Keeping.


def test_an_engine_is_built_once(folder: Path) -> None:
    assert fetch(KEY, build(), folder=folder) == b"built"
    assert fetch(KEY, never, folder=folder) == b"built"
    assert names(folder) == KEPT
    assert (folder / KEY.name).read_bytes() == b"built", "as its library reads it"


def test_what_is_made_is_ours_alone(folder: Path) -> None:
    fetch(KEY, build(), folder=folder / "a" / "b")
    for path in (folder, folder / "a", folder / "a" / "b"):
        assert path.stat().st_mode & 0o777 == 0o700
    for name in KEPT:
        assert (folder / "a" / "b" / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "other",
    [
        NEWER,
        OTHER,
        Key("tensorrt_rtx", *("10.3.0", "sm87", "ab" * 32), KEY.options),
        Key("tensorrt", "10.3.0", "sm86", "ab" * 32, KEY.options),
        Key("tensorrt", "10.3.0", "sm87", "ab" * 32, (("precision", "fp16"),)),
        Key("tensorrt", "10.3.0", "sm87", "ab" * 32),
        Key("tensorrt-10.3.0", "sm87", "ab" * 32, "", KEY.options),
    ],
)
def test_another_version_or_any_other_part_of_the_key_is_another_engine(
    folder: Path, other: Key
) -> None:
    fetch(KEY, build(b"one"), folder=folder)
    assert fetch(other, build(b"two"), folder=folder) == b"two"
    assert fetch(KEY, never, folder=folder) == b"one"
    assert fetch(other, never, folder=folder) == b"two"


def test_the_order_of_options_does_not_matter(folder: Path) -> None:
    fetch(KEY, build(), folder=folder)
    turned = Key("tensorrt", "10.3.0", "sm87", "ab" * 32, KEY.options[::-1])
    assert fetch(turned, never, folder=folder) == b"built"


def test_an_error_of_the_builder_is_passed_on_and_keeps_nothing(folder: Path) -> None:
    def fail() -> bytes:
        raise OSError("no such GPU")

    for _ in range(2):
        with pytest.raises(OSError, match="no such GPU"):
            fetch(KEY, fail, folder=folder)
        assert names(folder) == []
    assert fetch(KEY, build(), folder=folder) == b"built"


def test_nothing_stays_open(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        fetch(KEY, build(), folder=folder)
        (folder / SEAL).write_bytes(b"")
        record("speed", {"n": number}, folder=folder)
        recall("speed", folder=folder)
        with pytest.raises(BundleError):
            read(tmp_path / "x.engine", folder=folder)
        with pytest.raises(EngineError):
            fetch(KEY, never, folder=tmp_path / "open")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Damage: all of it is built again, said, and then whole.


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    """The right content, but by way of a link."""
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def hard_link(path: Path) -> None:
    os.link(path, path.parent.parent / path.name)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def give_away(path: Path) -> None:
    if not ROOT:
        pytest.skip("needs root: only it can give files to others")
    os.chown(path, SOMEBODY, -1)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "a link": link,
    "a hard link": hard_link,
    "a pipe": pipe,
    "writable by all": lambda path: path.chmod(0o666),
    "writable by the group": lambda path: path.chmod(0o620),
    "somebody else's": give_away,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", KEPT)
def test_damage_means_building_again(
    folder: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(KEY, build(b"old engine"), folder=folder)
    DAMAGES[damage](folder / name)
    assert fetch(KEY, build(b"new engine"), folder=folder) == b"new engine"
    said = f"got engine {KEY.name} changed; wanted it as edgeseg stored it; it is built again"
    assert caplog.messages == ([] if (name, damage) == (KEY.name, "gone") else [said])
    assert fetch(KEY, never, folder=folder) == b"new engine"
    assert names(folder) == KEPT
    for aside in folder.parent.glob(f"{KEY.name}*"):  # where a link led to
        assert b"new" not in aside.read_bytes()


def test_swapped_seals(folder: Path) -> None:
    fetch(KEY, build(b"one"), folder=folder)
    fetch(OTHER, build(b"two"), folder=folder)
    seals = folder / SEAL, folder / f"{OTHER.name}.hmac"
    one, two = (seal.read_bytes() for seal in seals)
    seals[0].write_bytes(two)
    seals[1].write_bytes(one)
    assert fetch(KEY, build(b"new one"), folder=folder) == b"new one"
    assert fetch(OTHER, build(b"new two"), folder=folder) == b"new two"


@pytest.mark.parametrize("other", [OTHER, NEWER])
def test_an_engine_with_its_seal_under_another_name(folder: Path, other: Key) -> None:
    fetch(KEY, build(b"one"), folder=folder)
    shutil.copy(folder / KEY.name, folder / other.name)
    shutil.copy(folder / SEAL, folder / f"{other.name}.hmac")
    assert fetch(other, build(b"two"), folder=folder) == b"two"


def test_an_engine_of_another_cache(folder: Path, tmp_path: Path) -> None:
    fetch(KEY, build(b"theirs"), folder=tmp_path / "theirs")
    fetch(OTHER, build(), folder=folder)
    for name in (KEY.name, SEAL):
        shutil.copy(tmp_path / "theirs" / name, folder / name)
    assert fetch(KEY, build(b"ours"), folder=folder) == b"ours"


def test_a_folder_in_the_place_of_an_engine(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / KEY.name / "something").mkdir(parents=True)
    folder.chmod(0o700)
    assert fetch(KEY, build(), folder=folder) == b"built"
    assert caplog.messages[-1].startswith("got 'Is a directory' from the engine cache; wanted to")
    assert names(folder) == ["key", KEY.name]


# Size of the cache.


def engine_of(number: int) -> Key:
    return Key("tensorrt", "10", "sm87", str(number))


def test_engines_unused_for_longest_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT_BYTES", 1000)
    for number in range(3):
        fetch(engine_of(number), build(bytes(300)), folder=folder)
        os.utime(folder / engine_of(number).name, (number, number))
    fetch(engine_of(0), never, folder=folder)  # used again
    fetch(engine_of(3), build(bytes(300)), folder=folder)
    fetch(engine_of(3), never, folder=folder)
    engines = {engine_of(number).name for number in (0, 2, 3)}
    assert set(names(folder)) == {"key", *engines, *(f"{name}.hmac" for name in engines)}


def test_an_engine_beyond_the_limit_is_kept_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LIMIT_BYTES", 1000)
    fetch(OTHER, build(), folder=folder)
    fetch(KEY, build(bytes(2000)), folder=folder)
    assert names(folder) == KEPT
    assert fetch(KEY, never, folder=folder) == bytes(2000)


def test_only_engines_of_ours_go(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record("speed", {"ms": 3}, folder=folder)
    (tmp_path / "mine").write_bytes(bytes(500))
    (folder / "model.engine").write_bytes(bytes(500))
    (folder / "notes.txt").write_bytes(bytes(500))
    (folder / engine_of(1).name).symlink_to(tmp_path / "mine")
    (folder / engine_of(2).name).mkdir()
    before = set(names(folder))
    monkeypatch.setattr(cache, "LIMIT_BYTES", 100)
    fetch(KEY, build(bytes(500)), folder=folder)
    assert set(names(folder)) == before | {KEY.name, SEAL}
    assert (tmp_path / "mine").exists()


# Files from elsewhere.


def test_an_engine_of_ours_is_read_by_its_path(folder: Path) -> None:
    fetch(KEY, build(), folder=folder)
    assert read(folder / KEY.name, folder=folder) == (KEY, b"built")


@pytest.mark.parametrize("fault", ["elsewhere", "linked", "renamed", "changed", "gone", "a record"])
def test_an_engine_from_elsewhere_is_refused(folder: Path, tmp_path: Path, fault: str) -> None:
    fetch(KEY, build(), folder=folder)
    record("speed", {"ms": 3}, folder=folder)
    ours = folder / KEY.name
    (tmp_path / "linked").symlink_to(ours)
    shutil.copy(ours, tmp_path / KEY.name)
    shutil.copy(folder / SEAL, tmp_path / SEAL)
    shutil.copy(ours, folder / OTHER.name)
    shutil.copy(folder / SEAL, folder / f"{OTHER.name}.hmac")
    path = {
        "elsewhere": tmp_path / KEY.name,
        "linked": tmp_path / "linked",
        "renamed": folder / OTHER.name,
        "changed": ours,
        "gone": tmp_path / "no" / "such.engine",
        "a record": next(folder.glob("*.json")),
    }[fault]
    if fault == "changed":
        flip(ours)
    with pytest.raises(BundleError) as caught:
        read(path, folder=folder)
    assert str(caught.value) == (
        f"got engine file {str(path)!r}, which edgeseg didn't build here or which was changed; "
        "wanted one of its own cache, for loading an engine runs what is in it; "
        "run 'edgeseg build'"
    )


def test_what_a_seal_says_can_not_be_changed(folder: Path) -> None:
    fetch(KEY, build(), folder=folder)
    (folder / SEAL).write_bytes((folder / SEAL).read_bytes().replace(b"10.3.0", b"10.9.9"))
    with pytest.raises(BundleError):
        read(folder / KEY.name, folder=folder)


# Records.


def test_a_record_is_recalled(folder: Path) -> None:
    assert recall("speed", folder=folder) is None
    assert not folder.exists(), "looking makes nothing"
    record("speed", {"ort": {"p50": 1.5}}, folder=folder)
    record("other", {}, folder=folder)
    record("speed", {"ort": {"p50": 2.5}}, folder=folder)
    assert recall("speed", folder=folder) == {"ort": {"p50": 2.5}}
    assert recall("other", folder=folder) == {}
    assert all(json.loads(path.read_text()) is not None for path in folder.glob("*.json"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["measured-speed-*.json", "measured-speed-*.hmac", "key"])
def test_a_changed_record_is_none(folder: Path, damage: str, which: str) -> None:
    record("speed", {"ms": 3}, folder=folder)
    (path,) = folder.glob(which)
    DAMAGES[damage](path)
    assert recall("speed", folder=folder) is None
    record("speed", {"ms": 4}, folder=folder)
    assert recall("speed", folder=folder) == {"ms": 4}


def test_a_record_of_another_name_is_none(folder: Path) -> None:
    record("speed", {"ms": 3}, folder=folder)
    record("others", {"ms": 4}, folder=folder)
    (one,) = folder.glob("measured-speed-*.json")
    (two,) = folder.glob("measured-others-*.json")
    for end in ("", ".hmac"):
        shutil.copy(f"{two}{end}", f"{one}{end}")
    assert recall("speed", folder=folder) is None


def test_a_record_is_never_seen_half_replaced(folder: Path) -> None:
    record("speed", {"ms": 0}, folder=folder)
    done = threading.Event()
    seen = []

    def look() -> None:
        while not done.is_set():
            seen.append(recall("speed", folder=folder))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(100):
        record("speed", {"ms": number}, folder=folder)
    done.set()
    reader.join()
    assert seen and None not in seen


def test_a_first_build_says_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fetch(KEY, build(), folder=folder)
    fetch(KEY, never, folder=folder)
    assert caplog.messages == []


# What builds measured.


def test_timings_are_for_all_networks_of_one_library_and_device(folder: Path) -> None:
    assert timings(KEY, folder=folder) == b""
    assert not folder.exists()
    keep_timings(KEY, b"fast", folder=folder)
    assert timings(KEY, folder=folder) == timings(OTHER, folder=folder) == b"fast"
    keep_timings(OTHER, b"faster", folder=folder)
    assert timings(KEY, folder=folder) == b"faster"
    other_device = replace(KEY, options=(("device", "Other GPU"),))
    for key in (NEWER, replace(KEY, target="sm89"), replace(KEY, product="x"), other_device):
        assert timings(key, folder=folder) == b""


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_damaged_timings_are_not_used(folder: Path, damage: str) -> None:
    keep_timings(KEY, b"measured in minutes", folder=folder)
    (path,) = folder.glob("*.timings")
    DAMAGES[damage](path)
    assert timings(KEY, folder=folder) == b""
    keep_timings(KEY, b"once more", folder=folder)
    assert timings(KEY, folder=folder) == b"once more"


def test_no_timings_and_too_many_are_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_timings(KEY, b"", folder=folder)
    assert not folder.exists()
    monkeypatch.setattr(cache, "TIMINGS_BYTES", 4)
    keep_timings(KEY, b"more than 4", folder=folder)
    assert not folder.exists()


def test_timings_that_cannot_be_kept_are_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.joinpath("file").touch()
    keep_timings(KEY, b"fast", folder=folder.parent / "file" / "cache")
    (text,) = caplog.messages
    assert text.startswith(
        "got 'Not a directory' from the engine cache; wanted to keep tensorrt-10"
    )
