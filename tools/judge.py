"""Which true objects of a picture were found, taken for another class, or missed; what was extra.

A detection and a true object can be one if their masks' IoU is at least 0.5. In the order of their
scores, detections first take the true object of their own class with the highest IoU, then what is
left of the other classes. Each takes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from faster_coco_eval import mask as mask_utils

MIN_IOU = 0.5
FOUND, CONFUSED, MISSED = "found", "wrong_class", "missed"
OUTCOMES = (FOUND, CONFUSED, MISSED)


@dataclass(frozen=True)
class Verdict:
    """The true objects of a picture, what was found in it, and what belongs together.

    Attributes:
        image_id: Of the picture.
        truth: COCO annotations.
        found: COCO results.
        taken: For each true object, which of `found` took it.
    """

    image_id: int
    truth: Sequence[dict[str, Any]]
    found: Sequence[dict[str, Any]]
    taken: dict[int, int] = field(default_factory=dict)

    def outcome(self, number: int) -> str:
        """What became of a true object."""
        if number not in self.taken:
            return MISSED
        return FOUND if self.called(number) == self.truth[number]["category_id"] else CONFUSED

    def called(self, number: int) -> int:
        """Category under which a true object was found."""
        return int(self.found[self.taken[number]]["category_id"])

    @property
    def extra(self) -> list[int]:
        """Which of `found` took no true object."""
        return sorted(set(range(len(self.found))) - set(self.taken.values()))

    @property
    def errors(self) -> int:
        """Objects missed or taken for another class, and extra ones."""
        right = sum(self.outcome(number) == FOUND for number in range(len(self.truth)))
        return len(self.truth) - right + len(self.extra)


def judge(
    image_id: int, truth: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]
) -> Verdict:
    """Bring together what was found in a picture and what is in it."""
    verdict = Verdict(image_id, truth, sorted(found, key=lambda one: -one["score"]))
    if not truth or not found:
        return verdict
    codes = [[_bytes(one["segmentation"]) for one in side] for side in (verdict.found, truth)]
    overlap = np.asarray(mask_utils.iou(codes[0], codes[1], [0] * len(truth)))
    own = [[one["category_id"] == t["category_id"] for t in truth] for one in verdict.found]
    for allowed in (np.array(own), True):
        for row in verdict.extra:
            free = [number not in verdict.taken for number in range(len(truth))]
            fit = overlap[row] * free * (allowed if allowed is True else allowed[row])
            if fit.max() >= MIN_IOU:
                verdict.taken[int(fit.argmax())] = row
    return verdict


def _bytes(code: dict[str, Any]) -> dict[str, Any]:
    """A run-length code as the library takes it."""
    counts = code["counts"]
    return {**code, "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def tally(
    verdicts: Iterable[Verdict], counts: Callable[[Verdict, dict[str, Any]], bool]
) -> dict[str, int]:
    """How many of the true objects that count had which outcome."""
    seen = Counter(
        verdict.outcome(number)
        for verdict in verdicts
        for number, one in enumerate(verdict.truth)
        if counts(verdict, one)
    )
    return {"objects": sum(seen.values()), **{outcome: seen[outcome] for outcome in OUTCOMES}}


def taken_for(verdicts: Iterable[Verdict], category: int) -> dict[int, int]:
    """For what else objects of a category were taken, and how often; most often first."""
    seen = Counter(
        verdict.called(number)
        for verdict in verdicts
        for number in verdict.taken
        if verdict.truth[number]["category_id"] == category
    )
    del seen[category]
    return dict(seen.most_common())
