"""``edgeseg quantize`` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blobs
from quantize_fakes import Accuracy, networks
from ros_bags import at_30_hz, image, write_bag

from edgeseg import cli
from edgeseg.export.calibrate import read_calibration
from edgeseg.export.int8 import Result
from edgeseg.export.quantize import Layer

Cli = Callable[..., Any]


@pytest.fixture
def data(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of the tiny network's classes: splits calib and val, of the same three pictures."""
    folder = tmp_path / "data"
    names = ["red", "green", "blue"]
    for split in ("calib", "val"):
        (folder / split / "images").mkdir(parents=True)
        rows = []
        for number, path in enumerate(sorted(images.iterdir())):
            (folder / split / "images" / path.name).write_bytes(path.read_bytes())
            rows.append({"id": number, "file_name": path.name, "height": 96, "width": 128})
        mask = {"size": [96, 128], "counts": [0, 96 * 20, 96 * 108]}
        one = {"id": 1, "image_id": 0, "category_id": 1, "segmentation": mask, "iscrowd": 0}
        one |= {"area": 96 * 20, "bbox": [0, 0, 20, 96]}
        truth = {"images": rows, "annotations": [one]}
        truth["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
        (folder / split / "annotations.json").write_text(json.dumps(truth))
    monkeypatch.setenv("EDGESEG_DATA", str(tmp_path / "nothing"))
    return folder


def of_other_classes(data: Path) -> None:
    for path in data.glob("*/annotations.json"):
        path.write_text(path.read_text().replace('"red"', '"fork"'))


def test_pictures_alone_are_enough(
    edgeseg_cli: Cli, tiny: Path, images: Path, data: Path, done: tuple[Path, Result]
) -> None:
    out = data / "out"
    spoken = edgeseg_cli("quantize", tiny, "--out", out, "--images", images)
    assert (spoken.code, spoken.err) == (0, "")
    assert spoken.out.splitlines() == [
        f"accuracy not checked: no split val of these classes in {data.parent / 'nothing'}; "
        "pass --data",
        "54 of 54 layers in INT8",
        f"next: edgeseg run VIDEO --model {out}; edgeseg eval {out} --precision int8",
    ]
    assert networks(out) == networks(done[0])


def test_a_dataset_calibrates_and_checks(
    edgeseg_cli: Cli, tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Named, or as ``$EDGESEG_DATA``."""
    file = tmp_path / "report.json"
    spoken = edgeseg_cli("quantize", tiny, "--out", tmp_path / "a", "--data", data, "--json", file)
    assert spoken.code == 0, spoken.err
    assert spoken.out.startswith("mask AP on val: fp32 0.")
    assert spoken.out.splitlines()[0].endswith("with 0 layers float")
    report = json.loads(file.read_text())
    assert report["calibration"]["pictures"] == 3
    assert list(report["ap"][0]) == ["fp32", "int8", "float_layers"]
    monkeypatch.setenv("EDGESEG_DATA", str(data))
    again = edgeseg_cli("quantize", tiny, "--out", tmp_path / "b")
    assert again.out.splitlines()[:2] == spoken.out.splitlines()[:2]
    assert networks(tmp_path / "a") == networks(tmp_path / "b")


def test_a_dataset_of_other_classes(
    edgeseg_cli: Cli,
    tiny: Path,
    images: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Refused where it was named, before the work; else let alone, pictures too."""
    of_other_classes(data)
    spoken = edgeseg_cli("quantize", tiny, "--out", tmp_path / "out", "--data", data)
    assert spoken.code == 2
    assert "got a dataset of blue, fork, green; wanted the classes of tiny" in spoken.err
    monkeypatch.setenv("EDGESEG_DATA", str(data))
    spoken = edgeseg_cli("quantize", tiny, "--out", tmp_path / "out")
    assert spoken.code == 2
    assert f"got no pictures for {tiny} in {data}/calib/images; wanted some" in spoken.err
    assert not (tmp_path / "out").exists()
    spoken = edgeseg_cli("quantize", tiny, "--out", tmp_path / "out", "--images", images)
    assert spoken.code == 0
    assert "accuracy not checked" in spoken.out


def test_a_split_without_objects_is_an_error(edgeseg_cli: Cli, tiny: Path, data: Path) -> None:
    path = data / "val" / "annotations.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    spoken = edgeseg_cli("quantize", tiny, "--out", data / "out", "--data", data)
    assert spoken.code == 2
    assert f"got no objects in split val of {data}; wanted some to tell the AP lost" in spoken.err


def test_the_budget_by_the_command(
    edgeseg_cli: Cli, tiny: Path, data: Path, ranked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg import verbs_train

    harm = Accuracy({ranked[0]: 2.0})
    monkeypatch.setattr(verbs_train, "_accuracy", lambda folder: harm)
    spoken = edgeseg_cli(
        "quantize", tiny, "--out", data / "out", "--data", data, "--max-ap-drop", 0.5
    )
    assert spoken.out.splitlines()[:3] == [
        "mask AP on val: fp32 0.600, int8 0.580 with 0 layers float",
        "mask AP on val: fp32 0.600, int8 0.600 with 1 layers float",
        "53 of 54 layers in INT8",
    ]


def test_the_sensitivity_by_the_command(
    edgeseg_cli: Cli, tiny: Path, images: Path, data: Path, ranked: list[str]
) -> None:
    out, picture = data / "out", data / "losses.svg"
    spoken = edgeseg_cli(
        "quantize", tiny, "--out", out, "--images", images, "--sensitivity", picture
    )
    assert spoken.code == 0, spoken.err
    assert spoken.out.splitlines()[1].split() == ["100.00%", ranked[0], "(conv)"]
    assert f"{tiny}: mask IoU lost with one layer in INT8" in picture.read_text()
    assert picture.read_text().count("<rect") == 55


def test_flags_reach_their_place(
    edgeseg_cli: Cli, tiny: Path, data: Path, possible: list[Layer], tmp_path: Path
) -> None:
    sent = at_30_hz(image(blobs(number)) for number in range(4))
    other = at_30_hz([image(np.zeros((96, 128, 3), np.uint8))], "/rear")
    bag = write_bag(tmp_path / "bag", sorted(sent + other, key=lambda one: one[1]))
    words = ("--method", "minmax", "--pictures", 2, "--float-layers", possible[0].name)
    out = tmp_path / "out"
    spoken = edgeseg_cli("quantize", tiny, "--out", out, "--images", bag, *words)
    assert spoken.code == 2
    assert "got 2 image topics" in spoken.err
    assert "name it with --topic NAME" in spoken.err
    words += ("--topic", "/camera/image_raw")
    spoken = edgeseg_cli("quantize", tiny, "--out", out, "--images", bag, *words)
    assert spoken.code == 0, spoken.err
    assert "53 of 54 layers in INT8" in spoken.out
    made = read_calibration(out / "calibration.json")
    assert (made.method, made.pictures, made.float_layers) == ("minmax", 2, (possible[0].name,))
    spoken = edgeseg_cli(
        "quantize", tiny, "--out", out, "--ranges", out / "calibration.json", "--overwrite"
    )
    assert spoken.code == 0, spoken.err


MISTAKES: dict[str, tuple[tuple[object, ...], str]] = {
    "method": (("--method", "max"), "got method 'max' and 200 pictures; wanted one of minmax"),
    "pictures": (("--pictures", "0"), "got method 'mse' and 0 pictures"),
    "layer": (("--float-layers", "conv"), "got float layers conv; wanted layers of tiny"),
    "ranges": (("--ranges", "gone.json"), "for 'gone.json'; wanted ranges; check the path"),
    "picture": (("--sensitivity", "no/where/x.svg"), "no/where"),
    "images": (("--images", "gone"), "got no file 'gone'; wanted a video, a picture"),
    "topic": (("--topic", "/a"), "got setting 'topic'"),
    "model": (("--data", "gone"), "got no gone/val/annotations.json; wanted a rendered split"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(edgeseg_cli: Cli, tiny: Path, images: Path, data: Path, case: str) -> None:
    words, text = MISTAKES[case]
    given = [] if "--images" in words else ["--images", images]
    spoken = edgeseg_cli("quantize", tiny, "--out", data / "out", *given, *words)
    assert spoken.code == 2
    assert spoken.err.startswith("edgeseg quantize: got ")
    assert text in spoken.err
    assert spoken.err.count("\n") == 1
    assert not (data / "out").exists()


def test_torch_is_not_needed() -> None:
    code = (
        "import sys, edgeseg.export.int8, edgeseg.export.sensitivity\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
    assert cli.VERBS["quantize"].modules == ("onnx",)


def test_help_says_what_there_is(edgeseg_cli: Cli) -> None:
    text = " ".join(edgeseg_cli("quantize", "--help").out.split())
    for words in (
        "--images SOURCE pictures to calibrate on: a folder, a video or a bag",
        "--topic NAME image topic of a bag",
        "--ranges FILE calibration.json from before",
        "--method NAME minmax, percentile, mse or entropy (default: mse)",
        "--pictures N most calibration pictures (default: 200)",
        "--float-layers NAMES layers to leave float",
        "--max-ap-drop AP points of mask AP that INT8 may lose",
        "(default: 1.0)",
        "--sensitivity FILE measure what each layer costs alone",
        "--overwrite replace an older bundle",
        "--json FILE",
    ):
        assert words in text
