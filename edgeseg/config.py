"""Settings: one tree of dataclasses that YAML files, command-line flags and ROS parameters share.

A setting has one dotted name everywhere: ``camera.source`` is ``camera: {source: a.mp4}`` in
YAML, ``--camera-source a.mp4`` as a flag (some have a shorter one) and the ROS parameter
``camera.source``. `leaves` lists them with their defaults and meanings; `Settings.changed` applies
values by dotted name. None leaves the choice to the bundle, the camera or the pipeline.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeseg.errors import InputError, missing

Tree = TypeVar("Tree", bound="Settings")
POLICIES = (None, "latest", "all")
MAX_THREADS = 1024
MAX_SECONDS = 1e9
MAX_INSTANCES = 65_534  # as many as a label map of 16 bits can number


def setting(
    default: Any, help: str, bounds: tuple[float, float] | None = None, short: str = ""
) -> Any:
    """One setting: default, meaning with unit, least and greatest value, and a shorter flag."""
    return field(default=default, metadata={"help": help, "bounds": bounds, "short": short})


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """Where frames come from."""

    source: str = setting("", "path of a video, picture, folder or bag, or NAME:ADDRESS")
    live: bool | None = setting(None, "keep to the source's own pace; left out: as the source is")
    topic: str | None = setting(None, "image topic of a bag; left out: its only one", short="topic")


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """Where results go."""

    jsonl: str | None = setting(None, "file for one line of COCO RLE per frame", short="out")
    video: str | None = setting(None, "file for the annotated video (MP4)", short="video")
    mcap: str | None = setting(None, "file for ROS messages (MCAP), for Foxglove", short="mcap")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a running edgeseg can be told.

    Raises:
        InputError: a value out of range; the text names the setting.

    >>> Settings().changed({"camera.source": "tabletop.mp4", "threads": "2"}).threads
    2
    """

    camera: CameraSettings = field(default_factory=CameraSettings)
    model: str = setting("fastinst-nano", "name of a packaged bundle, or a bundle folder")
    engine: str = setting("auto", "inference engine")
    precision: str | None = setting(None, "one of the bundle's; left out: its first")
    threads: int = setting(0, "CPU threads of the network; 0: all", (0, MAX_THREADS))
    score_threshold: float | None = setting(
        None, "least score, 0..1; left out: the bundle's", (0, 1)
    )
    max_instances: int | None = setting(
        None, "most instances of a frame; left out: the network's", (1, MAX_INSTANCES)
    )
    classes: tuple[str, ...] = setting((), "names of the classes to keep; empty: all")
    policy: str | None = setting(None, "latest: newest frame wins; all: no frame is lost")
    max_age_s: float | None = setting(
        None, "seconds; older frames are not delivered", (1e-3, MAX_SECONDS)
    )
    outputs: OutputSettings = field(default_factory=OutputSettings)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise _bad("policy", self.policy, "latest or all")
        for row in dataclasses.fields(self):
            value, bounds = getattr(self, row.name), row.metadata.get("bounds")
            if value is not None and bounds and not bounds[0] <= value <= bounds[1]:
                raise _bad(row.name, value, f"{bounds[0]:g} to {bounds[1]:g}")

    @property
    def choice(self) -> dict[str, Any]:
        """Which instances to keep, as `Segmenter.choose` takes it."""
        return {
            "score_threshold": self.score_threshold,
            "classes": self.classes or None,
            "max_instances": self.max_instances,
        }

    def changed(self: Tree, values: Mapping[str, Any]) -> Tree:
        """A copy with some values replaced.

        Args:
            values: by dotted name, or nested as in YAML; texts are converted, as from flags.

        Raises:
            InputError: an unknown name (the nearest is suggested), or a value of another kind.
        """
        changed: Tree = _changed(self, values, "")
        return changed


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting: dotted name, type, default, meaning, least and greatest value, short flag."""

    name: str
    kind: Any
    default: Any
    help: str
    bounds: tuple[float, float] | None
    short: str

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return "--" + (self.short or self.name.replace(".", "-").replace("_", "-"))


def read_settings(path: str | Path) -> Settings:
    """Read a YAML (or JSON) file; what it leaves out has its default.

    Raises:
        InputError: no such file, not YAML, an unknown key or a wrong value.
        MissingPartError: PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError:
        raise missing("yaml") from None
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"got settings {str(path)!r} which can't be read ({reason}); wanted a YAML file; "
            "correct it"
        ) from None
    if not isinstance(values, Mapping | None):
        raise InputError(
            f"got a {type(values).__name__} in {str(path)!r}; wanted 'name: value' lines; "
            "correct it"
        )
    return Settings().changed(values or {})


def leaves(settings: Any = None, prefix: str = "") -> Iterator[Leaf]:
    """Every setting of the tree, for flags and ROS parameters."""
    settings = Settings() if settings is None else settings
    kinds = get_type_hints(type(settings))
    for row in dataclasses.fields(settings):
        value = getattr(settings, row.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{row.name}.")
        else:
            yield Leaf(prefix + row.name, kinds[row.name], value, **row.metadata)


def _changed(settings: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """`Settings.changed` for one node of the tree."""
    kinds = get_type_hints(type(settings))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name, _, rest = str(key).partition(".")
        if name not in kinds:
            raise _unknown_key(prefix + str(key))
        branch = changes.get(name, getattr(settings, name))
        if dataclasses.is_dataclass(branch):
            inner = {rest: value} if rest else value
            if not isinstance(inner, Mapping):
                raise _bad(prefix + name, value, "a table of settings")
            changes[name] = _changed(branch, inner, f"{prefix}{name}.")
        elif rest:
            raise _unknown_key(prefix + str(key))
        else:
            changes[name] = _convert(prefix + name, kinds[name], value)
    return dataclasses.replace(settings, **changes)


def _convert(name: str, kind: Any, value: Any) -> Any:
    """``value`` as ``kind``; texts are read as the command line gives them."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        kind = next(choice for choice in get_args(kind) if choice is not type(None))
    kind = get_origin(kind) or kind
    try:
        if isinstance(value, str):
            return _FROM_TEXT[kind](value)
        if type(value) in _ALSO[kind] and all(isinstance(item, str) for item in _items(value)):
            return kind(value)
    except (ValueError, KeyError):
        pass
    raise _bad(name, value, _WORDS[kind])


def _items(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    tuple: _names,
}
_ALSO = {str: (), int: (int,), float: (int, float), bool: (bool,), tuple: (list, tuple)}
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of names",
}


def _bad(name: str, got: object, wanted: str) -> InputError:
    return InputError(f"got {name} {got!r}; wanted {wanted}; correct that setting")


def _unknown_key(name: str) -> InputError:
    names = [leaf.name for leaf in leaves()]
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
    return InputError(f"got unknown setting {name!r}; wanted a known one; {hint}")
