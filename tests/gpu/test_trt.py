"""On a GPU with TensorRT: masks made in the graph, and the DLA, against what is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseg import Instances, Segmenter, bundle, load
from edgeseg.cameras import open_camera
from edgeseg.engines.cuda import open_device
from edgeseg.engines.trt import library
from edgeseg.engines.trt_build import check_target, make_logger
from edgeseg.errors import InputError

pytestmark = [pytest.mark.gpu, pytest.mark.trt]
CLIP = bundle.PACKAGED / "clip" / "tabletop.mp4"


@pytest.fixture(autouse=True)
def known() -> None:
    try:
        check_target(library(), open_device().target)
    except InputError as error:
        pytest.skip(f"needs another GPU for trt: {error}")


def found(segmenter: Segmenter) -> list[Instances]:
    """What a segmenter, which is closed, finds in some pictures of the clip."""
    with segmenter, open_camera(CLIP) as camera:
        results = []
        for frame in camera:
            with frame:
                if frame.sequence % 60 == 0:
                    results.append(segmenter(frame))
        return results


def mean_iou(got: list[Instances], wanted: list[Instances]) -> float:
    """Of each wanted mask with the best of the same label."""
    ious = []
    for ours, theirs in zip(got, wanted, strict=True):
        for i in range(len(theirs)):
            mask, same = theirs.mask(i), np.flatnonzero(ours.labels == theirs.labels[i])
            all_of = [ours.mask(int(k)) for k in same]
            ious.append(max(((mask & m).sum() / (mask | m).sum() for m in all_of), default=0.0))
    assert len(ious) > 20
    return float(np.mean(ious))


def test_masks_made_on_the_gpu_are_those_of_the_cpu(tmp_path: Path) -> None:
    from edgeseg.export.build import build_engines

    with open_camera(CLIP) as camera, next(camera) as frame:
        frame_hw = (frame.height, frame.width)
    out = tmp_path / "frames"
    build_engines("fastinst-nano", precisions=["int8"], out=out, frame_hw=frame_hw)
    got, wanted = found(load(out, "trt")), found(load("fastinst-nano", "trt"))
    assert mean_iou(got, wanted) >= 0.98  # two builds may choose two kernels
    assert mean_iou(wanted, got) >= 0.98


@pytest.mark.parametrize("core", [0, 1])
def test_dla_finds_what_the_gpu_finds(tmp_path: Path, core: int) -> None:
    from edgeseg.export.build import build_engines

    trt = library()
    if trt.Builder(make_logger(trt)).num_DLA_cores <= core:
        pytest.skip("needs a DLA")
    out = tmp_path / "half"
    build_engines("fastinst-nano", out=out, dla=core)
    name = ("trt-dla", "trt-dla1")[core]
    got = found(load(out, name, precision="fp16"))
    assert mean_iou(got, found(load(out, "trt", precision="fp16"))) >= 0.95
