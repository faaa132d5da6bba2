"""Official FastInst networks from checkpoint to ONNX Runtime, with weights that don't collapse.

Weights and pictures are those of the parity fixtures: the rule that fills a network from its keys,
and pictures on which no query is chosen by a hair's breadth.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from export_networks import ALLOWED, DEFORMABLE
from parity.fixture import Fixture, fill, of
from parity.official import config_of

from edgeseg.export.check import check
from edgeseg.export.checkpoints import convert
from edgeseg.export.pack import pack, spec_of
from edgeseg.zoo.fastinst import VARIANTS, FastInst

pytestmark = pytest.mark.slow
FIXTURES = of("fastinst", "model")


def test_there_are_networks_of_one_and_of_three_layers() -> None:
    depths = {config_of(fixture.facts["config"]).num_layers for fixture in FIXTURES}
    assert {1, 3} <= depths


@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_torch_and_onnx_runtime_agree(fixture: Fixture, tmp_path: Path) -> None:
    config = config_of(fixture.facts["config"])
    network = FastInst(config).eval()
    fill(network, fixture)
    input_hw = tuple(fixture.facts["net_input_shape"][2:])
    variants = [name for name, known in VARIANTS.items() if known == config]
    if variants:
        torch.save({"model": network.state_dict(), "iteration": 1}, tmp_path / "official.pth")
        path = tmp_path / "official.pth"
        convert(path, "fastinst", variants[0], tmp_path / "b", input_hw=input_hw)
    else:
        classes = tuple(f"class {i}" for i in range(config.num_classes))
        pack(network, spec_of(network, "b", classes, input_hw=input_hw), tmp_path / "b")

    pictures = [image[..., ::-1].copy() for image in fixture.numbered("image{}")]
    report = check(tmp_path / "b", pictures=pictures)
    print(report.table())
    assert report.ok
    for row in report.rows:
        assert row.verdict == "ok"
        assert row.unmatched == 0
        assert row.score < 1e-4
        assert row.mask < 1e-3
        assert row.mean_iou > 0.9999

    model = onnx.load(tmp_path / "b" / "model.onnx", load_external_data=False)
    allowed = ALLOWED | (DEFORMABLE if any(config.deform_stages) else set())
    assert {node.op_type for node in model.graph.node} - allowed == set()
    assert (tmp_path / "b" / "model.onnx").stat().st_size < 8e6  # the weights are elsewhere
