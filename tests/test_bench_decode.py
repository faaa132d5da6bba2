"""The decode benchmark: its rows, and the figures it must show."""

from __future__ import annotations

import json

import numpy as np

from edgeseg.bench_decode import INPUT_HW, blobs, decode_benchmark
from edgeseg.letterbox import fit


def test_decode_is_exact_and_much_cheaper() -> None:
    result = decode_benchmark(rounds=3, pictures=2)
    assert json.loads(json.dumps(result)) == result
    sizes = [(*row["logits_hw"], *row["frame_hw"]) for row in result["rows"]]
    assert sizes == [(160, 160, 480, 640), (160, 160, 720, 1280),
                     (80, 80, 480, 640), (80, 80, 720, 1280)]  # fmt: skip
    for row in result["rows"]:
        assert row["mean_iou"] >= 0.998
        assert row["min_iou"] >= 0.995
        assert row["ratio"] >= 10


def test_blobs_are_like_objects() -> None:
    geometry = fit((480, 640), INPUT_HW)
    outputs = blobs(80, geometry, seed=0)
    sides = []
    for mask in outputs["masks"] > 0:
        rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        sides += [rows / 60, columns / 80]
    assert 0.15 < np.median(sides) < 0.25
    assert np.min(sides) > 0.01
    assert np.max(sides) < 0.9
    assert (outputs["scores"] >= 0.5).sum() == 12
    again = blobs(80, geometry, seed=0)
    np.testing.assert_array_equal(outputs["masks"], again["masks"])
