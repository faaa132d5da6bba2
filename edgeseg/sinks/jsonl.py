"""Results as text: one JSON object per line and frame, masks as COCO RLE."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.sinks.base import FileSink


class JsonlSink(FileSink):
    """Writes one line per frame: ``sequence stamp_ns height width instances``.

    Each instance is ``label``, ``class``, ``score``, ``bbox`` [x, y, width, height] in pixels, and
    ``segmentation`` {"size": [height, width], "counts": compressed RLE}, as COCO tools read it.

    Args:
        path: the file; appears when the sink is closed.
        classes: name of each label; a label without one gives null.

    Raises:
        OutputError: the path can't be written.
    """

    def __init__(self, path: str | Path, *, classes: Sequence[str] = ()) -> None:
        super().__init__(path)
        self._names = dict(enumerate(classes))
        self._file = self.part.open("w", encoding="utf-8")

    def _write(self, frame: Frame, instances: Instances) -> None:
        row = {
            "sequence": frame.sequence,
            "stamp_ns": frame.stamp_ns,
            "height": instances.height,
            "width": instances.width,
            "instances": [self._instance(instances, i) for i in range(len(instances))],
        }
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def _instance(self, instances: Instances, i: int) -> dict[str, Any]:
        label = int(instances.labels[i])
        x0, y0, x1, y1 = instances.boxes_xyxy[i].tolist()
        return {
            "label": label,
            "class": self._names.get(label),
            "score": round(float(instances.scores[i]), 6),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": instances.rle(i),
        }

    def _finish(self) -> bool:
        self._file.close()
        return True

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
