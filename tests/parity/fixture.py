"""Parity fixtures: find them, tell their family from their content, fill weights, compare arrays.

A fixture is a json with an npz beside it, made by running official code on the CPU; see
``data/README.md``. The folder is ``$EDGESEG_PARITY``, else ``data/`` beside this file.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent / "data"
UNKNOWN = "unknown"
NOTE = "note"

# What each part of a training step or a network is called in the json's own "kind".
KINDS = {
    "fastinst": ("fastinst", "model"),
    "fastinst-train": ("fastinst", "train"),
    "maskformer": ("maskformer", "model"),
    "maskformer-train": ("maskformer", "train"),
    "units": ("fastinst", "units"),  # MaskFormer's cases in it are told apart by name
}


@dataclass(eq=False)
class Fixture:
    """One json and its npz.

    Attributes:
        path: of the json.
        facts: its content.
        family: ``fastinst``, ``maskformer``, ``knet``, ``dynamask``, ``note`` or ``unknown``.
        role: ``model``, ``train`` or ``units``.
    """

    path: Path
    facts: Any
    family: str
    role: str

    def __str__(self) -> str:
        return f"{self.family}-{self.path.stem}"

    @property
    def npz(self) -> Path:
        """Where the arrays are."""
        return self.path.with_suffix(".npz")

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the recorded arrays; none if the npz is not there."""
        if not self.npz.exists():
            return []
        with np.load(self.npz) as arrays:
            return list(arrays.files)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every recorded array by name."""
        with np.load(self.npz) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def tensor(self, name: str) -> torch.Tensor:
        """A recorded array as a tensor."""
        return torch.from_numpy(self.arrays[name])

    def numbered(self, pattern: str) -> list[np.ndarray]:
        """The arrays ``pattern.format(0)``, ``pattern.format(1)``, ... as far as they go."""
        found = []
        while (name := pattern.format(len(found))) in self.arrays:
            found.append(self.arrays[name])
        return found


def classify(facts: Any, has_arrays: bool) -> tuple[str, str]:
    """Family and role of a json, from its fields alone; ``("unknown", "")`` if none fits."""
    if not isinstance(facts, dict):
        return UNKNOWN, ""
    if "kind" in facts:
        return KINDS.get(facts["kind"], (UNKNOWN, ""))
    if not has_arrays:
        return (NOTE if _is_table(facts) else UNKNOWN), ""
    if {"model_hyper_parameters", "state_dict", "source_config"} <= facts.keys():
        return _named(facts["source_config"]), "model"
    if {"weights", "train_cfg", "losses"} <= facts.keys():
        return _named(facts["weights"]), "train"
    if "mmcv CPU kernels" in facts.get("note", "") and "arrays" in facts:
        return "dynamask", "units"
    return UNKNOWN, ""


def _is_table(facts: dict[str, Any]) -> bool:
    """A plain table of number pairs, such as how far each mutation moves the outputs."""
    rows = facts.values()
    return bool(rows) and all(
        isinstance(row, list) and [type(cell) for cell in row] == [float, float] for row in rows
    )


def _named(text: str) -> str:
    return next((family for family in ("dynamask", "knet") if family in text), UNKNOWN)


@functools.cache
def collect(folder: Path | None = None) -> list[Fixture]:
    """Every ``*/*.json`` of the folder, in order of their paths.

    Raises:
        FileNotFoundError: there is none, so that a wrong path can't look like success.
    """
    folder = folder or Path(os.environ.get("EDGESEG_PARITY", HERE))
    found = []
    for path in sorted(folder.glob("*/*.json")):
        facts = json.loads(path.read_text())
        found.append(Fixture(path, facts, *classify(facts, path.with_suffix(".npz").exists())))
    if not found:
        raise FileNotFoundError(
            f"got no */*.json in {folder}; wanted parity fixtures; set EDGESEG_PARITY"
        )
    return found


def of(family: str, role: str) -> list[Fixture]:
    """The collected fixtures of one family and role."""
    return [f for f in collect() if (f.family, f.role) == (family, role)]


def recorded(fixtures: list[Fixture]) -> list[Any]:
    """One test parameter per recorded array of the fixtures."""
    return [pytest.param(f, name, id=f"{f}-{name}") for f in fixtures for name in f.names]


# ---------------------------------------------------------------------------------------- fill
def _fill_rule(folder: str) -> Any:
    spec = importlib.util.spec_from_file_location("fill", HERE / folder / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill_rule = _fill_rule("fastinst_maskformer")
knet_rule = _fill_rule("knet_dynamask")


def fill(network: torch.nn.Module, fixture: Fixture) -> None:
    """Load the weights that the fixture was made with: the rule, then its overrides."""
    state = fill_rule.fill_state_dict(network.state_dict(), fixture.facts["fill_scale"])
    state.update(overrides(fixture))
    network.load_state_dict(state, strict=True)


def fill_knet(network: torch.nn.Module, fixture: Fixture) -> None:
    """The same by the rule of K-Net and DynaMask."""
    state = knet_rule.fill_state_dict(network, gains=fixture.facts["gains"])
    network.load_state_dict(state | overrides(fixture), strict=True)


def overrides(fixture: Fixture) -> dict[str, torch.Tensor]:
    """The weights that a fixture holds itself, by key."""
    names = [name for name in fixture.names if name.startswith("override/")]
    return {name.removeprefix("override/"): fixture.tensor(name) for name in names}


# ------------------------------------------------------------------------------------- compare
def array(value: Any) -> np.ndarray:
    """A tensor or array as numpy."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def close(ours: Any, theirs: Any, atol: float, rtol: float = 0.0) -> None:
    """Equal shapes, and every value within ``atol + rtol * |theirs|``."""
    ours, theirs = array(ours).astype(np.float64), array(theirs).astype(np.float64)
    assert ours.shape == theirs.shape, f"shape {ours.shape}; recorded {theirs.shape}"
    error = np.abs(ours - theirs)
    allowed = atol + rtol * np.abs(theirs)
    worst = float((error / allowed).max()) if error.size else 0.0
    print(f"max error {error.max(initial=0):.3g}, {worst:.3g} of the tolerance")
    assert worst <= 1.0, f"off by {error.max():.3g}: {worst:.3g} times the tolerance"


def equal(ours: Any, theirs: Any) -> None:
    """Equal shapes and values."""
    np.testing.assert_array_equal(array(ours), array(theirs), strict=False)


def agree(ours: Any, theirs: Any, allowed: float = 1e-4) -> None:
    """Equal shapes, and at most the share ``allowed`` of the values differ (0.01 %)."""
    ours, theirs = array(ours), array(theirs)
    assert ours.shape == theirs.shape, f"shape {ours.shape}; recorded {theirs.shape}"
    share = float((ours != theirs).mean()) if ours.size else 0.0
    print(f"{share:.3g} differ, {allowed:.3g} allowed")
    assert share <= allowed, f"{share:.3%} of the values differ, allowed {allowed:.3%}"


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bits of ``np.packbits`` over the last axis (rows) or over everything (flat) to ``shape``."""
    if packed.ndim == 1:
        return np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape).astype(bool)
    bits = np.unpackbits(packed, axis=-1, count=int(np.prod(shape[1:])))
    return bits.reshape(shape).astype(bool)


def samples(value: torch.Tensor) -> np.ndarray:
    """The first 256 elements of the row-major tensor, taken with stride max(1, n // 256)."""
    flat = array(value).reshape(-1)
    return flat[:: max(1, flat.size // 256)][:256]
