"""Ranges measured on pictures: the same ones for the same pictures, wherever these come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import blobs
from ros_bags import at_30_hz, image, write_bag
from small_onnx import outputs

from edgeseg.bundle import ModelSpec, read
from edgeseg.cameras import open_camera
from edgeseg.errors import BundleError, CameraError, InputError
from edgeseg.export import calibrate as module
from edgeseg.export.calibrate import (
    Calibration,
    calibrate,
    check_fits,
    pictures,
    read_calibration,
    weights_sha256,
)
from edgeseg.export.fold import Graph, folded
from edgeseg.export.quantize import layers

COUNT = 6


@pytest.fixture(scope="module")
def spec(tiny: Path) -> ModelSpec:
    return read(tiny)


@pytest.fixture(scope="module")
def graph(tiny: Path) -> Graph:
    return folded(tiny / "model.onnx")


@pytest.fixture(scope="module")
def tensors(graph: Graph) -> list[str]:
    return sorted({name for layer in layers(graph) for name in layer.tensors})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six PNG pictures."""
    place = tmp_path_factory.mktemp("pictures") / "office"
    place.mkdir()
    for number in range(COUNT):
        cv2.imwrite(str(place / f"{number}.png"), blobs(number))
    return place


@pytest.fixture(scope="module")
def measured(graph: Graph, tensors: list[str], spec: ModelSpec, folder: Path) -> Calibration:
    return calibrate(graph, tensors, spec, images=folder)


def write_video(path: Path, count: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(blobs(number), "bgr24")))
        container.mux(stream.encode())
    return path


# Measuring.


def test_the_same_pictures_give_the_same_record(
    graph: Graph, tensors: list[str], spec: ModelSpec, folder: Path, measured: Calibration
) -> None:
    assert calibrate(graph, tensors, spec, images=folder).dumps() == measured.dumps()


def test_it_says_where_ranges_come_from(measured: Calibration, spec: ModelSpec) -> None:
    assert (measured.model, measured.source, measured.pictures) == ("tiny", "office", COUNT)
    assert (measured.method, measured.float_layers) == ("mse", ())
    assert measured.weights_sha256 == spec.files["weights.safetensors"]


def test_ranges_are_those_of_the_tensors(
    graph: Graph, tensors: list[str], spec: ModelSpec, folder: Path
) -> None:
    """With ``minmax``: the largest magnitude of each tensor, from runs of our own."""
    got = calibrate(graph, tensors, spec, images=folder, method="minmax")
    largest = dict.fromkeys(tensors, 0.0)
    for one in pictures(folder, spec, COUNT):
        values = outputs(graph.finish(), one, tensors)
        for name, array in zip(tensors, values, strict=True):
            largest[name] = max(largest[name], float(np.abs(array).max()))
    assert list(got.magnitudes) == tensors
    assert got.magnitudes == pytest.approx(largest, rel=1e-5)


def test_pictures_are_as_the_network_sees_them(spec: ModelSpec, folder: Path) -> None:
    (first, *_) = (one.copy() for one in pictures(folder, spec, COUNT))
    assert first.shape == (1, *spec.input_hw, 3)
    assert first.dtype == np.uint8
    shown = cv2.resize(blobs(0), (85, 64), interpolation=cv2.INTER_AREA)[..., ::-1].astype(int)
    assert np.abs(first[0, :, :85] - shown).mean() < 3, "resized, in RGB"
    assert (first[0, :, 87:] == spec.pad_value).all()


def test_a_bag_gives_what_its_pictures_give(
    graph: Graph,
    tensors: list[str],
    spec: ModelSpec,
    measured: Calibration,
    tmp_path: Path,
) -> None:
    sent = at_30_hz(image(blobs(number)) for number in range(COUNT))
    bag = write_bag(tmp_path / "bag", sent)
    got = calibrate(graph, tensors, spec, images=bag)
    assert got == replace(measured, source=bag.name)


def test_a_video(graph: Graph, tensors: list[str], spec: ModelSpec, video: Path) -> None:
    got = calibrate(graph, tensors, spec, images=video, limit=5)
    assert (got.source, got.pictures) == (video.name, 5)
    assert all(value > 0 for value in got.magnitudes.values())


@pytest.mark.parametrize(
    ("count", "limit", "chosen"),
    [
        (6, 200, [0, 1, 2, 3, 4, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (7, 6, [0, 2, 3, 4, 5, 6]),
        (10, 4, [0, 3, 5, 8]),
        (9, 3, [0, 3, 6]),
        (10, 1, [0]),
    ],
)
def test_more_pictures_are_thinned_out_evenly(
    spec: ModelSpec, tmp_path: Path, count: int, limit: int, chosen: list[int]
) -> None:
    for number in range(count):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((64, 96, 3), number, np.uint8))
    assert [int(one[0, 30, 50, 0]) for one in pictures(tmp_path, spec, limit)] == chosen


def test_a_video_that_does_not_tell_its_length_is_thinned_too(
    spec: ModelSpec, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "long.mkv", 24)
    with open_camera(path) as camera:
        assert camera.frame_count is None, "else this tests nothing"
    every = [one.copy() for one in pictures(path, spec, 24)]
    some = [one.copy() for one in pictures(path, spec, 4)]
    assert len(every) == 24
    assert [any(np.array_equal(a, every[i]) for a in some) for i in (0, 6, 12, 18)] == [True] * 4
    assert len(some) == 4


def test_damaged_pictures_are_left_out(
    graph: Graph, tensors: list[str], spec: ModelSpec, tmp_path: Path
) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), blobs(number))
    (tmp_path / "1.png").write_bytes(b"not a picture")
    assert calibrate(graph, tensors, spec, images=tmp_path).pictures == 2


def test_no_picture_is_an_error(
    graph: Graph, tensors: list[str], spec: ModelSpec, tmp_path: Path
) -> None:
    with pytest.raises(CameraError):
        calibrate(graph, tensors, spec, images=tmp_path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": "max"}, "got method 'max' and 200 pictures; wanted one of minmax, percentile"),
        ({"limit": 0}, "got method 'mse' and 0 pictures; wanted .* 1 or more; correct them"),
    ],
)
def test_wrong_settings(
    graph: Graph, spec: ModelSpec, folder: Path, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        calibrate(graph, [], spec, images=folder, **settings)


def test_a_network_that_overflows_is_refused(
    graph: Graph, tensors: list[str], spec: ModelSpec, folder: Path
) -> None:
    broken = Graph(graph.finish())
    name = next(name for name in broken.constants if name.endswith("folded/bias"))
    broken.constants[name] = np.full_like(broken.constants[name], np.inf)
    with pytest.raises(InputError, match=r"got infinite or undefined values in \S+ on picture 1"):
        calibrate(broken, tensors, spec, images=folder)


# The record.


def test_a_record_comes_back_as_it_was(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    left = measured.leaving(["b", "a"]).leaving(["a"])
    assert left.float_layers == ("a", "b")
    path.write_text(left.dumps())
    assert read_calibration(path) == left
    assert read_calibration(path).dumps() == path.read_text()


def test_a_record_has_a_line_for_each_tensor(measured: Calibration) -> None:
    lines = measured.dumps().splitlines()
    assert sum(line.startswith('  "') for line in lines) == len(measured.magnitudes)


def _changed(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda table: {**table, **fields}


DAMAGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda table: [table],
    "a number": lambda table: 7,
    "another JSON": lambda table: {"images": [], "annotations": []},
    "a field more": _changed(colour="red"),
    "a field less": lambda table: {k: v for k, v in table.items() if k != "method"},
    "another format": _changed(format=99),
    "ranges in a list": _changed(magnitudes=[1.0, 2.0]),
    "a range of 0": _changed(magnitudes={"a": 0.0}),
    "a negative range": _changed(magnitudes={"a": -1.0}),
    "an infinite range": _changed(magnitudes={"a": float("inf")}),
    "an undefined range": _changed(magnitudes={"a": float("nan")}),
    "a range in words": _changed(magnitudes={"a": "wide"}),
    "no range": _changed(magnitudes={"a": None}),
    "no float layers": _changed(float_layers=None),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_record_is_refused(measured: Calibration, tmp_path: Path, case: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(DAMAGED[case](json.loads(measured.dumps()))))
    with pytest.raises(BundleError) as caught:
        read_calibration(path)
    text = str(caught.value)
    assert text.startswith(f"got {str(path)!r}, which holds no ranges (")
    assert text.endswith("; wanted calibration.json of 'edgeseg quantize'; choose another file")
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 10_000])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="which holds no ranges"):
        read_calibration(path)


def test_a_range_that_is_a_text_of_a_number_is_one(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**json.loads(measured.dumps()), "magnitudes": {"a": "2.5"}}))
    assert read_calibration(path).magnitudes == {"a": 2.5}


@pytest.mark.parametrize("name", ["gone.json", "."])
def test_a_record_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"got .+ for '.+'; wanted ranges; check the path"):
        read_calibration(tmp_path / name)


# Whose ranges they are.


def test_ranges_of_this_network_fit(
    measured: Calibration, spec: ModelSpec, tensors: list[str]
) -> None:
    check_fits(measured, spec, tensors)
    check_fits(measured, spec, tensors[1:])


def test_ranges_of_another_network_are_refused(
    measured: Calibration, spec: ModelSpec, tensors: list[str]
) -> None:
    with pytest.raises(BundleError) as caught:
        check_fits(measured, spec, [*tensors, "elsewhere"])
    assert str(caught.value) == (
        "got ranges of tiny without 1 tensors of tiny (elsewhere, ...); wanted ranges of this "
        "network; measure them anew"
    )


def test_ranges_of_other_weights_are_refused(
    measured: Calibration, spec: ModelSpec, tensors: list[str]
) -> None:
    trained = replace(spec, name="later", files={**spec.files, "weights.safetensors": "0" * 64})
    with pytest.raises(BundleError) as caught:
        check_fits(measured, trained, tensors)
    assert str(caught.value) == (
        "got ranges of tiny as it was with other weights than later; wanted ranges of these "
        "weights; measure them anew"
    )


def test_another_input_size_of_the_same_weights_may_use_the_ranges(
    measured: Calibration, spec: ModelSpec, tensors: list[str]
) -> None:
    larger = replace(spec, files={**spec.files, "model.onnx": "0" * 64})
    check_fits(measured, larger, tensors)


def test_without_weights_beside_it_the_network_file_counts(spec: ModelSpec) -> None:
    assert weights_sha256(replace(spec, weights="")) == spec.files["model.onnx"]


def test_reading_pictures_stops_where_it_has_enough(
    spec: ModelSpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endless source would be read for ever."""
    camera = open_camera("synthetic:64x48@30", live=False)
    camera.frame_count = 5
    monkeypatch.setattr(module, "open_camera", lambda images: camera)
    assert len([one.copy() for one in pictures(folder, spec, 3)]) == 3
