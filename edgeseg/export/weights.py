"""Weights in files: safetensors and checkpoints of torch, read without running code in them."""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeseg.errors import BundleError

SHOWN = 5
FLOAT16_MOST = 65504.0
MAX_PICKLE_BYTES = 64 << 20
# What the pickle of an honest checkpoint names.
PLAIN = ("torch.", "collections.OrderedDict", "_codecs.encode", "numpy.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a ``.pth``, ``.pt`` or ``.safetensors`` file; no code in it is ever run.

    Raises:
        BundleError: no such file, damaged, not a checkpoint, or one with code in it.
    """
    if not path.is_file():
        raise BundleError(f"got no file {str(path)!r}; wanted a checkpoint; check the path")
    if path.suffix == ".safetensors":
        return dict(read_weights(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # torch raises whatever its readers meet in a file
        raise _unreadable(path) from error
    if not isinstance(content, dict):
        raise BundleError(
            f"got a {type(content).__name__} in {path}; wanted a dict of weights; "
            "choose another file"
        )
    return content


def _unreadable(path: Path) -> BundleError:
    """Why a file was refused: code in it, or no checkpoint at all."""
    code = [name for name in _named_in(path) if not name.startswith(PLAIN)]
    if code:
        return BundleError(
            f"got {path} with code in it ({code[0]}), which was not run; wanted weights only; "
            "save its state dict as .safetensors where you trust it"
        )
    return BundleError(
        f"got {path} which is no checkpoint, or a damaged one; wanted a file of torch.save; "
        "get the file again"
    )


def _named_in(path: Path) -> list[str]:
    """The functions and classes that a pickle names, read off without running it."""
    names: list[str] = []
    texts: list[str] = []
    stream = io.BytesIO(_pickle_bytes(path))
    try:
        while True:  # files of old torch are several pickles in a row
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    names.append(".".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument)
    except (ValueError, IndexError):  # the end, or something that is no pickle
        return names


def _pickle_bytes(path: Path) -> bytes:
    """The pickle of a file of torch.save, or the beginning of the file itself."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                return archive.read(name)
        with path.open("rb") as stream:
            return stream.read(MAX_PICKLE_BYTES)
    except (OSError, zipfile.BadZipFile, StopIteration):
        return b""


def weights_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: under ``model`` or ``state_dict``, or the file itself.

    Raises:
        BundleError: no tensors there.
    """
    places = (content.get("model"), content.get("state_dict"), content)
    state = next((place for place in places if _holds_tensors(place)), None)
    if state is None:
        raise BundleError(
            f"got no weights in {path}, only {', '.join(map(str, list(content)[:5])) or 'nothing'};"
            " wanted a state dict, at the top or under 'model' or 'state_dict'; choose another file"
        )
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _holds_tensors(place: Any) -> bool:
    return isinstance(place, Mapping) and any(isinstance(one, Tensor) for one in place.values())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, by key, as they are stored.

    Raises:
        BundleError: not a safetensors file, or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"got {path} which can't be read ({error}); wanted a safetensors file; get it again"
        ) from error


def write_weights(path: Path, state: Mapping[str, Tensor], *, half: bool) -> None:
    """Write a state dict as safetensors.

    Args:
        path: the file.
        state: tensors by key.
        half: store kernels and matrices (two axes or more) as float16; the rest stays as it is.
    """
    tensors = {key: _stored(tensor, half) for key, tensor in state.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    fits = tensor.is_floating_point() and tensor.ndim >= 2 and tensor.abs().max() <= FLOAT16_MOST
    return tensor.half() if half and fits else tensor.clone()


def load_state(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights strictly: every key, every shape, numbers only.

    Args:
        network: takes the weights, as float32.
        state: tensors by key.
        what: the weights' name, for the error.

    Raises:
        BundleError: missing or unexpected keys, other shapes or types, or what is no number; names
            the first five of each.
    """
    fault = differences(network.state_dict(), state)
    if fault:
        raise BundleError(
            f"got {what} with {fault}; wanted the weights of this network; choose the variant "
            "that they were trained as"
        )
    spoilt = [key for key, one in state.items() if not one.isfinite().all()]
    if spoilt:
        raise BundleError(
            f"got {what} with NaN or infinity in {_first(spoilt)}; wanted numbers; get the file "
            "again, or one from before the training went astray"
        )
    network.load_state_dict({key: state[key] for key in network.state_dict()}, strict=True)


def differences(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    """What stands between two state dicts, in words; "" if nothing does."""
    missing = [key for key in wanted if key not in got]
    unexpected = [key for key in got if key not in wanted]
    shapes = [
        f"{key} {tuple(got[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in got and got[key].shape != wanted[key].shape
    ]
    types = [
        f"{key} {str(got[key].dtype).removeprefix('torch.')}"
        for key, tensor in wanted.items()
        if key in got and tensor.is_floating_point() and not got[key].is_floating_point()
    ]
    kinds = ("missing", "unexpected", "wrongly shaped", "wrongly typed")
    rows = dict(zip(kinds, (missing, unexpected, shapes, types), strict=True))
    return " and ".join(f"{len(r)} {kind} keys ({_first(r)})" for kind, r in rows.items() if r)


def _first(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
