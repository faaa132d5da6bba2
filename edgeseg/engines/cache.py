"""Built engines, kept on this machine: each is what this user built here, or it is built again.

Loading an engine runs what is in it, so none is loaded that could be damaged or somebody else's:
whatever doesn't agree with its seal, see `edgeseg.engines.sealed`, is built again, never tried.

Defended against: power cuts and kills at any moment, full disks, flipped bits, files mixed up or
of other versions, two builders at once, and other users of the machine. Not against root, nor
against programs that run as this user.

A robot must run: where the folder can't be used (no home, no permission) or is full, the engine is
built all the same, at each start, with a warning. A folder that others may enter is an error,
for somebody must decide what it is.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgeseg.engines.sealed import ELSEWHERE, SealedFolder
from edgeseg.errors import BundleError, OutputError

LIMIT_BYTES = 2 << 30
"""Of all engines; beyond it go those unused for longest, never the one that is being stored."""
TIMINGS_BYTES = 64 << 20
"""Of the measurements for one device: a build that would have more of them keeps none."""
ENGINE = re.compile(r"[^/]+-[0-9a-f]{16}\.engine")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """All that an engine depends on; engines of different keys never meet.

    Attributes:
        product: library that builds and runs it, e.g. ``tensorrt``.
        version: of that library, in full.
        target: what it is built for, e.g. ``sm87``.
        model_sha256: of the network, with its weights where they are in a file of their own; hex.
        options: name and value of whatever else changes the engine: precision, workspace, system.
    """

    product: str
    version: str
    target: str
    model_sha256: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Name of the engine's file: readable, and another one for each key.

        >>> Key("tensorrt", "10.3.0", "sm87", "ab12", (("precision", "int8"),)).name
        'tensorrt-10.3.0-sm87-e5e62d86b435a14a.engine'
        """
        return _name(self.product, self.version, self.target, meaning=self.meaning, end="engine")

    @property
    def meaning(self) -> bytes:
        """The key as a line of JSON; the order of the options doesn't matter."""
        names = [self.product, self.version, self.target, self.model_sha256]
        return json.dumps([*names, sorted(self.options)]).encode()


def folder() -> Path:
    """Where engines are kept: EDGESEG_CACHE, or ``edgeseg/engines`` in the user's cache folder.

    Raises:
        OSError: the user has no home, and no variable names another place.
    """
    if own := os.environ.get("EDGESEG_CACHE"):
        return Path(own).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # which is to be ignored, as the XDG specification says
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            raise OSError(errno.ENOENT, "no home folder") from None
    return base.absolute() / "edgeseg" / "engines"


def fetch(key: Key, build: Callable[[], bytes], *, folder: Path | None = None) -> bytes:
    """The engine of ``key``: from the cache where it is there and whole, else built and kept.

    While one process builds it, others wait; an engine of another key doesn't.

    Args:
        key: what the engine depends on.
        build: makes it; what it raises is passed on, and then nothing is kept.
        folder: the cache; `folder`'s when left out.

    Raises:
        EngineError: the cache isn't ours alone.
    """
    name, meaning = key.name, key.meaning
    with ExitStack() as stack:
        try:
            cache = stack.enter_context(_opened(folder))
            if (kept := cache.whole(name, meaning)) is not None:
                return kept
            stack.enter_context(cache.locked(name))
            if (kept := cache.whole(name, meaning)) is not None:  # by whom we waited for
                return kept
            _drop(cache, name)
        except OSError as error:
            _LOG.warning("%s", _unkept(error, name))
            return build()
        content = build()
        try:
            make_room(cache, len(content))
            cache.store(name, meaning, content)
        except OSError as error:
            _LOG.warning("%s", _unkept(error, name))
        return content


def read(path: str | Path, *, folder: Path | None = None) -> tuple[Key, bytes]:
    """An engine by its path, and its key: only where it is in the cache and whole.

    Raises:
        BundleError: it is from elsewhere, was changed, or isn't there.
        EngineError: the cache isn't ours alone.
    """
    path = Path(path).absolute()
    with suppress(OSError), _opened(folder, make=False) as cache:
        if cache.is_at(path.parent) and ENGINE.fullmatch(path.name):
            meaning = cache.meaning(path.name)
            if (content := cache.whole(path.name, meaning)) is not None:
                product, version, target, model, options = json.loads(meaning)
                return Key(product, version, target, model, tuple(map(tuple, options))), content
    raise BundleError(
        f"got engine file {str(path)!r}, which edgeseg didn't build here or which was changed; "
        "wanted one of its own cache, for loading an engine runs what is in it; "
        "run 'edgeseg build'"
    )


def timings(key: Key, *, folder: Path | None = None) -> bytes:
    """What TensorRT measured in earlier builds of any network; b"" where nothing whole is kept.

    Args:
        key: of an engine; the network and the options don't matter.
        folder: the cache; `folder`'s when left out.

    Raises:
        EngineError: the cache isn't ours alone.
    """
    return _recalled(*_timings(key), folder) or b""


def keep_timings(key: Key, content: bytes, *, folder: Path | None = None) -> None:
    """Keep them in the place of older ones, but for none at all and for too many.

    Raises:
        EngineError: the cache isn't ours alone.
    """
    file, meaning = _timings(key)
    if not 0 < len(content) <= TIMINGS_BYTES:
        return
    try:
        _record_as(file, meaning, content, folder)
    except OSError as error:
        _LOG.warning("%s", _unkept(error, file))


def record(name: str, table: Mapping[str, Any], *, folder: Path | None = None) -> None:
    """Keep what was measured on this machine, as JSON; an older table of that name goes.

    Raises:
        EngineError: the cache isn't ours alone.
        OutputError: it can't be written.
    """
    file, meaning = _record(name)
    content = json.dumps(table, indent=1).encode() + b"\n"
    try:
        _record_as(file, meaning, content, folder)
    except OSError as error:
        raise OutputError(_unkept(error, file)) from None


def recall(name: str, *, folder: Path | None = None) -> dict[str, Any] | None:
    """What `record` kept under ``name``; None where there is nothing, or it was changed.

    Raises:
        EngineError: the cache isn't ours alone.
    """
    content = _recalled(*_record(name), folder)
    return None if content is None else json.loads(content)


def make_room(cache: SealedFolder, need: int) -> None:
    """Remove what killed builders left, and old engines until ``need`` more bytes are allowed."""
    cache.clean()
    found = {name: cache.status(name) for name in cache.names() if ENGINE.fullmatch(name)}
    engines = {name: status for name, status in found.items() if status}
    total = need + sum(status.st_size for status in engines.values())
    for name in sorted(engines, key=lambda name: engines[name].st_mtime_ns):
        if total <= LIMIT_BYTES:
            break
        cache.forget(name)
        total -= engines[name].st_size


def _opened(path: Path | None, make: bool = True) -> SealedFolder:
    return SealedFolder(folder() if path is None else Path(path).absolute(), make)


def _record_as(file: str, meaning: bytes, content: bytes, folder: Path | None) -> None:
    """Keep a file in the place of an older one."""
    with _opened(folder) as cache, cache.locked(file):
        cache.store(file, meaning, content)


def _recalled(file: str, meaning: bytes, folder: Path | None) -> bytes | None:
    """A file that `_record_as` kept; None where there is none, or it was changed."""
    content = None
    with suppress(OSError), _opened(folder, make=False) as cache:
        content = cache.whole(file, meaning)
        if content is None and cache.status(file):
            with cache.locked(file):  # not while another process replaces it
                content = cache.whole(file, meaning)
    return content


def _drop(cache: SealedFolder, name: str) -> None:
    """Remove an engine that isn't as it was stored, and say why it is built again."""
    if name in cache.names():
        _LOG.warning(
            "got engine %s changed; wanted it as edgeseg stored it; it is built again", name
        )
        cache.forget(name)


def _unkept(error: OSError, name: str) -> str:
    reason = error.strerror or str(error)
    return f"got {reason!r} from the engine cache; wanted to keep {name}; make room or {ELSEWHERE}"


def _record(name: str) -> tuple[str, bytes]:
    """File name and meaning of a record."""
    meaning = json.dumps({"record": name}).encode()
    return _name("measured", name, meaning=meaning, end="json"), meaning


def _timings(key: Key) -> tuple[str, bytes]:
    """File name and meaning of what TensorRT measured on a device."""
    device = dict(key.options).get("device", "")
    names = (key.product, key.version, key.target)
    meaning = json.dumps({"timings": [*names, device]}).encode()
    return _name(*names, meaning=meaning, end="timings"), meaning


def _name(*parts: str, meaning: bytes, end: str) -> str:
    """A file name that people can read, different for each ``meaning``."""
    plain = "-".join(re.sub(r"[^A-Za-z0-9._+]+", "_", part)[:40] for part in parts)
    return f"{plain.lstrip('.')}-{sha256(meaning).hexdigest()[:16]}.{end}"
