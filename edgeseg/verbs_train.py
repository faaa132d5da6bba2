"""The verbs of the workstation, which make bundles: each imports its own module on use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg import record
from edgeseg.errors import InputError
from edgeseg.flags import (
    DEFAULT_MODEL,
    Arguments,
    Parser,
    Verb,
    bundle_flags,
    bundle_settings,
    json_flag,
    model_flags,
    size_hw,
    write_json,
    wrote,
)
from edgeseg.verbs_build import BUILD
from edgeseg.verbs_finetune import check_flags, check_only, finetune, finetune_arguments

if TYPE_CHECKING:
    from edgeseg.export.int8 import Result


def _export_arguments(parser: Parser) -> None:
    text = "bundle, or best.pt of 'edgeseg train'"
    parser.add_argument("source", metavar="MODEL_OR_CHECKPOINT", help=text)
    bundle_flags(parser)


def _export(args: Arguments) -> int:
    from edgeseg.export.pack import export_bundle

    return wrote(args, export_bundle(args.source, args.out, **bundle_settings(args)))


def _check_arguments(parser: Parser) -> None:
    parser.add_argument("bundle", help="bundle name or folder")
    model_flags(parser, engine="ort")
    json_flag(parser)


def _check(args: Arguments) -> int:
    from edgeseg.export.check import check

    settings = {name: getattr(args, name) for name in ("engine", "precision", "threads")}
    report = check(args.bundle, **settings)
    print(report.table())
    print("agrees" if report.ok else "does NOT agree: export the bundle again, or report it")
    write_json(args, report.to_dict())
    return 0 if report.ok else 1


def _train_arguments(parser: Parser) -> None:
    text = "folder with splits train and val, or a COCO file (default: $EDGESEG_DATA)"
    parser.add_argument("--data", type=Path, metavar="PATH", help=text)
    text = "folder for last.pt, best.pt and curve.json, with --init the bundle; called again, it "
    text += "goes on where it stopped"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    parser.add_argument("--variant", metavar="NAME", help="network (default: nano; knet-nano)")
    text = "size of the network's input (default: 320x240, or that of --init)"
    add = parser.add_argument
    add("--input-size", type=size_hw, dest="size_hw", metavar="WIDTHxHEIGHT", help=text)
    parser.add_argument("--hours", type=float, metavar="H", help="time budget (default: 1.5)")
    text = "pictures a step (default: 16; with --init 8)"
    parser.add_argument("--batch", type=int, metavar="N", help=text)
    text = "peak of AdamW's (default: 1.5e-3; with --init alone 8e-4)"
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help=text)
    text = "share of pictures in which each object and the background get colours and patterns of "
    text += "their own: for classes that differ in shape, not in colour (default: 0)"
    parser.add_argument("--repaint", type=float, metavar="SHARE", help=text)
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, order, augmentation")
    json_flag(parser)
    finetune_arguments(parser)


def _train(args: Arguments) -> int:
    from edgeseg.evaluate import default_dataset

    data = args.data or default_dataset()
    if args.check_only:
        return check_only(args, data)
    if args.out is None:
        raise InputError("got no --out; wanted a folder for the result; name one, e.g. runs/mine")
    check_flags(args)
    if args.init is not None and args.variant is None:
        return finetune(args, data)
    from edgeseg.train.initial import read_start
    from edgeseg.train.loop import Run, TrainConfig, carry_out
    from edgeseg.train.source import open_source

    names = (
        "variant", "size_hw", "hours", "batch", "learning_rate", "repaint", "seed", "qat"
    )  # fmt: skip
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    config = TrainConfig(data=data, out=args.out, **given)
    start = None if args.init is None else read_start(args.init)
    run = Run(config, open_source(data, print, config.size_hw), start)
    if run.taken:
        print(run.taken.text())
    report = carry_out(run)
    print(f"best weights: {args.out / 'best.pt'}; next: edgeseg export {args.out / 'best.pt'}")
    write_json(args, report)
    return 0


def _convert_arguments(parser: Parser) -> None:
    text = "official .pth (detectron2, mmdetection) or .safetensors"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=text)
    parser.add_argument("--family", required=True, help="fastinst or knet")
    text = "r50-d1, r50-d3, r50vd-dcn-d1, r50vd-dcn-d3 or r101-d3; knet: r50, r101 or r101-dcn"
    parser.add_argument("--variant", required=True, metavar="NAME", help=text)
    bundle_flags(parser)


def _convert(args: Arguments) -> int:
    from edgeseg.export.checkpoints import convert

    settings = bundle_settings(args)
    return wrote(args, convert(args.checkpoint, args.family, args.variant, args.out, **settings))


def _quantize_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="bundle name or folder")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    text = "pictures to calibrate on: a folder, a video or a bag (default: split calib of --data)"
    parser.add_argument("--images", type=Path, metavar="SOURCE", help=text)
    text = "image topic of a bag; left out: its only one"
    parser.add_argument("--topic", metavar="NAME", help=text)
    text = "calibration.json from before, instead of pictures"
    parser.add_argument("--ranges", type=Path, metavar="FILE", help=text)
    text = "minmax, percentile, mse or entropy (default: %(default)s)"
    parser.add_argument("--method", default="mse", metavar="NAME", help=text)
    text = "most calibration pictures (default: %(default)s)"
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help=text)
    text = "layers to leave float, by name, comma-separated; see --sensitivity"
    parser.add_argument("--float-layers", default="", metavar="NAMES", help=text)
    text = "dataset whose split val tells the AP lost (default: $EDGESEG_DATA)"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    text = (
        "points of mask AP that INT8 may lose; layers go back to float until it doesn't lose more"
    )
    text += " (default: %(default)s)"
    parser.add_argument("--max-ap-drop", type=float, default=1.0, metavar="AP", help=text)
    text = "measure what each layer costs alone: table, and this picture (.svg)"
    parser.add_argument("--sensitivity", type=Path, metavar="FILE", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an older bundle there")
    json_flag(parser)


def _quantize(args: Arguments) -> int:
    from edgeseg.evaluate import default_dataset
    from edgeseg.export.int8 import quantize

    data = args.data or default_dataset()
    accuracy = _accuracy(data) if _suits(args, data, "val") else None
    if args.sensitivity is not None:
        record.check_target(args.sensitivity)
    result = quantize(
        args.model,
        args.out,
        images=args.images or _calibration_pictures(args, data),
        ranges=args.ranges,
        method=args.method,
        limit=args.pictures,
        topic=args.topic,
        float_layers=[name for name in args.float_layers.split(",") if name],
        accuracy=accuracy,
        max_ap_drop=args.max_ap_drop,
        with_losses=args.sensitivity is not None,
        overwrite=args.overwrite,
    )
    _tell_losses(args, result)
    if accuracy is None:
        print(f"accuracy not checked: no split val of these classes in {data}; pass --data")
    left = len(result.calibration.float_layers)
    print(f"{result.layers - left} of {result.layers} layers in INT8")
    print(f"next: edgeseg run VIDEO --model {args.out}; edgeseg eval {args.out} --precision int8")
    write_json(args, asdict(result))
    return 0


def _tell_losses(args: Arguments, result: Result) -> None:
    """What layers cost alone, as table and picture, and the accuracy of every trial."""
    from edgeseg.export.sensitivity import draw, table

    if args.sensitivity is not None:
        print(table(result.losses))
        title = f"{args.model}: mask IoU lost with one layer in INT8"
        record.write_text(args.sensitivity, draw(result.losses, title))
    for trial in result.ap:
        print(
            f"mask AP on val: fp32 {trial['fp32']:.3f}, int8 {trial['int8']:.3f} "
            f"with {trial['float_layers']} layers float"
        )


def _accuracy(data: Path) -> Callable[[Path, str], float]:
    """A function that tells the mask AP of a bundle folder in a precision."""
    from edgeseg.evaluate import evaluate

    def accuracy(folder: Path, precision: str) -> float:
        ap = evaluate(folder, data, split="val", precisions=(precision,))["results"][0]["AP"]
        if ap is None:
            raise InputError(
                f"got no objects in split val of {data}; wanted some to tell the AP lost; label "
                "them, or leave --data out"
            )
        return float(ap)

    return accuracy


def _suits(args: Arguments, data: Path, split: str) -> bool:
    """Whether the dataset has a labelled split of the model's classes; it must, if it was named."""
    from edgeseg.evaluate import check_suits

    try:
        check_suits(args.model, data, split)
    except InputError:
        if args.data is not None:
            raise
        return False
    return True


def _calibration_pictures(args: Arguments, data: Path) -> Path | None:
    """The dataset's split calib, unless it was not named and shows other things than the model."""
    calib = data / "calib" / "images"
    if calib.is_dir() and (args.data is not None or _suits(args, data, "calib")):
        return calib
    if args.ranges is None:
        raise InputError(
            f"got no pictures for {args.model} in {calib}; wanted some to calibrate on; pass "
            "--images, or --ranges"
        )
    return None


_EXPORT = ("torch", "onnx", "safetensors")
_TRAIN = ("torch", "scipy", "safetensors")
VERBS: dict[str, Verb] = {
    "export": Verb("write a bundle for the robot", _export_arguments, _export, "export", _EXPORT),
    "quantize": Verb("make INT8 of a bundle", _quantize_arguments, _quantize, "export", ("onnx",)),
    "build": BUILD,
    "check": Verb(
        "compare a bundle with its torch network", _check_arguments, _check, "export", _EXPORT
    ),
    "train": Verb("train a network on a dataset", _train_arguments, _train, "train", _TRAIN),
    "convert": Verb(
        "make a bundle of an official checkpoint", _convert_arguments, _convert, "export", _EXPORT
    ),
}
