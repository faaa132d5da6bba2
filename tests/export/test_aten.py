"""Every rule of the exporter against torch itself, on tensors that show its details."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.engines.ort import onnxruntime
from edgeseg.errors import BundleError
from edgeseg.export.aten import RULES, Value
from edgeseg.export.onnx import Builder
from edgeseg.export.trace import Interpreter

torch.manual_seed(0)
CHANNELS = torch.randn(8)
POSITIVE = torch.rand(8) + 0.5
KERNEL, BIAS = torch.randn(6, 4, 3, 3), torch.randn(6)
WEIGHT = torch.randn(5, 8)
IMAGE, SEQUENCE = (1, 8, 9, 11), (1, 7, 8)


def _autocast_off(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return x.relu() + 1


# operator -> shape of the input, and functions that together show all that its rule does
CASES: dict[str, tuple[tuple[int, ...], list[Callable[[Tensor], Any]]]] = {
    "add": (SEQUENCE, [lambda x: x + 2, lambda x: x + x * x, lambda x: 3 + x + CHANNELS]),
    "sub, rsub": (SEQUENCE, [lambda x: x - 2, lambda x: 1 - x, lambda x: CHANNELS - x]),
    "mul, div": (SEQUENCE, [lambda x: x * 3, lambda x: x / 7, lambda x: (x / POSITIVE) * x]),
    "div floor": (SEQUENCE, [lambda x: torch.div(x, 0.3, rounding_mode="floor")]),
    "whole numbers": (
        (1, 20),
        [
            lambda x: torch.div(x.topk(9)[1], 4, rounding_mode="floor"),
            lambda x: x.topk(9)[1] - 4,
            lambda x: x.topk(9)[1] / 4,
        ],
    ),
    "relu, sigmoid, sign, floor": (
        SEQUENCE,
        [torch.relu, torch.sigmoid, lambda x: torch.sign(F.relu(x)), lambda x: (x * 3).floor()],
    ),
    "clamp": (SEQUENCE, [lambda x: x.clamp(-0.5, 0.5), lambda x: x.clamp(min=0.1)]),
    "softmax": (SEQUENCE, [lambda x: x.softmax(-1), lambda x: x.softmax(1)]),
    "amax, amin": (
        IMAGE,
        [lambda x: x.amax(1, keepdim=True), lambda x: x.amin(-1), lambda x: x.amax((2, 3))],
    ),
    "sum": (IMAGE, [lambda x: x.sum(1), lambda x: x.sum((2, 3), keepdim=True)]),
    "topk": (SEQUENCE, [lambda x: x.topk(3, 1), lambda x: x.topk(2, -1, largest=False)]),
    "gather": (SEQUENCE, [lambda x: x.gather(1, x.topk(3, 1)[1])]),
    "index_select": (SEQUENCE, [lambda x: x[0].index_select(0, x[0, :, 0].topk(4)[1])]),
    "select, slice": (
        IMAGE,
        [
            lambda x: x[:, 2],
            lambda x: x[0, -1],
            lambda x: x[:, 1:-2, ::3],
            lambda x: x[..., -4:],
            lambda x: x[:, :99],
        ],
    ),
    "cat, stack": (
        SEQUENCE,
        [
            lambda x: torch.cat([x, torch.zeros(1, 2, 8), x + 1], 1),
            lambda x: torch.stack([x, x * 2], -1),
            lambda x: torch.stack([x, x * 2]),
        ],
    ),
    "chunk": (IMAGE, [lambda x: x.chunk(3, 1)[2], lambda x: sum(x.chunk(2, 1))]),
    "shapes": (
        IMAGE,
        [
            lambda x: x.flatten(2).unflatten(1, (2, 4)),
            lambda x: x.reshape(1, 4, -1).unsqueeze(1).squeeze(1),
            lambda x: x.view(8, 99).T,
            lambda x: x.permute(0, 2, 3, 1).transpose(1, -1),
            lambda x: x.transpose(1, 2),
            lambda x: x.transpose(0, 1).transpose(1, 2),
            lambda x: x[:, :1].expand(1, 8, 9, 11),
            lambda x: x.detach().clone().transpose(1, 2).contiguous(),
        ],
    ),
    "constants of a shape": (
        SEQUENCE,
        [lambda x: x + torch.zeros_like(x), lambda x: x + torch.ones_like(x)],
    ),
    "casts": (
        SEQUENCE,
        [lambda x: (x * 9).to(torch.int32), lambda x: (x * 9).to(torch.int64).float()],
    ),
    "matmul": (SEQUENCE, [lambda x: x @ x.transpose(1, 2), lambda x: x @ WEIGHT.T]),
    "linear": (
        SEQUENCE,
        [lambda x: F.linear(x, WEIGHT), lambda x: F.linear(x, WEIGHT, CHANNELS[:5])],
    ),
    "conv2d": (
        (1, 4, 9, 11),
        [
            lambda x: F.conv2d(x, KERNEL),
            lambda x: F.conv2d(x, KERNEL, BIAS, stride=2, padding=1),
            lambda x: F.conv2d(x, KERNEL[:, :2], BIAS, padding=(2, 1), dilation=2, groups=2),
        ],
    ),
    "batch_norm": (
        IMAGE,
        [lambda x: F.batch_norm(x, CHANNELS, POSITIVE, POSITIVE, CHANNELS, eps=1e-3)],
    ),
    "group_norm": (IMAGE, [lambda x: F.group_norm(x * 5 + 3, 4, POSITIVE, CHANNELS, 1e-3)]),
    "layer_norm": (
        SEQUENCE,
        [lambda x: F.layer_norm(x * 5 + 3, (8,), POSITIVE, CHANNELS, 1e-3)],
    ),
    "max_pool2d": (
        IMAGE,
        [
            lambda x: F.max_pool2d(x - 9, 3, 2, 1),
            lambda x: F.max_pool2d(x - 9, 3, 1, 1),
            lambda x: F.max_pool2d(x - 9, 2, ceil_mode=True),
        ],
    ),
    "avg_pool2d": (
        IMAGE,
        [
            lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
            lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
            lambda x: F.avg_pool2d(x, (3, 2)),
        ],
    ),
    "upsample_bilinear2d": (
        IMAGE,
        [
            lambda x: F.interpolate(x, size=(18, 31), mode="bilinear", align_corners=False),
            lambda x: F.interpolate(x, size=(4, 5), mode="bilinear", align_corners=False),
            lambda x: F.interpolate(
                x[..., :1, :1], size=(4, 5), mode="bilinear", align_corners=False
            ),
            lambda x: F.interpolate(x, size=(9, 11), mode="bilinear", align_corners=False),
        ],
    ),
    "upsample_nearest2d": (
        IMAGE,
        [
            lambda x: F.interpolate(x, size=(18, 22)),
            lambda x: F.interpolate(x, size=(17, 21)),
            lambda x: F.interpolate(x, size=(9, 11)),
        ],
    ),
    "pad": (
        IMAGE,
        [
            lambda x: F.pad(x, (1, 2, 0, 3)),
            lambda x: F.pad(x, (1, 2), value=7.0),
            lambda x: F.pad(x, (0, 0)),
        ],
    ),
    "autocast off": (SEQUENCE, [_autocast_off]),
}


class Wrapped(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def through_onnx(function: Callable[[Tensor], Any], x: Tensor, path: Path) -> list[Any]:
    """The function's results by ONNX Runtime, and the names of the operators that it used."""
    program = torch.export.export(Wrapped(function), (x,))
    picture = Value("x", tuple(x.shape), x.dtype)
    builder = Builder({}, "")
    results = Interpreter(program.module(), builder).run(picture)
    results = results if isinstance(results, tuple | list) else [results]
    model = builder.finish(picture, {f"y{i}": value for i, value in enumerate(results)})
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([f"y{i}" for i in range(len(results))], {"x": x.numpy()})


@pytest.mark.parametrize("case", CASES)
def test_the_rule_computes_what_torch_computes(case: str, tmp_path: Path) -> None:
    shape, functions = CASES[case]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for function in functions:
        wanted = function(x)
        wanted = wanted if isinstance(wanted, tuple | list) else [wanted]
        got = through_onnx(function, x, tmp_path / "model.onnx")
        for a, b in zip(wanted, got, strict=True):
            assert (tuple(a.shape), a.numpy().dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(b, a.numpy(), rtol=1e-5, atol=1e-5)


def test_every_rule_has_a_case() -> None:
    used: set[str] = set()
    for shape, functions in CASES.values():
        for function in functions:
            program = torch.export.export(Wrapped(function), (torch.randn(shape),))
            for module in program.graph_module.modules():
                if isinstance(module, torch.fx.GraphModule):
                    used |= {str(node.target) for node in module.graph.nodes}
    rare = {"aten.alias.default", "aten.to.device", "aten._assert_tensor_metadata.default"}
    assert set(RULES) - used - rare == set()


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda x: x.cumsum(1),
            "got operator aten.cumsum.default in the network; wanted one that edgeseg can export; "
            "add its rule to edgeseg/export/aten.py",
        ),
        (lambda x: torch.add(x, x, alpha=2), "got Add with alpha 2; wanted 1; write the product"),
        (lambda x: F.avg_pool2d(x, 3, 1, 1), "got a padded average pool; wanted none; pad before"),
        (
            lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", align_corners=True),
            "got a resize with align_corners; wanted none; use align_corners=False",
        ),
        (
            lambda x: F.batch_norm(x, CHANNELS.clone(), POSITIVE.clone(), training=True),
            "got a network in training mode; wanted eval(); call it first",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(
    function: Callable[[Tensor], Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError) as caught:
        through_onnx(function, torch.randn(IMAGE), tmp_path / "model.onnx")
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
