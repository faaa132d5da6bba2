"""The records of docs/results that tell of a packaged model, and what stands in them.

A model is known once its model_NAME.json is there (`tools/describe_model.py`). Then, each where it
was measured: eval_NAME.json (split test), eval_unseen_NAME.json, check_NAME.json,
training_NAME.json, failures_NAME.json, domain_NAME.json; and bench.json, one run of all models.
"""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]
EVALUATIONS = {"test": "eval", "unseen": "eval_unseen"}


def names(results: Results) -> list[str]:
    """Models that have a record."""
    return [name.removeprefix("model_") for name in sorted(results) if name.startswith("model_")]


def evaluation(results: Results, name: str, split: str) -> dict[str, Any] | None:
    """The evaluation of a model on a split, ``test`` or ``unseen``."""
    key = f"{EVALUATIONS[split]}_{name}"
    report: dict[str, Any] | None = results.get(key)
    if report and (report["model"], report["split"]) != (name, split):
        raise SystemExit(
            f"got {report['model']} on {report['split']} in {key}.json; wanted {name} on {split}; "
            "run: make eval"
        )
    return report


def ap(report: dict[str, Any] | None, precision: str) -> float | None:
    """AP of a precision in an evaluation."""
    rows = report["results"] if report else []
    return next((float(row["AP"]) for row in rows if row["precision"] == precision), None)


def network_ms(results: Results, name: str) -> dict[str, float]:
    """Precision -> p50 of the bare network on the CPU's default engine."""
    return {
        row["precision"]: row["p50_ms"]
        for row in results.get("bench", {}).get("precisions", [])
        if row["model"] == name and row["engine_name"] == "ort"
    }


def fps(results: Results, name: str) -> float | None:
    """Frames per second from the video to Instances, in the default precision."""
    rows = results.get("bench", {}).get("models", [])
    return next((float(row["end_to_end"]["fps"]) for row in rows if row["model"] == name), None)


def peer(name: str) -> str:
    """The FastInst of a K-Net's input size, with which it is compared; "" for others."""
    family, _, size = name.partition("-")
    return f"fastinst-{size}" if family == "knet" else ""


def fps_ratio(results: Results, name: str) -> float | None:
    """Its frames per second over those of its `peer`, of one run in turns."""
    own, other = fps(results, name), fps(results, peer(name))
    return own / other if own and other else None


def megabytes(results: Results, name: str) -> float:
    """Size of the bundle, MB."""
    return sum(results[f"model_{name}"]["bytes"].values()) / 1e6


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"
