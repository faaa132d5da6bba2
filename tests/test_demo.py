"""The demo on a clip whose every object is known."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from edgeseg.demo import demo, table
from edgeseg.errors import BundleError, InputError, OutputError
from edgeseg.instances import from_masks

FRAMES = 12


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """320x240, 12 frames: a red square on every frame, a blue one on all but the last four."""
    folder = tmp_path / "clip"
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with av.open(str(folder / "tabletop.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(FRAMES):
            picture = np.full((240, 320, 3), 20, np.uint8)
            images.append({"id": 50 + number, "frame_index": number, "height": 240, "width": 320})
            for category, x, colour in ((1, 16, (30, 30, 250)), (2, 160, (250, 30, 30))):
                if category == 2 and number >= 8:
                    continue
                mask = np.zeros((240, 320), bool)
                mask[40:136, x + 8 * number : x + 8 * number + 96] = True
                picture[mask] = colour
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 50 + number,
                        "category_id": category,
                        "segmentation": from_masks(mask[None], [1.0], [0]).rle(0),
                        "area": int(mask.sum()),
                        "bbox": [0, 0, 1, 1],
                        "iscrowd": 0,
                    }
                )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())
    names = ("red", "blue", "green")
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    with gzip.open(folder / "tabletop.json.gz", "wt") as file:
        json.dump(truth, file)
    return folder


def pictures(path: Path) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def test_the_table_tells_the_truth(clip: Path, fake_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    report = demo(out, model=fake_bundle, clip=clip, engine="fake")
    assert report["delivered"] == report["received"] == FRAMES
    assert report["frames_with_objects"] == report["frames_with_masks"] == FRAMES
    assert report["instances_per_frame"] == pytest.approx(20 / 12, abs=0.01)
    assert report["accuracy"]["instances"] == 20
    assert report["accuracy"]["AP50"] == pytest.approx(1.0)
    assert report["accuracy"]["AP"] > 0.85
    assert list(report["stages"])[:4] == ["capture", "preprocess", "network", "decode"]
    text = " ".join(table(report).split())
    for words in (
        "p50 ms", "p99 ms", "end to end", "fps", "instances per frame", "drops", "stale 0",
        "copies per frame", "mask AP", f"video: {out / 'masks.mp4'}",
        "frames with objects 12, with masks 12",
    ):  # fmt: skip
        assert words in text, words
    drawn, filmed = pictures(out / "masks.mp4"), pictures(clip / "tabletop.mp4")
    assert len(drawn) == FRAMES
    assert len((out / "masks.jsonl").read_text().splitlines()) == FRAMES
    changed = np.abs(drawn[0].astype(int) - filmed[0]).max(2) > 40
    assert changed[40:136, 160:256].mean() > 0.1, "nothing is drawn on the blue square"
    assert not changed[200:].any(), "something is drawn where nothing is"


def test_a_network_that_sees_nothing_is_shown_as_such(
    clip: Path, fake_bundle: Path, tmp_path: Path
) -> None:
    report = demo(tmp_path, model=fake_bundle, clip=clip, engine="fake", score_threshold=0.99)
    assert (report["frames_with_masks"], report["instances_per_frame"]) == (0, 0)
    assert report["accuracy"]["AP50"] == pytest.approx(1.0), "AP counts every score"


def test_a_damaged_truth_is_one_line(clip: Path, fake_bundle: Path, tmp_path: Path) -> None:
    (clip / "tabletop.json.gz").write_bytes(b"no gzip")
    with pytest.raises(BundleError, match="wanted the clip's ground truth; run: pip install"):
        demo(tmp_path, model=fake_bundle, clip=clip, engine="fake")


def test_a_folder_that_cant_be_made_is_known_before_the_work(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="wanted a folder to write to; choose another"):
        demo(tmp_path / "file" / "out", model="never looked at", clip=clip)


def test_its_files_replace_neither_the_clip_nor_each_other(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=r"which is masks.mp4; wanted another file; choose anoth"):
        demo(out, model="never looked at", clip=clip, json=out / "masks.mp4")
    (out / "masks.mp4").symlink_to(clip / "tabletop.mp4")
    with pytest.raises(InputError, match=r"which is the clip; wanted another file; choose anoth"):
        demo(out, model="never looked at", clip=clip)
    os.mkfifo(out / "masks.jsonl")
    with pytest.raises(OutputError, match="got a device or pipe named"):
        demo(out, model="never looked at", clip=clip)
    with pytest.raises(OutputError, match="wanted a folder to write to; choose another"):
        demo("~no such user/out", model="never looked at", clip=clip)


@pytest.mark.slow
def test_the_packaged_demo(edgeseg_cli: Callable[..., Any], tmp_path: Path) -> None:
    spoken = edgeseg_cli("demo", "--out", tmp_path, "--json", tmp_path / "demo.json")
    assert spoken.code == 0, spoken.err
    report = json.loads((tmp_path / "demo.json").read_text())
    assert report["delivered"] == 300
    assert report["frames_with_masks"] == report["frames_with_objects"]
    assert report["accuracy"]["AP50"] > 0.5
    assert (tmp_path / "masks.mp4").stat().st_size > 100_000
