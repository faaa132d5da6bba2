"""The verbs of the workstation, which make bundles: each imports its own module on use."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import MissingPartError
from edgeseg.flags import (
    Arguments,
    Parser,
    Verb,
    bundle_flags,
    bundle_settings,
    json_flag,
    model_flags,
    write_json,
    wrote,
)


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
    text = "COCO-format splits train and val (default: $EDGESEG_DATA)"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    text = "folder for last.pt, best.pt and curve.json; goes on from there when called again"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)
    parser.add_argument("--variant", metavar="NAME", help="network (default: nano)")
    parser.add_argument("--hours", type=float, metavar="H", help="time budget (default: 1.5)")
    parser.add_argument("--batch", type=int, metavar="N", help="pictures a step (default: 16)")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, order, augmentation")
    json_flag(parser)


def _train(args: Arguments) -> int:
    from edgeseg.evaluate import default_dataset
    from edgeseg.train.loop import TrainConfig, train

    names = ("variant", "hours", "batch", "seed")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    config = TrainConfig(data=args.data or default_dataset(), out=args.out, **given)
    report = train(config)
    print(f"best weights: {args.out / 'best.pt'}; next: edgeseg export {args.out / 'best.pt'}")
    write_json(args, report)
    return 0


def _convert_arguments(parser: Parser) -> None:
    text = "official .pth (detectron2) or .safetensors"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=text)
    parser.add_argument("--family", required=True, help="fastinst")
    text = "r50-d1, r50-d3, r50vd-dcn-d1, r50vd-dcn-d3 or r101-d3"
    parser.add_argument("--variant", required=True, metavar="NAME", help=text)
    bundle_flags(parser)


def _convert(args: Arguments) -> int:
    from edgeseg.export.checkpoints import convert

    settings = bundle_settings(args)
    return wrote(args, convert(args.checkpoint, args.family, args.variant, args.out, **settings))


def later_arguments(parser: Parser) -> None:
    """Take whatever comes."""
    parser.add_argument("rest", nargs="*")


def later(args: Arguments) -> int:
    """Refuse a verb of a later version."""
    raise MissingPartError(
        f"got verb {args.verb!r}, which this version does not have yet; wanted another; "
        "see 'edgeseg --help' and the CHANGELOG"
    )


_EXPORT = ("torch", "onnx", "safetensors")
_TRAIN = ("torch", "scipy", "safetensors")
VERBS: dict[str, Verb] = {
    "export": Verb("write a bundle for the robot", _export_arguments, _export, "export", _EXPORT),
    "quantize": Verb("make INT8 of a bundle (arrives later)", later_arguments, later),
    "build": Verb("make a TensorRT engine of a bundle (arrives later)", later_arguments, later),
    "check": Verb(
        "compare a bundle with its torch network", _check_arguments, _check, "export", _EXPORT
    ),
    "train": Verb("train a network on a dataset", _train_arguments, _train, "train", _TRAIN),
    "convert": Verb(
        "make a bundle of an official checkpoint", _convert_arguments, _convert, "export", _EXPORT
    ),
}
