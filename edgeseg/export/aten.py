"""ATen operators as ONNX opset 17, one rule each.

A new operator is one row of `RULES`; tests/export/test_aten.py compares each row with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from edgeseg.errors import BundleError


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the picture: its name in the ONNX graph, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Graph(Protocol):
    """What the rules need of the graph under construction (`edgeseg.export.onnx.Builder`)."""

    def add(self, op: str, inputs: Sequence[Any], count: int = 1, **attributes: Any) -> list[str]:
        """Write one node; inputs are names, `Value` or constants; gives the output names."""
        ...

    def is_stored(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is a piece of the weights file."""
        ...


Result: TypeAlias = Any
"""Name or names of new outputs, a `Value` passed on, or a tensor that turned out constant."""
Rule: TypeAlias = Callable[..., Result]


def _plain(op: str) -> Rule:
    """An operator of one tensor with no settings."""
    return lambda g, out, x: g.add(op, [x])[0]


def _binary(op: str) -> Rule:
    """An operator of two tensors, or a tensor and a number."""

    def rule(g: Graph, out: Tensor, a: Any, b: Any, alpha: float = 1) -> str:
        if alpha != 1:
            raise BundleError(f"got {op} with alpha {alpha}; wanted 1; write the product out")
        return g.add(op, [_operand(g, a, out.dtype), _operand(g, b, out.dtype)])[0]

    return rule


def _operand(g: Graph, x: Any, dtype: torch.dtype) -> Any:
    """``x`` as ``dtype``: numbers and constants are converted, values are cast."""
    if not isinstance(x, Value):
        return torch.as_tensor(x, dtype=dtype)
    return x if x.dtype == dtype else _cast(g, x, dtype)


def _cast(g: Graph, x: Value, dtype: torch.dtype) -> str:
    return g.add("Cast", [x], to=dtype)[0]


def _same(g: Graph, out: Tensor, x: Value, *_: Any, **__: Any) -> Result:
    """Copies, detaching and moves: nothing, or a cast."""
    return x if x.dtype == out.dtype else _cast(g, x, out.dtype)


def _reshape(g: Graph, out: Tensor, x: Value, *_: Any) -> Result:
    """Every operator that only gives the elements, in order, another shape."""
    shape = tuple(out.shape)
    return x if shape == x.shape else g.add("Reshape", [x, torch.tensor(shape)])[0]


def _permute(g: Graph, out: Tensor, x: Value, order: Sequence[int]) -> Result:
    perm = [axis % len(x.shape) for axis in order]
    moved = [axis for axis in perm if x.shape[axis] > 1]
    if moved == sorted(moved):  # no element moves
        return _reshape(g, out, x)
    if perm == [0, 2, 1, 3] and x.shape[0] == 1:
        # With the rows first, ONNX Runtime's product reads an attention's heads where they lie.
        rows = torch.tensor((x.shape[1], 1, *x.shape[2:]))
        return g.add("Transpose", g.add("Reshape", [x, rows]), perm=[1, 2, 0, 3])[0]
    return g.add("Transpose", [x], perm=perm)[0]


def _transpose(g: Graph, out: Tensor, x: Value, a: int = 0, b: int = 1) -> Result:
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return _permute(g, out, x, order)


def _expand(g: Graph, out: Tensor, x: Value, *_: Any, **__: Any) -> Result:
    return x if out.shape == x.shape else g.add("Expand", [x, torch.tensor(tuple(out.shape))])[0]


def _constant(value: float) -> Rule:
    """An operator that uses of its input only the shape."""
    return lambda g, out, *_, **__: torch.full(tuple(out.shape), value, dtype=out.dtype)


def _conv2d(
    g: Graph,
    out: Tensor,
    x: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> str:
    return g.add(
        "Conv",
        [x, weight, *([] if bias is None else [bias])],
        kernel_shape=list(weight.shape[2:]),
        strides=_two(stride),
        pads=_two(padding) * 2,
        dilations=_two(dilation),
        group=groups,
    )[0]


def _two(value: Sequence[int]) -> list[int]:
    return list(value) * (2 // len(value))


def _linear(g: Graph, out: Tensor, x: Value, weight: Tensor, bias: Tensor | None = None) -> str:
    # A stored weight is transposed by the runtime at load, so that the file holds it once.
    turned = g.add("Transpose", [weight], perm=[1, 0])[0] if g.is_stored(weight) else weight.T
    product = g.add("MatMul", [x, turned])[0]
    return product if bias is None else g.add("Add", [product, bias])[0]


def _batch_norm(
    g: Graph,
    out: Tensor,
    x: Value,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> str:
    if training:
        raise BundleError("got a network in training mode; wanted eval(); call it first")
    return g.add("BatchNormalization", [x, weight, bias, mean, var], epsilon=eps)[0]


def _layer_norm(
    g: Graph,
    out: Tensor,
    x: Value,
    shape: Sequence[int],
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *_: Any,
) -> str:
    return g.add("LayerNormalization", [x, weight, bias], axis=-len(shape), epsilon=eps)[0]


def _group_norm(
    g: Graph, out: Tensor, x: Value, groups: int, weight: Tensor, bias: Tensor, eps: float, *_: Any
) -> str:
    """GroupNormalization came in opset 18; before, it is an instance norm over each group."""
    one, channels = torch.ones(groups), (1, -1, *[1] * (len(x.shape) - 2))
    grouped = g.add("Reshape", [x, torch.tensor((x.shape[0], groups, -1))])[0]
    normal = g.add("InstanceNormalization", [grouped, one, one * 0], epsilon=eps)[0]
    whole = g.add("Reshape", [normal, torch.tensor(x.shape)])[0]
    scaled = g.add("Mul", [whole, weight.reshape(channels)])[0]
    return g.add("Add", [scaled, bias.reshape(channels)])[0]


def _softmax(g: Graph, out: Tensor, x: Value, axis: int, dtype: torch.dtype | None = None) -> str:
    return g.add("Softmax", [_operand(g, x, out.dtype)], axis=axis)[0]


def _reduce(op: str) -> Rule:
    def rule(
        g: Graph, out: Tensor, x: Value, axes: Sequence[int] = (), keepdim: bool = False
    ) -> str:
        axes = list(axes) or list(range(len(x.shape)))
        return g.add(op, [x], axes=axes, keepdims=int(keepdim))[0]

    return rule


def _sum(
    g: Graph,
    out: Tensor,
    x: Value,
    axes: Sequence[int],
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> str:
    return g.add("ReduceSum", [x, torch.tensor(list(axes))], keepdims=int(keepdim))[0]


def _topk(
    g: Graph,
    out: Any,
    x: Value,
    k: int,
    axis: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> list[str]:
    flags = {"axis": axis, "largest": int(largest), "sorted": int(sorted)}
    return g.add("TopK", [x, torch.tensor([k])], 2, **flags)


def _quotient(g: Graph, out: Tensor, a: Any, b: Any) -> str:
    """A division; by a constant it is written as a product, which costs a quarter on a CPU."""
    if isinstance(b, Value) or not out.dtype.is_floating_point:
        return _binary("Div")(g, out, a, b)
    inverse = torch.as_tensor(b, dtype=torch.float64).reciprocal()
    return _binary("Mul")(g, out, a, inverse)


def _divide(g: Graph, out: Tensor, a: Any, b: Any, rounding_mode: str | None = None) -> str:
    """Rounding down; whole numbers here count cells, and ONNX rounds those towards 0."""
    quotient = _binary("Div")(g, out, a, b)
    return g.add("Floor", [quotient])[0] if out.dtype.is_floating_point else quotient


def _clamp(
    g: Graph, out: Tensor, x: Value, least: float | None = None, most: float | None = None
) -> str:
    limits = ["" if v is None else torch.tensor(v, dtype=out.dtype) for v in (least, most)]
    return g.add("Clip", [x, *limits])[0]


def _slice(
    g: Graph,
    out: Tensor,
    x: Value,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Result:
    if tuple(out.shape) == x.shape:
        return x
    stop = x.shape[axis] if end is None else min(end, x.shape[axis])
    rows = [torch.tensor([v]) for v in (start or 0, stop, axis, step)]
    return g.add("Slice", [x, *rows])[0]


def _select(g: Graph, out: Tensor, x: Value, axis: int, index: int) -> Result:
    if x.shape[axis] == 1:  # copies nothing
        return _reshape(g, out, x)
    return g.add("Gather", [x, torch.tensor(index)], axis=axis)[0]


def _cat(g: Graph, out: Tensor, parts: Sequence[Any], axis: int = 0) -> str:
    return g.add("Concat", list(parts), axis=axis)[0]


def _stack(g: Graph, out: Tensor, parts: Sequence[Any], axis: int = 0) -> str:
    shape = [1 if i == axis % out.ndim else size for i, size in enumerate(out.shape)]
    rows = [g.add("Reshape", [part, torch.tensor(shape)])[0] for part in parts]
    return g.add("Concat", rows, axis=axis)[0]


def _chunk(g: Graph, out: Sequence[Tensor], x: Value, count: Any, axis: int = 0) -> list[str]:
    sizes = [part.shape[axis] for part in out]
    return g.add("Split", [x, torch.tensor(sizes)], len(sizes), axis=axis)


def _resize(g: Graph, out: Tensor, x: Value, size: Any, align_corners: bool, *_: Any) -> Result:
    if align_corners:
        raise BundleError("got a resize with align_corners; wanted none; use align_corners=False")
    if tuple(out.shape) == x.shape:
        return x
    inputs = [x, "", "", torch.tensor(tuple(out.shape))]
    grid = "half_pixel"  # align_corners False
    return g.add("Resize", inputs, mode="linear", coordinate_transformation_mode=grid)[0]


def _nearest(g: Graph, out: Tensor, x: Value, *_: Any) -> Result:
    """Torch takes the cell at floor(i * old / new)."""
    if tuple(out.shape) == x.shape:
        return x
    return g.add(
        "Resize",
        [x, "", "", torch.tensor(tuple(out.shape))],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )[0]


def _pad(
    g: Graph, out: Tensor, x: Value, pads: Sequence[int], mode: str = "constant", value: Any = None
) -> Result:
    if not any(pads):
        return x
    pairs = list(zip(pads[::2], pads[1::2], strict=True))[::-1]  # torch counts from the last axis
    pairs = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs
    amounts = torch.tensor([a for a, _ in pairs] + [b for _, b in pairs])
    return g.add("Pad", [x, amounts, torch.tensor(value or 0, dtype=x.dtype)], mode=mode)[0]


def _pool(op: str) -> Rule:
    """Pooling; ceil mode becomes padding at the end, which every runtime reads alike."""

    def rule(
        g: Graph,
        out: Tensor,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
        *_: Any,
    ) -> str:
        window, begin = _two(kernel), _two(padding)
        if op == "AveragePool" and any(begin):
            raise BundleError("got a padded average pool; wanted none; pad before it")
        steps = _two(stride) if stride else window
        end = [
            max(0, (rows - 1) * step + size - before - have)
            for rows, step, size, before, have in zip(
                out.shape[2:], steps, window, begin, x.shape[2:], strict=True
            )
        ]
        return g.add(op, [x], kernel_shape=window, strides=steps, pads=[*begin, *end])[0]

    return rule


RULES: dict[str, Rule] = {
    "aten._assert_tensor_metadata.default": lambda *_, **__: None,
    "aten.add.Tensor": _binary("Add"),
    "aten.alias.default": _same,
    "aten.amax.default": _reduce("ReduceMax"),
    "aten.amin.default": _reduce("ReduceMin"),
    "aten.avg_pool2d.default": _pool("AveragePool"),
    "aten.batch_norm.default": _batch_norm,
    "aten.cat.default": _cat,
    "aten.chunk.default": _chunk,
    "aten.clamp.default": _clamp,
    "aten.clone.default": _same,
    "aten.contiguous.default": _same,
    "aten.conv2d.default": _conv2d,
    "aten.detach.default": _same,
    "aten.div.Tensor": _quotient,
    "aten.div.Tensor_mode": _divide,
    "aten.expand.default": _expand,
    "aten.flatten.using_ints": _reshape,
    "aten.floor.default": _plain("Floor"),
    "aten.gather.default": lambda g, out, x, axis, index: g.add(
        "GatherElements", [x, index], axis=axis
    )[0],
    "aten.group_norm.default": _group_norm,
    "aten.index_select.default": lambda g, out, x, axis, index: g.add(
        "Gather", [x, index], axis=axis
    )[0],
    "aten.layer_norm.default": _layer_norm,
    "aten.linear.default": _linear,
    "aten.matmul.default": lambda g, out, a, b: g.add("MatMul", [a, b])[0],
    "aten.max_pool2d.default": _pool("MaxPool"),
    "aten.mul.Tensor": _binary("Mul"),
    "aten.numpy_T.default": lambda g, out, x: _permute(g, out, x, range(len(x.shape))[::-1]),
    "aten.ones_like.default": _constant(1),
    "aten.pad.default": _pad,
    "aten.permute.default": _permute,
    "aten.relu.default": _plain("Relu"),
    "aten.reshape.default": _reshape,
    "aten.rsub.Scalar": lambda g, out, a, b: _binary("Sub")(g, out, b, a),
    "aten.select.int": _select,
    "aten.sigmoid.default": _plain("Sigmoid"),
    "aten.sign.default": _plain("Sign"),
    "aten.slice.Tensor": _slice,
    "aten.softmax.int": _softmax,
    "aten.squeeze.dim": _reshape,
    "aten.stack.default": _stack,
    "aten.sub.Tensor": _binary("Sub"),
    "aten.sum.dim_IntList": _sum,
    "aten.to.device": _same,
    "aten.to.dtype": _same,
    "aten.topk.default": _topk,
    "aten.transpose.int": _transpose,
    "aten.unflatten.int": _reshape,
    "aten.unsqueeze.default": _reshape,
    "aten.upsample_bilinear2d.vec": _resize,
    "aten.upsample_nearest2d.vec": _nearest,
    "aten.view.default": _reshape,
    "aten.zeros_like.default": _constant(0),
}
