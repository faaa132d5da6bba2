"""One suite for every bundle that ships: what it holds, that it runs, and what is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_models
import pytest
from model_goals import MAX_BUNDLE_MB, MAX_INT8_LOSS
from model_records import ap, evaluation

from edgeseg import load, open_camera
from edgeseg.bundle import PACKAGED, find, packaged, read

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("box", "ball", "can", "bottle", "mug", "bowl", "brick", "tube")
INPUT_HW = {"nano": (240, 320), "small": (480, 640)}
RECORDS = ("model", "check", "eval", "eval_unseen", "training", "failures")
PICTURES = ("training.svg", "failures.jpg")

pytestmark = pytest.mark.parametrize("name", packaged())


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return make_models.load_results(make_models.RESULTS)


def test_it_says_what_it_is(name: str) -> None:
    """Names are FAMILY-SIZE: the Makefile and the pages go by them."""
    spec = read(find(name))
    family, _, size = name.partition("-")
    assert (spec.name, spec.family, spec.input_hw) == (name, family, INPUT_HW[size])
    assert (spec.classes, spec.licence, spec.task) == (CLASSES, "Apache-2.0", "instance")
    assert spec.source and spec.weights
    assert list(spec.precisions) == ["int8", "fp32"]
    assert "model.int8.u8.onnx" in spec.files, "what ONNX Runtime runs fast on x86"


def test_it_is_small(name: str) -> None:
    total = sum(path.stat().st_size for path in find(name).iterdir())
    assert total <= 1e6 * MAX_BUNDLE_MB


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_it_finds_objects_in_the_clip(name: str, precision: str) -> None:
    clip = PACKAGED / "clip" / "tabletop.mp4"
    with load(name, "ort", precision=precision) as segmenter, open_camera(clip) as camera:
        frame = next(camera)
        with frame:
            instances = segmenter(frame)
        assert len(instances) >= 5
        assert instances.label_map().shape == (480, 640)


@pytest.mark.slow
def test_onnx_agrees_with_torch(name: str, edgeseg_cli: Callable[..., Any]) -> None:
    for module in ("torch", "onnx", "safetensors"):
        pytest.importorskip(module)
    spoken = edgeseg_cli("check", name)
    assert spoken.code == 0, spoken.out + spoken.err


def test_its_ranges_are_committed(name: str) -> None:
    """``make int8`` makes its INT8 from them."""
    committed = (ROOT / "calibration" / f"{name}.json").read_bytes()
    assert committed == (find(name) / "calibration.json").read_bytes()


def test_every_record_is_there_and_of_this_bundle(name: str, results: dict[str, Any]) -> None:
    missing = [f"{kind}_{name}.json" for kind in RECORDS if f"{kind}_{name}" not in results]
    assert not missing, f"run: make eval-{name}, or make bundle-{name}"
    spec = read(find(name))
    for split in ("test", "unseen"):
        report = evaluation(results, name, split)
        assert report and report["weights_sha256"] == spec.files[spec.weights], "run: make eval"
        assert [row["precision"] for row in report["results"]] == ["fp32", "int8"]
        assert report["images"] == 1000
    assert results[f"check_{name}"]["ok"]
    assert results[f"training_{name}"]["note"], "a sentence on how it was trained"
    size = "x".join(map(str, spec.input_hw[::-1]))
    assert {"test", "unseen"} <= set(results["dataset"][size]["splits"])


def test_int8_costs_little_accuracy(name: str, results: dict[str, Any]) -> None:
    report = evaluation(results, name, "test")
    fp32, int8 = ap(report, "fp32"), ap(report, "int8")
    assert fp32 is not None and int8 is not None
    assert 100 * (fp32 - int8) <= MAX_INT8_LOSS


def test_it_has_a_card_with_pictures(name: str) -> None:
    text = make_models.PAGE.read_text("utf-8")
    assert f"\n## {name}\n" in text, f"run: python tools/describe_model.py {name}; make docs"
    for picture in PICTURES:
        path = make_models.IMAGES / f"{name}-{picture}"
        assert f"](images/{path.name})" in text
        assert path.stat().st_size <= 300_000
    card = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for part in ("Training", "Accuracy", "Limits"):
        assert f"\n### {part}\n" in card
    assert json.loads((find(name) / "bundle.json").read_text("utf-8"))["licence"] in card
