"""Your own classes: from a trained network and a labelled dataset to a bundle ready to run."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeseg import bundle as bundles
from edgeseg.export.int8 import quantize
from edgeseg.export.pack import pack, read_trained
from edgeseg.segmenter import load
from edgeseg.train.data import CocoDataset
from edgeseg.train.initial import Start, read_start
from edgeseg.train.loop import Run, TrainConfig, carry_out
from edgeseg.train.measure import mask_ap
from edgeseg.train.source import Source, open_source
from edgeseg.train.state import device_name

LEARNING_RATE, WARM_UP = 8e-4, 30
LOOKS = 10
MAX_AP_DROP, MANY_OBJECTS = 1.0, 500
CALIBRATION_PICTURES = 200
Say = Callable[[str], None]


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of `finetune`; see `edgeseg.train.loop.TrainConfig` for what they mean.

    Attributes:
        data: folder with the splits ``train`` and ``val``, or one COCO file.
        init: packaged bundle, bundle folder or checkpoint.
        size_hw: input size of the new bundle, pixels; that of ``init`` when left out.
        out: the bundle to write; the run's state is in ``OUT.training`` beside it.
        minutes: most time of training; it ends sooner where AP no longer rises.
        batch: pictures per step.
        patience: looks without a rise of AP before the end begins.
        learning_rate: peak of AdamW's.
        repaint: share of pictures whose objects and background are coloured anew.
        seed: of order and augmentation.
        qat: train with the rounding of INT8, where calibration alone loses too much.
        overwrite: replace an older bundle.
    """

    data: Path
    init: str
    out: Path
    size_hw: tuple[int, int] | None = None
    minutes: float = 15.0
    batch: int = 8
    patience: int = 3
    learning_rate: float = LEARNING_RATE
    repaint: float = 0.0
    seed: int = 1
    qat: bool = False
    overwrite: bool = False

    @property
    def state(self) -> Path:
        """Folder of the run's state."""
        return self.out.with_name(self.out.name + ".training")


def finetune(config: FinetuneConfig, say: Say = print) -> dict[str, Any]:
    """Check the dataset, train, and write a bundle with INT8 and FP32.

    When interrupted (Ctrl-C), call again to go on.

    Args:
        config: settings.
        say: takes what is to be told, line by line.

    Returns:
        What was found in the data, taken, reached, and how long it took.

    Raises:
        InputError: a dataset that can't be used.
        BundleError: no such start, or another training in the same place.
        OutputError: the bundle can't be written.
    """
    began = time.monotonic()
    bundles.check_target(config.out, config.overwrite)
    start = read_start(config.init)
    settings = _settings(config, start)
    source = open_source(config.data, say, settings.size_hw)
    run = Run(settings, source, start)
    if run.taken:
        say(run.taken.text())
    last = carry_out(run, say)
    accuracy = write_bundle(config, start, source)
    for precision, result in accuracy.items():
        figures = ", ".join(f"{name} {result[name] or 0:.3f}" for name in ("AP", "AP50"))
        say(f"{precision}: {figures} on {len(source.val)} validation pictures; {_classes(result)}")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "init": start.name,
        "classes": list(source.train.classes),
        "data": [report.to_dict() for report in source.reports],
        "train_images": len(source.train),
        "val_images": len(source.val),
        "trained_minutes": last["minutes"],
        "images_seen": last["images_seen"],
        "curve": run.curve,
        "val": accuracy,
        "wall_minutes": round((time.monotonic() - began) / 60, 2),
        "cpu_minutes": round((usage.ru_utime + usage.ru_stime) / 60, 2),
        "device": device_name(run.device),
    }


def _classes(result: Mapping[str, Any]) -> str:
    """AP by class, in words."""
    figures = (
        f"{name} {'-' if ap is None else f'{ap:.3f}'}" for name, ap in result["per_class"].items()
    )
    return f"AP by class: {', '.join(figures)}"


def _settings(config: FinetuneConfig, start: Start) -> TrainConfig:
    """A training that starts near its goal: a lower rate, whole pictures only, early stopping."""
    return TrainConfig(
        config.data,
        config.state,
        variant="",
        hours=config.minutes / 60,
        size_hw=config.size_hw or start.input_hw,
        crop_share=0.0,
        batch=config.batch,
        learning_rate=config.learning_rate,
        warm_up=WARM_UP,
        val_minutes=config.minutes / LOOKS,
        patience=config.patience,
        repaint=config.repaint,
        seed=config.seed,
        qat=config.qat,
    )


def write_bundle(config: FinetuneConfig, start: Start, source: Source) -> dict[str, Any]:
    """The best weights as a bundle with INT8 and FP32; gives the validation AP of both."""
    found: dict[str, Any] = {}

    def accuracy(folder: Path, precision: str) -> float:
        with load(folder, "ort", precision=precision, score_threshold=0) as segmenter:
            found[precision] = mask_ap(segmenter, source.val)
        return found[precision]["AP"] or 0.0

    network, spec = read_trained(config.state / "best.pt")
    origin = f"fine-tuned from {start.name}"
    spec = replace(spec, name=config.out.name, source=origin, licence=start.licence)
    with TemporaryDirectory(prefix="edgeseg-") as scratch:
        folder = Path(scratch) / config.out.name
        pack(network, spec, folder, half=True)
        pictures = calibration_pictures(source.train, Path(scratch) / "train")
        quantize(
            folder,
            config.out,
            images=pictures,
            accuracy=accuracy,
            max_ap_drop=allowed_drop(len(source.val.table["annotations"])),
            overwrite=config.overwrite,
        )
    return found


def allowed_drop(objects: int) -> float:
    """Points of AP that INT8 may lose: 1, and more where few objects make AP a matter of chance."""
    return MAX_AP_DROP * math.sqrt(max(1.0, MANY_OBJECTS / objects))


def calibration_pictures(data: CocoDataset, folder: Path) -> Path:
    """A folder of links to training pictures, spread evenly over all of them."""
    folder.mkdir()
    count = min(len(data), CALIBRATION_PICTURES)
    for index in (place * len(data) // count for place in range(count)):
        # A folder is read by suffix, its pictures by content: files of any name pass as .png.
        (folder / f"{index:06d}.png").symlink_to(data.path(index).resolve())
    return folder
