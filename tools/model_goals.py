"""What packaged models have to reach, and whether their records say that they do.

What compares models is of INT8, in which the bundles run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model_records import Results, ap, evaluation, fps_ratio, megabytes, names, peer

AP_FLOORS = {"fastinst-nano": 0.58, "fastinst-small": 0.63}
AP_GOALS = {"fastinst-nano": 0.64, "fastinst-small": 0.70}
MAX_INT8_LOSS = 1.0
"""Points of AP below FP32."""
MAX_BELOW_PEER = 3.0
"""Points of AP of a K-Net below the FastInst of its input size."""
LEAST_FPS_RATIO = {"knet-nano": 0.8}
"""Frames per second over those of the FastInst of its input size."""
MAX_BUNDLE_MB = 16.0


@dataclass(frozen=True)
class Verdict:
    """A goal of a model, and what was measured.

    Attributes:
        model: its name.
        goal: in words.
        measured: in words.
        holds: whether it is reached.
    """

    model: str
    goal: str
    measured: str
    holds: bool


def verdicts(results: Results) -> list[Verdict]:
    """Every goal of every model, where its records are there."""
    return [one for name in names(results) for one in _of_model(results, name)]


def _of_model(results: Results, name: str) -> Iterator[Verdict]:
    report = evaluation(results, name, "test")
    int8, fp32 = ap(report, "int8"), ap(report, "fp32")
    for kind, table in (("floor", AP_FLOORS), ("goal", AP_GOALS)):
        for precision, found in (("FP32", fp32), ("INT8", int8)):
            if name in table and found is not None:
                goal = f"AP {kind} {table[name]:.2f}, {precision}"
                yield Verdict(name, goal, f"{found:.4f}", found >= table[name])
    if int8 is not None and fp32 is not None:
        lost = 100 * (fp32 - int8)
        goal = f"INT8 at most {MAX_INT8_LOSS:.1f} AP points below FP32"
        yield Verdict(name, goal, f"{lost:.1f}", lost <= MAX_INT8_LOSS)
    yield from _against_peer(results, name, int8)
    size = megabytes(results, name)
    goal = f"bundle of at most {MAX_BUNDLE_MB:.0f} MB"
    yield Verdict(name, goal, f"{size:.1f}", size <= MAX_BUNDLE_MB)


def _against_peer(results: Results, name: str, own: float | None) -> Iterator[Verdict]:
    """A K-Net's goals, which hang on the FastInst of its size."""
    other = ap(evaluation(results, peer(name), "test"), "int8")
    if own is not None and other is not None:
        below = 100 * (other - own)
        goal = f"at most {MAX_BELOW_PEER:.0f} AP points below `{peer(name)}`"
        yield Verdict(name, goal, f"{below:.1f}", below <= MAX_BELOW_PEER)
    ratio, least = fps_ratio(results, name), LEAST_FPS_RATIO.get(name)
    if ratio is not None and least is not None:
        goal = f"at least {least:.1f} of the fps of `{peer(name)}`"
        yield Verdict(name, goal, f"{ratio:.2f}", ratio >= least)
