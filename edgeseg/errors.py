"""Every error that edgeseg raises for a user, as one tree.

::

    EdgesegError
    ├── BundleError(ValueError)      a bundle, checkpoint or engine file is missing or not ours
    ├── CameraError(OSError)         a source of frames can't be opened, or stopped for good
    ├── InputError(ValueError)       pixels, sizes, names or settings that can't be used
    ├── OutputError(OSError)         a result can't be written where it was asked for
    ├── EngineError(RuntimeError)    an inference library refused the network or failed to run it
    └── MissingPartError(ImportError)  an optional library is not installed; names the pip extra

Each message is one line in three parts: what was got, what was wanted, what to do.
Each class is also a builtin exception, so ``except OSError`` and the like go on working.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EdgesegError(Exception):
    """Base of every error that edgeseg raises on purpose; its text is one line for a person."""

    exit_code = 2


class BundleError(EdgesegError, ValueError):
    """A bundle, checkpoint or engine file is missing, damaged, or not one that edgeseg wrote."""


class CameraError(EdgesegError, OSError):
    """A source of frames can't be opened or gave its last frame before it should have."""


class InputError(EdgesegError, ValueError):
    """Pixels, sizes, names or settings that can't be used."""


class OutputError(EdgesegError, OSError):
    """A result can't be written where it was asked for; nothing half-written stays."""


class EngineError(EdgesegError, RuntimeError):
    """An inference library refused the network or failed to run it."""


class MissingPartError(EdgesegError, ImportError):
    """An optional library is not installed."""

    exit_code = 3


BASE_INSTALL = "pip install --force-reinstall edgeseg"
HINTS = {
    "camera": "this release reads no live cameras: record a file first",
    "class": "choose among the model's classes",
    "engine": "see 'edgeseg doctor' for what is there",
    "family": "choose one of them",
    "precision": "leave it out for the bundle's first",
    "sink": "see 'edgeseg doctor' for what is there",
    "variant": "choose one of them",
}
"""What to do about an unknown name that is like none of the known, by kind."""


def missing(library: str, extra: str = "") -> MissingPartError:
    """The error for a ``library`` that the pip extra ``extra``, or the base install, brings.

    >>> str(missing("tensorrt", "tensorrt"))
    "got no module 'tensorrt'; this part needs it; run: pip install 'edgeseg[tensorrt]'"
    >>> str(missing("yaml"))
    "got no module 'yaml'; this part needs it; run: pip install --force-reinstall edgeseg"
    """
    command = f"pip install 'edgeseg[{extra}]'" if extra else BASE_INSTALL
    return MissingPartError(f"got no module {library!r}; this part needs it; run: {command}")


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> InputError:
    """The error for a ``name`` that is not one of ``known``; suggests the nearest.

    Where none is near it says ``hint``, or what `HINTS` has for the kind.

    >>> str(unknown("engine", "orr", ["fake", "ort"]))
    "got engine 'orr'; wanted one of fake, ort; did you mean 'ort'?"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    hint = hint or HINTS.get(kind, "choose one of them")
    return InputError(f"got {kind} {name!r}; wanted one of {', '.join(names)}; {hint}")
