"""The contract of every inference engine, and the checks they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import ModelSpec
from edgeseg.errors import EngineError, unknown

IMAGE = "image"
Shape = tuple[int, ...]
Row = tuple[object, object]
"""Shape and dtype of an input or output; as text where they are none that numpy has."""


class Engine(ABC):
    """A loaded network with a bound input and reused outputs.

    Members: `spec`, `input`, `load`, `run`, `describe`, `close`.

    Attributes:
        spec: the bundle's description of the network.
        input: uint8 (1, H, W, 3) at network size in ``spec.colour`` order, owned by the engine;
            write the picture here, then call `run`. Never replaced during the engine's life.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.input: NDArray[np.uint8] = np.zeros((1, *spec.input_hw, 3), np.uint8)

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> Engine:
        """Load the network of ``precision`` from a verified bundle ``folder``.

        Args:
            folder: bundle folder whose hashes have been checked.
            spec: description read from its ``bundle.json``.
            precision: a key of ``spec.precisions``.
            threads: CPU threads to use; 0 leaves the choice to the library.

        Raises:
            EngineError: the library refused the network.
            InputError: the bundle has no such precision.
        """

    def run(self) -> dict[str, NDArray[np.generic]]:
        """Run the network on `input`.

        Returns:
            The outputs by meaning: ``scores`` float32 (M,), ``labels`` int32 (M,), ``masks``
            float32 (M, h, w) logits, or uint8 as `output_layout` says. They belong to the engine
            and are overwritten by the next `run`.

        Raises:
            EngineError: the engine was closed, or the library failed.
        """
        if self.input.size == 0:
            raise EngineError("got a run of a closed engine; wanted an open one; load it again")
        return self._run()

    @abstractmethod
    def _run(self) -> dict[str, NDArray[np.generic]]:
        """The library's part of `run`."""

    @abstractmethod
    def describe(self) -> str:
        """Library, version, device and precision, for people and records."""

    def close(self) -> None:
        """Free the network. Harmless when called twice."""
        self.input = np.zeros((1, 0, 0, 3), np.uint8)


def network_file(folder: Path, spec: ModelSpec, precision: str) -> Path:
    """The network file of ``precision``.

    Raises:
        InputError: the bundle has no such precision.
    """
    if precision not in spec.precisions:
        raise unknown("precision", precision, spec.precisions)
    return folder / spec.precisions[precision]


def output_layout(spec: ModelSpec) -> dict[str, tuple[Shape, type[np.generic]]]:
    """Shape and dtype that every engine gives, by meaning: ``scores labels masks``.

    Masks are logits, float32 (M, h, w); or, of a bundle for frames of one size, their pixels there:
    uint8 (M, height, ceil(width / 8)), the first of eight in the highest bit.
    """
    rows = spec.max_instances
    masks: tuple[Shape, type[np.generic]] = ((rows, *spec.mask_hw), np.float32)
    if spec.frame_hw is not None:
        height, width = spec.frame_hw
        masks = (rows, height, (width + 7) // 8), np.uint8
    return {
        "scores": ((rows,), np.float32),
        "labels": ((rows,), np.int32),
        "masks": masks,
    }


def empty_outputs(spec: ModelSpec) -> dict[str, NDArray[np.generic]]:
    """Zeroed arrays of `output_layout`, for an engine to fill again and again."""
    return {name: np.zeros(shape, kind) for name, (shape, kind) in output_layout(spec).items()}


def check_layout(got: Mapping[str, Row], spec: ModelSpec, path: Path) -> None:
    """Refuse a network whose input and outputs are not those that ``spec`` says.

    Args:
        got: shape and dtype of every input and output, by name.
        spec: what the bundle says.
        path: the network's file.

    Raises:
        EngineError: one is missing, another one, or too many.
    """
    wanted: dict[str, Row] = {spec.outputs[key]: row for key, row in output_layout(spec).items()}
    wanted[IMAGE] = ((1, *spec.input_hw, 3), np.uint8)
    for name, row in wanted.items():
        if got.get(name) != row:
            raise EngineError(
                f"got {_words(got.get(name))} for {name!r} in {path}; wanted {_words(row)} as "
                "bundle.json says; export the bundle again"
            )
    if len(got) != len(wanted):
        extra = ", ".join(sorted(set(got) - set(wanted)))
        raise EngineError(
            f"got inputs or outputs {extra} in {path}; wanted only {', '.join(wanted)}; "
            "export the bundle again"
        )


def _words(row: Row | None) -> str:
    if row is None:
        return "nothing"
    kind = row[1].__name__ if isinstance(row[1], type) else row[1]
    return f"{kind} {row[0]}"
