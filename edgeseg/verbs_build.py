"""The verb ``build``, of the workstation and of the robot that has the export extra."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeseg.flags import DEFAULT_MODEL, Arguments, Parser, Verb, json_flag, size_hw, write_json


def _arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="bundle name or folder")
    text = "GPUs to build for: 'current', or without one e.g. sm86,sm89,sm120 (default: current)"
    parser.add_argument("--targets", default="current", metavar="NAMES", help=text)
    text = "int8, fp16, fp32, comma-separated (default: int8, if the bundle has it, and fp16)"
    parser.add_argument("--precision", default="", metavar="NAMES", help=text)
    text = "folder to make: the bundle with its networks as TensorRT takes them"
    parser.add_argument("--out", type=Path, metavar="BUNDLE", help=text)
    text = "frame size of one camera: masks are made for it on the GPU (default: any, on the CPU)"
    parser.add_argument("--frame", type=size_hw, metavar="WIDTHxHEIGHT", help=text)
    text = "core of a Jetson Orin's DLA to build for, 0 or 1: FP16 alone (default: the GPU)"
    parser.add_argument("--dla", type=int, choices=(0, 1), metavar="CORE", help=text)
    text = "most GPU memory for one layer's scratch, MiB; 0: TensorRT's choice (default: 0)"
    parser.add_argument("--workspace", type=int, default=0, metavar="MIB", help=text)
    text = "list the engines' layers with data types; fail if < 95 %% of INT8 convolutions are INT8"
    parser.add_argument("--report", action="store_true", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an older bundle there")
    json_flag(parser)


def _build(args: Arguments) -> int:
    from edgeseg.export.build import LEAST_SHARE, build_engines, table

    engines = build_engines(
        args.model,
        targets=_words(args.targets),
        precisions=_words(args.precision),
        out=args.out,
        frame_hw=args.frame,
        dla=args.dla,
        workspace_bytes=args.workspace << 20,
        overwrite=args.overwrite,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if args.report:
        print(table(engines))
    for one in engines:
        print(one)
    if args.out is not None:
        engine = {None: "trt", 0: "trt-dla --precision fp16", 1: "trt-dla1 --precision fp16"}
        print(
            f"bundle {args.out}; next, on a machine with a GPU: edgeseg run VIDEO "
            f"--model {args.out} --engine {engine[args.dla]}"
        )
    write_json(args, {"model": args.model, "engines": [one.to_dict() for one in engines]})
    return int(args.report and any(engine.share < LEAST_SHARE for engine in engines))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


BUILD = Verb("make TensorRT engines of a bundle", _arguments, _build, "export", ("onnx",))
