"""Weights to begin with: those of a bundle or a checkpoint, as far as they fit the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg import bundle as bundles
from edgeseg.bundle import CHECKPOINTS
from edgeseg.errors import BundleError, InputError
from edgeseg.export.network import network_of, weights_file
from edgeseg.export.weights import read_checkpoint, read_weights


@dataclass(frozen=True)
class Start:
    """A trained network to begin with.

    Attributes:
        name: of the bundle or file, for people.
        family: of the network.
        shape: the network's settings, a dataclass with ``num_classes`` and ``to_dict``.
        state: its weights.
        classes: its class names, in the order of its labels.
        input_hw: size that it was trained for, pixels.
        licence: of the weights.
    """

    name: str
    family: str
    shape: Any
    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    input_hw: tuple[int, int]
    licence: str

    def network(self, num_classes: int) -> nn.Module:
        """A network of this shape for so many classes, its weights random yet."""
        return network_of(self.family, replace(self.shape, num_classes=num_classes).to_dict())


def read_start(source: str | Path) -> Start:
    """A packaged bundle by name, a bundle folder, or a checkpoint of ``edgeseg train``.

    Raises:
        BundleError: none of these, damaged, without torch weights, or of another family.
    """
    path = Path(source)
    if path.suffix in CHECKPOINTS:
        return _from_checkpoint(path)
    folder = bundles.find(source)
    spec = bundles.read(folder)
    state = read_weights(weights_file(folder, spec))
    shape = network_of(spec.family, spec.network).config
    return Start(spec.name, spec.family, shape, state, spec.classes, spec.input_hw, spec.licence)


def _from_checkpoint(path: Path) -> Start:
    content = read_checkpoint(path)
    if not {"model", "network", "classes", "input_hw"} <= content.keys():
        raise BundleError(
            f"got {path} which 'edgeseg train' did not write; wanted its best.pt, or a bundle; "
            "make a bundle of an official checkpoint with 'edgeseg convert'"
        )
    family = content.get("family", "fastinst")
    shape = network_of(family, content["network"]).config
    height, width = content["input_hw"]
    classes = tuple(content["classes"])
    return Start(path.name, family, shape, content["model"], classes, (height, width), "")


@dataclass(frozen=True)
class Taken:
    """What a network took from a `Start`.

    Attributes:
        source: name of the start.
        tensors: taken whole.
        class_tensors: with one row per class, which are put together anew.
        left: tensors of the network that keep their random weights.
        kept: classes whose rows were taken, for their names agree.
        new: classes whose rows are new.
    """

    source: str
    tensors: int
    class_tensors: int
    left: tuple[str, ...]
    kept: tuple[str, ...]
    new: tuple[str, ...]

    def text(self) -> str:
        """For a person."""
        total = self.tensors + self.class_tensors + len(self.left)
        words = f"from {self.source}: {self.tensors} of {total} tensors as they are; "
        words += f"{self.class_tensors} of the class layers "
        if self.kept:
            words += f"with their rows of {', '.join(self.kept)}; "
        if self.new:
            words += f"with new rows for {', '.join(self.new)}"
        if self.left:
            more = ", ..." if len(self.left) > 5 else ""
            words += f"; random: {', '.join(self.left[:5])}{more}"
        return words.rstrip("; ")


def take(network: nn.Module, start: Start, classes: Sequence[str]) -> Taken:
    """Load what fits of a start into a network, of the same shape or of another.

    A class layer has one row per class, and one for "no object" behind them. Rows of classes that
    both know are taken. A new class begins with the mean of the old ones: the network then tells
    objects from background at once, and only has to learn which object it is.

    Args:
        network: changed.
        start: where the weights come from.
        classes: of the network, in the order of its labels.

    Raises:
        BundleError: nothing fits.
    """
    state = network.state_dict()
    rows = class_layers(start) & state.keys()
    left = []
    for key, value in state.items():
        old = start.state.get(key)
        if old is not None and key in rows:
            old = _rows(old.float(), start.classes, classes)
        if old is not None and old.shape == value.shape:
            value.copy_(old)
        else:
            left.append(key)
    if all(key in left for key, value in state.items() if value.ndim):
        raise BundleError(
            f"got {start.name}, of which no tensor fits; wanted a network with parts in common; "
            "choose another one for --init, or leave it out"
        )
    rows -= set(left)
    taken = len(state) - len(left) - len(rows)
    kept = tuple(name for name in classes if name in start.classes)
    new = tuple(name for name in classes if name not in start.classes)
    return Taken(start.name, taken, len(rows), tuple(left), kept, new)


def check_frozen(network: nn.Module, taken: Taken | None, name: str) -> None:
    """Refuse random weights in layers that training leaves as they are."""
    frozen = [key for key, one in network.named_parameters() if not one.requires_grad]
    random = [key for key in frozen if taken is None or key in taken.left]
    if random:
        raise InputError(
            f"got {name} with random weights in {random[0]}, which its training leaves as they "
            "are; wanted pretrained ones; name a converted checkpoint for --init, or choose a "
            "variant without frozen layers, as knet-small"
        )


def class_layers(start: Start) -> set[str]:
    """Keys of the tensors whose size hangs on the number of classes."""
    with torch.device("meta"):
        one, more = (start.network(count).state_dict() for count in (2, 3))
    return {key for key in one if one[key].shape != more[key].shape}


def _rows(old: Tensor, known: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Rows for ``classes`` out of those for ``known``; rows behind the classes stay the last."""
    count = len(known)
    mean = old[:count].mean(0)
    places: dict[Any, int] = {name: place for place, name in enumerate(known)}
    rows = [old[places[name]] if name in places else mean for name in classes]
    return torch.cat([torch.stack(rows), old[count:]])
