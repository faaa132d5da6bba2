"""A torch network walked through node by node: what is constant is computed, the rest written down.

The graph comes from ``torch.export``. Tensors that don't depend on the picture are real tensors,
and operators on them simply run (position tables, pooling matrices, shapes). Tensors that do are
`Value`: a name in the ONNX graph, and the operators on them are written by `aten.RULES`. So the
result has static shapes only, no shape arithmetic and no control flow. One constant is written down
all the same: the resize of a weight, which would take megabytes; engines work it out on loading.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from edgeseg.errors import BundleError
from edgeseg.export.aten import RULES, Value

RESIZE = "aten.upsample_bilinear2d.vec"


class Interpreter(torch.fx.Interpreter):
    """Runs what is constant, writes the rest into ``graph``."""

    def __init__(self, module: torch.fx.GraphModule, graph: Any) -> None:
        super().__init__(module)
        self.extra_traceback = False  # our errors are one line
        self.graph_out = graph
        self.node: torch.fx.Node = next(iter(module.graph.nodes))

    def run_node(self, n: torch.fx.Node) -> Any:
        """One node; remembers it for its shape and its place in the network."""
        self.node = n
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The only modules left are torch.export's own checks of the input: nothing to do."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run or write one operator."""
        name = str(target)
        constant = not _depends((args, kwargs))
        grows = constant and name == RESIZE and self.graph_out.is_stored(args[0])
        if target is operator.getitem or (constant and not grows):
            return target(*args, **kwargs)
        if name == "wrap_with_autocast" and not args[2]:  # a block that turns autocast off
            return Interpreter(args[4], self.graph_out).run(*args[5:])
        if name not in RULES:
            raise BundleError(
                f"got operator {name} in the network; wanted one that edgeseg can export; "
                "add its rule to edgeseg/export/aten.py"
            )
        self.graph_out.place = _place(self.node)
        result = RULES[name](self.graph_out, self.node.meta.get("val"), *args, **kwargs)
        return _as_values(result, self.node.meta.get("val"))


def _depends(arguments: Any) -> bool:
    return any(isinstance(leaf, Value) for leaf in torch.utils._pytree.tree_leaves(arguments))


def _as_values(result: Any, meta: Any) -> Any:
    """Names to Values with the shapes and dtypes that torch.export found."""
    if isinstance(result, str):
        return Value(result, tuple(meta.shape), meta.dtype)
    if isinstance(result, list):
        return [_as_values(name, part) for name, part in zip(result, meta, strict=False)]
    return result


def _place(node: torch.fx.Node) -> str:
    """Path of the module that a node comes from, e.g. ``backbone.layer1.0.conv1``."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("network").strip(".")
