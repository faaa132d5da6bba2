"""The README's tables: made from measurements, goals judged, nothing else touched."""

from __future__ import annotations

import make_readme
import pytest

CARD = {"cpu": "A CPU", "cores": 2, "python": "3.11", "versions": {"onnxruntime": "1.2"}}
RESULT = {"AP": 0.5, "AP50": 0.7, "AP75": 0.6, "per_class": {"mug": 0.41}}
EVAL = {
    "model": "fastinst-nano",
    "split": "test",
    "images": 1000,
    "instances": 9,
    "results": [{"precision": "fp32", "engine": "ort", **RESULT, "large": {**RESULT, "AP": 0.61}}],
}
NANO = {"model": "fastinst-nano", "input_size": "320x240", "engine_name": "ort"}
STAGE = {"p50_ms": 1.0, "p99_ms": 2.0}


MODEL = {"input_size": "320x240", "classes": ["mug"], "bytes": {"a": 15_000_000}}
KNOWN = {"model_fastinst-nano": MODEL}


def bench(ratio: float, efficiency: float) -> dict[str, object]:
    return {
        "machine": CARD,
        "threads": 1,
        "decode": {
            "reference": "torch 9",
            "kept": 12,
            "rows": [
                {
                    "logits_hw": [160, 160],
                    "frame_hw": [720, 1280],
                    "official_ms": 100.0,
                    "ours_ms": 100.0 / ratio,
                    "ratio": ratio,
                    "mean_iou": 0.999,
                    "min_iou": 0.996,
                }
            ],
        },
        "overlay": {
            "size": "1280x720",
            "instances": 15,
            "reference_ms": 40.0,
            "fill_ms": 0.5,
            "draw_ms": 0.9,
        },
        "precisions": [
            {**NANO, "precision": "fp32", "p50_ms": 30.0, "speedup": 1.0},
            {**NANO, "precision": "int8", "p50_ms": 20.0, "speedup": 1.5},
        ],
        "models": [
            {
                "model": "fastinst-nano",
                "input_size": "320x240",
                "instances_per_frame": 5.0,
                "efficiency": efficiency,
                "end_to_end": {"fps": 60.0},
                "network": {"fps": 80.0},
                "stages": dict.fromkeys(make_readme.STAGES, STAGE),
            }
        ],
        "memory": {"frames": 10000, "start_mib": 100.0, "end_mib": 100.5},
    }


def page(**results: object) -> str:
    empty = "top\n" + "".join(
        f"<!-- {n} -->\nold\n<!-- /{n} -->\nmid\n" for n in make_readme.TABLES
    )
    return make_readme.render(empty, results)


def test_without_measurements_it_says_so() -> None:
    assert page().count("Not measured yet.") == len(make_readme.TABLES)
    assert "old" not in page()
    assert page().startswith("top\n")


def test_models_are_told_and_compared() -> None:
    evaluation = {**EVAL, "results": [{**EVAL["results"][0], "precision": "int8", "AP": 0.6}]}
    fast = bench(44.0, 0.6)
    fast["models"].append({**fast["models"][0], "model": "net", "end_to_end": {"fps": 20.0}})
    known = {**KNOWN, "eval_fastinst-nano": EVAL, "bench": fast}
    text = page(**known, model_net=MODEL, eval_net={**evaluation, "model": "net"})
    assert "| [`net`](docs/models.md#net) | 320x240 | 0.600 |  |  | 20.0 | 15.0 |" in text
    assert "The fastest is `fastinst-nano`; `net` finds the most. In INT8" in text
    alone = page(**known)
    assert "fastinst-nano`](docs/models.md#fastinst-nano) | 320x240 |  |  | 20.0 | 60.0" in alone
    assert "The fastest" not in alone


def test_int8_is_judged_by_its_speed_up() -> None:
    text = page(bench=bench(50.0, 0.9))
    assert "| fastinst-nano | 320x240 | int8 | 20.0 | 1.50x | 1.7x, **missed** |" in text
    assert "| fastinst-nano | 320x240 | fp32 | 30.0 | 1.00x |  |" in text


def test_ros_is_told_at_30_hz_with_and_without_profile() -> None:
    case = {
        "network": "fake",
        "precision": "fp32",
        "rate_hz": 30,
        "profile": True,
        "width": 640,
        "height": 480,
        "delivered_fraction": 1.0,
        "overhead_ms": {"p50": 2.51, "p99": 5.0},
        "node_cpu_beyond_ms": 2.2,
        "others_cpu": 0.04,
    }
    slow = case | {"rate_hz": 15, "width": 1}
    without = case | {"profile": False, "delivered_fraction": 0.017}
    nothing = {"overhead_ms": None, "node_cpu_beyond_ms": None, "delivered_fraction": 0.0}
    late = {"overhead_ms": {"p50": 5.01, "p99": 9.0}, "node_cpu_beyond_ms": 3.4}
    large = case | {"width": 1280, "height": 720}
    card = {**CARD, "ros": {"rclpy": "9.1.2"}}
    cases = [case, slow | {"others_cpu": 0.9}, without, without | nothing, large | late]
    same = {"growth": 0}
    still = {"threads": same, "files": same, "anon_mib": {"first": 55.2, "growth": 0.5}}
    soak = {"seconds": 600.0, "size": "640x480", "rate_hz": 30, "model": "net", "camera": still}
    soak["node"] = still | {"anon_mib": {"first": 83.1, "growth": 1.16}, "files": {"growth": 2}}
    text = page(ros={"machine": card, "cases": cases}, ros_soak=soak)
    assert "After 10 minutes of 640x480 at 30 Hz with net, the node has 1.2 MiB more" in text
    assert "memory of 83 and the camera 0.5 of 55, 0 more threads and 2 more descriptors." in text
    assert "| fake | yes | 100.0%, reached | 2.5, reached | 5.0 | 2.2, reached |" in text
    assert "| 640x480 | fake | no | 1.7% | 2.5 | 5.0 | 2.2 |" in text
    assert "| 640x480 | fake | no | 0.0% |  |  |  |" in text
    assert "| 1280x720 | fake | yes | 100.0%, reached | 5.0, **missed** | 9.0 | 3.4 |" in text
    assert "| 1x480" not in text and "up to 4% of the machine" in text


def test_accuracy_is_that_of_the_json() -> None:
    text = page(**KNOWN, **{"eval_fastinst-nano": EVAL})
    assert "| fastinst-nano | fp32 | ort | 0.500 | 0.700 | 0.600 | 0.610 |" in text
    assert "1000 unseen pictures of the test split" in text


@pytest.mark.parametrize(
    ("ratio", "efficiency", "said"),
    [
        (44.0, 0.6, ("44x | 40x, reached", "0.60 | 0.55, reached")),
        (39.0, 0.5, ("39x | 40x, **missed**", "0.50 | 0.55, **missed**")),
    ],
)
def test_goals_are_judged(ratio: float, efficiency: float, said: tuple[str, ...]) -> None:
    text = page(bench=bench(ratio, efficiency))
    for words in said:
        assert words in text
    assert "mean 0.9990, min 0.9960: reached" in text
    assert "| overlay, 15 objects at 1280x720 | 40.0 | 0.50 | 80x | 40x, reached |" in text


def test_the_curve_ends_with_its_last_row() -> None:
    curve = [
        {"minutes": 8.0 * k, "images_seen": 1000 * k, "val_images": 150 + k}
        | {"ema_AP": k / 100, "ema_AP50": k / 50, "raw_AP": k / 200, "raw_AP50": k / 25}
        for k in range(1, 21)
    ]
    card = {"variant": "nano", "device": "A CPU", "threads": 2, "torch": "9", "train_images": 5}
    card["note"] = "On one thread."
    text = page(**{"training_fastinst-nano": {**card, "curve": curve}})
    assert "| 160 | 20 k | 0.100 | 0.800 | 0.200 | 0.400 | 170 |" in text
    assert text.count(" k | ") == 7


def test_a_second_run_changes_nothing() -> None:
    results = {**KNOWN, "eval_fastinst-nano": EVAL, "bench": bench(44.0, 0.6)}
    once = page(**results)
    assert make_readme.render(once, results) == once


def test_a_lost_marker_is_noticed() -> None:
    with pytest.raises(SystemExit, match="got no <!-- models --> in the README"):
        make_readme.render("nothing here", {})


STUDY = {
    "model": "net",
    "split": "val",
    "images": 600,
    "machine": CARD,
    "rounds": 7,
    "load_average": {"before": 2.04, "after": 0.6},
    "rows": [
        {"what": "convolutions", "layers": 38, "ap_fp32": 0.6193, "ap_int8": 0.6176}
        | {"drop_ap": 0.178, "ms_fp32": 36.04, "ms_int8": 19.83, "speedup": 1.8189},
        {"what": "all", "layers": 78, "ap_fp32": 0.6193, "ap_int8": 0.6213}
        | {"drop_ap": -0.2, "ms_fp32": 36.04, "ms_int8": 16.16, "speedup": 2.2281},
    ],
}


def test_the_study_of_int8_is_that_of_the_json() -> None:
    page = "top\n<!-- quantization -->\nold\n<!-- /quantization -->\nend"
    results = {"quantization": STUDY}
    text = make_readme.render(page, results, make_readme.INT8_TABLES, "int8.md")
    assert text.startswith("top\n<!-- quantization -->\n| in INT8 |")
    lines = text.splitlines()
    assert lines[4:7] == [
        "| nothing: FP32 | 0 | 0.619 |  | 36.0 |  |",
        "| convolutions | 38 | 0.618 | +0.2 | 19.8 | 1.82x |",
        "| all | 78 | 0.621 | -0.2 | 16.2 | 2.23x |",
    ]
    assert "(7 rounds, median; load 2.0 to 0.6 by other work" in text
    assert make_readme.render(text, results, make_readme.INT8_TABLES) == text
    with pytest.raises(SystemExit, match=r"got no <!-- quantization --> in int8.md; wanted it"):
        make_readme.render("nothing", results, make_readme.INT8_TABLES, "int8.md")


OWN = {
    "pictures": {"train": 360, "val": 60, "test": 80},
    "goal": {"AP50": 0.6, "minutes": 20},
    "times": {"train": {"wall_minutes": 25.04, "cpu_minutes": 19.0}},
    "training": {"images_seen": 8000},
    "test": {**EVAL, "machine": CARD},
    "note": "Beside other work.",
}


@pytest.mark.parametrize(("minutes", "verdict"), [(19.5, "reached"), (20.5, "**missed**")])
def test_own_classes_are_judged_by_ap_and_time(minutes: float, verdict: str) -> None:
    times = {"train": {"wall_minutes": minutes, "cpu_minutes": 30.0}}
    text = make_readme.own_classes({"own_classes": OWN | {"times": times}})
    assert "| fp32 | 0.500 | 0.600 | 0.700 | 0.60, reached |" in text
    assert f"| train | {minutes} | 30.0 |" in text
    assert f"is 20 minutes on 2 cores: {verdict}. Beside other work." in text


def test_every_page_is_checked() -> None:
    assert [path.name for path in make_readme.PAGES] == ["README.md", "int8.md", "own-classes.md"]
