"""Networks for the tests of export and engines."""

from __future__ import annotations

from pathlib import Path

import torch

from edgeseg.export.pack import pack, spec_of
from edgeseg.zoo.fastinst import FastInst, FastInstConfig

TINY = FastInstConfig(
    backbone="resnet18d",
    depth=18,
    width=8,
    num_classes=3,
    hidden_dim=32,
    mask_dim=16,
    num_queries=12,
    num_aux_queries=2,
    num_heads=4,
    ffn_dim=64,
    norm="BN",
    mask_stride=4,
    size_divisibility=1,
)
# No NMS, no control flow, no boolean tensors, nothing that computes shapes: Where, NonZero, Not,
# Greater, If, Loop, Shape, ConstantOfShape, Range, ScatterND, Einsum, BitShift, ...
ALLOWED = {
    *("Add", "Sub", "Mul", "Div", "MatMul", "Relu", "Sigmoid", "Sign", "Softmax", "Identity"),
    *("Conv", "BatchNormalization", "InstanceNormalization", "LayerNormalization"),
    *("AveragePool", "MaxPool", "Resize", "ReduceMax", "ReduceMin", "ReduceSum"),
    *("TopK", "Gather", "GatherElements", "Clip"),
    *("Cast", "Concat", "Expand", "Reshape", "Slice", "Transpose"),
}
DEFORMABLE = {"Floor", "Pad"}
COLOURS = ("red", "green", "blue")


def tiny_network() -> FastInst:
    """An untrained FastInst, 12 queries and 3 classes, from a fixed seed, with lively outputs."""
    torch.manual_seed(3)
    network = FastInst(TINY)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5)
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
            if ".layers.2.weight" in name:  # the heads of classes and masks
                tensor.mul_(6)
    return network.eval()


def write_tiny(folder: Path) -> Path:
    """The bundle of `tiny_network` at 96x64."""
    network = tiny_network()
    pack(network, spec_of(network, folder.name, COLOURS, input_hw=(64, 96)), folder)
    return folder
