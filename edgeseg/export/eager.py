"""The torch network of a bundle as an engine: the reference that the others are checked against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeseg.bundle import ModelSpec
from edgeseg.engines.base import Engine, empty_outputs, network_file
from edgeseg.export.network import deployed, restore


class EagerEngine(Engine):
    """Torch on the CPU, float32, operator by operator.

    Args:
        network: deployed form, in eval mode.
        spec: its description.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._network: Any = network
        self._outputs = empty_outputs(spec)

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, precision: str, threads: int) -> EagerEngine:
        """See `Engine.load`; ``threads`` counts for the whole process. Always float32."""
        network_file(folder, spec, precision)
        if threads:
            torch.set_num_threads(threads)
        return cls(deployed(restore(folder, spec), spec), spec)

    def _run(self) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            results = self._network(torch.from_numpy(self.input))
        for array, result in zip(self._outputs.values(), results, strict=True):
            array[...] = result.numpy()
        return self._outputs

    def describe(self) -> str:
        """See `Engine.describe`."""
        return f"torch {torch.__version__} cpu fp32"

    def close(self) -> None:
        """See `Engine.close`."""
        super().close()
        self._network = None
