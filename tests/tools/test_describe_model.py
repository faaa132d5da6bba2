"""What a model costs: counted on networks whose cost is known, and as the records say."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import describe_model
import pytest
from onnx import TensorProto, helper

from edgeseg import bundle


def network(op: str, first: list[int], second: list[int], made: list[int], **settings: object):
    """A network of one node, whose second input is a constant."""
    constant = helper.make_tensor("w", TensorProto.FLOAT, second, bytes(4 * prod(second)), raw=True)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", first), ("y", made))
    ]
    node = helper.make_node(op, ["x", "w"], ["y"], name="the node", **settings)
    return helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [constant]))


@pytest.mark.parametrize(
    ("op", "first", "second", "made", "settings", "wanted"),
    [
        # 3x3 kernel, 4 -> 8 channels, 5x6 places.
        ("Conv", [1, 4, 7, 8], [8, 4, 3, 3], [1, 8, 5, 6], {}, 5 * 6 * 8 * 4 * 9),
        # Depthwise: each channel alone.
        ("Conv", [1, 4, 7, 8], [4, 1, 3, 3], [1, 4, 5, 6], {"group": 4}, 5 * 6 * 4 * 9),
        ("ConvTranspose", [1, 4, 5, 6], [4, 8, 2, 2], [1, 8, 6, 7], {}, 5 * 6 * 4 * 8 * 4),
        ("MatMul", [2, 5, 3], [3, 7], [2, 5, 7], {}, 2 * 5 * 3 * 7),
        ("Gemm", [5, 3], [3, 7], [5, 7], {}, 5 * 3 * 7),
        ("Gemm", [3, 5], [3, 7], [5, 7], {"transA": 1}, 5 * 3 * 7),
        ("Add", [5, 3], [5, 3], [5, 3], {}, 0),
    ],
)
def test_macs_of_one_node(op, first, second, made, settings, wanted) -> None:
    assert describe_model.macs(network(op, first, second, made, **settings)) == wanted


def test_what_cant_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got operator Einsum .*teach tools/describe_model.py"):
        describe_model.macs(network("Einsum", [2, 3], [3, 2], [2, 2], equation="ij,jk->ik"))
    with pytest.raises(ValueError, match="got no fixed shapes at MatMul 'the node'; wanted them"):
        describe_model.macs(network("MatMul", [0, 3], [3, 2], [0, 2]))


def test_a_bundle_without_weights_is_refused(tmp_path: Path) -> None:
    spec = replace(bundle.read(bundle.find("fastinst-nano")), weights="", files={})
    files = dict.fromkeys(spec.precisions.values(), b"")
    bundle.write(tmp_path / "bare", spec, files)
    with pytest.raises(SystemExit, match="without FP32 network or torch weights; wanted both"):
        describe_model.describe(str(tmp_path / "bare"))


@pytest.mark.parametrize("name", bundle.packaged())
def test_every_packaged_bundle_has_an_up_to_date_record(name: str) -> None:
    path = describe_model.RESULTS / f"model_{name}.json"
    assert path.exists(), f"run: python tools/describe_model.py {name}"
    assert json.loads(path.read_text("utf-8")) == describe_model.describe(name)
