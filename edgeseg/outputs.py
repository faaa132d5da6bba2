"""Output files: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import contextlib
import secrets
import weakref
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from edgeseg.errors import InputError, OutputError

ANOTHER = "choose another name"
PLACE = "choose a folder that exists, with permission and space"


class OutputFile:
    """A file that grows as a hidden part in its folder, and takes its name when it is whole.

    The part is made at once, so that a path that can't be written is known before the work. It is
    removed by `discard`, and also when the object is forgotten or the program ends. Where the path
    is a link, the file it leads to is written.

    Attributes:
        path: where the file will be.
        part: where it grows; no other writer has the same.

    Raises:
        OutputError: no such folder, no permission, no space, or what is there is no file.
    """

    def __init__(self, path: str | Path) -> None:
        self._target = target(path)
        self.path = Path(path).expanduser()
        name = f".{self._target.name[:32]}.{secrets.token_hex(4)}.part"
        self.part = self._target.with_name(name)
        self._cleanup = weakref.finalize(self, _remove, self.part)
        try:
            self.part.open("xb").close()
        except OSError as error:
            raise failed(path, error) from error

    @property
    def open(self) -> bool:
        """Whether neither `keep` nor `discard` has been called."""
        return self._cleanup.alive

    def keep(self) -> None:
        """Give the part its name; a file of that name from before is replaced.

        Raises:
            OSError: the system refuses.
        """
        self.part.replace(self._target)
        self._cleanup.detach()

    def discard(self) -> None:
        """Remove the part; a file of that name from before stays. Harmless after `keep`."""
        self._cleanup()


def target(path: str | Path) -> Path:
    """Where a file asked for as ``path`` is written: absolute, links followed.

    Raises:
        OutputError: what is there is a folder, a device or a pipe; or no file can have that name.
    """
    try:
        found = Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError):
            mode = found.stat().st_mode
            if not S_ISREG(mode):
                kind = "folder" if S_ISDIR(mode) else "device or pipe"
                raise OutputError(
                    f"got a {kind} named {str(path)!r}; wanted to write a file; {ANOTHER}"
                )
        return found.resolve()
    except OutputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # no such home, a NUL byte
        raise failed(path, error) from error


def check(path: str | Path) -> None:
    """Refuse a file that can't be written before hours of work, not after them.

    Raises:
        OutputError: see `OutputFile`.
    """
    OutputFile(path).discard()


def check_distinct(inputs: Mapping[str, str | Path], outputs: Mapping[str, str | Path]) -> None:
    """Refuse outputs that would replace what is read, or each other.

    Args:
        inputs: what it is -> its path; what isn't there is passed over.
        outputs: flag or setting -> its path.

    Raises:
        InputError: two of them are one file, also by way of links.
        OutputError: no file can be written under such a name, see `target`.
    """
    known = [(what, there) for what, path in inputs.items() if (there := _there(path))]
    for what, path in outputs.items():
        place = target(path)
        for other, taken in known:
            if place == taken or (place.exists() and taken.exists() and place.samefile(taken)):
                raise InputError(
                    f"got output {str(path)!r}, which is {other}; wanted another file; {ANOTHER}"
                )
        known.append((what, place))


def failed(path: str | Path, error: Exception) -> OutputError:
    """The error for a file that the system doesn't let us write."""
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(f"got {reason!r} for {str(path)!r}; wanted to write it; {PLACE}")


def _there(path: str | Path) -> Path | None:
    """The path without links, where something is there."""
    try:
        return Path(path).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()
