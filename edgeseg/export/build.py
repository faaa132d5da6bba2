"""The verb ``build``: networks in the form that TensorRT takes, and engines of them.

A quantised bundle has ``model.int8.trt.onnx``, the INT8 network with a float16 rest; this adds
``model.fp16.onnx``, ``model.trt.onnx`` (FP32), and the former where it is missing. Engines of them
are built for this machine's GPU and put into the engine cache, where the engine `trt` finds them;
or, with TensorRT for RTX, for any GPU and without one, to see what they are made of. Those are not
kept: a robot builds its own, for no engine is loaded that came from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from edgeseg import bundle as bundles
from edgeseg.bundle import ModelSpec
from edgeseg.engines import cache
from edgeseg.engines.base import network_file
from edgeseg.engines.cuda import open_device
from edgeseg.engines.trt import SUFFIX, engine_file, key_of, library
from edgeseg.engines.trt_build import build, check_target, version_of
from edgeseg.engines.trt_dla import PRECISION, check_precision
from edgeseg.errors import InputError, unknown
from edgeseg.export.engine_log import Layer, meant_int8, not_int8, read_layers, summary
from edgeseg.export.frame import for_frames
from edgeseg.export.half import FP16, for_tensorrt, with_cast_first
from edgeseg.export.int8 import float_network, share_weights

PRECISIONS = ("int8", "fp16", "fp32")
WEIGHTS = "model.trt.weights"
CURRENT = "current"
LEAST_SHARE = 0.95
"""Of the convolutions meant to be INT8: with fewer in INT8 the build counts as a failed check."""
QUIET_SECONDS = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """What became of one precision on one target.

    Attributes:
        precision: ``int8``, ``fp16`` or ``fp32``.
        target: compute capability, e.g. ``sm89``.
        library: that built it.
        seconds: that building took.
        nbytes: size of the engine.
        meant: convolutions that the network wants in INT8.
        missed: those of them that the engine runs otherwise, by name.
        layers: the engine's, in the order of execution.
    """

    precision: str
    target: str
    library: str
    seconds: float
    nbytes: int
    meant: int
    missed: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = field(default=(), repr=False)

    @property
    def share(self) -> float:
        """Share of the convolutions meant to be INT8 that are INT8; 1 where none is meant."""
        return 1 - len(self.missed) / self.meant if self.meant else 1.0

    def __str__(self) -> str:
        text = f"{self.precision} {self.target}: {self.nbytes / 1e6:.1f} MB in {self.seconds:.1f} s"
        if self.meant:
            text += f", {self.meant - len(self.missed)} of {self.meant} convolutions in INT8"
        return text

    def to_dict(self) -> dict[str, Any]:
        """For the record: figures, and how many layers there are of each kind."""
        return {**asdict(replace(self, layers=())), "share": self.share} | {
            "layers": summary(self.layers)
        }


def build_engines(
    model: str | Path,
    *,
    targets: Sequence[str] = (CURRENT,),
    precisions: Sequence[str] = (),
    out: Path | None = None,
    frame_hw: tuple[int, int] | None = None,
    dla: int | None = None,
    workspace_bytes: int = 0,
    overwrite: bool = False,
    say: Say = print,
) -> list[Engine]:
    """Build the engines of a bundle.

    Args:
        model: packaged name or bundle folder.
        targets: compute capabilities, e.g. ``sm89``; or ``current`` for this machine's GPU, whose
            engine is kept in the cache, for the bundle at ``out``.
        precisions: of `PRECISIONS`; INT8, where the bundle has it, and FP16 when left out.
        out: folder for the bundle as TensorRT takes it; not kept when left out.
        frame_hw: height and width, pixels: the networks end in masks for frames of that size, see
            `edgeseg.export.frame`, and the bundle at ``out`` holds nothing else.
        dla: core of this machine's DLA that the engines are for, FP16 alone; else the GPU.
        workspace_bytes: most device memory for one layer's scratch; 0 leaves it to TensorRT.
        overwrite: replace an older bundle at ``out``.
        say: told what is being done.

    Raises:
        BundleError: no such bundle, one without a float network, or no size of a frame.
        EngineError: TensorRT refused the network, or there is no GPU for ``current``, or no DLA.
        InputError: an unknown precision or target, none, one that a DLA doesn't take, or a negative
            workspace.
        MissingPartError: TensorRT isn't installed.
        OutputError: ``out`` can't be written.
    """
    if not targets or workspace_bytes < 0:
        raise InputError(
            f"got {len(targets)} targets and {workspace_bytes} bytes of workspace; wanted 1 or "
            "more, and 0 or more; correct them"
        )
    if out is not None:
        bundles.check_target(out, overwrite)
    folder = bundles.find(model)
    spec = bundles.read(folder)
    wanted = _wanted(spec, precisions, dla)
    builders = [_Builder(target, workspace_bytes, dla, say) for target in dict.fromkeys(targets)]
    models = networks(folder, spec, wanted)
    if frame_hw is not None:
        spec, models = for_frames(folder, spec, models, wanted, frame_hw)
    with ExitStack() as stack:
        place, written = folder, spec
        if models or out is not None:
            scratch = stack.enter_context(TemporaryDirectory(prefix="edgeseg-"))
            place = out or Path(scratch) / spec.name
            written = _written(folder, spec, models, place, overwrite)
        engines, lost = [], []
        for precision in wanted:
            name = engine_file(place, written, precision).name
            ready = out is None and name not in models  # in the bundle as it is
            home, of = (folder, spec) if ready else (place, written)
            kept = ready or out is not None
            lost += [] if kept else [precision]
            meant = meant_int8(onnx.load(home / name, load_external_data=False))
            for one in builders:
                engines.append(one.engine(of, home / name, precision, meant, kept=kept))
        if CURRENT in targets and lost:
            say(
                f"not kept: {', '.join(lost)}, which the bundle has no network for; "
                "write one with --out BUNDLE"
            )
        return engines


def _wanted(spec: ModelSpec, precisions: Sequence[str], dla: int | None) -> tuple[str, ...]:
    """The precisions to build, each once."""
    standard = ("int8", "fp16") if "int8" in spec.precisions else ("fp16",)
    if dla is not None:
        standard = (PRECISION,)
        for precision in precisions:
            check_precision(precision)
    return tuple(dict.fromkeys(precisions)) or standard


def networks(
    folder: Path, spec: ModelSpec, precisions: Sequence[str]
) -> dict[str, onnx.ModelProto]:
    """The networks for TensorRT that a bundle lacks, by file name.

    Args:
        folder: of the bundle.
        spec: its description.
        precisions: of `PRECISIONS`.

    Raises:
        BundleError: FP16 is wanted and the bundle has no float network.
        InputError: an unknown precision, or INT8 of a bundle without.
    """
    models: dict[str, onnx.ModelProto] = {}
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        if precision == "fp16" and "fp16" not in spec.precisions:
            models[FP16] = for_tensorrt(float_network(folder, spec).finish())
        elif precision != "fp16":
            path = network_file(folder, spec, precision)
            name = path.with_suffix(SUFFIX).name
            if name not in spec.files:
                made = for_tensorrt if precision == "int8" else with_cast_first
                models[name] = made(onnx.load(path))
    return models


def _written(
    folder: Path, spec: ModelSpec, models: dict[str, onnx.ModelProto], out: Path, overwrite: bool
) -> ModelSpec:
    """Write a bundle with networks added to it."""
    files: dict[str, Path | bytes] = {name: folder / name for name in spec.files}
    precisions = dict(spec.precisions)
    if models:
        files[WEIGHTS] = share_weights(list(models.values()), WEIGHTS)
        files |= {name: one.SerializeToString(deterministic=True) for name, one in models.items()}
    if FP16 in models:
        precisions["fp16"] = FP16
    spec = replace(spec, name=out.name, precisions=precisions)
    return bundles.write(out, spec, files, overwrite=overwrite)


class _Builder:
    """Builds for one target; refuses now, before the work, where it can't."""

    def __init__(self, target: str, workspace_bytes: int, dla: int | None, say: Say) -> None:
        self._device = open_device() if target == CURRENT else None
        self._trt = library("tensorrt_rtx" if self._device is None else "")
        self._target = target if self._device is None else self._device.target
        self._workspace_bytes, self._dla, self._say = workspace_bytes, dla, say
        check_target(self._trt, self._target)

    def engine(
        self, spec: ModelSpec, path: Path, precision: str, meant: list[str], *, kept: bool
    ) -> Engine:
        """Build one engine; ``kept``: a bundle will look for this machine's in the cache."""
        what, by = f"{precision} {self._target}", version_of(self._trt)
        self._say(f"{what}: building with {by}")
        device = self._device
        key = device and key_of(self._trt, spec, path, precision, device, self._dla)
        built = build(
            self._trt,
            path,
            target=self._target,
            workspace_bytes=self._workspace_bytes,
            dla=self._dla,
            detailed=True,
            timings=cache.timings(key) if key else b"",
            progress=_Progress(what, self._say),
        )
        if key:
            cache.keep_timings(key, built.timings)
        if key and kept:
            cache.fetch(key, lambda: built.content)
        layers = read_layers(built.log)
        return Engine(
            precision=precision,
            target=self._target,
            library=by,
            seconds=built.seconds,
            nbytes=len(built.content),
            meant=len(meant),
            missed=tuple(not_int8(meant, layers)),
            layers=tuple(layers),
        )


class _Progress:
    """A line every few seconds, so that a build never looks as if it hung."""

    def __init__(self, what: str, say: Say) -> None:
        self._what, self._say = what, say
        self._next = QUIET_SECONDS

    def __call__(self, seconds: float, phase: str) -> None:
        if seconds >= self._next:
            self._next += QUIET_SECONDS
            self._say(f"{self._what}: {seconds:.0f} s, {phase}")


def table(engines: Sequence[Engine]) -> str:
    """The layers of engines by kind and data types, and what isn't INT8 that should be."""
    lines = []
    for engine in engines:
        lines.append(f"{engine.precision} {engine.target}: {len(engine.layers)} layers")
        lines += [f"{count:6} {words}" for words, count in summary(engine.layers).items()]
        lines += [f"       not INT8: {name}" for name in engine.missed]
    return "\n".join(lines)
