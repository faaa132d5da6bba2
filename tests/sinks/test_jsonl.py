"""What a line of results holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgeseg import masks
from edgeseg.frame import Frame
from edgeseg.instances import from_masks
from edgeseg.sinks.jsonl import JsonlSink


def test_a_line_holds_all_of_a_frame(tmp_path: Path) -> None:
    full = np.zeros((2, 30, 40), bool)
    full[0, 5:15, 10:30] = True
    full[1, 20:25, 0:4] = True
    instances = from_masks(full, [0.25, 0.75], [1, 7], stamp_ns=11, sequence=3)
    frame = Frame(np.zeros((30, 40, 3), np.uint8), "bgr8", stamp_ns=11, sequence=3)
    with JsonlSink(tmp_path / "a.jsonl", classes=["mug", "can"]) as sink:
        sink.write(frame, instances)
        sink.write(frame, instances[:0])
    first, second = map(json.loads, (tmp_path / "a.jsonl").read_text("utf-8").splitlines())
    better, worse = first.pop("instances")
    assert first == {"sequence": 3, "stamp_ns": 11, "height": 30, "width": 40}
    assert second == {**first, "instances": []}
    assert (better["label"], better["class"], better["score"]) == (7, None, 0.75)
    assert (worse["label"], worse["class"], worse["score"]) == (1, "can", 0.25)
    assert worse["bbox"] == [10.0, 5.0, 20.0, 10.0]
    np.testing.assert_array_equal(masks.decode(worse["segmentation"]), full[0])
    np.testing.assert_array_equal(masks.decode(better["segmentation"]), full[1])
