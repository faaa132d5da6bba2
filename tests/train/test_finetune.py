"""From a trained network and a labelled folder to a bundle ready to run, in seconds."""

import json
import re
from dataclasses import replace

import pytest

from edgeseg.bundle import read
from edgeseg.cameras.images import ImageCamera
from edgeseg.errors import BundleError, OutputError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgeseg.train import finetune as module  # noqa: E402
from edgeseg.train.data import CocoDataset, read_tables  # noqa: E402
from edgeseg.train.finetune import (  # noqa: E402
    FinetuneConfig,
    allowed_drop,
    calibration_pictures,
    finetune,
)
from edgeseg.train.loop import Run, TrainConfig, train  # noqa: E402


def flat(self, count):
    """A look that never sees a rise."""
    row = {"minutes": self.seconds / 60, "images_seen": self.images, "raw_AP": 0.3, "ema_AP": 0.2}
    self.curve.append(row)
    return row


def test_a_flat_curve_ends_a_run_early_with_the_end_of_the_schedule(data, tmp_path, monkeypatch):
    """Ten hours were allowed; what is used of them grows from nearly nothing to all at once."""
    monkeypatch.setattr(Run, "look", flat)
    used = []
    real = Run.train_step

    def noted(self, images, targets, progress):
        used.append(progress)
        return real(self, images, targets, progress)

    monkeypatch.setattr(Run, "train_step", noted)
    config = TrainConfig(data, tmp_path / "run", hours=10.0, size_hw=(144, 192), batch=2)
    train(replace(config, crop_share=0.0, val_minutes=0.0, patience=3))
    assert max(used[:4]) < 0.05
    assert min(used[4:]) > 0.75


@pytest.mark.slow
def test_the_line_from_labels_to_a_bundle(edgeseg_cli, data, tmp_path):
    out = tmp_path / "parts"
    words = ("train", "--data", data, "--init", "fastinst-nano", "--out", out)
    words += ("--input-size", "256x192")
    spoken = edgeseg_cli(*words, "--minutes", 0.02, "--batch", 2, "--json", tmp_path / "it.json")
    assert spoken.code == 0, spoken.err
    assert "train: 6 pictures, 12 objects (square 6, disc 6)" in spoken.out
    assert "from fastinst-nano: " in spoken.out and "new rows for square, disc" in spoken.out
    told = re.search(r"int8: .* pictures; AP by class: (.*)", spoken.out)
    assert told and re.fullmatch(r"square [01]\.\d+, disc [01]\.\d+", told[1])
    last = spoken.out.strip().splitlines()[-1]
    assert last.startswith("AP 0.") and last.endswith(
        f"try it: edgeseg run VIDEO --model {out} --video masks.mp4"
    )
    spec = read(out)
    assert spec.input_hw == (192, 256)
    assert spec.classes == ("square", "disc") and list(spec.precisions) == ["int8", "fp32"]
    assert (spec.source, spec.licence) == ("fine-tuned from fastinst-nano", "Apache-2.0")
    assert json.loads((out / "calibration.json").read_text())["pictures"] == 6
    report = json.loads((tmp_path / "it.json").read_text())
    assert set(report["val"]) == {"int8", "fp32"} and report["cpu_minutes"] > 0
    assert edgeseg_cli("run", data / "val" / "images", "--model", out).code == 0
    again = edgeseg_cli(*words)
    assert again.code == 2 and "which is there already" in again.err


def test_ctrl_c_is_gone_on_from(data, tmp_path, monkeypatch):
    real = Run.train_step

    def interrupted(self, images, targets, progress):
        if self.step == 2:
            raise KeyboardInterrupt
        return real(self, images, targets, progress)

    monkeypatch.setattr(Run, "train_step", interrupted)
    monkeypatch.setattr(module, "write_bundle", lambda config, start, source: {})
    config = FinetuneConfig(data, "fastinst-nano", tmp_path / "out", minutes=0.02, batch=2)
    with pytest.raises(KeyboardInterrupt):
        finetune(replace(config, minutes=5.0))
    monkeypatch.setattr(Run, "train_step", real)
    assert finetune(config, lambda line: None)["images_seen"] >= 4


def test_a_run_of_other_classes_in_the_same_place_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_bundle", lambda config, start, source: {})
    config = FinetuneConfig(data, "fastinst-nano", tmp_path / "out", minutes=0.001, batch=2)
    finetune(config, lambda line: None)
    for split in ("train", "val"):
        path = data / split / "annotations.json"
        path.write_text(path.read_text().replace('"disc"', '"plate"'))
    with pytest.raises(BundleError, match="square, disc; wanted the classes square, plate"):
        finetune(config, lambda line: None)


def test_a_place_that_is_taken_is_told_before_the_work(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there and is no bundle"):
        finetune(FinetuneConfig(data, "fastinst-nano", tmp_path / "out"))


def test_calibration_takes_evenly_spaced_pictures_whatever_their_suffix(data, tmp_path):
    """201 pictures give 200, not every second; pictures are read by content."""
    folder = data / "train"
    table = read_tables(folder)
    for row, suffix in zip(
        table["images"], (".jfif", "", ".JPG", ".png", ".tif", ".1"), strict=True
    ):
        path = folder / "images" / row["file_name"]
        row["file_name"] = path.stem + suffix
        path.rename(path.with_suffix(suffix))
    links = calibration_pictures(CocoDataset(folder, table), tmp_path / "six")
    with ImageCamera(links) as camera:
        assert len(list(camera)) == camera.frame_count == 6
    table["images"] = [{**table["images"][0], "id": number} for number in range(201)]
    links = calibration_pictures(CocoDataset(folder, table), tmp_path / "many")
    numbers = sorted(int(path.stem) for path in links.iterdir())
    assert len(numbers) == 200 and numbers[0] == 0 and numbers[-1] >= 199


def test_int8_may_lose_more_where_ap_is_chance():
    assert allowed_drop(5000) == 1.0
    assert allowed_drop(20) == 5.0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--check-only",), 0, "the dataset can be used"),
        (
            ("--check-only", "--init", "fastinst-nano", "--input-size", "32x16"),
            *(0, "12 objects of fewer than 20 pixels at the network's input: too small"),
        ),
        ((), 2, "got no --out; wanted a folder for the result; name one, e.g. runs/mine"),
        (("--out", "o", "--init", "x", "--variant", "nano"), 2, "got bundle 'x'; wanted a folder"),
        (
            ("--out", "o", "--init", "x", "--variant", "nano", "--minutes", 1),
            *(2, "got --minutes without fine-tuning; wanted --init MODEL and no --variant"),
        ),
        (("--out", "o", "--init", "x", "--hours", 1, "--minutes", 1), 2, "got --hours and --min"),
        (("--out", "o", "--init", "x"), 2, "got bundle 'x'; wanted a folder with bundle.json"),
        (("--out", "o", "--patience", 1), 2, "got --patience without fine-tuning; wanted --init"),
    ],
)
def test_what_the_command_line_says(edgeseg_cli, data, words, code, text):
    spoken = edgeseg_cli("train", "--data", data, *words)
    assert spoken.code == code
    assert text in (spoken.err if code else spoken.out)
