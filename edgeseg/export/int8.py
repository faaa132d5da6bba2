"""The verb ``quantize``: from a float bundle to one with INT8 beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto

from edgeseg import bundle as bundles
from edgeseg.bundle import PACKAGED, ModelSpec
from edgeseg.engines.ort import CPU_SUFFIX
from edgeseg.engines.trt import SUFFIX as TRT_SUFFIX
from edgeseg.errors import BundleError, InputError
from edgeseg.export.calibrate import (
    PICTURES,
    Calibration,
    calibrate,
    check_fits,
    pictures,
    read_calibration,
)
from edgeseg.export.cpu import for_cpu
from edgeseg.export.fold import Graph, folded
from edgeseg.export.half import for_tensorrt
from edgeseg.export.quantize import Layer, layers, quantized
from edgeseg.export.sensitivity import PICTURES as SOME
from edgeseg.export.sensitivity import Loss, sensitivity

NETWORK, WEIGHTS = "model.int8.onnx", "model.int8.weights"
CPU_NETWORK, TRT_NETWORK = (
    str(Path(NETWORK).with_suffix(suffix)) for suffix in (CPU_SUFFIX, TRT_SUFFIX)
)
RANGES = "calibration.json"
INT8 = "model.int8"
CLIP = PACKAGED / "clip" / "tabletop.mp4"
SHARED_BYTES = 1024


@dataclass(frozen=True)
class Result:
    """What `quantize` did.

    Attributes:
        spec: of the written bundle.
        calibration: its ranges, and which layers stayed float.
        layers: that could be INT8; those of ``calibration.float_layers`` are not.
        losses: of each layer alone; empty where it wasn't asked for or needed.
        ap: precision -> mask AP, for every trial; empty without labelled pictures.
    """

    spec: ModelSpec
    calibration: Calibration
    layers: int
    losses: tuple[Loss, ...]
    ap: tuple[dict[str, float], ...]


def quantize(
    source: str | Path,
    out: str | Path,
    *,
    images: Path | None = None,
    ranges: Path | None = None,
    method: str = "mse",
    limit: int = PICTURES,
    topic: str | None = None,
    float_layers: Collection[str] = (),
    accuracy: Callable[[Path, str], float] | None = None,
    max_ap_drop: float = 1.0,
    with_losses: bool = False,
    overwrite: bool = False,
) -> Result:
    """Write the bundle of ``source`` with INT8 beside its float network, INT8 first.

    Starts from all layers in INT8. Where that loses more accuracy than allowed, the layers that are
    most harmful alone go back to float: one, two, four, ... of them, until little enough is lost.

    Args:
        source: packaged name or bundle folder.
        out: the new bundle's folder.
        images: pictures to calibrate on: a folder, a video or a bag.
        ranges: ``calibration.json`` from before, instead of pictures.
        method: how a range becomes a scale, see `edgeseg.export.ranges`.
        limit: most pictures.
        topic: of a bag with several image topics.
        float_layers: names of layers to leave float, beside those of ``ranges``.
        accuracy: mask AP (0..1) of a bundle folder in a precision; not checked when left out.
        max_ap_drop: how much of it INT8 may lose, in points (0..100).
        with_losses: measure what each layer costs alone, also where it isn't needed.
        overwrite: replace an older bundle.

    Raises:
        BundleError: no such bundle, one without a float network, or ranges that don't fit.
        CameraError: the pictures can't be read.
        InputError: an unknown method or layer, or the loss is too large with every layer float.
        OutputError: ``out`` can't be written.
    """
    bundles.check_target(out, overwrite)
    folder = bundles.find(source)
    spec = bundles.read(folder)
    graph = float_network(folder, spec)
    possible = layers(graph)
    _check_known(float_layers, possible, spec)
    tensors = sorted({name for layer in possible for name in layer.tensors})
    if ranges is not None:
        calibration = read_calibration(ranges)
        check_fits(calibration, spec, tensors)
        _check_known(calibration.float_layers, possible, spec)
    elif images is not None:
        calibration = calibrate(
            graph, tensors, spec, images=images, method=method, limit=limit, topic=topic
        )
    else:
        raise InputError(
            "got neither pictures nor ranges; wanted one of them; pass --images or --ranges"
        )
    work = _Work(folder, spec, graph, possible)
    losses: list[Loss] = []

    def ranking() -> list[Loss]:
        if not losses:
            losses.extend(work.losses(calibration, images, topic))
        return losses

    calibration = calibration.leaving(float_layers)
    trials: list[dict[str, float]] = []
    if accuracy is not None:
        calibration, trials = work.within(calibration, ranking, accuracy, max_ap_drop)
    if with_losses:
        ranking()
    written = work.write(calibration, out, overwrite)
    return Result(written, calibration, len(possible), tuple(losses), tuple(trials))


@dataclass(frozen=True)
class _Work:
    """A float bundle while it is being quantised."""

    folder: Path
    spec: ModelSpec
    graph: Graph
    possible: list[Layer]

    def losses(
        self, calibration: Calibration, images: Path | None, topic: str | None
    ) -> list[Loss]:
        """What each layer costs alone, on the calibration's pictures; without, on our clip."""
        shown = [one.copy() for one in pictures(images or CLIP, self.spec, SOME, topic)]
        return sensitivity(self.graph, self.possible, calibration.magnitudes, self.spec, shown)

    def within(
        self,
        calibration: Calibration,
        ranking: Callable[[], list[Loss]],
        accuracy: Callable[[Path, str], float],
        max_ap_drop: float,
    ) -> tuple[Calibration, list[dict[str, float]]]:
        """The calibration with so many layers float that the loss is allowed, and all trials."""
        fp32 = accuracy(self.folder, "fp32")
        trials: list[dict[str, float]] = []
        left = len(self.possible) - len(calibration.float_layers)
        count, tried = 0, calibration
        while True:
            with TemporaryDirectory(prefix="edgeseg-") as scratch:
                trial = Path(scratch) / self.spec.name
                self.write(tried, trial, overwrite=False)
                int8 = accuracy(trial, "int8")
            kept = len(tried.float_layers)
            trials.append({"fp32": fp32, "int8": int8, "float_layers": kept})
            if 100 * (fp32 - int8) <= max_ap_drop:
                return tried, trials
            if count >= left:
                raise InputError(
                    f"got INT8 {100 * (fp32 - int8):.1f} AP below FP32 with every layer float; "
                    f"wanted at most {max_ap_drop:g}; compare the bundles with 'edgeseg check'"
                )
            count = min(2 * count or 1, left)
            worst = [row.layer for row in ranking() if row.layer not in calibration.float_layers]
            tried = calibration.leaving(worst[:count])

    def write(self, calibration: Calibration, out: str | Path, overwrite: bool) -> ModelSpec:
        """Write the bundle; the float files are copied."""
        chosen = [one for one in self.possible if one.name not in calibration.float_layers]
        signed = quantized(self.graph, chosen, calibration.magnitudes)
        models = {NETWORK: signed, CPU_NETWORK: for_cpu(signed), TRT_NETWORK: for_tensorrt(signed)}
        weights = share_weights(list(models.values()), WEIGHTS)
        files: dict[str, Path | bytes] = {
            name: self.folder / name for name in self.spec.files if not name.startswith(INT8)
        }
        files[RANGES] = calibration.dumps().encode()
        others = {k: v for k, v in self.spec.precisions.items() if k != "int8"}
        spec = replace(self.spec, name=Path(out).name, precisions={"int8": NETWORK, **others})
        with TemporaryDirectory(prefix="edgeseg-") as scratch:
            made = {name: Path(scratch) / name for name in (*models, WEIGHTS)}
            made[WEIGHTS].write_bytes(weights)
            for name, model in models.items():
                made[name].write_bytes(model.SerializeToString(deterministic=True))
                onnx.checker.check_model(made[name], full_check=True)
            return bundles.write(out, spec, {**files, **made}, overwrite=overwrite)


def _check_known(names: Collection[str], possible: list[Layer], spec: ModelSpec) -> None:
    """Refuse names of layers that the network doesn't have."""
    known = [layer.name for layer in possible]
    strange = sorted(set(names) - set(known))
    if strange:
        near = get_close_matches(strange[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see --sensitivity for all"
        raise InputError(
            f"got float layers {', '.join(strange)}; wanted layers of {spec.name}, e.g. "
            f"{known[0]}; {hint}"
        )


def float_network(folder: Path, spec: ModelSpec) -> Graph:
    """The folded float network of a bundle.

    Raises:
        BundleError: the bundle has no fp32 network, or is for frames of one size.
    """
    if spec.frame_hw is not None:
        raise BundleError(
            f"got {spec.name}, whose networks end in masks for one frame size; wanted networks "
            "that end in logits; pass the bundle that it was built of"
        )
    if "fp32" not in spec.precisions:
        raise BundleError(
            f"got {spec.name} with {', '.join(spec.precisions)}; wanted fp32 to quantise; "
            "export it again"
        )
    return folded(folder / spec.precisions["fp32"])


def share_weights(models: list[onnx.ModelProto], location: str) -> bytes:
    """Move the large constants of models into one file; what they have in common is there once.

    Args:
        models: changed in place: their constants become external data.
        location: the file's name.

    Returns:
        Its content.
    """
    content = bytearray()
    places: dict[tuple[int, bytes], int] = {}  # TensorRT wants other places for other types
    for model in models:
        for constant in model.graph.initializer:
            data = constant.raw_data
            if len(data) < SHARED_BYTES:
                continue
            same = (constant.data_type, data)
            if same not in places:
                content += bytes(-len(content) % 64)
                places[same] = len(content)
                content += data
            constant.data_location = TensorProto.EXTERNAL
            entries = {"location": location, "offset": places[same], "length": len(data)}
            for key, value in entries.items():
                constant.external_data.add(key=key, value=str(value))
            constant.ClearField("raw_data")
    return bytes(content)
