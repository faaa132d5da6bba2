"""Bundles: the folder in which the two halves of edgeseg meet.

::

    fastinst-nano/
    ├── bundle.json           ModelSpec and "format_version"
    ├── model.onnx            one network file per precision
    └── weights.safetensors   the same weights for torch, where they are shipped

The bundles that ship with edgeseg lie in ``edgeseg/bundles`` and are known by their name.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgeseg import disk, registry
from edgeseg.errors import BundleError, OutputError

FORMAT_VERSION = 1
INDEX = "bundle.json"
CHECKPOINTS = (".pt", ".pth", ".safetensors")
PACKAGED = Path(__file__).parent / "bundles"
MAX_INDEX_BYTES = 8 << 20
TASKS = ("instance",)
OUTPUTS = ("scores", "labels", "masks")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a bundle says of its network: all that a robot needs to decode it.

    Attributes:
        name: e.g. ``fastinst-nano``.
        family: ``fastinst`` or ``knet`` (``maskformer dynamask`` later).
        task: ``instance`` (``semantic panoptic`` later).
        input_hw: network input height and width, pixels.
        colour: order of the input channels, ``rgb`` or ``bgr``.
        pad_value: input value per channel where the letterbox leaves the picture, 0..255.
        classes: class names; label i is ``classes[i]``.
        outputs: meaning -> name in the network file, for ``scores labels masks``.
        max_instances: M, rows of every output.
        mask_stride: input pixels per mask logit; divides both sides of the input.
        frame_hw: None: ``masks`` are logits. Else the only frame size, height and width in pixels,
            that the networks serve: ``masks`` are its pixels, packed as `Instances.mask_bits`.
        precisions: ``int8 fp16 fp32`` -> file name; the first is the default.
        score_threshold: default for decoding, 0..1.
        network: settings from which `edgeseg.zoo` builds the same network in torch.
        weights: file with the torch weights (safetensors), or "" where none is shipped.
        source: where the weights come from.
        licence: licence of the weights (SPDX).
        files: file name -> sha256 (hex); filled by `write`.

    Raises:
        BundleError: a value that no network can have; the text names the field.

    >>> spec = read(find("fastinst-nano"))
    >>> spec.family, spec.input_hw
    ('fastinst', (240, 320))
    """

    name: str
    family: str
    task: str
    input_hw: tuple[int, int]
    colour: str
    pad_value: tuple[int, int, int]
    classes: tuple[str, ...]
    max_instances: int
    mask_stride: int
    precisions: dict[str, str]
    outputs: dict[str, str] = field(default_factory=lambda: {name: name for name in OUTPUTS})
    score_threshold: float = 0.5
    frame_hw: tuple[int, int] | None = None
    network: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    source: str = ""
    licence: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, holds, wanted in _RULES:
            if not holds(getattr(self, name)):
                raise _bad_field(name, getattr(self, name), wanted)
        if any(side % self.mask_stride for side in self.input_hw):
            wanted = f"multiples of mask_stride {self.mask_stride}"
            raise _bad_field("input_hw", self.input_hw, wanted)
        count = self.network.get("num_classes", len(self.classes))
        if count != len(self.classes):
            wanted = f"{count} as its network's num_classes says"
            raise _bad_field("number of classes", len(self.classes), wanted)

    @property
    def mask_hw(self) -> tuple[int, int]:
        """Height and width of the mask logits."""
        return self.input_hw[0] // self.mask_stride, self.input_hw[1] // self.mask_stride


def packaged() -> list[str]:
    """Names of the bundles that ship with edgeseg."""
    return sorted(index.parent.name for index in PACKAGED.glob(f"*/{INDEX}"))


def find(name_or_path: str | Path) -> Path:
    """The folder of a bundle, from the name of a packaged one or from a path.

    A packaged name wins over a folder of the same name; write ``./name`` for the folder.

    Raises:
        BundleError: neither; the text lists the packaged names.
    """
    names = packaged()
    if isinstance(name_or_path, str) and name_or_path in names:
        return PACKAGED / name_or_path
    folder = Path(name_or_path)
    if _is_folder(folder):
        return folder
    if folder.suffix in CHECKPOINTS:
        raise _checkpoint(folder)
    near = get_close_matches(str(name_or_path), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "check the path"
    raise BundleError(
        f"got bundle {str(name_or_path)!r}; wanted a folder with {INDEX}, or one of "
        f"{', '.join(names) or 'the packaged names (none here)'}; {hint}"
    )


def _checkpoint(path: Path) -> BundleError:
    """The error for a checkpoint in the place of a bundle: there, or not."""
    try:
        if path.is_file():
            return BundleError(
                f"got checkpoint {str(path)!r}; wanted a bundle; make one with 'edgeseg export', "
                "or with 'edgeseg convert' of an official checkpoint"
            )
    except OSError:  # e.g. inside a folder that may not be searched
        pass
    return BundleError(
        f"got no checkpoint {str(path)!r}; wanted a file that is there, or a bundle; check the path"
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # e.g. inside a folder that may not be searched
        return False


def read(folder: str | Path) -> ModelSpec:
    """Read ``bundle.json`` and check it and every file that it names; each file is read once.

    Nothing else may lie in the folder (hidden names aside): a network could read it unchecked.

    Raises:
        BundleError: no bundle, damaged, altered, or made for another edgeseg.
    """
    folder = Path(folder)
    index = folder / INDEX
    spec = _spec(_table(index), index)
    for name in [*spec.precisions.values(), *filter(None, [spec.weights])]:
        if name not in spec.files:
            raise BundleError(
                f"got no sha256 of {name!r} in {index}; wanted one for every file; "
                "write the bundle again"
            )
    _check_files(folder, spec.files)
    return spec


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Refuse strangers in the folder, and files that aren't what their sha256 says."""
    try:
        present = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise _unreadable(folder, error) from None
    for name in sorted(set(present) - {INDEX, *files}):
        raise BundleError(
            f"got {folder / name} which {INDEX} doesn't list; wanted nothing unchecked in a "
            "bundle; move it elsewhere, or write the bundle again with it"
        )
    for name, wanted in files.items():
        try:
            got = disk.digest(folder / name)
        except OSError as error:
            raise _unreadable(folder / name, error) from None
        if got != wanted:
            raise BundleError(
                f"got {folder / name} with sha256 {got[:12]}...; wanted {wanted[:12]}... as "
                f"{INDEX} says; the file was changed or damaged, get the bundle again"
            )


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"got no readable file {path} ({error.strerror}); wanted it as {INDEX} says; "
        "get the bundle again"
    )


def _table(index: Path) -> dict[str, Any]:
    """The JSON object in ``index``, of a format version that this edgeseg knows."""
    try:
        disk.check_regular(index)
        with index.open("rb") as stream:
            table = json.loads(stream.read(MAX_INDEX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"got no {INDEX} in {str(index.parent)!r}; wanted a bundle folder; "
            "pass the folder that 'edgeseg convert' or 'edgeseg export' wrote"
        ) from None
    except OSError as error:
        raise BundleError(
            f"got {error.strerror} at {index}; wanted to read it; check it and its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"got invalid JSON in {index} ({error}); wanted a bundle's description; "
            "get the bundle again"
        ) from None
    version = table.get("format_version") if isinstance(table, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"got format_version {version!r} in {index}; wanted {FORMAT_VERSION}; "
            "update edgeseg, or write the bundle again with this one"
        )
    del table["format_version"]
    return table  # type: ignore[no-any-return]


def _spec(table: dict[str, Any], index: Path) -> ModelSpec:
    """The ModelSpec of a JSON object; refuses keys that are missing, unknown or wrong."""
    fields = {field.name: field for field in dataclasses.fields(ModelSpec)}
    required = [
        name
        for name, field in fields.items()
        if field.default is MISSING and field.default_factory is MISSING
    ]
    for name in required:
        if name not in table:
            raise BundleError(f"got no {name!r} in {index}; wanted it; get the bundle again")
    for name in table:
        if name not in fields:
            near = get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it, or update edgeseg"
            raise BundleError(f"got unknown key {name!r} in {index}; wanted a known one; {hint}")
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in table.items()
    }
    try:
        spec = ModelSpec(**values)
    except BundleError as error:
        raise BundleError(f"{error} of {index}") from None
    families = registry.rows("model")
    if spec.family not in families:
        raise BundleError(
            f"got model family {spec.family!r} in {index}; wanted one of "
            f"{', '.join(sorted(families))}; update edgeseg"
        )
    return spec


def check_target(folder: str | Path, overwrite: bool = False) -> None:
    """Fail early, before the work, where `write` would refuse ``folder``.

    Raises:
        OutputError: something is there that may not be replaced, or no folder can be made there.
    """
    folder = Path(folder).absolute()
    try:
        if folder.exists() or folder.is_symlink():
            ours = folder.is_dir() and ((folder / INDEX).exists() or not any(folder.iterdir()))
            if not ours:
                raise _refused(folder, "is there and is no bundle", "choose another name")
            if not overwrite:
                raise _refused(folder, "is there already", "choose another name, or overwrite it")
        parent = next(path for path in folder.parents if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise _refused(folder, f"can't be made in {parent}", "choose another place")
    except OutputError:
        raise
    except OSError as error:
        raise _refused(folder, f"can't be made: {error.strerror}", "choose another place") from None


def _refused(folder: Path, got: str, hint: str) -> OutputError:
    return OutputError(f"got output {str(folder)!r} which {got}; wanted a new folder; {hint}")


def write(
    folder: str | Path,
    spec: ModelSpec,
    files: Mapping[str, Path | bytes],
    *,
    overwrite: bool = False,
) -> ModelSpec:
    """Write a bundle: all of it appears at once under its name, or nothing does.

    Args:
        folder: the bundle's folder; parents are made.
        spec: description; its ``files`` are replaced by the hashes of what is written.
        files: file name -> path to copy from, or content.
        overwrite: replace an older bundle at ``folder``.

    Returns:
        ``spec`` as written.

    Raises:
        BundleError: ``spec`` names a file that isn't in ``files``.
        OutputError: ``folder`` exists, or can't be written; nothing stays.
    """
    for name in [*spec.precisions.values(), *filter(None, [spec.weights])]:
        if name not in files:
            raise BundleError(f"got no file {name!r}; wanted it as the spec says; pass its content")
    folder = Path(folder).absolute()
    check_target(folder, overwrite)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        hashes = {name: disk.put(part / name, content) for name, content in files.items()}
        spec = dataclasses.replace(spec, files=hashes)
        table = {"format_version": FORMAT_VERSION, **dataclasses.asdict(spec)}
        if spec.frame_hw is None:  # a key that older versions of edgeseg don't know
            del table["frame_hw"]
        disk.put(part / INDEX, json.dumps(table, indent=1, ensure_ascii=False).encode() + b"\n")
        disk.swap(part, folder)
    except OSError as error:
        raise _refused(folder, f"can't be written: {error}", "choose another place") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return spec


def _bad_field(name: str, got: object, wanted: str) -> BundleError:
    return BundleError(f"got {name} {got!r}; wanted {wanted}; correct that field")


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(_text(x) for pair in value.items() for x in pair)


def _plain(name: Any) -> bool:
    """Whether ``name`` can only mean a file directly inside the bundle."""
    return _text(name) and not set(name) & set("/\\:\0") and name not in (".", "..", INDEX)


def _files(value: Any) -> bool:
    return _texts(value) and all(map(_plain, value.values()))


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _wholes(value: Any, length: int, least: int, most: int) -> bool:
    is_list = isinstance(value, tuple) and len(value) == length
    return is_list and all(_whole(item, least, most) for item in value)


def _names(value: Any) -> bool:
    is_list = isinstance(value, tuple) and all(map(_text, value))
    return is_list and len(set(value)) == len(value) > 0


_RULES: list[tuple[str, Callable[[Any], bool], str]] = [
    ("name", _plain, "a name without '/'"),
    ("family", _text, "the name of a model family"),
    ("task", lambda v: v in TASKS, f"one of {', '.join(TASKS)}"),
    ("input_hw", lambda v: _wholes(v, 2, 1, 8192), "height and width, 1..8192 pixels each"),
    ("colour", lambda v: v in ("rgb", "bgr"), "'rgb' or 'bgr'"),
    ("pad_value", lambda v: _wholes(v, 3, 0, 255), "three values 0..255"),
    ("classes", _names, "one or more different names"),
    ("max_instances", lambda v: _whole(v, 1, 1000), "1..1000"),
    ("mask_stride", lambda v: _whole(v, 1, 64), "1..64"),
    ("precisions", lambda v: v != {} and _files(v), "precision -> file name without '/'"),
    ("outputs", lambda v: _texts(v) and set(v) == set(OUTPUTS), f"a name for each of {OUTPUTS}"),
    ("score_threshold", lambda v: isinstance(v, (int, float)) and 0 <= v <= 1, "0..1"),
    ("frame_hw", lambda v: v is None or _wholes(v, 2, 1, 8192), "height and width, 1..8192 each"),
    ("network", lambda v: isinstance(v, dict), "a table of settings"),
    ("weights", lambda v: v == "" or _plain(v), "a file name without '/', or ''"),
    ("source", lambda v: isinstance(v, str), "a text"),
    ("licence", lambda v: isinstance(v, str), "a text"),
    ("files", lambda v: _texts(v) and all(map(_plain, v)), "file name without '/' -> sha256"),
]
