"""What the study of K-Net's reductions builds, and how it is told."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import make_models
import pytest
import study_reductions as study
import torch
from torch import nn

from edgeseg.zoo.knet import VARIANTS, KNet, KNetConfig

TINY = KNetConfig(
    **{"backbone": "resnet18d", "depth": 18, "width": 8, "num_classes": 3, "num_kernels": 12},
    **{"hidden_dim": 32, "num_heads": 4, "ffn_dim": 64, "norm": "BN", "size_divisibility": 1},
    **{"light": True, "fine_dim": 16},
)


def test_the_steps_end_at_knet_nano_and_each_changes_something() -> None:
    configs = study.networks()
    steps = [study.START, *study.TAKEN]
    assert configs[study.NANO] == VARIANTS["knet-nano"]
    assert list(configs) == [step.name for step in (*steps, *study.REFUSED)]
    for before, step in pairwise(steps):
        old, new = configs[before.name].to_dict(), configs[step.name].to_dict()
        assert {key for key in new if new[key] != old[key]} == set(step.changes)


def test_a_network_until_a_stage_predicts_what_that_stage_did() -> None:
    torch.manual_seed(0)
    network = KNet(TINY).eval()
    picture = network.normalise(torch.rand(1, 3, 64, 96) * 255)
    with torch.no_grad():
        whole, short = network(picture)["stages"], study.until(network, 2)(picture)["stages"]
    assert len(short) == 2
    for name in ("logits", "masks"):
        torch.testing.assert_close(short[-1][name], whole[1][name], rtol=0, atol=0)


class FakeRun:
    """Counts what `study.fit` asks of a run."""

    def __init__(self, out: Path) -> None:
        self.config = study.TrainConfig(out, out / "run", batch=4)
        self.network, self.train_data, self.val_data = nn.Identity(), [0], [0]
        self.name, self.step, self.images = "fake", 0, 0
        self.curve: list[dict[str, Any]] = []
        self.progress: list[float] = []

    def resume(self) -> None:
        """Nothing was there."""

    def augmentation(self, progress: float) -> None:
        """None."""

    def train_step(self, images: object, targets: object, progress: float) -> None:
        """One step."""
        self.progress.append(progress)

    def save(self) -> None:
        """Not reached with so few steps."""

    def look(self, count: int) -> None:
        """The end."""
        self.curve.append({"raw_AP": 0.5})


class FakeLoader:
    """Batches of nothing."""

    def __init__(self, *_: object) -> None: ...

    def __next__(self) -> tuple[None, None]:
        return None, None

    def close(self) -> None:
        """Nothing to close."""


def test_every_step_gets_as_many_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study, "Loader", FakeLoader)
    run: Any = FakeRun(tmp_path)
    study.fit(run, 16)
    study.fit(run, 16)  # called again: it has ended
    assert (run.images, run.progress, len(run.curve)) == (16, [0.0, 0.25, 0.5, 0.75], 1)


def row(step: str, macs: int, taken: bool = True) -> dict[str, Any]:
    times = {"ms_fp32": macs / 1e8, "ms_int8": macs / 2e8}
    return {"step": step, "what": f"w {step}", "taken": taken, "macs": macs, **times} | {
        "parameters": 2_000_000
    }


MACHINE = {"cpu": "c", "cores": 2, "python": "3", "versions": {"onnxruntime": "1"}}


def test_the_table_compares_each_step_with_the_one_before() -> None:
    rows = [row("a", 4_000_000_000), row("net", 2_000_000_000), row("c", 1_000_000_000, False)]
    rows.append(row("d", 3_000_000_000, False))
    made = {"rows": rows, "input_size": "32x24", "rounds": 3, "machine": MACHINE}
    stages = {
        "model": "net",
        "split": "test",
        "images": 9,
        "rows": [{"stage": 1, "mask_stride": 8}],
    }
    stages["rows"][0] |= {"AP": 0.1, "AP50": 0.2, "AP75": 0.3}  # type: ignore[index]
    trained = {"start": "s", "pictures": 500, "val_images": 7, "rows": {"net": {"AP": 0.21}}}
    evaluated = {"model": "net", "split": "test", "results": [{"precision": "fp32", "AP": 0.6}]}
    text = make_models.reductions(
        {"reductions": {"cost": made, "stages": stages, "train": trained}, "eval_net": evaluated}
    )
    assert "| w a | 4.00 | 2.00 | 40.0 | 20.0 |  |  |" in text
    assert "| w net | 2.00 (-50%) | 2.00 (+0%) | 20.0 (-50%) | 10.0 (-50%) | 0.600 | 0.210" in text
    assert "| *not taken:* w c | 1.00 (-50%) |" in text
    assert "| *not taken:* w d | 3.00 (+50%) |" in text
    assert "to show a direction, no more: 500 pictures for each step, from `s`" in text
    assert "| 1 | 8 | 0.100 | 0.200 | 0.300 |" in text
    bare = make_models.reductions({"reductions": {"cost": made}})
    assert "short training" not in bare and "stage |" not in bare
