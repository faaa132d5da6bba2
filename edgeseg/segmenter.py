"""Segmenter: frame in, instances out. No thread, no camera."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import bundle as bundles
from edgeseg import registry
from edgeseg.bundle import ModelSpec
from edgeseg.config import MAX_THREADS
from edgeseg.decode.queries import QueryDecoder
from edgeseg.engines.base import Engine
from edgeseg.engines.choice import DEFAULT, chosen_here
from edgeseg.errors import EdgesegError, InputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.preprocess import Preprocessor
from edgeseg.timing import Stages

_LOG = logging.getLogger(__name__)


class Segmenter:
    """A loaded network with all that lies around it: frame in, instances out.

    Owns the engine. Not to be shared between threads, but for `choose`; a second one costs a second
    engine.

    Args:
        engine: the loaded network.
        choice: which instances to keep, as `choose` takes it.

    Attributes:
        spec: description of the network.
        timings: rings of the stages ``preprocess``, ``network`` and ``decode``.

    Raises:
        InputError: see `choose`.
    """

    def __init__(self, engine: Engine, **choice: Any) -> None:
        self.spec: ModelSpec = engine.spec
        self.timings = Stages("preprocess", "network", "decode")
        self._engine = engine
        self._preprocess = Preprocessor(engine.spec)
        self._decode = QueryDecoder(engine.spec, **choice)

    def __call__(self, picture: Frame | NDArray[np.uint8]) -> Instances:
        """The instances of one picture.

        Args:
            picture: a `Frame`, only read and not released; or uint8 (H, W, 3) in BGR order.

        Returns:
            Instances in pixels of the picture, best score first; they own their arrays.

        Raises:
            InputError: an array of another shape or type.
            EngineError: the network failed, or the segmenter is closed.
        """
        frame = picture if isinstance(picture, Frame) else Frame(picture, "bgr8")
        with self.timings("preprocess"):
            geometry = self._preprocess(frame, self._engine.input)
        with self.timings("network"):
            outputs = self._engine.run()
        with self.timings("decode"):
            return self._decode(outputs, geometry, stamp_ns=frame.stamp_ns, sequence=frame.sequence)

    def choose(
        self,
        *,
        score_threshold: float | None = None,
        classes: Sequence[str] | None = None,
        max_instances: int | None = None,
    ) -> None:
        """Say anew which instances are kept, from the next frame on; from any thread.

        Args:
            score_threshold: least score, 0..1; the bundle's own when left out.
            classes: names of the classes to keep; all when left out.
            max_instances: most instances of a frame, the best ones; the network's own limit when
                left out.

        Raises:
            InputError: a threshold outside 0..1, an unknown class, or fewer than 1 instance; then
                nothing changes.
        """
        self._decode.choose(
            score_threshold=score_threshold, classes=classes, max_instances=max_instances
        )

    def describe(self) -> str:
        """Model, engine, version, device and precision, for people and records."""
        return f"{self.spec.name} on {self._engine.describe()}"

    def close(self) -> None:
        """Free the network. Harmless when called twice."""
        self._engine.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    bundle: str | Path,
    engine: str = "auto",
    *,
    precision: str | None = None,
    threads: int = 0,
    **choice: Any,
) -> Segmenter:
    """Load a bundle into an engine.

    Args:
        bundle: name of a packaged bundle (``fastinst-nano``) or a bundle folder.
        engine: ``ort``, ``fake``, ``eager`` (torch, for comparison; not for a robot), ...; or
            ``auto``: the fastest that 'edgeseg bench --choose' has measured here, else ``ort``.
        precision: one of the bundle's precisions; the first of them when left out.
        threads: CPU threads of the engine, at most 1024; 0 leaves the choice to its library.
        choice: ``score_threshold``, ``classes`` and ``max_instances``, see `Segmenter.choose`.

    Raises:
        BundleError: no such bundle, or a damaged one.
        InputError: unknown engine, precision or class, or a setting out of range.
        MissingPartError: the engine's library is not installed.
        EngineError: the engine refused the network.
    """
    folder = bundles.find(bundle)
    spec = bundles.read(folder)
    if not 0 <= threads <= MAX_THREADS:
        raise InputError(
            f"got {threads} threads; wanted 0 to {MAX_THREADS}; 0 leaves it to the library"
        )
    QueryDecoder(spec, **choice)  # before the slow part
    if engine == "auto":
        return Segmenter(_load_fastest(folder, spec, precision, threads), **choice)
    kind = registry.resolve("engine", engine)
    chosen = next(iter(spec.precisions)) if precision is None else precision
    return Segmenter(kind.load(folder, spec, chosen, threads), **choice)


def _load_fastest(folder: Path, spec: ModelSpec, precision: str | None, threads: int) -> Engine:
    """The engine that was measured to be the fastest here; the default where it has gone."""
    fastest = chosen_here(spec, precision)
    default = DEFAULT, precision or next(iter(spec.precisions))
    for name, chosen in (fastest, default):
        try:
            engine: Engine = registry.resolve("engine", name).load(folder, spec, chosen, threads)
            return engine
        except EdgesegError as error:
            if (name, chosen) == default:
                raise
            _LOG.warning("%s; engine %s instead", error, DEFAULT)
    raise AssertionError("the default either loads or raises")
