"""Rounding as INT8 brings it, and gradients as if there were none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeseg.bundle import find, read
from edgeseg.export.network import restore
from edgeseg.train.rounding import Int8Rounding, rounded, stays_float


def test_a_tensor_takes_255_values_and_keeps_its_largest() -> None:
    x = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    y = rounded(x)
    scale = x.abs().max() / 127
    assert y.unique().numel() <= 255
    assert (y - x).abs().max() <= scale / 2 * 1.001
    assert torch.isclose(y.abs().max(), x.abs().max())
    rows = rounded(x * torch.tensor([[1e-3], [1.0], [1e3], [0.0]]), (1,))
    assert torch.isfinite(rows).all()
    error = (rows - x * torch.tensor([[1e-3], [1.0], [1e3], [0.0]])).abs().amax(1)
    assert (error[:3] > 0).all() and error[0] < 1e-4 < error[2], "one scale per row"


def test_the_gradient_is_that_of_the_identity() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    (rounded(x) * torch.arange(12.0).view(3, 4)).sum().backward()
    torch.testing.assert_close(x.grad, torch.arange(12.0).view(3, 4))


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 4, 3), nn.Linear(8, 4)])
def test_layers_compute_with_rounded_inputs_and_weights(layer: nn.Module) -> None:
    shape = (2, 8, 6, 6) if isinstance(layer, nn.Conv2d) else (2, 6, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with Int8Rounding():
        got = layer(x)
    weight = layer.weight.detach()
    function = nn.functional.conv2d if isinstance(layer, nn.Conv2d) else nn.functional.linear
    wanted = function(rounded(x), rounded(weight, tuple(range(1, weight.ndim))), layer.bias)
    torch.testing.assert_close(got, wanted)
    assert not torch.equal(got, layer(x)), "outside the block nothing is rounded"


def test_the_first_convolution_stays_as_it_is() -> None:
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    with Int8Rounding():
        got = layer(x)
    assert torch.equal(got, layer(x))


def test_layers_that_stay_float_are_left_alone() -> None:
    network = nn.ModuleDict({"kernel_update_conv": nn.Linear(8, 4), "other": nn.Linear(8, 4)})
    x = torch.randn(3, 8)
    with Int8Rounding(stays_float(network)):
        got = {name: layer(x) for name, layer in network.items()}
    assert torch.equal(got["kernel_update_conv"], network["kernel_update_conv"](x))
    assert not torch.equal(got["other"], network["other"](x))


def picture(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 255, (1, 3, 192, 256), generator=generator, dtype=torch.uint8)
    return network.normalise(image)


def test_every_layer_but_the_first_is_rounded_and_learns() -> None:
    """Of the packaged network: its keys stay, and all its weights get a gradient."""
    folder = find("fastinst-nano")
    network = restore(folder, read(folder)).train().requires_grad_(True)
    keys = list(network.state_dict())
    calls: list[str] = []

    class Counting(Int8Rounding):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func in (nn.functional.conv2d, nn.functional.linear):
                calls.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs)

    with Counting():
        outputs = network(picture(network))
    outputs["pred_masks"].square().mean().backward()
    assert list(network.state_dict()) == keys
    convolutions = sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert calls.count("conv2d") == convolutions - 1  # the last one is applied to mask kernels
    assert calls.count("linear") > 10
    assert network.backbone.layer1[0].conv1.weight.grad.abs().max() > 0
