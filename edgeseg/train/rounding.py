"""Quantisation-aware training: the network computes with the rounding that INT8 will bring.

Inside the block, what a convolution or a linear layer reads and its weights take only 255 values,
symmetric about 0: one scale per tensor, one per output channel of a weight, as
`edgeseg.export.quantize` chooses them. Gradients pass as if nothing had been rounded (the
straight-through estimator of Bengio et al., 2013, arXiv 1308.3432), as in Jacob et al., 2018,
arXiv 1712.05877. A batch norm behind a convolution changes nothing in that: folded into the
weights, it multiplies each output channel and its scale alike.

Nothing of the network changes, neither modules nor keys: the calls are intercepted. Ranges are
those of the batch at hand, so there is no state. Left as they are, like in the INT8 network: the
first convolution, attention and mask products; and, unlike there, additions and pools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LEVELS = 127
PICTURE_CHANNELS = 3


class Int8Rounding(TorchFunctionMode):
    """Rounds inputs and weights of convolutions and linear layers while its block lasts.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.001]]))
    >>> with Int8Rounding():
    ...     y = layer(torch.tensor([[0.0, 10.0]]))
    >>> y.item()
    0.0
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``; with rounded arguments where it is a layer."""
        if func in (F.conv2d, F.linear):
            x, weight = args[:2]
            if func is F.linear or x.shape[1] != PICTURE_CHANNELS:
                axes = tuple(range(1, weight.ndim))
                args = (rounded(x), rounded(weight, axes), *args[2:])
        return func(*args, **(kwargs or {}))


def rounded(x: Tensor, axes: tuple[int, ...] = ()) -> Tensor:
    """A float tensor with 255 values; its gradient is that of ``x`` itself.

    Args:
        x: any shape.
        axes: over which a scale is shared; all when left out.
    """
    with torch.no_grad():
        largest = x.detach().abs().float().amax(axes or tuple(range(x.ndim)), keepdim=True)
        scale = (largest / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        error = (x / scale).round() * scale - x
    return x + error.to(x.dtype)
