"""Quantised bundles: what they hold, how the budget of accuracy is kept, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import blobs
from quantize_fakes import NETWORKS, Accuracy, networks

import edgeseg
from edgeseg.bundle import PACKAGED, packaged, read, write
from edgeseg.errors import BundleError, InputError, OutputError
from edgeseg.export.calibrate import read_calibration
from edgeseg.export.int8 import Result, quantize, share_weights
from edgeseg.export.quantize import Layer

ROOT = Path(__file__).parents[2]


# The bundle.


def test_what_the_bundle_holds(tiny: Path, done: tuple[Path, Result]) -> None:
    out, result = done
    spec, source = read(out), read(tiny)
    assert set(spec.files) == {*source.files, *NETWORKS, "calibration.json"}
    assert list(spec.precisions.items()) == [("int8", "model.int8.onnx"), ("fp32", "model.onnx")]
    same = {"files": source.files, "precisions": source.precisions, "name": "tiny"}
    assert replace(spec, **same) == source
    assert {name: spec.files[name] for name in source.files} == source.files
    assert result.spec == spec
    assert (result.losses, result.ap) == ((), ())


def test_the_ranges_are_in_it(done: tuple[Path, Result], possible: list[Layer]) -> None:
    out, result = done
    calibration = read_calibration(out / "calibration.json")
    assert calibration == result.calibration
    assert (calibration.pictures, calibration.method, calibration.source) == (3, "mse", "images")
    assert set(calibration.magnitudes) == {name for layer in possible for name in layer.tensors}
    assert result.layers == len(possible)


def test_it_runs_in_int8_unless_asked(done: tuple[Path, Result]) -> None:
    out, _ = done
    with edgeseg.load(out) as usual, edgeseg.load(out, precision="fp32") as precise:
        assert usual.describe().endswith("cpu int8")
        got, wanted = usual(blobs(0)), precise(blobs(0))
    assert precise.describe().endswith("cpu fp32")
    assert len(got) <= len(wanted) + 3


def test_the_cpu_form_is_what_runs(done: tuple[Path, Result], tmp_path: Path) -> None:
    """Without it the signed one, slower, would run."""
    from edgeseg.engines.ort import OrtEngine

    out, _ = done
    opened: list[str] = []

    class Spy(OrtEngine):
        def __init__(self, path: Path, *rest: Any) -> None:
            opened.append(path.name)
            super().__init__(path, *rest)

    spec = read(out)
    for precision in ("int8", "fp32"):
        Spy.load(out, spec, precision, 1).close()
    files = {name: digest for name, digest in spec.files.items() if ".u8." not in name}
    Spy.load(out, replace(spec, files=files), "int8", 1).close()
    assert opened == ["model.int8.u8.onnx", "model.onnx", "model.int8.onnx"]


def test_both_networks_are_valid_and_share_their_weights(done: tuple[Path, Result]) -> None:
    out, _ = done
    places: list[set[tuple[str, ...]]] = []
    for name in NETWORKS[:-1]:
        onnx.checker.check_model(out / name, full_check=True)
        model = onnx.load(out / name, load_external_data=False)
        outside = [one for one in model.graph.initializer if one.external_data]
        places.append({tuple(entry.value for entry in one.external_data) for one in outside})
        assert {one.external_data[0].value for one in outside} == {NETWORKS[-1]}
    signed, for_cpu, for_tensorrt = places
    assert len(signed & for_cpu) > 0.8 * len(signed), "others are for ONNX Runtime in another order"
    assert len(signed & for_tensorrt) > len(signed) / 2, "all of INT8; the rest is float16 there"
    size = (out / NETWORKS[-1]).stat().st_size
    needed = sum(int(length) for _, _, length in signed | for_cpu | for_tensorrt)
    assert needed <= size < needed + 64 * len(signed | for_cpu | for_tensorrt)


def test_sharing_weights() -> None:
    """Equal constants lie there once, aligned; small ones stay in their file."""
    large, other, small = np.arange(500.0), np.ones(300), np.arange(4)
    models = []
    for names in ({"a": large, "s": small}, {"b": large, "c": other, "d": other}):
        constants = [onnx.numpy_helper.from_array(array, name) for name, array in names.items()]
        graph = onnx.helper.make_graph([], "g", [], [], constants)
        models.append(onnx.helper.make_model(graph))
    content = share_weights(models, "shared")
    assert len(content) == 4000 + 32 + 2400
    found = {}
    for model in models:
        for one in model.graph.initializer:
            found[one.name] = {entry.key: entry.value for entry in one.external_data}
    assert found["a"] == found["b"] == {"location": "shared", "offset": "0", "length": "4000"}
    assert found["c"] == found["d"] == {"location": "shared", "offset": "4032", "length": "2400"}
    assert found["s"] == {}
    assert content[:4000] == large.tobytes()
    assert content[4032:] == other.tobytes()


# The same again.


def test_the_same_pictures_give_the_same_bundle(
    tiny: Path, images: Path, done: tuple[Path, Result], tmp_path: Path
) -> None:
    quantize(tiny, tmp_path / "robot", images=images)
    assert (tmp_path / "robot" / "bundle.json").read_text() == (done[0] / "bundle.json").read_text()


def test_ranges_give_the_same_networks_without_a_picture(
    tiny: Path, done: tuple[Path, Result], tmp_path: Path
) -> None:
    result = quantize(tiny, tmp_path / "other", ranges=done[0] / "calibration.json")
    assert networks(tmp_path / "other") == networks(done[0])
    assert result.calibration == done[1].calibration


def test_a_bundle_that_has_int8_gets_it_anew(done: tuple[Path, Result], tmp_path: Path) -> None:
    """Also in its own place."""
    out = tmp_path / "robot"
    shutil.copytree(done[0], out)
    some = ["backbone.layer1.0.conv1/Conv"]
    quantize(out, out, ranges=out / "calibration.json", float_layers=some, overwrite=True)
    assert set(read(out).files) == set(read(done[0]).files)
    assert networks(out) != networks(done[0])


@pytest.mark.parametrize("name", packaged())
def test_the_packaged_bundle_is_what_its_ranges_give(name: str, tmp_path: Path) -> None:
    """``make int8`` changes nothing."""
    quantize(name, tmp_path / name, ranges=ROOT / "calibration" / f"{name}.json")
    assert networks(tmp_path / name) == networks(PACKAGED / name)
    index = "bundle.json"
    assert (tmp_path / name / index).read_text() == (PACKAGED / name / index).read_text()


# Layers.


def test_layers_may_be_left_float(
    tiny: Path, done: tuple[Path, Result], possible: list[Layer], tmp_path: Path
) -> None:
    convs = [layer.name for layer in possible if layer.kind == "conv"]
    ranges = tmp_path / "ranges.json"
    ranges.write_text(done[1].calibration.leaving(convs[:1]).dumps())
    result = quantize(tiny, tmp_path / "out", ranges=ranges, float_layers=convs[3:5])
    left = {convs[0], *convs[3:5]}
    assert set(result.calibration.float_layers) == left
    assert set(read_calibration(tmp_path / "out" / "calibration.json").float_layers) == left
    model = onnx.load(tmp_path / "out" / "model.int8.onnx")
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    weights = {one.name: kinds.get(one.input[1]) for one in model.graph.node if one.name in convs}
    assert {name for name, kind in weights.items() if kind == onnx.TensorProto.FLOAT} == left


def test_an_unknown_layer_is_refused_before_the_work(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        quantize(
            tiny,
            tmp_path / "out",
            images=tmp_path / "not even there",
            float_layers=["backbone.layer1.0.conv1/Con"],
        )
    assert str(caught.value) == (
        "got float layers backbone.layer1.0.conv1/Con; wanted layers of tiny, e.g. "
        "backbone.conv1.3/Conv; did you mean 'backbone.layer1.0.conv1/Conv'?"
    )
    with pytest.raises(InputError, match=r"got float layers 7, ~; .*; see --sensitivity for all"):
        quantize(tiny, tmp_path / "out", images=tmp_path, float_layers=["~", "7"])


def test_unknown_layers_in_ranges_are_refused(
    tiny: Path, done: tuple[Path, Result], tmp_path: Path
) -> None:
    ranges = tmp_path / "ranges.json"
    ranges.write_text(done[1].calibration.leaving(["elsewhere"]).dumps())
    with pytest.raises(InputError, match="got float layers elsewhere"):
        quantize(tiny, tmp_path / "out", ranges=ranges)


# The budget.


def budget(
    tiny: Path, done: tuple[Path, Result], out: Path, accuracy: Accuracy, **settings: Any
) -> Result:
    ranges = done[0] / "calibration.json"
    return quantize(tiny, out, ranges=ranges, accuracy=accuracy, **settings)


def test_within_the_budget_all_layers_are_int8(
    tiny: Path, done: tuple[Path, Result], tmp_path: Path, ranked: list[str]
) -> None:
    accuracy = Accuracy({ranked[0]: 0.9})
    result = budget(tiny, done, tmp_path / "out", accuracy)
    assert accuracy.asked == [("tiny", "fp32"), ("tiny", "int8")]
    assert result.ap == ({"fp32": 0.6, "int8": pytest.approx(0.591), "float_layers": 0},)
    assert result.calibration.float_layers == ()
    assert result.losses == (), "not needed, so not measured"


def test_the_most_harmful_layers_go_back_to_float(
    tiny: Path, done: tuple[Path, Result], tmp_path: Path, ranked: list[str]
) -> None:
    accuracy = Accuracy({ranked[0]: 2.0, ranked[2]: 1.5, ranked[9]: 0.7})
    result = budget(tiny, done, tmp_path / "out", accuracy)
    assert [trial["float_layers"] for trial in result.ap] == [0, 1, 2, 4]
    assert set(result.calibration.float_layers) == set(ranked[:4])
    assert result.ap[-1]["int8"] == pytest.approx(0.593)
    written = read_calibration(tmp_path / "out" / "calibration.json")
    assert written.float_layers == result.calibration.float_layers
    assert [row.layer for row in result.losses] == ranked


def test_layers_that_are_float_already_do_not_count(
    tiny: Path, done: tuple[Path, Result], tmp_path: Path, ranked: list[str]
) -> None:
    accuracy = Accuracy({ranked[1]: 2.0})
    result = budget(tiny, done, tmp_path / "out", accuracy, float_layers=[ranked[0]])
    assert [trial["float_layers"] for trial in result.ap] == [1, 2]
    assert set(result.calibration.float_layers) == set(ranked[:2])


@pytest.mark.parametrize(("allowed", "trials"), [(3.0, 1), (2.0, 1), (1.9, 2), (-1.0, None)])
def test_how_much_may_be_lost(
    tiny: Path,
    done: tuple[Path, Result],
    tmp_path: Path,
    ranked: list[str],
    allowed: float,
    trials: int | None,
) -> None:
    accuracy = Accuracy({ranked[0]: 1.999})
    if trials is not None:
        result = budget(tiny, done, tmp_path / "out", accuracy, max_ap_drop=allowed)
        assert len(result.ap) == trials
        return
    with pytest.raises(InputError) as caught:
        budget(tiny, done, tmp_path / "out", accuracy, max_ap_drop=allowed)
    assert str(caught.value) == (
        "got INT8 0.0 AP below FP32 with every layer float; wanted at most -1; compare the bundles "
        "with 'edgeseg check'"
    )
    assert len(accuracy.asked) == 1 + 8, "0, 1, 2, 4, 8, 16, 32 and all 53 layers float"
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_losses_are_measured_where_asked(
    tiny: Path, done: tuple[Path, Result], tmp_path: Path, ranked: list[str]
) -> None:
    ranges = done[0] / "calibration.json"
    result = quantize(tiny, tmp_path / "out", ranges=ranges, with_losses=True)
    assert [row.layer for row in result.losses] == ranked


# Refusals.


def test_neither_pictures_nor_ranges(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        quantize(tiny, tmp_path / "out")
    assert str(caught.value) == (
        "got neither pictures nor ranges; wanted one of them; pass --images or --ranges"
    )


def test_a_bundle_without_a_float_network(
    done: tuple[Path, Result], images: Path, tmp_path: Path
) -> None:
    out, _ = done
    spec = read(out)
    bare = replace(spec, name="bare", precisions={"int8": "model.int8.onnx"}, weights="")
    write(tmp_path / "bare", bare, {name: out / name for name in NETWORKS})
    with pytest.raises(BundleError, match="got bare with int8; wanted fp32 to quantise; export it"):
        quantize(tmp_path / "bare", tmp_path / "out", images=images)


def test_a_bundle_that_is_there_is_refused_before_the_work(
    tiny: Path, done: tuple[Path, Result], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="is there already"):
        quantize(tiny, done[0], images=tmp_path / "not even there")


def test_a_folder_that_is_no_bundle_is_never_replaced(tiny: Path, images: Path) -> None:
    with pytest.raises(OutputError, match="is there and is no bundle"):
        quantize(tiny, images, images=images, overwrite=True)
    assert len(list(images.iterdir())) == 3
