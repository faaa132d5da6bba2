"""Names of the exchangeable parts, as tables of strings: nothing is imported until it is used.

A new engine, camera, sink or model is one file and one row here. Other packages add rows through
the entry points ``edgeseg.engines``, ``edgeseg.cameras``, ``edgeseg.sinks`` and
``edgeseg.models``; a built-in row wins over an entry point of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from edgeseg.errors import BASE_INSTALL, MissingPartError, missing, unknown


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a part lives.

    Attributes:
        target: ``module:Class``.
        extra: the pip extra that installs what the module needs; "" for the base install.
        libraries: modules of which one must be installed, where the part loads them later.
    """

    target: str
    extra: str = ""
    libraries: tuple[str, ...] = ()


ENGINES: dict[str, Entry] = {
    "ort": Entry("edgeseg.engines.ort:OrtEngine"),
    "openvino": Entry("edgeseg.engines.ov:OvEngine", "openvino"),
    "fake": Entry("edgeseg.engines.fake:FakeEngine"),
    "eager": Entry("edgeseg.export.eager:EagerEngine", "export"),
    "trt": Entry("edgeseg.engines.trt:TrtEngine", "rtx", ("tensorrt", "tensorrt_rtx")),
    "trt-dla": Entry("edgeseg.engines.trt_dla:TrtDlaEngine", "tensorrt", ("tensorrt",)),
    "trt-dla1": Entry("edgeseg.engines.trt_dla:TrtDla1Engine", "tensorrt", ("tensorrt",)),
}
CAMERAS: dict[str, Entry] = {
    "files": Entry("edgeseg.cameras.files:FilesCamera"),
    "bag": Entry("edgeseg.cameras.bag:BagCamera", "bag"),
    "synthetic": Entry("edgeseg.cameras.synthetic:SyntheticCamera"),
}
SINKS: dict[str, Entry] = {
    "jsonl": Entry("edgeseg.sinks.jsonl:JsonlSink"),
    "video": Entry("edgeseg.sinks.video:VideoSink"),
    "mcap": Entry("edgeseg.sinks.mcap:McapSink", "bag"),
}
MODELS: dict[str, Entry] = {
    "fastinst": Entry("edgeseg.zoo.fastinst:FastInst", "train"),
    "knet": Entry("edgeseg.zoo.knet:KNet", "train"),
}
TABLES = {"engine": ENGINES, "camera": CAMERAS, "sink": SINKS, "model": MODELS}


def rows(kind: str) -> dict[str, Entry]:
    """All parts of a ``kind``: ``engine``, ``camera``, ``sink`` or ``model``, plug-ins included."""
    plugins = {row.name: Entry(row.value) for row in entry_points(group=f"edgeseg.{kind}s")}
    return plugins | TABLES[kind]


def resolve(kind: str, name: str) -> type[Any]:
    """Import the class of the part ``name``.

    >>> resolve("engine", "fake")
    <class 'edgeseg.engines.fake.FakeEngine'>

    Raises:
        InputError: no part of that name; the text lists the known ones.
        MissingPartError: the part needs a library that is not installed, or that doesn't load.
    """
    entry = TABLES[kind].get(name) or rows(kind).get(name)
    if entry is None:
        raise unknown(kind, name, rows(kind))
    if entry.libraries and not any(map(find_spec, entry.libraries)):
        raise missing(" or ".join(entry.libraries), entry.extra)
    module, _, attribute = entry.target.partition(":")
    try:
        part: type[Any] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise _missing(error.name or module, entry) from error
    except ImportError as error:  # a library that is there but broken, e.g. without its libGL
        raise MissingPartError(
            f"got {error}; wanted {kind} {name!r} to load; reinstall that library"
        ) from error
    except AttributeError as error:
        raise MissingPartError(
            f"got no {attribute!r} in {module}; wanted the class of {kind} {name!r}; "
            "mend the entry point of that plug-in"
        ) from error
    return part


def _missing(library: str, entry: Entry) -> MissingPartError:
    """The error for a library that is not installed, for optional and for base parts."""
    if entry.extra:
        return missing(library, entry.extra)
    return MissingPartError(
        f"got no module {library!r}; {entry.target.partition(':')[0]} needs it; run: {BASE_INSTALL}"
    )
