"""Ranges of a network's tensors on real pictures, kept as readable JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tqdm import tqdm

from edgeseg.bundle import ModelSpec
from edgeseg.cameras import open_camera
from edgeseg.engines.ort import onnxruntime
from edgeseg.errors import BundleError, InputError
from edgeseg.export.fold import Graph
from edgeseg.export.ranges import METHODS, Histogram
from edgeseg.preprocess import Preprocessor

FORMAT = 1
PICTURES = 200
DIGITS = 6


@dataclass(frozen=True)
class Calibration:
    """Ranges of one network, and where they come from.

    Attributes:
        model: name of the bundle.
        weights_sha256: of the float weights; ranges of others don't fit. Another input size of the
            same weights may use them.
        source: name of the pictures' folder, video or bag.
        pictures: how many were used.
        pictures_sha256: of all of them as the network saw them.
        method: how a range became a magnitude, see `edgeseg.export.ranges`.
        magnitudes: tensor -> what becomes 127.
        float_layers: layers that stay float, by name.
        format: of this record.
    """

    model: str
    weights_sha256: str
    source: str
    pictures: int
    pictures_sha256: str
    method: str
    magnitudes: dict[str, float]
    float_layers: tuple[str, ...] = ()
    format: int = FORMAT

    def leaving(self, names: Collection[str]) -> Calibration:
        """The same with further layers left float."""
        return replace(self, float_layers=tuple(sorted({*self.float_layers, *names})))

    def dumps(self) -> str:
        """As JSON, one tensor a line, so that two calibrations can be compared."""
        return json.dumps(asdict(self), indent=1) + "\n"


def calibrate(
    graph: Graph,
    tensors: Sequence[str],
    spec: ModelSpec,
    *,
    images: Path,
    method: str = "mse",
    limit: int = PICTURES,
    topic: str | None = None,
) -> Calibration:
    """Run the float network on pictures and measure how large its tensors get.

    The same pictures give the same ranges, to the last digit.

    Args:
        graph: the folded network.
        tensors: whose ranges are wanted.
        spec: says how pictures are fed.
        images: a folder of pictures, a video or a bag.
        method: one of `edgeseg.export.ranges.METHODS`.
        limit: most pictures; more are thinned out evenly.
        topic: of a bag with several image topics.

    Raises:
        CameraError: the pictures can't be read.
        InputError: an unknown method, a limit below 1, a topic that isn't there, or a tensor that
            isn't finite.
    """
    if method not in METHODS or limit < 1:
        raise InputError(
            f"got method {method!r} and {limit} pictures; wanted one of {', '.join(METHODS)}, and "
            "1 or more; correct them"
        )
    histograms = {name: Histogram() for name in tensors}
    seen = hashlib.sha256()
    count = 0
    for count, picture in enumerate(pictures(images, spec, limit, topic), 1):
        seen.update(picture.tobytes())
        if count == 1:
            session = _probe(graph, tensors)
        values = session.run(list(tensors), {"image": picture})
        for name, array in zip(tensors, values, strict=True):
            if not np.isfinite(array).all():
                raise InputError(
                    f"got infinite or undefined values in {name} on picture {count} of {images}; "
                    "wanted finite ones; the network's weights are damaged"
                )
            histograms[name].add(array)
    return Calibration(
        model=spec.name,
        weights_sha256=weights_sha256(spec),
        source=images.name,
        pictures=count,
        pictures_sha256=seen.hexdigest(),
        method=method,
        magnitudes={
            name: float(f"{one.magnitude(method):.{DIGITS}g}") for name, one in histograms.items()
        },
    )


def pictures(
    images: Path, spec: ModelSpec, limit: int, topic: str | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Network inputs of a folder, video or bag, at most ``limit``, spread over the whole of it.

    Each is uint8 (1, H, W, 3), in memory that the next one reuses.

    Raises:
        CameraError: the pictures can't be read.
        InputError: no such topic, or several to choose from.
    """
    settings = {"topic": topic} if topic else {}
    preprocess = Preprocessor(spec)
    out = np.zeros((1, *spec.input_hw, 3), np.uint8)
    with open_camera(images, **settings) as camera:
        count = camera.frame_count or _count(images)
        total = min(limit, count)
        bar = tqdm(total=total, desc="calibrate", unit="image", disable=None, leave=False)
        with bar:
            for number, frame in zip(range(count), camera, strict=False):
                with frame:
                    if number * total % count >= total:
                        continue
                    preprocess(frame, out)
                yield out
                bar.update()


def _count(images: Path) -> int:
    """The number of pictures in a video that doesn't tell."""
    count = 0
    with open_camera(images) as camera:
        for frame in camera:
            frame.release()
            count += 1
    return count


def _probe(graph: Graph, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session that gives out the tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.finish())
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with TemporaryDirectory(prefix="edgeseg-") as scratch:  # too large for one message, perhaps
        path = Path(scratch) / "probe.onnx"
        onnx.save(model, path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def read_calibration(path: Path) -> Calibration:
    """Read a record of `Calibration.dumps`.

    Raises:
        BundleError: no such file, or another kind of file.
    """
    try:
        table: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        calibration = Calibration(
            **{
                **table,
                "float_layers": tuple(map(str, table["float_layers"])),
                "magnitudes": {k: float(v) for k, v in table["magnitudes"].items()},
            }
        )
        numbers = all(0 < value < np.inf for value in calibration.magnitudes.values())
        if calibration.format != FORMAT or not numbers:
            raise ValueError("another format")
    except OSError as error:
        raise BundleError(
            f"got {error.strerror} for {str(path)!r}; wanted ranges; check the path"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"got {str(path)!r}, which holds no ranges ({error}); wanted calibration.json of "
            "'edgeseg quantize'; choose another file"
        ) from None
    return calibration


def weights_sha256(spec: ModelSpec) -> str:
    """What tells a network's float weights from others."""
    return spec.files.get(spec.weights or spec.precisions["fp32"], "")


def check_fits(calibration: Calibration, spec: ModelSpec, tensors: Sequence[str]) -> None:
    """Refuse ranges of another network, or of other weights.

    Raises:
        BundleError: a tensor has no range, or the weights are others.
    """
    lacking = [name for name in tensors if name not in calibration.magnitudes]
    if lacking:
        raise BundleError(
            f"got ranges of {calibration.model} without {len(lacking)} tensors of {spec.name} "
            f"({lacking[0]}, ...); wanted ranges of this network; measure them anew"
        )
    if calibration.weights_sha256 != weights_sha256(spec):
        raise BundleError(
            f"got ranges of {calibration.model} as it was with other weights than {spec.name}; "
            "wanted ranges of these weights; measure them anew"
        )
