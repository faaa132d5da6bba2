"""docs/models.md: a card for each model that has a record, and nothing where there is none."""

from __future__ import annotations

import re
from typing import Any

import make_models
import pytest

LARGE = {"min_area_px": 1200, "AP": 0.61}
AP = {"AP": 0.5, "AP50": 0.7, "AP75": 0.6, "per_class": {"mug": 0.4}, "large": LARGE}
CARD = {"cpu": "A CPU", "cores": 2, "python": "3.11", "versions": {"onnxruntime": "1.2"}}
COUNTS = {"objects": 10, "found": 7, "wrong_class": 1, "missed": 2}


def model(name: str = "net") -> dict[str, Any]:
    known = {"family": "f", "classes": ["mug"], "input_size": "32x24", "max_instances": 5}
    cost = {"parameters": 2_000_000, "macs": 3_000_000_000, "bytes": {"a.onnx": 17_000_000}}
    return {"model": name, "precisions": ["int8"], "licence": "L", **known, **cost}


def evaluated(split: str, value: float, name: str = "net") -> dict[str, Any]:
    rows = [{"precision": "fp32", **AP, "AP": value}]
    return {"model": name, "split": split, "images": 9, "instances": 99, "results": rows}


def failures(**more: Any) -> dict[str, Any]:
    shown = {"precision": "int8", "score_threshold": 0.5, "min_iou": 0.5, "split": "test"}
    sizes = [{"from_px": 300, "to_px": None, **COUNTS, "AP": {"int8": 0.123}}]
    classes = {"mug": {**COUNTS, "extra": 3, "taken_for": {"can": 1}}}
    return {
        **shown, "images": 9, "faultless_images": 1, "by_size": sizes, "by_class": classes,
        "by_light": {}, "worst": {"a.png": 7, "b.png": 5}, **more,
    }  # fmt: skip


def test_a_model_without_other_records_has_a_card_that_says_nothing_more() -> None:
    text = make_models.models({"model_net": model()})
    assert "| [`net`](#net) | 32x24 | 2.00 M | 3.00 |  |  |  |  |  |  |  |  |" in text
    assert re.findall("^#+ .*", text, re.MULTILINE) == ["## net"]
    assert "17.0 MB; at most 16 MB, **missed**" in text


def test_a_second_model_appears_by_its_records_alone() -> None:
    results = {
        "model_net": model(),
        "model_other": model("other"),
        "eval_other": evaluated("test", 0.41, "other"),
        "eval_unseen_net": evaluated("unseen", 0.2),
    }
    text = make_models.models(results)
    assert "| [`other`](#other) | 32x24 | 2.00 M | 3.00 | 0.410 |" in text
    assert text.index("## net") < text.index("## other") < text.index("| test | fp32 | 0.410 |")


def test_what_the_unseen_domain_costs() -> None:
    results = {"eval_net": evaluated("test", 0.6), "eval_unseen_net": evaluated("unseen", 0.25)}
    text = make_models.accuracy(results, "net")
    assert "lost in the unseen domain: 35.0 (fp32), from 0.600 to 0.250." in text
    assert "| AP of | test, fp32 | unseen, fp32 |" in text
    assert "| AP of >= 1200 px |" in text


def test_what_each_part_of_the_unseen_domain_costs() -> None:
    rows = [{"changed": n, "AP": v, "AP50": v} for n, v in (("nothing", 0.6), ("lights", 0.5))]
    record = {"images": 7, "ran": "net on ort", "rows": rows}
    text = make_models.factors({"domain_net": record}, "net")
    assert "| nothing | 0.600 | 0.600 | 0.0 |\n| lights | 0.500 | 0.500 | 10.0 |" in text


def test_an_evaluation_of_another_model_is_refused() -> None:
    results = {"eval_net": evaluated("test", 0.6, "other")}
    with pytest.raises(SystemExit, match=r"got other on test in eval_net.json; wanted net on test"):
        make_models.accuracy(results, "net")


def test_one_run_of_all_models_tells_their_speed() -> None:
    """A K-Net's frames per second are judged against those of the FastInst of its size."""
    names = ("fastinst-nano", "knet-nano", "knet-small")
    rates = dict(zip(names, (60.0, 47.0, 9.0), strict=True))
    rows = [
        {"model": name, "engine_name": "ort", "precision": "int8", "p50_ms": 12.34}
        for name in names
    ]
    bench = {
        "machine": CARD, "threads": 1, "precisions": rows,
        "models": [{"model": name, "end_to_end": {"fps": rates[name]}} for name in names],
    }  # fmt: skip
    results = {f"model_{name}": model(name) for name in names} | {"bench": bench}
    text = make_models.overview(results)
    assert "|  | 12.3 | 60.0 |  |" in text
    assert "|  | 12.3 | 47.0 | 0.78, **missed** |" in text
    assert "|  | 12.3 | 9.0 |  |" in text, "nothing to compare it with"
    assert "all models and both sides in turn" in make_models.measured(results)
    assert "47.0 fps. That is 0.78 of `fastinst-nano`." in make_models.speed(results, "knet-nano")


def test_splits_of_both_sizes_are_told() -> None:
    split = {"images": 9, "first_scene": 0, "sha256": "abc"}
    made = {"libraries": {"mujoco": "4"}, "views_per_scene": 2, "seed": 0}
    sizes = {
        "320x240": {**made, "splits": {"train": split}},
        "640x480": {**made, "splits": {"train": split}},
    }
    text = make_models.data({"dataset": sizes})
    assert "| 320x240 | train | 9 | 0 | `abc` |\n| 640x480 | train | 9 | 0 |" in text


def test_failures_are_told_by_size_and_class() -> None:
    text = make_models.limits({"failures_net": failures()}, "net")
    assert "| from 300 | 10 | 70% | 10% | 20% | 0.123 |" in text
    assert "| mug | 10 | 70% | 10% | 20% | 3 | can 1 |" in text
    assert "The 2 pictures of the test split with the most errors" in text
    assert "dark" not in text
    dark = failures(by_light={"dark": {**COUNTS, "found": 5}, "other": COUNTS})
    told = make_models.limits({"failures_net": dark}, "net")
    assert "In dark pictures it finds 50% of the objects, in others 70%." in told


def test_the_page_is_up_to_date() -> None:
    assert make_models.main(["--check"]) == 0
