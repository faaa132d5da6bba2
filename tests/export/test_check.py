"""The check sees what is wrong, and is not fooled by the order of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeseg.bundle import packaged, read, write
from edgeseg.engines.fake import fake_spec
from edgeseg.errors import BundleError, InputError
from edgeseg.export.check import TOLERANCES, Outputs, Report, Row, check, compare, drawn, match
from edgeseg.export.network import restore
from edgeseg.export.weights import write_weights

LIMITS = TOLERANCES["fp32"]
SPEC = fake_spec((64, 96), max_instances=8)


def outputs() -> Outputs:
    """Eight rows of different round masks, three of them above the threshold."""
    y, x = np.mgrid[0:16, 0:24]
    centres = np.random.default_rng(4).random((8, 2)) * (16, 24)
    away = np.hypot(y - centres[:, :1, None], x - centres[:, 1:, None])
    return {
        "scores": np.linspace(0.9, 0.1, 8).astype(np.float32),
        "labels": np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32),
        "masks": (5 - away).astype(np.float32),
    }


def row(got: Outputs) -> Row:
    return compare("p", outputs(), got, SPEC, LIMITS)


def test_the_same_is_ok() -> None:
    found = row(outputs())
    assert found.verdict == "ok"
    assert (found.rows, found.unmatched, found.score, found.mask) == (8, 0, 0.0, 0.0)
    assert (found.mean_iou, found.min_iou) == (1.0, 1.0)


def test_the_order_of_rows_does_not_count() -> None:
    order = np.random.default_rng(0).permutation(8)
    assert row({name: array[order] for name, array in outputs().items()}).verdict == "ok"
    pairs, alone = match(outputs(), {n: a[order] for n, a in outputs().items()})
    assert [order[k] for _, k in sorted(pairs.tolist())] == list(range(8))
    assert alone == ([], [])


def _lowest_row_swapped(got: Outputs) -> None:
    got["labels"][7], got["masks"][7] = 2, -got["masks"][7]


def _one_query_moved(got: Outputs) -> None:
    got["masks"] += 0.05
    got["scores"] -= 0.01


FAULTS: dict[str, tuple[Callable[[Outputs], object], str]] = {
    "a score off by 1e-3": (lambda g: g["scores"].__isub__(1e-3), "ok"),
    "a score off by 0.01": (lambda g: g["scores"].__setitem__(0, 0.89), "tie"),
    "a score off by 0.04": (lambda g: g["scores"].__setitem__(0, 0.86), "FAILED"),
    "a score off by 0.2": (lambda g: g["scores"].__setitem__(0, 0.7), "FAILED"),
    "a wrong label of a seen instance": (lambda g: g["labels"].__setitem__(0, 2), "FAILED"),
    "the last row swapped": (_lowest_row_swapped, "FAILED"),
    "one query chosen otherwise": (_one_query_moved, "tie"),
    "all masks shifted by a cell": (
        lambda g: g["masks"].__setitem__(slice(None), np.roll(g["masks"], 1, 2)),
        "FAILED",
    ),
    "a mask upside down": (
        lambda g: g["masks"].__setitem__(3, g["masks"][3, ::-1].copy()),
        "FAILED",
    ),
    "no numbers": (lambda g: g["masks"].fill(np.nan), "FAILED"),
    "no score": (lambda g: g["scores"].__setitem__(2, np.nan), "FAILED"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_seen(fault: str) -> None:
    do, verdict = FAULTS[fault]
    got = {name: array.copy() for name, array in outputs().items()}
    do(got)
    assert row(got).verdict == verdict


@pytest.mark.parametrize(("moved", "verdict"), [(0, "ok"), (1, "tie"), (4, "tie"), (5, "FAILED")])
def test_a_tenth_of_the_rows_may_move_much_in_a_tie(moved: int, verdict: str) -> None:
    wanted = {name: np.concatenate([array] * 5) for name, array in outputs().items()}
    wanted["scores"] = np.linspace(0.9, 0.1, 40, dtype=np.float32)
    got = {name: array.copy() for name, array in wanted.items()}
    got["masks"] = got["masks"] * np.linspace(1, 2, 40, dtype=np.float32)[:, None, None]
    wanted["masks"] = got["masks"].copy()
    got["scores"][:moved] -= 0.2
    assert compare("many", wanted, got, SPEC, LIMITS).verdict == verdict


@pytest.mark.parametrize(
    ("verdicts", "ok"),
    [
        (["ok"] * 8, True),
        (["ok"] * 4 + ["tie"] * 4, True),
        (["ok"] * 3 + ["tie"] * 5, False),
        (["ok"] * 7 + ["FAILED"], False),
        (["tie"], False),
    ],
)
def test_few_ties_are_allowed_and_no_failure(verdicts: list[str], ok: bool) -> None:
    same = row(outputs())
    rows = tuple(replace(same, verdict=verdict) for verdict in verdicts)
    report = Report("b", "fp32", "this", "that", LIMITS, rows)
    assert report.ok is ok
    assert report.to_dict()["ok"] is ok
    for verdict in verdicts:
        assert verdict in report.table()


def test_a_sound_bundle(tiny: Path) -> None:
    report = check(tiny, threads=1)
    assert report.ok
    assert len(report.rows) >= 2
    json.dumps(report.to_dict())
    assert report.engine.startswith("onnxruntime")
    assert report.reference.startswith("torch")


def _altered(tiny: Path, folder: Path, alter: Callable[[dict[str, Any]], object]) -> Path:
    """The bundle with other torch weights beside the same ONNX file and its own weights."""
    spec = read(tiny)
    state = restore(tiny, spec).state_dict()
    alter(state)
    write_weights(folder.parent / "torch.safetensors", state, half=False)
    files = {name: tiny / name for name in spec.files}
    files["torch.safetensors"] = folder.parent / "torch.safetensors"
    write(folder, replace(spec, weights="torch.safetensors"), files)
    return folder


ALTERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a stale kernel": lambda s: s["backbone.layer2.0.conv1.weight"].mul_(1.05),
    "a stale batch norm": lambda s: s["backbone.layer1.0.bn1.running_var"].mul_(1.1),
    "a shifted class": lambda s: s["sem_seg_head.predictor.class_embed_layers.1.layers.2.bias"][
        1
    ].add_(0.5),
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_bundle_whose_halves_differ(tiny: Path, tmp_path: Path, name: str) -> None:
    assert check(_altered(tiny, tmp_path / "same", lambda s: None), threads=1).ok
    assert not check(_altered(tiny, tmp_path / "other", ALTERED[name]), threads=1).ok


def test_pictures_of_ones_own(tiny: Path) -> None:
    report = check(tiny, pictures=[drawn(50, 70, 1), drawn(200, 100, 2)], threads=1)
    assert [r.picture for r in report.rows] == ["0", "1"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"engine": "ortt"},
            "got engine 'ortt'; wanted one of eager, fake, openvino, ort, trt, trt-dla, "
            "trt-dla1; did",
        ),
        ({"precision": "int4"}, "got precision 'int4'; wanted one of fp32, fp16, which have a"),
        ({"precision": "fp16"}, "got precision 'fp16'; wanted one of fp32; leave it out for"),
    ],
)
def test_what_cannot_be_checked(tiny: Path, settings: dict[str, str], text: str) -> None:
    with pytest.raises(InputError) as caught:
        check(tiny, **settings)
    assert str(caught.value).startswith(text)


def test_a_bundle_without_torch_weights(fake_bundle: Path) -> None:
    with pytest.raises(BundleError, match="got bundle 'fake' without torch weights"):
        check(fake_bundle, engine="fake")


def test_the_drawn_pictures_are_what_they_were() -> None:
    picture = drawn(480, 640, 1)
    assert picture.shape == (480, 640, 3)
    assert picture.std() > 30
    np.testing.assert_array_equal(picture, drawn(480, 640, 1))
    assert (drawn(480, 640, 2) != picture).mean() > 0.9


@pytest.mark.parametrize("name", packaged())
def test_every_packaged_bundle_agrees(name: str) -> None:
    torch.manual_seed(0)
    report = check(name, threads=1)
    assert report.ok, report.table()
