"""Does a bundle compute what its torch network computes? Two engines, the same pictures.

Rows of the outputs have no promised order, and rows whose class probabilities tie may trade
places or, at the end of the top-M, drop out. So rows are compared as sets: each row of the
reference is matched with the nearest free row of the same label, if their masks overlap at all.

Networks that choose their queries are not continuous: where two candidates for the last query, or
a mask logit that steers attention and 0, differ by less than rounding, the engines may choose
differently; then a few rows move much and all others a little. With random weights that happens
on every fifth picture, with trained ones seldom. Such a picture counts as a ``tie``: all but the
tenth of its rows that moved most are held to `TIE`, and at most half of the pictures may be one.
A wrong operator moves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import bundle as bundles
from edgeseg.bundle import PACKAGED, ModelSpec
from edgeseg.cameras import open_camera
from edgeseg.engines.base import Engine
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.preprocess import Preprocessor
from edgeseg.registry import resolve

CLIP = PACKAGED / "clip" / "tabletop.mp4"
CLIP_STEP = 50
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from torch.

    Attributes:
        score: largest difference of a matched row's score, 0..1.
        mask: largest difference of a mask logit, as a share of the logits' rms.
        mean_iou: least mean mask IoU of matched rows (logits > 0, at mask resolution).
        min_iou: least mask IoU of one matched row with at least `MIN_PIXELS` pixels.
        unmatched: largest share of rows without a partner; none may score above the threshold.
    """

    score: float
    mask: float
    mean_iou: float
    min_iou: float
    unmatched: float


MIN_PIXELS = 50
MIN_OVERLAP = 0.5
TOLERANCES = {
    "fp32": Tolerance(score=2e-3, mask=0.02, mean_iou=0.999, min_iou=0.98, unmatched=0.02),
    "fp16": Tolerance(score=2e-2, mask=0.2, mean_iou=0.99, min_iou=0.9, unmatched=0.05),
}
TIE = Tolerance(score=0.02, mask=math.inf, mean_iou=0.97, min_iou=0.9, unmatched=0.1)
TIE_ROWS = 0.9
TIE_SHARE = 0.5


@dataclass(frozen=True)
class Row:
    """The comparison on one picture; fields as in `Tolerance`.

    Attributes:
        picture: its name.
        rows: M.
        missed: unmatched rows of either side that score above the bundle's threshold.
        verdict: ``ok``, ``tie`` or ``FAILED``.
    """

    picture: str
    rows: int
    unmatched: int
    missed: int
    score: float
    mask: float
    mean_iou: float
    min_iou: float
    verdict: str = ""

    def within(self, limits: Tolerance) -> bool:
        """Whether the picture is within ``limits``."""
        return (
            self.missed == 0
            and self.unmatched <= limits.unmatched * self.rows
            and self.score <= limits.score
            and self.mask <= limits.mask
            and self.mean_iou >= limits.mean_iou
            and self.min_iou >= limits.min_iou
        )


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        bundle: name. engine, reference: descriptions. precision: of the bundle.
        tolerance: what was allowed. rows: one comparison per picture.
    """

    bundle: str
    precision: str
    engine: str
    reference: str
    tolerance: Tolerance
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether no picture failed and few are ties."""
        verdicts = [row.verdict for row in self.rows]
        return "FAILED" not in verdicts and verdicts.count("tie") <= TIE_SHARE * len(verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ok": self.ok}

    def table(self) -> str:
        """The report for a terminal."""
        head = f"{'picture':<16}{'rows':>5}{'unmatched':>11}{'score':>10}{'mask':>10}"
        lines = [
            f"{self.bundle} {self.precision}: {self.engine} against {self.reference}",
            f"{head}{'mean IoU':>10}{'min IoU':>9}",
        ]
        for r in self.rows:
            values = f"{r.score:>10.1e}{r.mask:>10.1e}{r.mean_iou:>10.5f}{r.min_iou:>9.4f}"
            lines.append(f"{r.picture:<16}{r.rows:>5}{r.unmatched:>11}{values}  {r.verdict}")
        t = self.tolerance
        limits = f"{t.score:>10.1e}{t.mask:>10.1e}{t.mean_iou:>10.5f}{t.min_iou:>9.4f}"
        lines.append(f"{'tolerance':<21}{t.unmatched:>11.0%}{limits}")
        return "\n".join(lines)


def check(
    bundle: str | Path,
    *,
    engine: str = "ort",
    precision: str | None = None,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    threads: int = 0,
) -> Report:
    """Compare an engine with the torch network of the same bundle.

    Args:
        bundle: packaged name or folder; it must ship torch weights.
        engine: the engine under test.
        precision: one of the bundle's; its first float one when left out.
        pictures: uint8 (H, W, 3) BGR; frames of the packaged clip and drawn ones when left out.
        threads: CPU threads of both engines.

    Raises:
        BundleError: no such bundle, damaged, or without torch weights.
        EngineError: the engine refused the network.
        InputError: unknown engine, or a precision without a stated tolerance.
    """
    folder = bundles.find(bundle)
    spec = bundles.read(folder)
    precision = precision or next((name for name in spec.precisions if name in TOLERANCES), "fp32")
    if precision not in TOLERANCES:
        raise InputError(
            f"got precision {precision!r}; wanted one of {', '.join(TOLERANCES)}, which have a "
            "stated tolerance; compare others by 'edgeseg eval'"
        )
    tested = resolve("engine", engine).load(folder, spec, precision, threads)
    reference = resolve("engine", "eager").load(folder, spec, precision, threads)
    rows = [
        _on_frame(name, frame, tested, reference, TOLERANCES[precision])
        for name, frame in _frames(pictures)
    ]
    report = (tested.describe(), reference.describe(), TOLERANCES[precision], tuple(rows))
    tested.close()
    reference.close()
    return Report(spec.name, precision, *report)


def _frames(pictures: Sequence[NDArray[np.uint8]] | None) -> Iterator[tuple[str, Frame]]:
    """Named frames: of ``pictures``, or of the packaged clip and two drawn pictures."""
    if pictures is not None:
        yield from ((str(i), Frame(picture, "bgr8")) for i, picture in enumerate(pictures))
        return
    if CLIP.exists():
        with open_camera(CLIP) as camera:
            for frame in islice(camera, 0, None, CLIP_STEP):
                yield f"clip frame {frame.sequence}", frame
    for seed in (1, 2):
        yield f"drawn {seed}", Frame(drawn(480, 640, seed), "bgr8")


def drawn(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture of coloured boxes on a slope with noise, uint8 (height, width, 3)."""
    random = np.random.default_rng(seed)
    slope = np.linspace(60, 160, width)[None, :, None] + np.linspace(-40, 40, height)[:, None, None]
    picture = np.broadcast_to(slope, (height, width, 3)).copy()
    for _ in range(12):
        (top, left), size = random.random(2) * (height, width), 0.05 + 0.3 * random.random(2)
        rows = slice(int(top), int(top + size[0] * height))
        picture[rows, int(left) : int(left + size[1] * width)] = random.integers(0, 256, 3)
    picture += 8 * random.standard_normal(picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def _on_frame(name: str, frame: Frame, tested: Engine, reference: Engine, limits: Tolerance) -> Row:
    with frame:
        Preprocessor(reference.spec)(frame, reference.input)
    tested.input[...] = reference.input
    return compare(name, reference.run(), tested.run(), reference.spec, limits)


def compare(name: str, wanted: Outputs, got: Outputs, spec: ModelSpec, limits: Tolerance) -> Row:
    """Compare the outputs of two engines on one picture.

    Args:
        name: of the picture.
        wanted: of the reference: ``scores labels masks``.
        got: of the engine under test.
        spec: gives the score threshold.
        limits: what is allowed.
    """
    pairs, alone = match(wanted, got)
    left, right = pairs.T
    a, b = wanted["masks"][left], got["masks"][right]
    rms = float(np.sqrt(np.square(wanted["masks"], dtype=np.float64).mean())) or 1.0
    iou, pixels = _iou(a > 0, b > 0)
    score = np.abs(wanted["scores"][left] - got["scores"][right])
    moved = np.maximum(score, np.where(pixels >= MIN_PIXELS, 1 - iou, 0.0))
    settled = np.argsort(moved)[: math.ceil(TIE_ROWS * len(moved))]
    large = np.where(pixels >= MIN_PIXELS, iou, 1.0)
    loose = np.concatenate([wanted["scores"][alone[0]], got["scores"][alone[1]]])
    row = Row(
        picture=name,
        rows=len(wanted["scores"]),
        unmatched=len(alone[0]),
        missed=int((loose >= spec.score_threshold).sum()),
        score=float(score.max(initial=0)),
        mask=float(np.abs(a - b).max(initial=0)) / rms,
        mean_iou=float(iou.mean()) if len(iou) else 1.0,
        min_iou=float(large.min(initial=1.0)),
    )
    calm = replace(
        row,
        score=float(score[settled].max(initial=0)),
        min_iou=float(large[settled].min(initial=1.0)),
    )
    verdict = "ok" if row.within(limits) else "tie" if calm.within(TIE) else "FAILED"
    return replace(row, verdict=verdict)


def match(wanted: Outputs, got: Outputs) -> tuple[NDArray[np.intp], tuple[list[int], list[int]]]:
    """Pairs of rows (P, 2) of the same label with the nearest masks; and the rows left alone."""
    free = set(range(len(got["scores"])))
    pairs, alone = [], []
    for row in np.argsort(-wanted["scores"], kind="stable"):
        mask, score = wanted["masks"][row], wanted["scores"][row]
        others = [k for k in sorted(free) if got["labels"][k] == wanted["labels"][row]]
        away = np.abs(got["masks"][others] - mask).mean((1, 2))
        away += np.abs(got["scores"][others] - score)
        best = others[int(away.argmin())] if others else -1
        if best < 0 or _iou(mask[None] > 0, got["masks"][[best]] > 0)[0][0] < MIN_OVERLAP:
            alone.append(int(row))
            continue
        free.remove(best)
        pairs.append((int(row), best))
    return np.array(pairs, np.intp).reshape(-1, 2), (alone, sorted(free))


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[Any, Any]:
    """IoU of masks row by row (1 where both are empty), and the pixels of ``a``."""
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0), a.sum((1, 2))
