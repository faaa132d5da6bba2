"""What the rows that camera, node and observer wrote down say about a run: numbers and a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Rows = Sequence[Sequence[int]]
PERCENTILES = (50, 90, 99)
STAGES = ("image", "hand-over", "segmenter", "instances")


def figures(
    camera: Mapping[str, Rows], node: Mapping[str, Rows], seen: Mapping[int, int], window: range
) -> dict[str, Any]:
    """What happened to the images that were sent in a span of time.

    Args:
        camera: rows of its step ``send``, as `edgeseg_ros.recorded` writes them.
        node: rows of ``receive`` and ``segment``.
        seen: stamp -> time at which the observer got the instances, CLOCK_MONOTONIC ns.
        window: the span, CLOCK_MONOTONIC ns.

    Returns:
        ``sent received segmented delivered`` (counts), ``lost`` (before the node) and
        ``superseded`` (by a newer image, or too old, in the node), ``delivered_fraction``.

        ``latency_ms`` (from when the image is handed to the middleware until its instances are in
        the observer's callback), ``segmenter_ms`` (wall time inside the Segmenter), ``overhead_ms``
        (the first less the second, image by image) and ``stages_ms`` (``instances`` begins where
        the Segmenter ends): ``p50 p90 p99`` each.

        ``node_cpu_ms`` (of the process, per segmented image), ``node_cpu_beyond_ms`` (less that of
        the thread inside the Segmenter), ``camera_cpu_ms`` (per sent image).

        None where there was nothing to measure.
    """
    sent = {row[0]: row for row in camera["send"] if row[1] in window}
    received, segmented = (
        {row[0]: row for row in node[step] if row[0] in sent} for step in ("receive", "segment")
    )
    times = np.array(
        [
            (sent[s][1], received[s][1], segmented[s][1], segmented[s][2], seen[s])
            for s in segmented
            if s in seen
        ],
        np.int64,
    ).reshape(-1, 5)
    steps = np.diff(times, axis=1)
    latency = times[:, -1] - times[:, 0]
    delivered = sum(stamp in seen for stamp in sent)
    total, inside = _cpu_ms(list(segmented.values()))
    return {
        "sent": len(sent),
        "received": len(received),
        "segmented": len(segmented),
        "delivered": delivered,
        "lost": len(sent) - len(received),
        "superseded": len(received) - len(segmented),
        "delivered_fraction": round(delivered / len(sent), 4) if sent else None,
        "latency_ms": _summary(latency),
        "segmenter_ms": _summary(steps[:, 2]),
        "overhead_ms": _summary(latency - steps[:, 2]),
        "stages_ms": {name: _summary(steps[:, i]) for i, name in enumerate(STAGES)},
        "node_cpu_ms": total,
        "node_cpu_beyond_ms": None if total is None or inside is None else round(total - inside, 3),
        "camera_cpu_ms": _cpu_ms(list(sent.values()))[0],
    }


COLUMNS: tuple[tuple[str, int, Callable[[Mapping[str, Any]], str]], ...] = (
    ("network", 20, lambda case: f"{case['network']} {case['precision']}"),
    ("image", 10, lambda case: f"{case['width']}x{case['height']}"),
    ("Hz", 4, lambda case: f"{case['rate_hz']:g}"),
    ("profile", 8, lambda case: "yes" if case["profile"] else "no"),
    ("delivered", 10, lambda case: _number(case, "delivered_fraction", "{:.1%}")),
    ("lost", 6, lambda case: str(case["lost"])),
    ("newer", 6, lambda case: str(case["superseded"])),
    ("latency", 8, lambda case: _number(case["latency_ms"], "p50")),
    ("p99", 7, lambda case: _number(case["latency_ms"], "p99")),
    ("beyond", 7, lambda case: _number(case["overhead_ms"], "p50")),
    ("p99", 7, lambda case: _number(case["overhead_ms"], "p99")),
    ("CPU", 7, lambda case: _number(case, "node_cpu_ms")),
    ("beyond", 7, lambda case: _number(case, "node_cpu_beyond_ms")),
    ("others", 7, lambda case: _number(case, "others_cpu", "{:.0%}")),
)


def table(report: Mapping[str, Any]) -> str:
    """The report of `edgeseg_ros.bench.bench` as text for a person."""
    card = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in card["ros"].items())
    lines = [
        f"{card['cpu']}, {card['cores']} cores; {versions}; {report['seconds']:g} s a case",
        "lost: images that never came to the node; newer: superseded in it by a newer one;",
        "latency: image handed to the middleware until a subscriber has its instances, ms;",
        "CPU: of the node per segmented image, ms; beyond: without the time in the Segmenter;",
        "others: part of the machine that was busy with something else",
        "",
        "".join(f"{name:>{width}}" for name, width, _ in COLUMNS),
    ]
    for case in report["cases"]:
        lines.append("".join(f"{word(case):>{width}}" for _, width, word in COLUMNS))
    return "\n".join(lines)


def _number(values: Mapping[str, Any] | None, name: str, form: str = "{:.2f}") -> str:
    value = None if values is None else values[name]
    return "-" if value is None else form.format(value)


def _summary(times_ns: Any) -> dict[str, float] | None:
    """Percentiles in ms, or None where there is nothing."""
    if not len(times_ns):
        return None
    values = np.percentile(times_ns, PERCENTILES) / 1e6
    return {f"p{p}": round(float(v), 3) for p, v in zip(PERCENTILES, values, strict=True)}


def _cpu_ms(rows: Rows) -> tuple[float | None, float | None]:
    """Per row, ms: CPU time of the process from the first row to the last, and that of the step."""
    if len(rows) < 2:
        return None, None
    steps = len(rows) - 1
    total = rows[-1][4] - rows[0][4]
    inside = sum(row[3] for row in rows[1:])
    return round(total / steps / 1e6, 3), round(inside / steps / 1e6, 3)
