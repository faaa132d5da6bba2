"""Files of a bundle: hashed as they pass, written through to the disk, swapped at once."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

BLOCK_BYTES = 1 << 20


def check_regular(path: Path) -> None:
    """Refuse what opening may wait on, or what lies elsewhere: pipes, devices, folders, links.

    Raises:
        OSError: it is no regular file, or can't be looked at.
    """
    if not S_ISREG(path.lstat().st_mode):
        raise OSError(0, "no regular file")


def digest(path: Path) -> str:
    """The sha256 of a regular file, hex.

    Raises:
        OSError: it is none, or can't be read.
    """
    check_regular(path)
    with path.open("rb") as stream:
        return _copy(stream, None)


def _copy(source: BinaryIO, target: BinaryIO | None) -> str:
    """Stream ``source`` into ``target``, if there is one; the sha256 of what passed, hex."""
    digest = hashlib.sha256()
    while block := source.read(BLOCK_BYTES):
        digest.update(block)
        if target is not None:
            target.write(block)
    return digest.hexdigest()


def put(path: Path, content: Path | bytes) -> str:
    """Write one file through to the disk; its sha256, hex."""
    with path.open("xb") as target:
        if isinstance(content, Path):
            with content.open("rb") as source:
                digest = _copy(source, target)
        else:
            digest = _copy(io.BytesIO(content), target)
        target.flush()
        os.fsync(target.fileno())
    return digest


def swap(part: Path, folder: Path) -> None:
    """Give ``part`` the name ``folder``; an older bundle there goes only when that has worked."""
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
